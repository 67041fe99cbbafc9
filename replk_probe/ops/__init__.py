"""Depthwise convolution with large kernels: native kernels on a CPU, torch's own convolution elsewhere."""

from __future__ import annotations

from replk_probe._lazy import public_names

from ._choice import PlannedMethod, planned_method, unsupported_reason
from ._info import NativeInfo, describe_backend, describe_machine, measure_fma_peak, native_info, native_kernels
from ._layout import is_channels_last
from ._loader import INSTRUCTION_SETS, NativeKernel
from .functional import conv_input_gradient, depthwise_conv2d
from .gelu import gelu_grad_input, gelu_products, gelu_with_squares, is_gelu_native
from .matrices import activate, is_onednn_faster, is_pointwise_native, linear, prefers_onednn, times_derivative
from .modules import DepthwiseConv2d, is_same_depthwise, to_torch
from .prepared import PreparedKernel
from .tuning.choices import TuningWarning, chosen_method
from .tuning.description import clear_tuning, describe_tuning
from .tuning.tuner import TunedConvolution, TuningResult, tune

__all__ = [
    "INSTRUCTION_SETS",
    "DepthwiseConv2d",
    "NativeInfo",
    "NativeKernel",
    "PlannedMethod",
    "PreparedKernel",
    "TunedConvolution",
    "TuningResult",
    "TuningWarning",
    "activate",
    "chosen_method",
    "clear_tuning",
    "conv_input_gradient",
    "depthwise_conv2d",
    "describe_backend",
    "describe_machine",
    "describe_tuning",
    "gelu_grad_input",
    "gelu_products",
    "gelu_with_squares",
    "is_channels_last",
    "is_gelu_native",
    "is_onednn_faster",
    "is_pointwise_native",
    "is_same_depthwise",
    "linear",
    "measure_fma_peak",
    "native_info",
    "native_kernels",
    "planned_method",
    "prefers_onednn",
    "times_derivative",
    "to_torch",
    "tune",
    "unsupported_reason",
]

__dir__ = public_names(__name__)
