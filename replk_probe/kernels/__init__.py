"""Magnitude of kernel weights, with and without re-parameterization.

``measure_kernels`` measures a model; the statistics are defined in ``statistics``. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .channel_statistics import ChannelStatistics, KernelChange
    from .config import KernelsConfig
    from .kernel import Kernel
    from .layers import find_layers
    from .measure import measure_kernels
    from .plot import draw_kernels
    from .plot_composed import draw_composed
    from .plot_gallery import draw_gallery
    from .plot_map import plot_kernel
    from .plot_overview import draw_overview
    from .plot_profiles import draw_profiles, plot_radial_profile
    from .result import KernelResult, load_results, results_to_dataframe, save_results

_HOME = {
    "ChannelStatistics": "channel_statistics",
    "Kernel": "kernel",
    "KernelChange": "channel_statistics",
    "KernelsConfig": "config",
    "KernelResult": "result",
    "find_layers": "layers",
    "load_results": "result",
    "measure_kernels": "measure",
    "draw_composed": "plot_composed",
    "draw_gallery": "plot_gallery",
    "draw_kernels": "plot",
    "draw_overview": "plot_overview",
    "draw_profiles": "plot_profiles",
    "plot_kernel": "plot_map",
    "plot_radial_profile": "plot_profiles",
    "results_to_dataframe": "result",
    "save_results": "result",
}

__all__ = [
    "ChannelStatistics",
    "Kernel",
    "KernelChange",
    "KernelResult",
    "KernelsConfig",
    "draw_composed",
    "draw_gallery",
    "draw_kernels",
    "draw_overview",
    "draw_profiles",
    "find_layers",
    "load_results",
    "measure_kernels",
    "plot_kernel",
    "plot_radial_profile",
    "results_to_dataframe",
    "save_results",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
