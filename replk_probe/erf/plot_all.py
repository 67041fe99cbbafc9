"""All figures of one result."""

from __future__ import annotations

from pathlib import Path

from replk_probe.plot_style import SUFFIXES

from .plot import save_figures
from .plot_occlusion import save_occlusion
from .plot_series import save_convergence
from .result import ErfResult

# Figures that not every result has.
_OPTIONAL = ("erf_positions", "erf_convergence", "erf_occlusion")


def save_all_figures(result: ErfResult, folder: Path) -> None:
    """Write every figure that the result has, and remove those of an earlier result in the same folder."""
    written = {*save_figures(result, folder), *save_convergence(result, folder), *save_occlusion(result, folder)}
    for stem in _OPTIONAL:
        for path in {folder / f"{stem}.{suffix}" for suffix in SUFFIXES} - written:
            path.unlink(missing_ok=True)
