"""`replk-probe compare`: differences between two results, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import PATH, check_writable, output_option
from ._output import note

if TYPE_CHECKING:
    from replk_probe.comparison import Comparison

_DEFAULT_OUTPUT = Path("replk-probe-out") / "compare"


@click.command()
@click.argument("first", type=PATH, metavar="A")
@click.argument("second", type=PATH, metavar="B")
@output_option("replk-probe-out/compare")
def command(first: Path, second: Path, output: Path | None) -> None:
    """Compare two results, or the results in two folders.

    A and B are folders of results of erf, shape-bias, behaviour, reliance, kernels or bench. Prints the differences
    A - B with 95 % intervals, and which of them are significant. If a folder has several results of an analyzer, those
    of the same model are compared. Measurements whose numbers do not have the same meaning (input size, convention,
    stimuli) are not compared.

    Writes differences.csv, differences.png and differences.pdf, in a subfolder for each comparison if there are
    several.
    """
    folder = output or _DEFAULT_OUTPUT
    check_writable(folder)

    from replk_probe.comparison import compare_folders
    from replk_probe.report.differences_table import differences_table
    from replk_probe.report.text import terminal_layout

    comparisons = compare_folders(first, second)
    for index, comparison in enumerate(comparisons):
        click.echo(("\n" if index else "") + differences_table(comparison, terminal_layout()))
        _save(comparison, folder if len(comparisons) == 1 else folder / _name(comparisons, index))
    note(f"Results in {folder}")


def _save(comparison: Comparison, folder: Path) -> None:
    from replk_probe.comparison.plot_differences import save_differences
    from replk_probe.runtime.atomic_files import atomic_write_text

    atomic_write_text(folder / "differences.csv", comparison.to_csv())
    save_differences(comparison, folder)


def _name(comparisons: tuple[Comparison, ...], index: int) -> str:
    """Name of the subfolder of a comparison: the analyzer, and the model if the analyzer compared several."""
    from replk_probe.runtime.paths import slug

    one = comparisons[index]
    several = sum(other.analyzer == one.analyzer for other in comparisons) > 1
    return f"{one.analyzer}/{index + 1}-{slug(one.first)}" if several else one.analyzer
