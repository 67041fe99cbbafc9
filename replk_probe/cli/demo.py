"""`replk-probe demo`: all three analyzers on the embedded models, and the HTML page of their results."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import PATH, check_writable
from ._output import note

_ANALYZERS = ("erf", "shape-bias", "kernels")


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
    for name in _ANALYZERS:
        note(f"replk-probe {name}")
        _run(group, ctx, name, ["--output", str(output / name)])
        click.echo()
    _run(group, ctx, "report", [*(str(output / name) for name in _ANALYZERS), "--output", str(page)])


def _run(group: click.Group, ctx: click.Context, name: str, args: list[str]) -> None:
    command = group.get_command(ctx, name)
    assert command is not None
    with command.make_context(name, args, parent=ctx.find_root()) as own:
        command.invoke(own)
