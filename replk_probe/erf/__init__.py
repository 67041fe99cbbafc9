"""Effective receptive fields: what every input pixel contributes to the middle of a feature map, and how far that goes.

``measure_erf`` is the whole measurement; ``contribution_scores``, ``prepare`` and ``area_ratio`` are its stages.
Importing this package loads nothing heavy: every name is resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .features import contribution_scores as contribution_scores
    from .measure import measure_erf as measure_erf
    from .plot import plot_erf as plot_erf
    from .plot_models import plot_comparison as plot_comparison
    from .preparation import prepare as prepare
    from .protocol import AreaRatio as AreaRatio
    from .protocol import area_ratio as area_ratio
    from .protocol import area_ratios as area_ratios
    from .result import ErfResult as ErfResult
    from .result import RatioRow as RatioRow

_HOME = {
    "AreaRatio": "protocol",
    "ErfResult": "result",
    "RatioRow": "result",
    "area_ratio": "protocol",
    "area_ratios": "protocol",
    "contribution_scores": "features",
    "measure_erf": "measure",
    "plot_comparison": "plot_models",
    "plot_erf": "plot",
    "prepare": "preparation",
}

__all__ = [
    "AreaRatio",
    "ErfResult",
    "RatioRow",
    "area_ratio",
    "area_ratios",
    "contribution_scores",
    "measure_erf",
    "plot_comparison",
    "plot_erf",
    "prepare",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
