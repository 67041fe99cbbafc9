"""All figures of one result."""

from __future__ import annotations

from pathlib import Path

from .plot import save_figures
from .plot_occlusion import save_occlusion
from .plot_series import save_convergence
from .result import ErfResult


def save_all_figures(result: ErfResult, folder: Path) -> None:
    """Draw the map and, where the result has them, its positions, its convergence and its occlusion check."""
    save_figures(result, folder)
    save_convergence(result, folder)
    save_occlusion(result, folder)
