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
    from .convention import CONVENTIONS, Convention
    from .convergence import Convergence
    from .imported import import_erf
    from .map_numbers import ErfNumbers, GaussianFit
    from .map_statistics import erf_numbers
    from .measure import measure_erf
    from .neuron_erf import NeuronERF
    from .occlusion_rows import OcclusionRow
    from .plot import plot_erf
    from .plot_comparison import draw_comparison
    from .plot_occlusion import draw_occlusion
    from .plot_positions import draw_positions
    from .plot_series import draw_checkpoints, draw_convergence, draw_sizes
    from .plot_volume import draw_volume
    from .preparation import prepare
    from .result import ErfResult, MeasuredPosition, RatioRow
    from .size_series import measure_erf_series

_HOME = {
    "AreaRatio": "area_protocols",
    "CONVENTIONS": "convention",
    "Convention": "convention",
    "Convergence": "convergence",
    "ErfAccumulator": "accumulator",
    "ErfConfig": "config",
    "ErfNumbers": "map_numbers",
    "ErfResult": "result",
    "GaussianFit": "map_numbers",
    "MeasuredPosition": "result",
    "NeuronERF": "neuron_erf",
    "OcclusionRow": "occlusion_rows",
    "PreparedModel": "preparation",
    "RatioRow": "result",
    "area_ratio": "area_protocols",
    "area_ratios": "area_protocols",
    "contribution_scores": "contribution",
    "erf_numbers": "map_statistics",
    "import_erf": "imported",
    "input_gradient": "contribution",
    "measure_erf": "measure",
    "measure_erf_series": "size_series",
    "draw_checkpoints": "plot_series",
    "draw_comparison": "plot_comparison",
    "draw_convergence": "plot_series",
    "draw_sizes": "plot_series",
    "draw_occlusion": "plot_occlusion",
    "draw_positions": "plot_positions",
    "draw_volume": "plot_volume",
    "plot_erf": "plot",
    "prepare": "preparation",
}

__all__ = [
    "CONVENTIONS",
    "AreaRatio",
    "Convention",
    "Convergence",
    "ErfAccumulator",
    "ErfConfig",
    "ErfNumbers",
    "ErfResult",
    "GaussianFit",
    "MeasuredPosition",
    "NeuronERF",
    "OcclusionRow",
    "PreparedModel",
    "RatioRow",
    "area_ratio",
    "area_ratios",
    "contribution_scores",
    "draw_checkpoints",
    "draw_comparison",
    "draw_convergence",
    "draw_occlusion",
    "draw_positions",
    "draw_sizes",
    "draw_volume",
    "erf_numbers",
    "import_erf",
    "input_gradient",
    "measure_erf",
    "measure_erf_series",
    "plot_erf",
    "prepare",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
