"""From the file of a sweep to its jobs; everything is checked before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from replk_probe.errors import InvalidInputError, ReplkProbeError, close_hint
from replk_probe.models import timm_registry
from replk_probe.models.builders import builder_of, check_factory
from replk_probe.models.inference.environment import environment_of
from replk_probe.models.model_id import ModelId
from replk_probe.models.weights.resolve import check_weights_exist, has_pretrained
from replk_probe.results import as_plain
from replk_probe.runtime.checks import check_bool, check_integer
from replk_probe.runtime.devices import resolve_device
from replk_probe.runtime.paths import usable_path
from replk_probe.runtime.provenance import software_versions
from replk_probe.shape_bias.stimuli.set_description import shipped_sets
from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC

from .analyzers import ANALYZERS, Analyzer, digest_of_file, forget_files, network_of
from .document import Document, Keys
from .job import OWN_COLUMN, Job

# Options of a sweep itself.
_OWN = ("models", "matrix", "threads", "figures")
_PATHS = ("data", "erf", "stimuli", "mapping", "import", "weights", "against")
# Options that change how fast a result is computed, but not the result.
_WITHOUT_EFFECT = ("workers",)
_VERSIONS = ("replk-probe", "torch", "torchvision", "timm")


@dataclass(frozen=True)
class _Model:
    """One model of the file: its names, its own options, and where it is written."""

    model: str
    name: str
    options: dict[str, tuple[Any, Keys]]
    keys: Keys


def plan_jobs(document: Document) -> list[Job]:
    """The jobs that a file describes, in the order of the file: by analyzer, model and settings.

    Raises:
        InvalidInputError: Something in the file cannot be used; the message names the file, the line and the key.
    """
    forget_files()
    asked = _asked_analyzers(document)
    known = dict.fromkeys(option for name in asked for option in ANALYZERS[name].options)
    shared = _options(document, document.values, (), (*_OWN, *ANALYZERS), known)
    shared_matrix = _matrix(document, (), known)
    models = _models(document, known)
    threads = _own(document, "threads", 1, lambda value: check_integer("number of threads", value, 1))
    figures = _own(document, "figures", True, lambda value: check_bool("figures", value))
    jobs: dict[str, Job] = {}
    weights: dict[str, str] = {}
    for name in asked:
        analyzer = ANALYZERS[name]
        own = _options(document, document.values[name], (name,), ("matrix",), analyzer.options)
        matrix = shared_matrix | _matrix(document, (name,), analyzer.options)
        given = _checked(document, analyzer, shared | own)
        axes = {
            option: [_checked(document, analyzer, {option: one})[option] for one in values]
            for option, values in matrix.items()
            if option in analyzer.options
        }
        for model in models:
            fixed = _checked(document, analyzer, model.options)
            for combination in itertools.product(*axes.values()):
                # The options that a model has of its own take precedence over the matrix.
                settings = given | dict(zip(axes, combination, strict=True)) | fixed
                varied = [*axes, *(one for other in models for one in other.options)]
                job = _job(document, name, model, settings, varied, threads, figures)
                jobs.setdefault(job.key, job)
                written = document.value(settings["weights"][1]) if "weights" in settings else job.options["weights"]
                weights.setdefault(job.key, f"weights={written}")
    return _distinct(_distinct(list(jobs.values()), weights), {key: f"key={key}" for key in jobs})


def _distinct(jobs: Sequence[Job], distinctions: Mapping[str, str]) -> list[Job]:
    """The jobs; those with equal labels have a distinction, which is given for each job by its key."""
    counts = Counter(job.label for job in jobs)
    return [replace(job, distinction=distinctions[job.key]) if counts[job.label] > 1 else job for job in jobs]


def _asked_analyzers(document: Document) -> list[str]:
    asked = [name for name in document.values if name in ANALYZERS]
    for name in asked:
        _table(document, (name,))
    if not asked:
        names = ", ".join(f"[{name}]" for name in ANALYZERS)
        raise document.error(
            (), f"No analyzer is given. A sweep measures models by at least one. Add one of the tables {names}."
        )
    return asked


def _table(document: Document, keys: Keys) -> Mapping[str, Any]:
    """The table at ``keys``; empty if there is none."""
    found: Any = document.values
    for key in keys:
        found = found.get(key, {})
        if not isinstance(found, Mapping):
            raise document.error(
                keys, f"{found!r} is not a table. Options are given in one. Write [{'.'.join(map(str, keys))}]."
            )
    table: Mapping[str, Any] = found
    return table


def _options(
    document: Document,
    table: Mapping[str, Any],
    keys: Keys,
    others: Sequence[str],
    known: Collection[str],
) -> dict[str, tuple[Any, Keys]]:
    """The options in a table by name, with where each is written; ``others`` are the names of other entries."""
    found: dict[str, tuple[Any, Keys]] = {}
    for key, value in table.items():
        if key in others:
            continue
        option = key.replace("-", "_")
        where = (*keys, key)
        if option not in known:
            hint = close_hint(key, [*known, *others])
            raise document.error(
                where,
                f"Unknown option {key!r}. No analyzer here has it{hint}. Choose from {', '.join(sorted(known))}.",
            )
        if option in found:
            raise document.error(where, f"The option {option} is given twice. One value is used. Remove one of them.")
        found[option] = value, where
    return found


def _matrix(document: Document, keys: Keys, known: Collection[str]) -> dict[str, list[tuple[Any, Keys]]]:
    """The values of each option in a table ``matrix``, with where each is written."""
    where = (*keys, "matrix")
    found = {}
    for option, (values, place) in _options(document, _table(document, where), where, (), known).items():
        if not isinstance(values, list) or not values:
            raise document.error(
                place,
                f"{values!r} is not a list of values. The matrix has one job for each value. Write [VALUE, VALUE].",
            )
        found[option] = [(value, (*place, index)) for index, value in enumerate(values)]
    return found


def _own(document: Document, key: str, default: Any, check: Any) -> Any:
    try:
        return check(document.values.get(key, default))
    except ReplkProbeError as error:
        raise document.error((key,), str(error)) from error


def _checked(
    document: Document, analyzer: Analyzer, options: Mapping[str, tuple[Any, Keys]]
) -> dict[str, tuple[Any, Keys]]:
    """The options that an analyzer has, with absolute paths, each checked by the analyzer's configuration."""
    found: dict[str, tuple[Any, Keys]] = {}
    refused: dict[str, str] = {}
    for option, (value, where) in options.items():
        if option not in analyzer.options:
            continue
        try:
            absolute = _absolute(document, option, value)
            if option in analyzer.inputs and not isinstance(value, str):
                raise InvalidInputError(
                    f"{value!r} is not a path. The option {option} is a string. Write it in quotes."
                )
        except ReplkProbeError as error:
            raise document.error(where, str(error)) from error
        found[option] = absolute, where
        if option not in analyzer.inputs:
            try:
                analyzer.configure({option: absolute})
            except ReplkProbeError as error:
                refused[option] = str(error)
    if refused:
        # An option that is refused by itself may only need another one.
        try:
            analyzer.configure({option: value for option, (value, _) in found.items()})
        except ReplkProbeError as error:
            option = next((one for one, reason in refused.items() if reason == str(error)), next(iter(refused)))
            raise document.error(found[option][1], refused[option]) from error
    return found


