"""Figures and tables of `replk-probe erf`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._output import conclusion, note

if TYPE_CHECKING:
    from replk_probe.erf.published import PublishedErf
    from replk_probe.erf.result import ErfResult

    from ._erf_jobs import Jobs


def draw_and_print(
    results: Mapping[Path, ErfResult], jobs: Jobs, numbers: Sequence[str], published: Sequence[PublishedErf]
) -> None:
    """Print the tables; draw the comparison of several results."""
    from replk_probe.erf.plot import color_floor, save_figures
    from replk_probe.erf.plot_comparison import save_comparison
    from replk_probe.erf.plot_series import save_checkpoints, save_sizes
    from replk_probe.erf.result import write_csv
    from replk_probe.report.erf_numbers_table import erf_numbers_table
    from replk_probe.report.erf_table import erf_table
    from replk_probe.report.text import terminal_layout

    found = list(results.values())
    shared = color_floor(found)
    for folder, result in results.items():
        # Drawing takes seconds, and most maps already have the common color floor.
        if color_floor([result]) != shared:
            save_figures(result, folder, vmin=shared)
    several = len(jobs.measured) + len(jobs.imported) > 1
    done = [job for job in jobs.measured if job.folder in results]
    for base in dict.fromkeys(job.base for job in done):
        sizes = [results[job.folder] for job in done if job.base == base]
        if len(sizes) > 1:
            save_sizes(sizes, base)
    if len(done) == len({job.weights for job in done}) > len({job.model for job in done}) == 1:
        save_checkpoints([results[job.folder] for job in done], jobs.output)
    if several:
        save_comparison(found, jobs.output)
        write_csv(found, jobs.output / "comparison.csv")
    click.echo(erf_table(found, published, terminal_layout()))
    if numbers:
        click.echo("\n" + erf_numbers_table(found, numbers, terminal_layout()))
    for result in found:
        for skipped in result.run.skipped:
            note(f"{result.run.model}: skipped {skipped['id']}: {skipped['reason']}")
    if done:
        measured = [results[job.folder] for job in done]
        images, seconds = sum(result.n_images or 0 for result in measured), sum(r.run.seconds for r in measured)
        conclusion(images, "image", seconds, jobs.output if several else next(iter(results)))
    else:
        note(f"Results in {jobs.output}")
