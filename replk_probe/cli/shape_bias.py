"""`replk-probe shape-bias`: shape bias of classifiers on cue-conflict stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from replk_probe.errors import InvalidInputError

from ._options import (
    check_writable,
    compute_options,
    destinations,
    given_options,
    model_options,
    named_or_default,
    output_option,
    slug,
    weights_of_each,
)
from ._runs import announce, measure_plans, raise_failures, run_plan

if TYPE_CHECKING:
    from replk_probe.shape_bias.decision_mapping import LabelMapping
    from replk_probe.shape_bias.decisions import Decisions
    from replk_probe.shape_bias.result import ShapeBiasResult
    from replk_probe.shape_bias.stimuli.stimulus_set import StimulusSet

_DEFAULT_OUTPUT = Path("replk-probe-out") / "shape-bias"
_CHECKPOINT = "shape_bias.ckpt"

# Default model if its weights and the published stimuli are in the cache.
_MODEL = "replknet31b"

# Options that apply to imported decisions without a model.
_OF_IMPORT = ("imported", "mapping", "output")


@click.command()
@model_options(required=False)
@click.option(
    "--stimuli",
    metavar="DIR|cue-conflict|synthetic",
    help="Folder of stimuli, the 1280 published stimuli (downloaded once), or the synthetic set. "
    "[default: cue-conflict; synthetic for the small models that were trained on it]",
)
@click.option(
    "--mapping",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Class indices of each category, for classifiers with other classes than ImageNet-1k.",
)
@click.option(
    "--import",
    "imported",
    type=click.Path(path_type=Path),
    metavar="CSV-DIR",
    help="Raw data of model-vs-human: decisions of other observers, compared with the models or analyzed alone.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Stimuli per forward pass."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    help="Data-loading workers; 0 loads in the main process. [default: depends on the number of cores]",
)
@click.option("--allow-partial", is_flag=True, help="Evaluate the intact part of an incomplete cue-conflict set.")
@compute_options
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default="0",
    metavar="N",
    help="Random seed for weight initialization.",
)
@output_option("replk-probe-out/shape-bias/MODEL")
@click.option("--resume", is_flag=True, help="Resume an interrupted run.")
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    ema: bool,
    stimuli: str | None,
    mapping: Path | None,
    imported: Path | None,
    batch_size: int,
    workers: int | None,
    allow_partial: bool,
    precision: str,
    device: str,
    seed: int,
    output: Path | None,
    resume: bool,
) -> None:
    """Measure the shape bias of classifiers on cue-conflict stimuli.

    On the 1200 published images whose shape and texture conflict, decisions are made by the rule of model-vs-human and
    compared with ten humans and published networks, with confidence intervals. Writes shape_bias.json, decisions.csv
    (raw data that model-vs-human reads), decisions.npz, shape_bias.csv, shape_bias.png and .pdf; for several models,
    one folder each and a comparison.
    """
    from replk_probe.shape_bias.decision_mapping import load_mapping

    if imported is not None and not models:
        _refuse_without_model()
        folder = output or _DEFAULT_OUTPUT / slug(imported.resolve().name)
        observers = _imported(imported, None if mapping is None else load_mapping(mapping))
        check_writable(folder)
        _only_imported(imported, observers, folder)
        return
    if models:
        chosen = _Chosen(models, weights, stimuli or _default_stimuli(models))
    else:
        chosen = _without_model(weights, stimuli, mapping)

    from replk_probe.shape_bias.config import ShapeBiasConfig
    from replk_probe.shape_bias.plan import plan_shape_bias
    from replk_probe.shape_bias.result import ShapeBiasResult
    from replk_probe.shape_bias.stimuli.stimulus_set import SYNTHETIC
    from replk_probe.shape_bias.stimulus_source import check_partial, open_stimuli

    # Everything that can be wrong is checked before the first model is built.
    config = ShapeBiasConfig(
        mapping=None if mapping is None else load_mapping(mapping),
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        device=device,
        seed=seed,
        ema=ema,
    )
    observers = _imported(imported, config.mapping)
    weights_each = weights_of_each(chosen.models, chosen.weights)
    folders = destinations(chosen.models, output, _DEFAULT_OUTPUT)
    check_partial(chosen.stimuli, allow_partial)
    if stimuli is not None:
        _hint_at_folder(stimuli)
    # Synthetic stimuli are drawn at the input size of each model; files are read and verified once.
    opened: StimulusSet | str = chosen.stimuli
    if chosen.stimuli != SYNTHETIC:
        categories = None if config.mapping is None else config.mapping.categories
        opened = open_stimuli(chosen.stimuli, categories=categories, allow_partial=allow_partial)
    plans = []
    for name, source in zip(chosen.models, weights_each, strict=True):
        plan = plan_shape_bias(name, opened, replace(config, weights=source))
        _check_categories(observers, plan.mapping.categories)
        announce(plan, "the decisions are those of chance")
        plans.append(plan)

    sets = {folder: plan.stimuli for folder, plan in zip(folders, plans, strict=True)}
    results, failures = measure_plans(
        plans, folders, lambda plan, folder: run_plan(plan, folder, _CHECKPOINT, ShapeBiasResult.load, resume)
    )
    if results:
        beside = _save_beside(results, observers, imported)
        _report(beside, sets, output or _DEFAULT_OUTPUT, compare=len(chosen.models) > 1)
    raise_failures(failures, len(chosen.models))


class _Chosen(NamedTuple):
    """The models to measure, their weights and the stimuli."""

    models: tuple[str, ...]
    weights: tuple[str, ...]
    stimuli: str


def _imported(folder: Path | None, mapping: LabelMapping | None) -> tuple[Decisions, ...]:
    """Read the decisions of other observers."""
    if folder is None:
        return ()
    from replk_probe.shape_bias.model_vs_human.raw_data import read_folder
    from replk_probe.shape_bias.stimuli.names import CATEGORIES

    return read_folder(folder, CATEGORIES if mapping is None else mapping.categories)


def _check_categories(observers: Sequence[Decisions], categories: tuple[str, ...]) -> None:
    """Check that imported observers and models have the same categories."""
    if observers and observers[0].categories != categories:
        raise InvalidInputError(
            "The imported decisions cannot be compared with those of the models. Their categories are "
            f"{', '.join(observers[0].categories)}, those of the models are {', '.join(categories)}. Import them alone."
        )


def _hint_at_folder(stimuli: str) -> None:
    """Print a hint if a folder has the name of a stimulus set, which takes precedence."""
    from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC

    if stimuli in (CUE_CONFLICT, SYNTHETIC) and Path(stimuli).is_dir():
        click.echo(f"--stimuli {stimuli} is not the folder {stimuli} here; for that, write ./{stimuli}", err=True)


def _refuse_without_model() -> None:
    """Refuse options of a measurement if nothing is measured."""
    for name, parameter in given_options().items():
        if name not in _OF_IMPORT:
            option = parameter.opts[0]
            raise InvalidInputError(
                f"{option} was given with --import and no --model. Nothing is measured then; only the imported "
                f"decisions are analyzed. Name the model to measure with --model, or leave {option} out."
            )


def _without_model(weights: tuple[str, ...], stimuli: str | None, mapping: Path | None) -> _Chosen:
    """Choose and announce the defaults, without downloading anything."""
    from replk_probe.models.weights.catalog import default_entry
    from replk_probe.models.weights.resolve import cached_path
    from replk_probe.shape_bias.stimuli.cue_conflict import cached_cue_conflict
    from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC

    entry = default_entry(_MODEL)
    trained = entry is not None and cached_path(entry) is not None
    if weights != ("auto",) or stimuli not in (None, SYNTHETIC) or mapping is not None:
        raise InvalidInputError(
            "No model was named. --weights, --mapping and --stimuli say how to measure one. Name it with --model."
        )
    if stimuli is None and trained and entry is not None and cached_cue_conflict() is not None:
        click.echo(f"No --model: {entry.name} on {CUE_CONFLICT}, both from the cache.", err=True)
        return _Chosen((_MODEL,), (entry.name,), CUE_CONFLICT)
    names, sources = named_or_default((), weights)
    click.echo(
        f"They are measured on {SYNTHETIC} stimuli. For a network trained on photographs:\n"
        f"  replk-probe data fetch {CUE_CONFLICT}\n"
        f"  replk-probe weights fetch {entry.name if entry else _MODEL}\n"
        "and the same command again.",
        err=True,
    )
    return _Chosen(names, sources, SYNTHETIC)


def _default_stimuli(models: Sequence[str]) -> str:
    """Default stimuli: the synthetic set for the small models, which know only its classes."""
    from replk_probe.models.architectures.micro import MICRO_MODELS
    from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC

    return SYNTHETIC if {*models} <= {*MICRO_MODELS} else CUE_CONFLICT


def _only_imported(source: Path, observers: Sequence[Decisions], folder: Path) -> None:
    """Analyze imported decisions, without a model or stimuli."""
    from replk_probe.report.shape_bias_table import shape_bias_table
    from replk_probe.runtime.atomic_files import sha256_of
    from replk_probe.shape_bias.model_vs_human.raw_data import csv_files
    from replk_probe.shape_bias.plot import save_figures
    from replk_probe.shape_bias.result import GivenDecisions, ShapeBiasResult

    label = f"import:{source.resolve().name}"
    run = GivenDecisions(label, {path.name: sha256_of(path) for path in csv_files(source)})
    result = ShapeBiasResult.from_decisions(observers=observers, run=run, source=label)
    result.save(folder)
    save_figures(result, folder)
    click.echo(shape_bias_table([result]))
    click.echo(f"Results in {folder}", err=True)


def _save_beside(
    results: dict[Path, ShapeBiasResult], observers: Sequence[Decisions], imported: Path | None
) -> dict[Path, ShapeBiasResult]:
    """The results with the imported observers and each other's error consistency, saved again and drawn."""
    from replk_probe.shape_bias.plot import save_figures
    from replk_probe.shape_bias.published import published_beside
    from replk_probe.shape_bias.result import told_apart

    source = "given" if imported is None else f"import:{imported.resolve().name}"
    apart = told_apart(list(results.values()))
    beside = {}
    for index, (folder, result) in enumerate(results.items()):
        others = [one.decisions for place, one in enumerate(apart) if place != index and one.decisions is not None]
        beside[folder] = result.beside(observers, others, source=source)
        beside[folder].save(folder)
        save_figures(beside[folder], folder, others=published_beside(beside[folder]))
    return beside