def _absolute(document: Document, option: str, value: Any) -> Any:
    """An option that is a path relative to the file's folder as an absolute path; other values unchanged."""
    if option not in _PATHS or not isinstance(value, str) or value in (CUE_CONFLICT, SYNTHETIC):
        return value
    name, separator, place = value.partition("=")
    if option == "stimuli" and separator and name in shipped_sets():
        return f"{name}={document.folder / usable_path(place, option)}"
    path = document.folder / usable_path(value, option)
    return str(path) if option not in ("weights", "against") or path.is_file() else value


def _models(document: Document, known: Collection[str]) -> list[_Model]:
    entries = document.values.get("models")
    if not isinstance(entries, list) or not entries:
        raise document.error(
            ("models",) if "models" in document.values else (),
            'The list of models is missing or empty. A sweep measures at least one. Write models = ["resnet18"].',
        )
    return [model for index, entry in enumerate(entries) for model in _model(document, entry, ("models", index), known)]


def _model(document: Document, entry: Any, keys: Keys, known: Collection[str]) -> Iterator[_Model]:
    """The models of one entry: several if it is a pattern."""
    options = {}
    if isinstance(entry, Mapping):
        options = _options(document, entry, keys, ("model",), known)
        entry = entry.get("model")
    if not isinstance(entry, str):
        raise document.error(
            keys, f'{entry!r} is not a model. An entry is a name or a table. Write "NAME" or {{ model = "NAME" }}.'
        )
    names = [entry]
    if ":" not in entry and any(character in entry for character in "*?["):
        names = timm_registry.list_tagged(entry) if "." in entry else timm_registry.list_models(entry)
        if not names:
            raise document.error(
                keys, f"No model matches {entry!r}. Patterns are compared with timm's names. Correct the pattern."
            )
    for name in names:
        try:
            model = ModelId.parse(name)
            path = name
            if model.kind == "factory" and model.source.endswith(".py"):
                path = f"{document.folder / usable_path(model.source, 'The model file')}:{model.architecture}"
            builder_of(ModelId.parse(path))
            if model.kind == "factory":
                check_factory(ModelId.parse(path))
        except ReplkProbeError as error:
            raise document.error(keys, str(error)) from error
        yield _Model(path, name, options, keys)


