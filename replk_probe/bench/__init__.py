"""Speed of the depthwise convolution on this machine, compared with all implementations of torch.

``measure_speed`` is the whole measurement. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .layers import GPU_LAYERS, MODEL_LAYERS, sweep_layers
    from .measure import measure_speed
    from .plot import draw_speed, plot_speedup, plot_times
    from .result import Gpu, Layer, MethodChoice, SpeedCase, SpeedResult, Timing

_HOME = {
    "GPU_LAYERS": "layers",
    "MODEL_LAYERS": "layers",
    "Gpu": "result",
    "Layer": "result",
    "MethodChoice": "result",
    "SpeedCase": "result",
    "SpeedResult": "result",
    "Timing": "result",
    "measure_speed": "measure",
    "draw_speed": "plot",
    "plot_speedup": "plot",
    "plot_times": "plot",
    "sweep_layers": "layers",
}

__all__ = [
    "GPU_LAYERS",
    "MODEL_LAYERS",
    "Gpu",
    "Layer",
    "MethodChoice",
    "SpeedCase",
    "SpeedResult",
    "Timing",
    "draw_speed",
    "measure_speed",
    "plot_speedup",
    "plot_times",
    "sweep_layers",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
