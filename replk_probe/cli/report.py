"""`replk-probe report`: one HTML page with all results."""

from __future__ import annotations

from pathlib import Path

import click

from replk_probe.errors import InvalidInputError

from ._options import PATH, check_writable
from ._output import note, show_path


@click.command()
@click.argument("folders", nargs=-1, type=PATH, metavar="[DIR]...")
@click.option(
    "-o", "--output", type=PATH, default="report.html", show_default=True, metavar="FILE", help="HTML file to write."
)
@click.option("--title", metavar="TEXT", help="Title of the page. [default: Results of replk-probe]")
@click.option("--description", default="", metavar="TEXT", help="A paragraph below the title.")
def command(folders: tuple[Path, ...], output: Path, title: str | None, description: str) -> None:
    """Collect results in one HTML page.

    Reads all results of erf, shape-bias, behaviour, kernels, attribute, reliance, bench and sweep in the folders DIR
    and their subfolders (default: replk-probe-out). The page is one file without any request, which can be sent to
    others: maps with a slider for the threshold, curves, shape bias by category, kernels, attributions, reliance,
    benchmarks, the provenance of every number, definitions, and how to cite them. It works without scripts as well.
    """
    if output.is_dir():
        raise InvalidInputError(
            f"Cannot write to {output}. It is a folder, but the page is one file. Give the name of a file, such as "
            f"--output {output / 'report.html'}."
        )
    check_writable(output.parent)

    from replk_probe.collection import DEFAULT_FOLDER, find_results
    from replk_probe.html_report import write_report
    from replk_probe.html_report.page import DEFAULT_TITLE
    from replk_probe.runtime.formatting import counted

    collection = find_results(folders or DEFAULT_FOLDER)
    for record, reason in collection.unreadable:
        note(f"left out {record}: {reason}", fg="yellow")
    write_report(collection, output, title=title or DEFAULT_TITLE, description=description)
    show_path(output)
    note(f"{counted(collection.n_results, 'result')}, {output.stat().st_size / 1e6:.1f} MB.")
