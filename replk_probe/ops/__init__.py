"""Depthwise convolution with large kernels: native on a CPU, torch's own where that is not to be had."""

from __future__ import annotations

from ._choice import PlannedMethod, planned_method, unsupported_reason
from ._info import NativeInfo, describe_backend, describe_machine, native_info
from ._layout import is_channels_last
from .functional import depthwise_conv2d, input_gradient
from .modules import DepthwiseConv2d, is_same_depthwise
from .prepared import PreparedKernel

__all__ = [
    "DepthwiseConv2d",
    "NativeInfo",
    "PlannedMethod",
    "PreparedKernel",
    "depthwise_conv2d",
    "describe_backend",
    "describe_machine",
    "input_gradient",
    "is_channels_last",
    "is_same_depthwise",
    "native_info",
    "planned_method",
    "unsupported_reason",
]
