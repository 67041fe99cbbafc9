"""`replk-probe behaviour`: decisions of classifiers on the sets of model-vs-human, compared with those of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replk_probe.errors import InvalidInputError

from ._options import (
    PATH,
    check_writable,
    compute_options,
    decision_options,
    destinations,
    input_options,
    model_options,
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
    from replk_probe.behaviour.image_sets import BenchmarkImages
    from replk_probe.behaviour.result import BehaviourResult
    from replk_probe.behaviour.trials import Trials

_DEFAULT_OUTPUT = Path("replk-probe-out") / "behaviour"
_CHECKPOINT = "behaviour.ckpt"

# Options that are valid without a model.
_IMPORT_OPTIONS = ("imported", "sets", "output")


@click.command()
@partial(model_options, default="none; --import is analyzed")
@click.option(
    "--sets",
    metavar="all|shape|noise|NAME,...",
    help="Sets of images, separated by commas. shape: cue-conflict, edge, silhouette, sketch, stylized; noise: the "
    "twelve sets of distorted images. [default: those in --data or --import]",
)
@click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    help="Folder with one folder per set, or the folder of a set. [default: the cache, see 'replk-probe data fetch']",
)
@click.option(
    "--import",
    "imported",
    type=PATH,
    metavar="DIR",
    help="Folder raw-data of model-vs-human, or that of one set: people and networks to compare with the models, or to "
    "analyze without a model.",
)
@decision_options
@size_option("Input size; images are resized to PX x PX or H x W. [default: that of the model]")
@input_options
@click.option("--allow-partial", is_flag=True, help="Evaluate sets from which images are missing.")
@compute_options
@tune_option
@seed_option("Random seed for weight initialization.")
@style_option
@output_option("replk-probe-out/behaviour/MODEL")
@resume_options
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    sets: str | None,
    data: Path | None,
    mapping: Path | None,
    imported: Path | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    output: Path | None,
    resume: bool,
    allow_other_device: bool,
    **options: Any,
) -> None:
    """Compare decisions on 17 sets of images with those of people.

    Measures how often a classifier is right on the images of model-vs-human, and how consistent it is with people:
    accuracy, accuracy difference, observed consistency and error consistency, with bootstrap intervals. Without
    --import, only the accuracy can be compared, because the decisions of people are not part of this package.

    Writes behaviour.json, behaviour.npz, behaviour.csv, raw-data (in the format of model-vs-human) and figures; for
    several models, one folder per model and a comparison.
    """
    from replk_probe.behaviour.benchmark_sets import choose_sets
    from replk_probe.runtime.paths import slug

    # Invalid arguments are reported before the first model is built.
    chosen = None if sets is None else choose_sets(sets)
    if not models:
        if imported is None:
            raise InvalidInputError(
                "Neither --model nor --import was given. There is nothing to measure or to analyze. Give a classifier "
                "of ImageNet, such as --model resnet50, or the folder raw-data of model-vs-human."
            )
        refuse_without_model(_IMPORT_OPTIONS)
        folder = output or _DEFAULT_OUTPUT / slug(imported.resolve().name)
        _only_imported(imported, chosen, folder)
        return

    from replk_probe.behaviour.config import BehaviourConfig
    from replk_probe.behaviour.image_sets import open_sets
    from replk_probe.behaviour.plan import plan_behaviour
    from replk_probe.behaviour.raw_data import raw_files, read_raw_data
    from replk_probe.behaviour.result import BehaviourResult
    from replk_probe.runtime.checks import check_size
    from replk_probe.runtime.torchrun import together, use_own_gpu
    from replk_probe.shape_bias.decision_mapping import load_mapping

    weights_each = weights_of_each(models, weights)
    use_own_gpu(options["device"])
    config = BehaviourConfig(
        mapping=None if mapping is None else load_mapping(mapping),
        size=None if size is None else check_size(parse_size(size)),
        mean=parse_statistics("--mean", mean),
        std=parse_statistics("--std", std),
        **options,
    )
    if imported is not None:
        _note_empty(imported, raw_files(imported))
    observers = () if imported is None else read_raw_data(imported)
    folders = destinations(models, output, _DEFAULT_OUTPUT)
    images = open_sets(chosen, data, allow_partial=config.allow_partial)
    plans = []
    with together():
        for name, source in zip(models, weights_each, strict=True):
            plan = plan_behaviour(name, images, config=replace(config, weights=source))
            announce(plan, "the decisions are random")
            plans.append(plan)

    def load(folder: Path) -> BehaviourResult:
        result = BehaviourResult.load(folder)
        check_import(folder, (one.source for each in result.sets for one in each.observers), imported)
        return result

    place = output or _DEFAULT_OUTPUT
    lock_folders(*folders, *([place] if len(models) > 1 else []))
    results, failures = measure_plans(
        plans,
        folders,
        lambda plan, folder: run_plan(plan, folder, _CHECKPOINT, load, resume, allow_other_device),
    )
    if results:
        source = "given" if imported is None else f"{IMPORTED}{imported.resolve().name}"
        _report(results, observers, source, images, place if len(models) > 1 else None)
    raise_failures(failures, len(models), resume_advice(results, folders, _CHECKPOINT))


def _only_imported(source: Path, sets: Sequence[str] | None, folder: Path) -> None:
    """Analyze imported decisions, without a model or images."""
    from replk_probe.behaviour.plot import save_figures
    from replk_probe.behaviour.raw_data import raw_files, read_raw_data
    from replk_probe.behaviour.result import BehaviourResult
    from replk_probe.report.behaviour_table import behaviour_table
    from replk_probe.report.text import terminal_layout
    from replk_probe.runtime.atomic_files import sha256_of
    from replk_probe.shape_bias.result import GivenDecisions

    paths_of_sets = raw_files(source, sets)
    _note_empty(source, paths_of_sets)
    trials = read_raw_data(source, sets)
    check_writable(folder)
    lock_folders(folder)
    label = f"{IMPORTED}{source.resolve().name}"
    files = {f"{name}/{path.name}": sha256_of(path) for name, paths in paths_of_sets.items() for path in paths}
    result = BehaviourResult.from_trials(trials, run=GivenDecisions(label, files), source=label)
    result.save(folder)
    save_figures(result, folder)
    click.echo(behaviour_table([result], terminal_layout()))
    note(f"Results in {folder}")


def _note_empty(source: Path, files: Mapping[str, Sequence[Path]]) -> None:
    """Note the folders of sets that have no files."""
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        plural = len(empty) > 1
        note(
            f"Skipped the folder{'s' * plural} {', '.join(empty)} of {source}, which {'have' if plural else 'has'} no "
            ".csv file."
        )


def _report(
    results: dict[Path, BehaviourResult],
    observers: Sequence[Trials],
    source: str,
    images: BenchmarkImages,
    comparison: Path | None,
) -> None:
    """Add the other observers to the results, save and draw them, and print the table."""
    from replk_probe.behaviour.display_names import with_display_names, with_distinct_names
    from replk_probe.behaviour.plot import save_figures
    from replk_probe.behaviour.plot_images import save_contact_sheet
    from replk_probe.report.behaviour_table import behaviour_table
    from replk_probe.report.text import terminal_layout
    from replk_probe.runtime.provenance import RunInfo

    named = with_distinct_names(list(results.values()))
    compared = []
    for index, folder in enumerate(results):
        others = [one for place, other in enumerate(named) if place != index for one in other.trials]
        compared.append(named[index].with_observers(observers, others, source=source))
        compared[-1].save(folder)
    shown = with_display_names(compared)
    runs = [(result.model, result.run) for result in shown]
    random = [str(model) for model, run in runs if isinstance(run, RunInfo) and run.weights.is_random]
    try:
        for folder, result in zip(results, shown, strict=True):
            save_figures(result, folder, random=random)
            save_contact_sheet(images, result.trials, folder)
        if comparison is not None:
            save_figures(shown[0], comparison, random=random)
    finally:  # The numbers are printed even if a figure cannot be drawn.
        click.echo(behaviour_table(shown, terminal_layout()))
    decided = sum(len(one.names) for result in compared for one in result.trials)
    seconds = sum(result.run.seconds for result in compared if isinstance(result.run, RunInfo))
    conclusion(decided, "decision", seconds, comparison or next(iter(results)))
