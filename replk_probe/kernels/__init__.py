"""What kernels learned: where the weights of convolutions lie, with and without re-parameterization.

``measure_kernels`` is the whole measurement; the numbers are defined in ``statistics``. Importing this package loads
nothing heavy: every name is resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .kernel import Kernel as Kernel
    from .layers import find_layers as find_layers
    from .measure import measure_kernels as measure_kernels
    from .plot import plot_kernels as plot_kernels
    from .plot_channels import plot_gallery as plot_gallery
    from .plot_radial import plot_profiles as plot_profiles
    from .plot_stages import plot_overview as plot_overview
    from .result import KernelResult as KernelResult
    from .result import load_results as load_results
    from .result import save_results as save_results

_HOME = {
    "Kernel": "kernel",
    "KernelResult": "result",
    "find_layers": "layers",
    "load_results": "result",
    "measure_kernels": "measure",
    "plot_gallery": "plot_channels",
    "plot_kernels": "plot",
    "plot_overview": "plot_stages",
    "plot_profiles": "plot_radial",
    "save_results": "result",
}

__all__ = [
    "Kernel",
    "KernelResult",
    "find_layers",
    "load_results",
    "measure_kernels",
    "plot_gallery",
    "plot_kernels",
    "plot_overview",
    "plot_profiles",
    "save_results",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