def _report(
    results: dict[Path, ShapeBiasResult], sets: dict[Path, StimulusSet], output: Path, *, compare: bool
) -> None:
    """Print the tables and draw some stimuli with their decisions; with several models, draw the comparison."""
    from replk_probe.report.shape_bias_table import shape_bias_table
    from replk_probe.runtime.provenance import RunInfo
    from replk_probe.shape_bias.plot_comparison import save_comparison as save_comparison_figure
    from replk_probe.shape_bias.plot_stimuli import save_contact_sheet
    from replk_probe.shape_bias.published import published_beside
    from replk_probe.shape_bias.result import save_comparison, told_apart

    measured = told_apart(list(results.values()))
    published = published_beside(measured[0])
    click.echo(shape_bias_table(measured, published))
    for folder, result in results.items():
        if result.decisions is not None and result.decisions.counts().n_conflict:
            weights = result.run.weights if isinstance(result.run, RunInfo) else None
            small = weights.label if weights is not None and weights.is_embedded else None
            random = weights is not None and weights.is_random
            save_contact_sheet(sets[folder], result.decisions, folder, random=random, weights=small)
    if compare:
        save_comparison(measured, output)
        save_comparison_figure(measured, output, others=published)
    for run, decisions in ((result.run, result.decisions) for result in measured):
        if isinstance(run, RunInfo) and decisions is not None and run.seconds > 0:
            speed = f"{len(decisions.names) / run.seconds:.3g} per second"
            click.echo(f"{run.model}: {len(decisions.names)} stimuli in {run.seconds:.1f} s, {speed}", err=True)
    click.echo(f"Results in {output if compare else next(iter(results))}", err=True)
