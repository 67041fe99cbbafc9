"""`replk-probe shape-bias`: the shape bias of classifiers on cue-conflict stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replk_probe.errors import InvalidInputError

from ._heads import HeadChoice, head_options, with_head
from ._options import (
    PATH,
    check_writable,
    compute_options,
    decision_options,
    destinations,
    input_options,
    model_options,
    named_or_default,
    output_option,
    parse_size,
    parse_statistics,
    refuse_without_model,
    resume_options,
    seed_option,
    size_option,
    style_option,
    tune_option,
    weights_of_each,
)
from ._output import conclusion, note
from ._runs import (
    IMPORTED,
    announce,
    check_import,
    lock_folders,
    measure_plans,
    raise_failures,
    resume_advice,
    run_plan,
)

if TYPE_CHECKING:
    from replk_probe.shape_bias.decision_mapping import LabelMapping
    from replk_probe.shape_bias.decisions import Decisions
    from replk_probe.shape_bias.result import ShapeBiasResult
    from replk_probe.shape_bias.stimuli.stimulus_set import StimulusSet

_DEFAULT_OUTPUT = Path("replk-probe-out") / "shape-bias"
_CHECKPOINT = "shape_bias.ckpt"

# Model that is measured without --model if its weights and the published stimuli are in the cache.
_MODEL = "replknet31b"

# Options that are valid without a model.
_IMPORT_OPTIONS = ("imported", "mapping", "output")


@click.command()
@model_options
@head_options
@click.option(
    "--stimuli",
    metavar="DIR|FILE.toml|NAME=DIR|cue-conflict|synthetic",
    help="A folder of stimuli; cue-conflict: the 1280 published stimuli, downloaded once; synthetic: a generated set; "
    "FILE.toml: the description of a set; NAME=DIR: files of refined-bias or frequency-conflict. "
    "[default: cue-conflict; synthetic for the small models, which were trained on it]",
)
@click.option(
    "--import",
    "imported",
    type=PATH,
    metavar="CSV-DIR",
    help="Raw data of model-vs-human: observers to compare with the models, or to analyze without a model.",
)
@decision_options
@size_option("Input size; stimuli are resized to PX x PX or H x W. [default: that of the model]")
@input_options
@click.option("--allow-partial", is_flag=True, help="Evaluate the intact stimuli of an incomplete cue-conflict set.")
@compute_options
@tune_option
@seed_option("Random seed for weight initialization.")
@style_option
@output_option("replk-probe-out/shape-bias/MODEL")
@resume_options
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    stimuli: str | None,
    mapping: Path | None,
    imported: Path | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    allow_partial: bool,
    output: Path | None,
    resume: bool,
    allow_other_device: bool,
    head: Path | None,
    classes: str | None,
    templates: str | None,
    **options: Any,
) -> None:
    """Measure the shape bias of classifiers on cue-conflict stimuli.

    Counts how often a classifier follows shape or texture on 1200 images in which the two cues conflict, as
    model-vs-human does, with confidence intervals, and compares it with ten human observers and published networks.

    Images with one cue each (refined-bias) have the mean reciprocal rank of the right classes instead, for each cue.

    Writes shape_bias.json, decisions.csv (raw data in the format of model-vs-human), decisions.npz, shape_bias.csv,
    shape_bias.png and shape_bias.pdf; for several models, one folder per model and a comparison.
    """
    from replk_probe.runtime.paths import slug
    from replk_probe.shape_bias.decision_mapping import load_mapping

    # Invalid arguments are reported before the first model is built.
    if imported is not None and not models:
        refuse_without_model(_IMPORT_OPTIONS)
        folder = output or _DEFAULT_OUTPUT / slug(imported.resolve().name)
        observers = _imported(imported, None if mapping is None else load_mapping(mapping))
        check_writable(folder)
        lock_folders(folder)
        _only_imported(imported, observers, folder)
        return
    if models:
        from replk_probe.shape_bias.plan import default_stimuli

        chosen = default_stimuli(models) if stimuli is None else stimuli
    else:
        models, weights, chosen = _without_model(weights, stimuli, mapping)

    from replk_probe.runtime.checks import check_size
    from replk_probe.runtime.torchrun import together, use_own_gpu
    from replk_probe.shape_bias.config import ShapeBiasConfig
    from replk_probe.shape_bias.plan import plan_shape_bias
    from replk_probe.shape_bias.result import ShapeBiasResult
    from replk_probe.shape_bias.stimuli.stimulus_set import SYNTHETIC
    from replk_probe.shape_bias.stimulus_source import check_partial, open_stimuli

    weights_each = weights_of_each(models, weights)
    use_own_gpu(options["device"])
    config = ShapeBiasConfig(
        mapping=None if mapping is None else load_mapping(mapping),
        size=None if size is None else check_size(parse_size(size)),
        mean=parse_statistics("--mean", mean),
        std=parse_statistics("--std", std),
        **options,
    )
    observers = _imported(imported, config.mapping)
    folders = destinations(models, output, _DEFAULT_OUTPUT)
    check_partial(chosen, allow_partial)
    if stimuli is not None:
        _hint_at_folder(stimuli)
    # Synthetic stimuli are generated at the input size of each model; files are read and verified once.
    opened: StimulusSet | str = chosen
    if chosen != SYNTHETIC:
        categories = None if config.mapping is None else config.mapping.categories
        opened = open_stimuli(chosen, categories=categories, allow_partial=allow_partial)
    plans = []
    with together():
        for name, source in zip(models, weights_each, strict=True):
            model, settings = with_head(name, replace(config, weights=source), HeadChoice(head, classes, templates))
            plan = plan_shape_bias(model, opened, settings)
            _check_categories(observers, plan.mapping.categories)
            announce(plan, "the decisions are random")
            plans.append(plan)

    def load(folder: Path) -> ShapeBiasResult:
        result = ShapeBiasResult.load(folder)
        check_import(folder, (one.source for one in result.observers), imported)
        return result

    sets = {folder: plan.stimuli for folder, plan in zip(folders, plans, strict=True)}
    lock_folders(*folders, *([output or _DEFAULT_OUTPUT] if len(models) > 1 else []))
    results, failures = measure_plans(
        plans,
        folders,
        lambda plan, folder: run_plan(plan, folder, _CHECKPOINT, load, resume, allow_other_device),
    )
    if results:
        compared = _save_compared(results, observers, imported)
        _report(compared, sets, output or _DEFAULT_OUTPUT, compare=len(models) > 1)
    raise_failures(failures, len(models), resume_advice(results, folders, _CHECKPOINT))


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
            f"{', '.join(observers[0].categories)}, those of the models are {', '.join(categories)}. Import "
            "them without --model."
        )


def _hint_at_folder(stimuli: str) -> None:
    """Write a note if a folder has the name of a set of stimuli, which takes precedence."""
    from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC

    if stimuli in (CUE_CONFLICT, SYNTHETIC) and Path(stimuli).is_dir():
        note(f"--stimuli {stimuli} selects the set of this name, not the folder. To use the folder, give ./{stimuli}")


def _without_model(
    weights: tuple[str, ...], stimuli: str | None, mapping: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Models, weights and stimuli to measure without ``--model``, which are noted; nothing is downloaded."""
    if weights != ("auto",):
        named_or_default((), weights)  # raises, before anything heavy is imported
    from replk_probe.models.weights.catalog import default_entry
    from replk_probe.models.weights.resolve import cached_path
    from replk_probe.shape_bias.stimuli.cue_conflict import cached_cue_conflict
    from replk_probe.shape_bias.stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC

    option = "--mapping" if mapping is not None else "--stimuli" if stimuli not in (None, SYNTHETIC) else None
    if option is not None:
        raise InvalidInputError(
            f"{option} was given without --model. The default models are measured on their own stimuli and categories. "
            f"Give a model with --model, or omit {option}."
        )
    entry = default_entry(_MODEL)
    if stimuli is None and entry is not None and cached_path(entry) is not None and cached_cue_conflict() is not None:
        note(f"No --model given: measuring {entry.name} on {CUE_CONFLICT}, both from the cache.")
        return (_MODEL,), (entry.name,), CUE_CONFLICT
    names, sources = named_or_default((), weights, "shape-bias")
    note(f"For an ImageNet model: replk-probe shape-bias --model {_MODEL}")
    return names, sources, SYNTHETIC


