"""Effective receptive fields: the contribution of every input pixel to the middle of a feature map, and its extent.

``measure_erf`` is the whole measurement; ``contribution_scores``, ``prepare`` and ``area_ratio`` are its stages;
``ErfAccumulator`` measures a model while it is trained, and ``input_gradient`` gives the gradients themselves. Every
name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from replk_probe.models.inference.prepare import PreparedModel

    from .accumulator import ErfAccumulator
    from .area_protocols import AreaRatio, area_ratio, area_ratios
    from .config import ErfConfig
    from .contribution import contribution_scores, input_gradient
    from .map_numbers import ErfNumbers, GaussianFit
    from .map_statistics import erf_numbers
    from .measure import measure_erf
    from .plot import plot_erf
    from .plot_comparison import draw_comparison
    from .plot_positions import draw_positions
    from .plot_volume import draw_volume
    from .preparation import prepare
    from .result import ErfResult, MeasuredPosition, RatioRow

_HOME = {
    "AreaRatio": "area_protocols",
    "ErfAccumulator": "accumulator",
    "ErfConfig": "config",
    "ErfNumbers": "map_numbers",
    "ErfResult": "result",
    "GaussianFit": "map_numbers",
    "MeasuredPosition": "result",
    "PreparedModel": "preparation",
    "RatioRow": "result",
    "area_ratio": "area_protocols",
    "area_ratios": "area_protocols",
    "contribution_scores": "contribution",
    "erf_numbers": "map_statistics",
    "input_gradient": "contribution",
    "measure_erf": "measure",
    "draw_comparison": "plot_comparison",
    "draw_positions": "plot_positions",
    "draw_volume": "plot_volume",
    "plot_erf": "plot",
    "prepare": "preparation",
}

__all__ = [
    "AreaRatio",
    "ErfAccumulator",
    "ErfConfig",
    "ErfNumbers",
    "ErfResult",
    "GaussianFit",
    "MeasuredPosition",
    "PreparedModel",
    "RatioRow",
    "area_ratio",
    "area_ratios",
    "contribution_scores",
    "draw_comparison",
    "draw_positions",
    "draw_volume",
    "erf_numbers",
    "input_gradient",
    "measure_erf",
    "plot_erf",
    "prepare",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
