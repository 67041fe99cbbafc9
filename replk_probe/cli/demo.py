"""`replk-probe demo`: all three analyzers on the embedded models, and the HTML page of their results."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import PATH, check_writable
from ._output import note

# The kernels before merging are shown as well.
_ANALYZERS = {"erf": [], "shape-bias": [], "kernels": ["--variant", "all"]}
_TITLE = "Demonstration of replk-probe"
_DESCRIPTION = (
    "Six small networks, trained on drawings of 64 px that combine a shape with a texture: no ImageNet results. "
    "Receptive fields: a network with kernels of 31x31 (k31, with a re-parameterization branch, rep) and one with 3x3 "
    "(k3). Shape bias: two networks with 3x3 kernels, in whose training images the shape always belonged to the label "
    "(shape100) or in half of them (shape50; 90 % where a name has no such ending). Kernels: 13x13, with and without "
    "the branch."
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
    """Run all three analyzers on embedded models, and write an HTML page.

    Compares the receptive fields of large and small kernels, the shape bias of networks whose training images had
    shapes of different reliability, and kernels with and without a small branch. Needs no network access and takes
    about a minute on 2 CPU cores. The models are small and were trained on synthetic data: their numbers are not
    ImageNet results. Prints the path of the page.
    """
    check_writable(output)
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    page = output / "report.html"
    for name, options in _ANALYZERS.items():
        note(f"replk-probe {name}")
        _run(group, ctx, name, [*options, "--output", str(output / name)])
        click.echo()
    described = ("--title", _TITLE, "--description", _DESCRIPTION)
    _run(group, ctx, "report", [*(str(output / name) for name in _ANALYZERS), "--output", str(page), *described])


def _run(group: click.Group, ctx: click.Context, name: str, args: list[str]) -> None:
    command = group.get_command(ctx, name)
    assert command is not None
    with command.make_context(name, args, parent=ctx.find_root()) as own:
        command.invoke(own)
