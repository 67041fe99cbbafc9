"""`replk-probe erf`: the effective receptive field of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import (
    PATH,
    choice_option,
    compute_options,
    destinations,
    input_options,
    model_options,
    named_or_default,
    output_option,
    parse_size,
    parse_statistics,
    parse_thresholds,
    resume_options,
    seed_option,
    size_option,
    weights_of_each,
)
from ._output import conclusion, note
from ._runs import announce, lock_folders, measure_plans, raise_failures, resume_advice, run_plan

if TYPE_CHECKING:
    from replk_probe.erf.plan import ErfPlan
    from replk_probe.erf.result import ErfResult

_DEFAULT_OUTPUT = Path("replk-probe-out") / "erf"
_CHECKPOINT = "erf.ckpt"


@click.command()
@model_options
@click.option("--images", type=int, default=50, show_default=True, metavar="N", help="Number of images.")
@click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    help="Folder of images, flat or with class folders. [default: generated dead-leaves images]",
)
@size_option("Input size; images are resized to PX x PX or H x W. [default: 1024; 64 for the small models]")
@input_options
@click.option(
    "--layer",
    metavar="SPEC",
    help="Target layer: stage3.5 (stages from 1, blocks from 0) or a module path. "
    "[default: the last map before the final norm, or else the map that enters the pooling]",
)
@click.option(
    "--position",
    default="center",
    show_default=True,
    metavar="POSITION",
    help="Position of the feature map: center, Y,X (row and column from 0), grid:RxC or random:N (a map for each, and "
    "their recentered mean), or mean (of all positions, not recentered).",
)
@click.option(
    "--thresholds",
    default="0.2,0.3,0.5,0.99",
    show_default=True,
    metavar="T,T,...",
    help="Fractions of the total contribution, in (0, 1).",
)
@click.option(
    "--numbers",
    metavar="NAME,NAME,...",
    help="Further numbers of the map to print: all, or names of erf.numbers in erf.json, such as "
    "center_offset,effective_area,gaussian. They are always saved.",
)
@compute_options
@seed_option("Random seed for image sampling, weight initialization and random positions.")
@choice_option(
    "--sampling",
    ["stratified", "first"],
    "stratified: evenly over the class folders. first: the first files, as in the paper's script.",
)
@output_option("replk-probe-out/erf/MODEL")
@resume_options
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    data: Path | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    thresholds: str,
    numbers: str | None,
    output: Path | None,
    resume: bool,
    allow_other_device: bool,
    **options: Any,
) -> None:
    """Measure the effective receptive field.

    Computes the contribution of every input pixel to the center of the last feature map, averaged over images, and the
    area of the smallest centered square that contains 20, 30, 50 and 99 % of it.

    Several GPUs or cores: torchrun --nproc-per-node N -m replk_probe erf ... divides the images among N processes and
    gives the same bytes as one process with the same number of threads (torchrun sets OMP_NUM_THREADS=1).

    Writes erf.json, erf.npz, erf.csv, erf.png and erf.pdf, and erf_positions.png and .pdf for several positions; for
    several models, one folder per model and a comparison.
    """
    shares = parse_thresholds(thresholds)
    models, weights = named_or_default(models, weights)
    weights_each = weights_of_each(models, weights)
    folders = destinations(models, output, _DEFAULT_OUTPUT)

    from replk_probe.erf.config import ErfConfig, default_size
    from replk_probe.erf.plan import plan_erf
    from replk_probe.images import sample_images
    from replk_probe.report.erf_numbers_table import parse_numbers
    from replk_probe.runtime.torchrun import together, use_own_gpu

    use_own_gpu(options["device"])
    # Invalid arguments are reported before the first model is built.
    names = () if numbers is None else parse_numbers(numbers)
    config = ErfConfig(
        size=default_size(models) if size is None else parse_size(size),
        thresholds=shares,
        mean=parse_statistics("--mean", mean),
        std=parse_statistics("--std", std),
        **options,
    )
    sample = sample_images(data, config.images, config.seed, config.sampling)  # type: ignore[arg-type]
    plans = []
    with together():
        for name, source in zip(models, weights_each, strict=True):
            plan = plan_erf(name, sample, replace(config, weights=source))
            announce(plan, "the map shows the network as initialized")
            plans.append(plan)

    lock_folders(*folders, *([output or _DEFAULT_OUTPUT] if len(models) > 1 else []))
    results, failures = measure_plans(
        plans, folders, lambda plan, folder: _measure(plan, folder, resume, allow_other_device)
    )
    if results:
        _report(results, output or _DEFAULT_OUTPUT, names, compare=len(models) > 1)
    raise_failures(failures, len(models), resume_advice(results, folders, _CHECKPOINT))


def _measure(plan: ErfPlan, folder: Path, resume: bool, allow_other_device: bool) -> ErfResult | None:
    """Run one plan, write its results and its figures; None if another process does."""
    from replk_probe.erf.plot import save_figures
    from replk_probe.erf.result import ErfResult

    result = run_plan(plan, folder, _CHECKPOINT, ErfResult.load, resume, allow_other_device)
    if result is not None:
        save_figures(result, folder)  # also of a finished run, which may have been killed before its figures were drawn
    return result


def _report(results: dict[Path, ErfResult], output: Path, numbers: Sequence[str], *, compare: bool) -> None:
    """Print the tables; draw the comparison of several models."""
    from replk_probe.erf.plot import color_floor, save_figures
    from replk_probe.erf.plot_comparison import save_comparison
    from replk_probe.erf.result import write_csv
    from replk_probe.report.erf_numbers_table import erf_numbers_table
    from replk_probe.report.erf_table import erf_table
    from replk_probe.report.text import terminal_layout

    measured = list(results.values())
    shared = color_floor(measured)
    for folder, result in results.items():
        # Drawing takes seconds, and most maps already have the common color floor.
        if color_floor([result]) != shared:
            save_figures(result, folder, vmin=shared)
    if compare:
        save_comparison(measured, output)
        write_csv(measured, output / "comparison.csv")
    click.echo(erf_table(measured, layout=terminal_layout()))
    if numbers:
        click.echo("\n" + erf_numbers_table(measured, numbers, terminal_layout()))
    for result in measured:
        for skipped in result.run.skipped:
            note(f"{result.run.model}: skipped {skipped['id']}: {skipped['reason']}")
    seconds = sum(result.run.seconds for result in measured)
    folder = output if compare else next(iter(results))
    conclusion(sum(result.n_images for result in measured), "image", seconds, folder)
