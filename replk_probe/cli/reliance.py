"""`replk-probe reliance`: the accuracy of classifiers when shape, texture or color is suppressed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replk_probe.errors import InvalidInputError

from ._options import (
    PATH,
    compute_options,
    destinations,
    input_options,
    model_options,
    named_or_default,
    output_option,
    parse_size,
    parse_statistics,
    resume_options,
    seed_option,
    size_option,
    style_option,
    weights_of_each,
)
from ._output import conclusion
from ._runs import announce, lock_folders, measure_plans, raise_failures, resume_advice, run_plan

if TYPE_CHECKING:
    from replk_probe.reliance.plan import ReliancePlan
    from replk_probe.reliance.result import RelianceResult

_DEFAULT_OUTPUT = Path("replk-probe-out") / "reliance"
_CHECKPOINT = "reliance.ckpt"


@click.command()
@model_options
@click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    help="Folder of images with one subfolder for each class, named like the classes of ImageNet, their WordNet ids, "
    "the 16 categories of model-vs-human, the classes of the model or their indices; or images whose names contain a "
    "WordNet id. [default: generated images, for the small models, which were trained on such]",
)
@click.option(
    "--suppressions",
    metavar="NAME,NAME,...",
    help="Methods (patch-shuffle, patch-rotation, bilateral, gaussian-blur, non-local-means, grayscale, "
    "channel-shuffle), with a strength (gaussian-blur:4) or combined (patch-shuffle:4+grayscale). "
    "[default: all methods at several strengths, and all pairs of cues]",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    metavar="N",
    help="Number of images, sampled evenly from the classes. [default: all; 320 generated images]",
)
@click.option(
    "--mapping",
    type=PATH,
    metavar="FILE.json",
    help="Class indices of each subfolder, for classifiers with other classes.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Images per forward pass."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    help="Threads that load and filter images; 0 for none. [default: depends on the number of cores]",
)
@size_option("Input size; images are warped to PX x PX or H x W. [default: that of the model]")
@input_options
@compute_options
@seed_option("Random seed of the suppressions, of the sample of images and for weight initialization.")
@style_option
@output_option("replk-probe-out/reliance/MODEL")
@resume_options
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    data: Path | None,
    mapping: Path | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    output: Path | None,
    resume: bool,
    allow_other_device: bool,
    **options: Any,
) -> None:
    """Measure the accuracy of classifiers when a cue is suppressed.

    Suppresses the shape (patches are shuffled or rotated), the texture (filters) or the color of images, and reports
    the accuracy relative to that on the original images, with intervals. The lower it is, the more a classifier relies
    on the cue.

    Writes reliance.json, reliance.npz and reliance.csv; reliance (profile and curves) and suppressions (one image under
    all of them) as PNG and PDF; for several models, one folder per model and a comparison.
    """
    if data is not None and not models:
        raise InvalidInputError(
            "--data was given without --model. The default models only know the classes of generated images. Give a "
            "model with --model, or omit --data."
        )
    names, weights = named_or_default(models, weights, "shape-bias")
    weights_each = weights_of_each(names, weights)
    folders = destinations(names, output, _DEFAULT_OUTPUT)

    from replk_probe.reliance.config import RelianceConfig
    from replk_probe.reliance.plan import plan_reliance
    from replk_probe.runtime.checks import check_size
    from replk_probe.shape_bias.decision_mapping import load_mapping

    config = RelianceConfig(
        mapping=None if mapping is None else load_mapping(mapping),
        size=None if size is None else check_size(parse_size(size)),
        mean=parse_statistics("--mean", mean),
        std=parse_statistics("--std", std),
        **options,
    )
    plans = []
    for name, source in zip(names, weights_each, strict=True):
        plan = plan_reliance(name, data, replace(config, weights=source))
        announce(plan, "the decisions are random")
        plans.append(plan)
    together = output or _DEFAULT_OUTPUT
    lock_folders(*folders, *([together] if len(names) > 1 else []))
    results, failures = measure_plans(
        plans, folders, lambda plan, folder: _measure(plan, folder, resume, allow_other_device)
    )
    if results:
        _report(list(results.values()), folders[0] if len(folders) == 1 else together)
    raise_failures(failures, len(folders), resume_advice(results, folders, _CHECKPOINT))


def _measure(plan: ReliancePlan, folder: Path, resume: bool, allow_other_device: bool) -> RelianceResult | None:
    """Run one plan, write its result and its figures; None if another process does."""
    from replk_probe.reliance.plot_all import save_all_figures
    from replk_probe.reliance.result import RelianceResult

    result = run_plan(plan, folder, _CHECKPOINT, RelianceResult.load, resume, allow_other_device)
    if result is not None:
        save_all_figures(result, folder)
    return result


def _report(results: list[RelianceResult], folder: Path) -> None:
    """Print the tables, and draw the comparison of several models."""
    from replk_probe.reliance.plot import save_figures
    from replk_probe.reliance.result import write_csv
    from replk_probe.report.reliance_table import reliance_table
    from replk_probe.report.text import terminal_layout

    if len(results) > 1:
        write_csv(results, folder / "comparison.csv")
    try:
        if len(results) > 1 and any(result.accuracy for result in results):
            save_figures(results, folder, "comparison")
    finally:  # The numbers are printed even if a figure cannot be drawn.
        click.echo(reliance_table(results, terminal_layout()))
    images = sum(len(result.targets) for result in results)
    conclusion(images, "image", sum(result.run.seconds for result in results), folder)
