"""`replk-probe erf`: the effective receptive field of models on images."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replk_probe.errors import InvalidInputError, ReplkProbeError

from ._options import (
    command_line,
    compute_options,
    destinations,
    model_options,
    output_option,
    parse_thresholds,
    weights_of_each,
)

if TYPE_CHECKING:
    from replk_probe.erf.measure import ErfPlan
    from replk_probe.erf.result import ErfResult

_DEFAULT_OUTPUT = Path("replk-probe-out") / "erf"
_CHECKPOINT = "erf.ckpt"
_EXIT_INTERRUPTED = 130  # as a shell reports a program ended by SIGINT


@click.command()
@model_options
@click.option("--images", "n_images", type=int, default=50, show_default=True, metavar="N", help="How many images.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of images, flat or with class folders. [default: dead-leaves images that the program draws itself]",
)
@click.option("--size", type=int, default=1024, show_default=True, metavar="PX", help="Images are warped to PX x PX.")
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
    size: int,
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
    weights_each = weights_of_each(models, weights)
    folders = destinations(models, output, _DEFAULT_OUTPUT)

    from replk_probe.erf.arguments import check_size, check_thresholds
    from replk_probe.erf.measure import plan_erf
    from replk_probe.images import sample_images
    from replk_probe.runtime.allocator import kept_blocks
    from replk_probe.runtime.devices import resolve_device

    # Whatever can be wrong shows before the first model is built, let alone measured.
    check_thresholds(shares)
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
        _announce(plan)
        plans.append(plan)

    results: dict[Path, ErfResult] = {}
    failures: dict[str, Exception] = {}
    with kept_blocks():
        for name, folder in zip(models, folders, strict=True):
            try:
                # Each plan goes when it is done: a model and its weights are large.
                results[folder] = _measure(plans.pop(0), folder, resume)
            except click.exceptions.Exit:  # interrupted
                raise
            except Exception as error:  # also what a model's own code raises: it is no fault of the others
                failures[name] = error
                _let_go(error)
                if len(models) > 1:
                    click.secho(f"{name}: failed. {error}", err=True, fg="red")
    if results:
        _report(results, output or _DEFAULT_OUTPUT, compare=len(models) > 1)
    _raise(failures, len(models))


def _announce(plan: ErfPlan) -> None:
    """Say what is about to be measured; that weights are random cannot be missed."""
    weights = plan.weights
    if weights.is_random:
        text = f"{plan.name}: {weights.label} - nothing was trained, the map shows the network as it is initialised."
        click.secho(text, err=True, fg="yellow", bold=True)
    else:
        click.echo(f"{plan.name}: weights {weights.label}", err=True)
    for note in (weights.note, *plan.notes):
        if note and note != plan.images.shortfall_note:
            click.echo(f"{plan.name}: {note}", err=True)


def _measure(plan: ErfPlan, folder: Path, resume: bool) -> ErfResult:
    """Run one plan, write its results and draw them; an interrupted run says how to go on."""
    from replk_probe.erf.plot import save_figures
    from replk_probe.runtime.checkpoint import discard, exists

    checkpoint = folder / _CHECKPOINT
    if resume and not exists(checkpoint):
        finished = _finished(plan, folder)
        if finished is not None:
            click.echo(f"{plan.name}: already measured, see {folder}", err=True)
            save_figures(finished, folder)  # the run may have been killed just before
            return finished
        click.echo(f"{plan.name}: nothing to resume in {folder}, starting anew.", err=True)
    elif not resume and exists(checkpoint):
        click.echo(f"{plan.name}: an unfinished run in {folder} is given up; --resume would have gone on.", err=True)
    try:
        result = plan.run(checkpoint=checkpoint, resume=resume, progress=True)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; at most one image is lost. Go on with:\n  {command_line('--resume')}", err=True)
        raise click.exceptions.Exit(_EXIT_INTERRUPTED) from None
    result.save(folder)
    discard(checkpoint)
    save_figures(result, folder)
    return result


def _finished(plan: ErfPlan, folder: Path) -> ErfResult | None:
    """The result of the same measurement, if it is there."""
    from replk_probe.erf.result import ErfResult

    try:
        result = ErfResult.load(folder)
    except InvalidInputError:
        return None
    return result if plan.same_run(result) else None


def _report(results: dict[Path, ErfResult], output: Path, *, compare: bool) -> None:
    """Print the table; with several models, draw the comparison."""
    from replk_probe.erf.plot import colour_floor, save_figures
    from replk_probe.erf.plot_models import save_comparison
    from replk_probe.erf.result import write_csv
    from replk_probe.report.tables import erf_table

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


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of a kept error hold: a model, and whatever filled the memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _raise(failures: dict[str, Exception], models: int) -> None:
    """End with what went wrong, if anything did."""
    if not failures:
        return
    first = next(iter(failures.values()))
    unexpected = next((error for error in failures.values() if not isinstance(error, ReplkProbeError)), None)
    if models == 1 or unexpected is not None:
        raise unexpected or first
    raise ReplkProbeError(
        f"{len(failures)} of {models} models could not be measured: {', '.join(failures)}. {first} "
        "The same command with --resume keeps what is done."
    )
