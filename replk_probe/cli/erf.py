"""`replk-probe erf`: the effective receptive field of models on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import (
    compute_options,
    destinations,
    model_options,
    named_or_default,
    output_option,
    parse_thresholds,
    weights_of_each,
)
from ._runs import announce, measure_plans, raise_failures, run_plan

if TYPE_CHECKING:
    from replk_probe.erf.measure import ErfPlan
    from replk_probe.erf.result import ErfResult

_DEFAULT_OUTPUT = Path("replk-probe-out") / "erf"
_CHECKPOINT = "erf.ckpt"
_SIZE = 1024


@click.command()
@model_options(required=False)
@click.option("--images", "n_images", type=int, default=50, show_default=True, metavar="N", help="How many images.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of images, flat or with class folders. [default: dead-leaves images that the program draws itself]",
)
@click.option(
    "--size",
    type=int,
    metavar="PX",
    help=f"Images are warped to PX x PX. [default: {_SIZE}; 64 for the small models, which were trained at that size]",
)
@click.option(
    "--layer",
    metavar="SPEC",
    help="stage3.5 (stages from 1, blocks from 0) or a module path. [default: the last map before the final norm]",
)
@click.option(
    "--thresholds",
    default="0.2,0.3,0.5,0.99",
    show_default=True,
    metavar="T,T,...",
    help="Shares of the total contribution, in (0, 1).",
)
@compute_options
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default="0",
    metavar="N",
    help="Of the image sample and of random weights.",
)
@click.option(
    "--sampling",
    type=click.Choice(["stratified", "first"]),
    default="stratified",
    show_default=True,
    help="stratified: spread over the class folders. first: the first files, as the paper's script.",
)
@output_option("replk-probe-out/erf/MODEL")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same command.")
def command(
    models: tuple[str, ...],
    weights: tuple[str, ...],
    ema: bool,
    n_images: int,
    data: Path | None,
    size: int | None,
    layer: str | None,
    thresholds: str,
    precision: str,
    device: str,
    seed: int,
    sampling: str,
    output: Path | None,
    resume: bool,
) -> None:
    """Measure the effective receptive field on real images.

    The contribution of every input pixel to the middle of the last feature map, averaged over images, and how large a
    window holds 20, 30, 50 and 99 % of it. Writes erf.json, erf.npz, erf.csv, erf.png and erf.pdf; with several
    models, one folder for each and a comparison.
    """
    shares = parse_thresholds(thresholds)
    models, weights = named_or_default(models, weights)
    weights_each = weights_of_each(models, weights)
    folders = destinations(models, output, _DEFAULT_OUTPUT)

    from replk_probe.erf.arguments import check_size, check_thresholds
    from replk_probe.erf.measure import plan_erf
    from replk_probe.images import sample_images
    from replk_probe.runtime.devices import resolve_device
    from replk_probe.runtime.malloc import kept_blocks

    # Whatever can be wrong shows before the first model is built, let alone measured.
    check_thresholds(shares)
    size = _default_size(models) if size is None else size
    check_size(size)
    resolve_device(device)
    images = sample_images(data, n_images, seed, sampling)  # type: ignore[arg-type]
    if images.shortfall_note:
        click.echo(f"Note: {images.shortfall_note}", err=True)
    plans = []
    for name, source in zip(models, weights_each, strict=True):
        plan = plan_erf(
            name,
            images,
            size=size,
            layer=layer,
            thresholds=shares,
            precision=precision,
            device=device,
            seed=seed,
            weights=source,
            ema=ema,
        )
        notes = [note for note in plan.notes if note != images.shortfall_note]
        announce(plan, "the map shows the network as it is initialised", notes)
        plans.append(plan)

    with kept_blocks():
        results, failures = measure_plans(plans, folders, lambda plan, folder: _measure(plan, folder, resume))
    if results:
        _report(results, output or _DEFAULT_OUTPUT, compare=len(models) > 1)
    raise_failures(failures, len(models))


def _default_size(models: Sequence[str]) -> int:
    """The small models see the images in the size of those that they were trained on."""
    from replk_probe.models.architectures.micro import INPUT_SIZE, MICRO_MODELS

    return INPUT_SIZE if {*models} <= {*MICRO_MODELS} else _SIZE


def _measure(plan: ErfPlan, folder: Path, resume: bool) -> ErfResult:
    """Run one plan, write its results and draw them."""
    from replk_probe.erf.plot import save_figures
    from replk_probe.erf.result import ErfResult

    result = run_plan(plan, folder, _CHECKPOINT, ErfResult.load, resume)
    save_figures(result, folder)  # also of a finished one: that run may have been killed just before
    return result


def _report(results: dict[Path, ErfResult], output: Path, *, compare: bool) -> None:
    """Print the table; with several models, draw the comparison."""
    from replk_probe.erf.plot import colour_floor, save_figures
    from replk_probe.erf.plot_comparison import save_comparison
    from replk_probe.erf.result import write_csv
    from replk_probe.report.erf_table import erf_table

    measured = list(results.values())
    shared = colour_floor(measured)
    for folder, result in results.items():
        # Most maps reach down to the same colour anyway, and a figure takes seconds.
        if colour_floor([result]) != shared:
            save_figures(result, folder, vmin=shared)
    if compare:
        save_comparison(measured, output)
        write_csv(measured, output / "comparison.csv")
    click.echo(erf_table(measured))
    for result in measured:
        seconds = result.run.seconds
        speed = f"{result.n_images / seconds:.3g} images/s" if seconds > 0 else ""
        images = "1 image" if result.n_images == 1 else f"{result.n_images} images"
        click.echo(f"{result.run.model}: {images} in {seconds:.1f} s, {speed}", err=True)
        for skipped in result.run.skipped:
            click.echo(f"{result.run.model}: skipped {skipped['id']}: {skipped['reason']}", err=True)
    click.echo(f"Results in {output if compare else next(iter(results))}", err=True)