def _only_imported(source: Path, observers: Sequence[Decisions], folder: Path) -> None:
    """Analyze imported decisions, without a model or stimuli."""
    from replk_probe.report.shape_bias_table import shape_bias_table
    from replk_probe.report.text import terminal_layout
    from replk_probe.runtime.atomic_files import sha256_of
    from replk_probe.shape_bias.model_vs_human.raw_data import csv_files
    from replk_probe.shape_bias.plot import save_figures
    from replk_probe.shape_bias.result import GivenDecisions, ShapeBiasResult

    label = f"{IMPORTED}{source.resolve().name}"
    run = GivenDecisions(label, {path.name: sha256_of(path) for path in csv_files(source)})
    result = ShapeBiasResult.from_decisions(observers=observers, run=run, source=label)
    result.save(folder)
    save_figures(result, folder)
    click.echo(shape_bias_table([result], layout=terminal_layout()))
    note(f"Results in {folder}")


def _save_compared(
    results: dict[Path, ShapeBiasResult], observers: Sequence[Decisions], imported: Path | None
) -> dict[Path, ShapeBiasResult]:
    """Add imported observers and the error consistency between models to the results, save and plot them."""
    from replk_probe.shape_bias.plot import save_figures
    from replk_probe.shape_bias.published import published_for
    from replk_probe.shape_bias.result import with_distinct_names

    source = "given" if imported is None else f"{IMPORTED}{imported.resolve().name}"
    named = with_distinct_names(list(results.values()))
    compared = {}
    for index, (folder, result) in enumerate(results.items()):
        others = [one.decisions for place, one in enumerate(named) if place != index and one.decisions is not None]
        compared[folder] = result.with_observers(observers, others, source=source)
        compared[folder].save(folder)
        save_figures(compared[folder], folder, others=published_for(compared[folder]))
    return compared


