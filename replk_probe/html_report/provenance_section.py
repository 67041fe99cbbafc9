"""The part of the page on where the numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from replk_probe.collection import Collection, Saved
from replk_probe.kernels.result import distinct_names
from replk_probe.runtime.formatting import counted, dimensions
from replk_probe.runtime.provenance import RunInfo, WeightsInfo

from .attribution_section import attribution_names
from .commands import (
    attribution_command,
    behaviour_command,
    bench_command,
    erf_command,
    kernels_command,
    reliance_command,
    shape_bias_command,
)
from .names import erf_names
from .number_texts import Badge, badge
from .reliance_section import reliance_names

_UNSAVED = "not saved"


@dataclass(frozen=True)
class Origin:
    """Where a result comes from.

    Attributes:
        title: Analyzer and model.
        badge: Kind of the weights, or None for a benchmark.
        command: Command that reproduces the result, or None.
        facts: Names and values of everything else.
        notes: Notes on the weights and on the result.
    """

    title: str
    badge: Badge | None
    command: str | None
    facts: list[tuple[str, str]]
    notes: list[str]


def origins_of(collection: Collection) -> list[Origin]:
    """The provenance of every result."""
    found = []
    labels = erf_names([one.result for one in collection.erf])
    for erf, name in zip(collection.erf, labels, strict=True):
        result = erf.result
        facts = [*_weights(result.run.weights), *_run(result.run), ("layer", result.layer)]
        if result.theoretical_rf is not None:
            facts.append(("theoretical receptive field", f"{result.theoretical_rf} px"))
        found.append(
            _origin(
                f"ERF of {name}", erf, result.run.weights, erf_command(result), facts, result.run.versions, result.notes
            )
        )
    for bias in collection.shape_bias:
        decided, run = bias.result, bias.result.run
        name = run.model if isinstance(run, RunInfo) else "imported decisions"
        weights = run.weights if isinstance(run, RunInfo) else None
        facts = [*_weights(run.weights), *_run(run)] if isinstance(run, RunInfo) else [("decisions", run.source)]
        command = shape_bias_command(decided)
        found.append(_origin(f"Shape bias of {name}", bias, weights, command, facts, run.versions, decided.notes))
    for behaviour in collection.behaviour:
        compared, origin_run = behaviour.result, behaviour.result.run
        name = origin_run.model if isinstance(origin_run, RunInfo) else "imported decisions"
        weights = origin_run.weights if isinstance(origin_run, RunInfo) else None
        facts = [("decisions", compared.run.to_json().get("source", ""))]
        if isinstance(origin_run, RunInfo):
            facts = [*_weights(origin_run.weights), *_run(origin_run)]
        command = behaviour_command(compared)
        title = f"Behaviour of {name}"
        found.append(_origin(title, behaviour, weights, command, facts, origin_run.versions, compared.notes))
    names = distinct_names([one.result for one in collection.kernels])
    for kernels, name in zip(collection.kernels, names, strict=True):
        measured, origin = kernels.result, kernels.result.run
        facts = [
            *_weights(origin.weights),
            ("aggregated over channels by", origin.aggregate),
            ("variant", origin.variant),
        ]
        facts.append(("time", f"{origin.seconds:.3g} s"))
        command = kernels_command(measured)
        found.append(
            _origin(f"Kernels of {name}", kernels, origin.weights, command, facts, origin.versions, measured.notes)
        )
    names = attribution_names([one.result for one in collection.attribution])
    for attribution, name in zip(collection.attribution, names, strict=True):
        shown = attribution.result
        facts = [*_weights(shown.run.weights), *_run(shown.run), ("layer of the positions", shown.layer or "none")]
        title = f"Attribution of {name}, {shown.method}"
        command = attribution_command(shown)
        found.append(_origin(title, attribution, shown.run.weights, command, facts, shown.run.versions, shown.notes))
    names = reliance_names([one.result for one in collection.reliance])
    for reliance, name in zip(collection.reliance, names, strict=True):
        under = reliance.result
        facts = [*_weights(under.run.weights), *_run(under.run), ("classes", under.label_space)]
        command = reliance_command(under)
        title = f"Reliance of {name}"
        found.append(_origin(title, reliance, under.run.weights, command, facts, under.run.versions, under.notes))
    for bench in collection.bench:
        machine = bench.result.machine
        gpu = [] if machine.gpu is None else [("GPU", machine.gpu.name), *machine.gpu.environment.items()]
        facts = [
            *gpu,
            ("processor", f"{machine.cpu}, {counted(machine.threads, 'thread')}"),
            ("instruction set", machine.isa or "none"),
            ("compiler", machine.compiler or "none"),
            ("load before and after", " and ".join(f"{one:.2g}" for one in machine.load)),
            ("type of tensors", bench.result.dtype),
        ]
        found.append(_origin("Benchmark", bench, None, bench_command(bench.result), facts, machine.versions, ()))
    return found


def _origin(
    title: str,
    saved: Saved[object],
    weights: WeightsInfo | None,
    command: str | None,
    facts: Sequence[tuple[str, str]],
    versions: Mapping[str, str],
    notes: Sequence[str],
) -> Origin:
    record = [("record", saved.record or _UNSAVED)]
    if saved.sha256:
        record.append(("SHA-256 of the record", saved.sha256))
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    own = [weights.note] if weights is not None and weights.note else []
    kind = None if title == "Benchmark" else badge(weights)
    return Origin(title, kind, command, [*record, *facts, ("software", software or "unknown")], [*own, *notes])


def _weights(weights: WeightsInfo) -> list[tuple[str, str]]:
    digest = [("SHA-256 of the weights", weights.sha256)] if weights.sha256 else []
    head = [("head", weights.head.label)] if weights.head else []
    return [("weights", weights.label if weights.is_random else weights.source), *digest, *head]


def _run(run: RunInfo) -> list[tuple[str, str]]:
    skipped = f", {len(run.skipped)} skipped" if run.skipped else ""
    facts = [
        (
            "inputs",
            f"{counted(len(run.image_ids), 'input')} of {run.image_source}{skipped}, {dimensions(run.input_size)}",
        ),
        ("device", run.device),
        ("precision", f"{run.precision} ({run.config.get('arithmetic', 'unknown arithmetic')})"),
        ("convolutions", run.backend),
        ("seed", str(run.seed)),
        ("time", f"{run.seconds:.3g} s"),
    ]
    known = [("intervals", str(run.config["intervals"]))] if "intervals" in run.config else []
    return facts + known
