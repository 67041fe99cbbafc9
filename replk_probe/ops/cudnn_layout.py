"""Depthwise convolutions of torch on contiguous tensors, where cuDNN cannot compute channels-last ones.

cuDNN before 9.24 can give wrong results if channels-last depthwise convolutions of several sizes follow each other, and
has no engine for some of them on some GPUs. Torch passes all channels-last ones to it, and computes contiguous ones
with large kernels itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ._layout import has_channels_last_strides, hides_layout

_LOGGER = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# Types of the devices whose convolutions torch passes to cuDNN.
_DEVICES = ("cuda",)
_RIGHT_FROM = 92400
# Parts of the messages of torch and of cuDNN.
_NO_ENGINE = ("unable to find an engine", "No valid execution plans built", "CUDNN_STATUS_NOT_SUPPORTED")

# Devices on which an engine was missing.
_without_engine: set[torch.device] = set()


def has_cudnn(device: torch.device) -> bool:
    """Whether torch passes convolutions on a device to cuDNN."""
    return device.type in _DEVICES and torch.version.hip is None


def contiguous_reason(device: torch.device) -> str | None:
    """Why depthwise convolutions of torch are computed on contiguous tensors on a device, or None if they are not.

    A clause such as ``"cuDNN 9.10.2 is older than 9.24 and ..."``.
    """
    if not has_cudnn(device):
        return None
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    if version is not None and version < _RIGHT_FROM:
        label = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
        return f"cuDNN {label} is older than 9.24 and can give wrong results for channels-last ones of several sizes"
    if device in _without_engine:
        return "cuDNN has no engine for a channels-last one on this GPU"
    return None


def is_missing_engine(error: BaseException) -> bool:
    """Whether an error means that cuDNN cannot compute a convolution."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_ENGINE)


def convolved(compute: Callable[..., ResultT], *tensors: Tensor) -> ResultT:
    """``compute(*tensors)``, a depthwise convolution of torch, on contiguous copies of the tensors if cuDNN needs them.

    Args:
        compute: The convolution or its gradient.
        tensors: ``[N, C, H, W]`` and ``[C, 1, Kh, Kw]``, on one device.
    """
    if not is_passed_to_cudnn(*tensors):
        return compute(*tensors)
    device = tensors[0].device
    if contiguous_reason(device) is None:
        try:
            return compute(*tensors)
        except RuntimeError as error:
            if not is_missing_engine(error):
                raise
    found = compute(*map(in_contiguous_format, tensors))
    remember_missing_engine(device)
    return found


def remember_missing_engine(device: torch.device) -> None:
    """Compute depthwise convolutions on contiguous tensors from now on, if that is not the case already."""
    if contiguous_reason(device) is None:
        _without_engine.add(device)
        _LOGGER.info("Depthwise convolutions on contiguous tensors: %s.", contiguous_reason(device))


def is_passed_to_cudnn(*tensors: Tensor) -> bool:
    """Whether torch passes a depthwise convolution of these tensors to cuDNN as a channels-last one."""
    if not has_cudnn(tensors[0].device) or torch.compiler.is_compiling():
        return False
    return any(not hides_layout(tensor) and has_channels_last_strides(tensor) for tensor in tensors)


def in_contiguous_format(tensor: Tensor) -> Tensor:
    """The tensor, contiguous, with the usual strides of axes of size 1 too, by which torch recognizes the format."""
    return tensor.contiguous().flatten().view(tensor.shape)
