"""Measure what vision models use: effective receptive field, shape bias, kernel magnitude.

Importing this package loads nothing heavy: every public name below is resolved on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from ._version import __version__

if TYPE_CHECKING:
    from . import attribution as attribution
    from . import behaviour as behaviour
    from . import bench as bench
    from . import collection as collection
    from . import comparison as comparison
    from . import erf as erf
    from . import errors as errors
    from . import html_report as html_report
    from . import images as images
    from . import kernels as kernels
    from . import models as models
    from . import ops as ops
    from . import reliance as reliance
    from . import shape_bias as shape_bias
    from . import sweeps as sweeps
    from .attribution import AttributionResult as AttributionResult
    from .attribution import measure_attribution as measure_attribution
    from .behaviour import BehaviourResult as BehaviourResult
    from .behaviour import measure_behaviour as measure_behaviour
    from .erf import ErfAccumulator as ErfAccumulator
    from .erf import ErfResult as ErfResult
    from .erf import input_gradient as input_gradient
    from .erf import measure_erf as measure_erf
    from .kernels import KernelResult as KernelResult
    from .kernels import measure_kernels as measure_kernels
    from .models import create_model as create_model
    from .models import load_checkpoint as load_checkpoint
    from .reliance import RelianceResult as RelianceResult
    from .reliance import measure_reliance as measure_reliance
    from .shape_bias import ShapeBiasResult as ShapeBiasResult
    from .shape_bias import measure_shape_bias as measure_shape_bias
    from .sweeps import SweepResult as SweepResult
    from .sweeps import sweep as sweep

_HOME = {
    "AttributionResult": "attribution",
    "BehaviourResult": "behaviour",
    "ErfAccumulator": "erf",
    "ErfResult": "erf",
    "KernelResult": "kernels",
    "RelianceResult": "reliance",
    "ShapeBiasResult": "shape_bias",
    "SweepResult": "sweeps",
    "create_model": "models",
    "input_gradient": "erf",
    "load_checkpoint": "models",
    "measure_attribution": "attribution",
    "measure_behaviour": "behaviour",
    "measure_erf": "erf",
    "measure_kernels": "kernels",
    "measure_reliance": "reliance",
    "measure_shape_bias": "shape_bias",
    "sweep": "sweeps",
}
_SUBPACKAGES = (
    *(
        "attribution",
        "behaviour",
        "bench",
        "collection",
        "comparison",
        "erf",
        "errors",
        "html_report",
        "images",
        "kernels",
        "models",
    ),
    *("ops", "reliance", "shape_bias", "sweeps"),
)

__all__ = [
    "AttributionResult",
    "BehaviourResult",
    "ErfAccumulator",
    "ErfResult",
    "KernelResult",
    "RelianceResult",
    "ShapeBiasResult",
    "SweepResult",
    "__version__",
    "attribution",
    "behaviour",
    "bench",
    "collection",
    "comparison",
    "create_model",
    "erf",
    "errors",
    "html_report",
    "images",
    "input_gradient",
    "kernels",
    "load_checkpoint",
    "measure_attribution",
    "measure_behaviour",
    "measure_erf",
    "measure_kernels",
    "measure_reliance",
    "measure_shape_bias",
    "models",
    "ops",
    "reliance",
    "shape_bias",
    "sweep",
    "sweeps",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME, _SUBPACKAGES)