def _job(
    document: Document,
    analyzer: str,
    model: _Model,
    settings: Mapping[str, tuple[Any, Keys]],
    varied: Sequence[str],
    threads: int,
    figures: bool,
) -> Job:
    kind = ANALYZERS[analyzer]
    options = kind.defaults(model.model) | {"name": model.name} | {name: value for name, (value, _) in settings.items()}
    where = settings["weights"][1] if "weights" in settings else model.keys
    try:
        options["weights"] = _weights(model.model, options.get("weights", kind.config.weights))
        where = model.keys
        config = kind.configure(options)
        where = next((settings[name][1] for name in kind.inputs if name in settings), (analyzer,))
        decides = _decides(model, config, kind, options)
        if "layer" in settings:
            where = settings["layer"][1]
            _check_layer(model.model, kind, config.layer)
    except ReplkProbeError as error:
        raise document.error(where, str(error)) from error
    record = {"analyzer": analyzer, "threads": threads, **decides}
    key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    distinct = {
        option: document.value(settings[option][1])
        for option in dict.fromkeys(varied)
        if option in settings and option not in OWN_COLUMN
    }
    return Job(key, analyzer, model.model, options["name"], options, distinct, threads, figures)


def _check_layer(model: str, analyzer: Analyzer, layer: Any) -> None:
    """Raise InvalidInputError if a network has no such layer. The code of factories is only run by the jobs."""
    # Every network has these, or the job fails with the reason.
    if layer in (None, "all", "paper") or ModelId.parse(model).kind == "factory":
        return
    network = network_of(model)
    if network is not None:
        analyzer.find_layer(network, layer)


def _weights(model: str, weights: str) -> str:
    """The weights to load, which exist as far as is known without a download.

    ``"auto"`` is decided here, by whether weights are published: a failed download must not give another result.
    """
    parsed = ModelId.parse(model)
    check_weights_exist(parsed, weights)
    if weights == "auto" and parsed.kind != "factory":
        return "pretrained" if has_pretrained(parsed) else "random"
    return weights


def _decides(model: _Model, config: Any, analyzer: Analyzer, options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides the bytes of a result, as JSON values; contents of files instead of their places.

    The code of a factory in a package is not known before it is imported, so that its changes make no new jobs.
    """
    values = {name: value for name, value in as_plain(config).items() if name not in _WITHOUT_EFFECT}
    weights, parsed, versions = Path(options["weights"]), ModelId.parse(model.model), software_versions()
    if weights.is_file():
        values["weights"] = [weights.name, digest_of_file(weights)]
    if values.get("against") is not None and Path(values["against"]).is_file():
        values["against"] = [Path(values["against"]).name, digest_of_file(Path(values["against"]))]
    if "device" in values:
        values["device"] = {
            name: value
            for name, value in environment_of(resolve_device(config.device)).items()
            if name != "threads"  # those of the worker, which are part of the key
        }
    if parsed.source.endswith(".py"):
        values["factory"] = digest_of_file(Path(parsed.source))
    return {
        "model": model.name,
        "options": values,
        "inputs": analyzer.digests(options, config),
        "versions": {package: versions[package] for package in _VERSIONS},
    }
