"""`replk-probe demo`: four analyzers on some embedded models, and the HTML page of their results."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import PATH, check_writable
from ._output import note

# The shapes in the training images of the last two always belonged to the label, or in half of the images.
_MODELS = ("replknet_micro_k31_rep", "replknet_micro_k3", "replknet_micro_k3.shape100", "replknet_micro_k3.shape50")
# The kernels before merging are shown as well. Few suppressions and images keep the demonstration short.
_ANALYZERS = {
    "erf": [],
    "shape-bias": [],
    "reliance": ["--images", "64", "--suppressions", "patch-shuffle,gaussian-blur,grayscale"],
    "kernels": ["--variant", "all"],
}
_TITLE = "Demonstration of replk-probe"
_DESCRIPTION = (
    "Four small networks, trained on drawings of 64 px that combine a shape with a texture: no ImageNet results. "
    "One has kernels of 31x31 (k31) with a re-parameterization branch (rep), three have kernels of 3x3 (k3). In their "
    "training images, the shape belonged to the label always (shape100), in half of them (shape50), or in 90 % where a "
    "name has no such ending."
)


@click.command()
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="replk-probe-out/demo",
    show_default=True,
    metavar="DIR",
    help="Folder of the results and of report.html.",
)
@click.pass_context
def command(ctx: click.Context, output: Path) -> None:
    """Run four analyzers on four embedded models, and write an HTML page.

    Compares the receptive fields, the shape bias, the reliance on cues and the kernels of four networks: with large and
    with small kernels, and trained on images whose shapes differed in reliability. Needs no network access and takes
    about a minute on 2 CPU cores. The models are small and were trained on synthetic data: their numbers are not
    ImageNet results. Prints the path of the page.
    """
    check_writable(output)
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    page = output / "report.html"
    models = [argument for model in _MODELS for argument in ("--model", model)]
    for name, options in _ANALYZERS.items():
        note(f"replk-probe {name}")
        _run(group, ctx, name, [*models, *options, "--output", str(output / name)])
        click.echo()
    described = ("--title", _TITLE, "--description", _DESCRIPTION)
    _run(group, ctx, "report", [*(str(output / name) for name in _ANALYZERS), "--output", str(page), *described])


def _run(group: click.Group, ctx: click.Context, name: str, args: list[str]) -> None:
    command = group.get_command(ctx, name)
    assert command is not None
    with command.make_context(name, args, parent=ctx.find_root()) as own:
        command.invoke(own)
