"""`replk-probe attribute`: attributions of class scores to the pixels of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replk_probe.errors import InvalidInputError

from ._heads import HeadChoice, head_options, with_head
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
    style_option,
    weights_of_each,
)
from ._output import conclusion
from ._runs import announce, lock_folders, measure_plans, raise_failures, resume_advice, run_plan

if TYPE_CHECKING:
    from replk_probe.attribution.plan import AttributionPlan
    from replk_probe.attribution.result import AttributionResult

_DEFAULT_OUTPUT = Path("replk-probe-out") / "attribution"
_CHECKPOINT = "attribution.ckpt"


@click.command()
@click.argument("images", nargs=-1, type=PATH, metavar="IMAGE...")
@model_options
@head_options
@choice_option(
    "--method",
    [
        "saliency",
        "input-x-gradient",
        "integrated-gradients",
        "smooth-grad",
        "guided-backprop",
        "deconvolution",
        "grad-cam",
        "occlusion",
    ],
    "Method of attribution.",
)
@click.option(
    "--target",
    metavar="CLASS",
    help="Index (from 0) or name of the class whose score is attributed. [default: the predicted class of each image]",
)
@click.option(
    "--erf",
    "field",
    type=PATH,
    metavar="DIR",
    help="Folder of an ERF of the same model and layer, whose windows are used. [default: the windows are measured on "
    "each image]",
)
@click.option(
    "--layer",
    metavar="SPEC",
    help="Layer of the positions, and of grad-cam, as in 'replk-probe erf'. [default: that of the ERF; for grad-cam of "
    "a class token, the input of the last block]",
)
@size_option("Input size; images are resized to PX x PX or H x W. [default: that of the model]")
@click.option(
    "--thresholds",
    default="0.2,0.3,0.5,0.99",
    show_default=True,
    metavar="T,T,...",
    help="Shares of the ERF inside the windows, in (0, 1).",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    help="Integration steps of integrated-gradients. [default: 50]",
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Noisy images of smooth-grad. [default: 25]")
@click.option(
    "--noise",
    type=float,
    metavar="SHARE",
    help="Standard deviation of the noise of smooth-grad, as a share of the range of the values of the image. "
    "[default: 0.15]",
)
@click.option(
    "--window",
    metavar="PX|HxW",
    help="Size of the windows of occlusion. [default: 1/16 of each side of the image]",
)
@click.option(
    "--stride", metavar="PX|HxW", help="Distance between the windows of occlusion. [default: the size of a window]"
)
@click.option(
    "--baseline",
    type=click.Choice(["mean", "black", "white"]),
    help="Color that integrated-gradients begins with and occlusion inserts. [default: mean]",
)
@input_options
@compute_options
@seed_option("Random seed for weight initialization and the noise of smooth-grad.")
@style_option
@output_option("replk-probe-out/attribution/METHOD/MODEL")
@resume_options
def command(
    images: tuple[Path, ...],
    models: tuple[str, ...],
    weights: tuple[str, ...],
    field: Path | None,
    size: str | None,
    thresholds: str,
    window: str | None,
    stride: str | None,
    mean: str | None,
    std: str | None,
    output: Path | None,
    resume: bool,
    allow_other_device: bool,
    head: Path | None,
    classes: str | None,
    templates: str | None,
    **options: Any,
) -> None:
    """Attribute class scores to the pixels of images.

    Computes which pixels of each IMAGE (a file or a folder) the score of a class depends on, by captum, and how much of
    that lies inside the effective receptive field (ERF) of the most attributed position of the last feature map.

    Writes attribution.json, attribution.npz, attribution.csv, attribution.png and attribution.pdf; for several models,
    one folder for each.
    """
    if not images:
        raise InvalidInputError(
            "No image was given. An attribution is that of an image. For example: replk-probe attribute photo.jpg "
            "--model resnet50."
        )
    models, weights = named_or_default(models, weights)
    weights_each = weights_of_each(models, weights)
    folders = destinations(models, output, _DEFAULT_OUTPUT / options["method"])

    from replk_probe.attribution.config import AttributionConfig
    from replk_probe.attribution.plan import plan_attribution
    from replk_probe.runtime.torchrun import together, use_own_gpu

    use_own_gpu(options["device"])
    config = AttributionConfig(
        size=_size(size),
        window=_size(window),
        stride=_size(stride),
        thresholds=parse_thresholds(thresholds),
        mean=parse_statistics("--mean", mean),
        std=parse_statistics("--std", std),
        **options,
    )
    plans = []
    with together():
        for name, source in zip(models, weights_each, strict=True):
            model, settings = with_head(name, replace(config, weights=source), HeadChoice(head, classes, templates))
            plan = plan_attribution(model, images, field, settings)
            announce(plan, "the attributions are those of the initialization")
            plans.append(plan)
    lock_folders(*folders)
    results, failures = measure_plans(
        plans, folders, lambda plan, folder: _measure(plan, folder, resume, allow_other_device)
    )
    if results:
        _report(list(results.values()), folders[0] if len(folders) == 1 else folders[0].parent)
    raise_failures(failures, len(folders), resume_advice(results, folders, _CHECKPOINT))


def _size(text: str | None) -> tuple[int, int] | None:
    """A height and a width, or None if the option was not given."""
    from replk_probe.runtime.checks import check_size

    return None if text is None else check_size(parse_size(text))


def _measure(plan: AttributionPlan, folder: Path, resume: bool, allow_other_device: bool) -> AttributionResult | None:
    """Run one plan, write its result and its figure; None if another process does."""
    from replk_probe.attribution.plot_images import save_figures
    from replk_probe.attribution.result import AttributionResult

    result = run_plan(plan, folder, _CHECKPOINT, AttributionResult.load, resume, allow_other_device)
    if result is not None:
        save_figures(result, folder)
    return result


def _report(results: list[AttributionResult], folder: Path) -> None:
    """Print the table."""
    from replk_probe.report.attribution_table import attribution_table
    from replk_probe.report.text import terminal_layout

    click.echo(attribution_table(results, terminal_layout()))
    seconds = sum(result.run.seconds for result in results)
    conclusion(sum(len(result.images) for result in results), "image", seconds, folder)
