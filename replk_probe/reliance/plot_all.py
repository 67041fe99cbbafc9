"""All figures of a result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from replk_probe.plot_style import remove_figures

from . import plot, plot_pictures

if TYPE_CHECKING:
    from .result import RelianceResult


def save_all_figures(result: RelianceResult, directory: str | Path) -> tuple[Path, ...]:
    """Write the figures ``reliance`` and ``suppressions`` as PNG and PDF; returns the files.

    If no image is classified correctly without a suppression, there is only the second one.
    """
    if not result.accuracy:
        remove_figures(directory, "reliance")  # of an earlier result
    curves = plot.save_figures([result], directory) if result.accuracy else ()
    return (*curves, *plot_pictures.save_figures(result, directory))