def _report(
    results: dict[Path, ShapeBiasResult], sets: dict[Path, StimulusSet], output: Path, *, compare: bool
) -> None:
    """Print the tables, draw some stimuli with their decisions, and draw the comparison of several models."""
    from replk_probe.plot_style import weights_text
    from replk_probe.report.shape_bias_table import shape_bias_table
    from replk_probe.report.text import terminal_layout
    from replk_probe.runtime.provenance import RunInfo
    from replk_probe.shape_bias.display_names import with_display_names
    from replk_probe.shape_bias.plot_comparison import remove_comparison
    from replk_probe.shape_bias.plot_comparison import save_comparison as save_comparison_figure
    from replk_probe.shape_bias.plot_stimuli import save_contact_sheet
    from replk_probe.shape_bias.published import published_for
    from replk_probe.shape_bias.result import save_comparison, with_distinct_names

    measured = with_distinct_names(list(results.values()))
    published = published_for(measured[0])
    try:
        for folder, result in zip(results, with_display_names(measured), strict=True):
            if result.decisions is not None and result.decisions.counts().n_conflict:
                weights = result.run.weights if isinstance(result.run, RunInfo) else None
                small = weights_text(weights) if weights is not None and weights.is_embedded else None
                random = weights is not None and weights.is_random
                save_contact_sheet(sets[folder], result.decisions, folder, random=random, weights=small)
        if compare and all(result.scores is None for result in measured):
            save_comparison(measured, output)
            save_comparison_figure(measured, output, others=published)
        elif compare:
            remove_comparison(output)
    finally:  # The numbers are printed even if a figure cannot be drawn.
        click.echo(shape_bias_table(measured, published, terminal_layout()))
    runs = [result.run for result in measured if isinstance(result.run, RunInfo)]
    decided, seconds = sum(len(run.image_ids) for run in runs), sum(run.seconds for run in runs)
    what = "decision" if measured[0].scores is None else "image"
    conclusion(decided, what, seconds, output if compare else next(iter(results)))
