"""Magnitude of kernel weights, with and without re-parameterization.

``measure_kernels`` measures a model; the statistics are defined in ``statistics``. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .kernel import Kernel as Kernel
    from .layers import find_layers as find_layers
    from .measure import measure_kernels as measure_kernels
    from .plot import draw_kernels as draw_kernels
    from .plot_gallery import draw_gallery as draw_gallery
    from .plot_overview import draw_overview as draw_overview
    from .plot_profiles import draw_profiles as draw_profiles
    from .result import KernelResult as KernelResult
    from .result import load_results as load_results
    from .result import save_results as save_results

_HOME = {
    "Kernel": "kernel",
    "KernelResult": "result",
    "find_layers": "layers",
    "load_results": "result",
    "measure_kernels": "measure",
    "draw_gallery": "plot_gallery",
    "draw_kernels": "plot",
    "draw_overview": "plot_overview",
    "draw_profiles": "plot_profiles",
    "save_results": "result",
}

__all__ = [
    "Kernel",
    "KernelResult",
    "draw_gallery",
    "draw_kernels",
    "draw_overview",
    "draw_profiles",
    "find_layers",
    "load_results",
    "measure_kernels",
    "save_results",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
