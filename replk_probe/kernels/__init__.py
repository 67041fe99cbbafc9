"""What kernels learned: where the weights of convolutions lie, with and without re-parameterization.

``measure_kernels`` is the whole measurement; the numbers are defined in ``statistics``. Importing this package loads
nothing heavy: every name is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kernel import Kernel as Kernel
    from .layers import find_layers as find_layers
    from .measure import measure_kernels as measure_kernels
    from .result import KernelResult as KernelResult
    from .result import load_results as load_results
    from .result import save_results as save_results

_HOME = {
    "Kernel": "kernel",
    "KernelResult": "result",
    "find_layers": "layers",
    "load_results": "result",
    "measure_kernels": "measure",
    "save_results": "result",
}

__all__ = [
    "Kernel",
    "KernelResult",
    "find_layers",
    "load_results",
    "measure_kernels",
    "save_results",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
