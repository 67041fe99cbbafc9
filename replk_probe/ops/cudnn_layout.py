"""Depthwise convolutions of torch on contiguous tensors, where cuDNN cannot compute channels-last ones.

cuDNN before 9.24 can give wrong results if channels-last depthwise convolutions of several sizes follow each other, and
has no engine for some of them on some GPUs. Torch passes all channels-last ones to it, and computes contiguous ones
with large kernels itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ._layout import has_channels_last_strides, hides_layout, is_channels_last

_LOGGER = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

_DEVICES = ("cuda",)
_RIGHT_FROM = 92400
# Parts of the messages of torch and of cuDNN.
_NO_ENGINE = ("unable to find an engine", "No valid execution plans built", "CUDNN_STATUS_NOT_SUPPORTED")

# Devices on which an engine was missing.
_without_engine: set[torch.device] = set()


def contiguous_reason(device: torch.device) -> str | None:
    """Why depthwise convolutions of torch are computed on contiguous tensors on a device, or None if they are not.

    A clause such as ``"cuDNN 9.10.2 is older than 9.24 and ..."``.
    """
    if device.type not in _DEVICES or torch.version.hip is not None:
        return None
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    if version is not None and version < _RIGHT_FROM:
        label = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
        return f"cuDNN {label} is older than 9.24 and can give wrong results for channels-last ones of several sizes"
    if device in _without_engine:
        return "cuDNN has no engine for a channels-last one on this GPU"
    return None


def contiguous_note(model: nn.Module, device: torch.device) -> str | None:
    """A note for the results of a network whose depthwise convolutions were computed on contiguous tensors, or None."""
    reason = contiguous_reason(device)
    layers = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    if reason is None or not any(layer.groups == layer.in_channels > 1 for layer in layers):
        return None
    return f"Depthwise convolutions of torch were computed on contiguous tensors, because {reason}."


def is_missing_engine(error: BaseException) -> bool:
    """Whether an error means that cuDNN cannot compute a convolution."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_ENGINE)


def convolved(compute: Callable[..., ResultT], *tensors: Tensor) -> ResultT:
    """``compute(*tensors)``, a depthwise convolution of torch, on contiguous copies of the tensors if cuDNN needs them.

    Args:
        compute: The convolution or its gradient.
        tensors: ``[N, C, H, W]`` and ``[C, 1, Kh, Kw]``, on one device.
    """
    if not _passed_to_cudnn(tensors):
        return compute(*tensors)
    device = tensors[0].device
    if contiguous_reason(device) is None:
        try:
            return compute(*tensors)
        except RuntimeError as error:
            if not is_missing_engine(error):
                raise
    found = compute(*map(_contiguous, tensors))
    _remember(device)
    return found


def with_engines(compute: Callable[[], ResultT], device: torch.device) -> ResultT:
    """``compute()``, a pass through any network, with depthwise convolutions on contiguous tensors if cuDNN needs them.

    If an engine is missing, the pass is repeated.
    """
    try:
        with _convolutions_of_torch(device):
            return compute()
    except RuntimeError as error:
        if device.type not in _DEVICES or contiguous_reason(device) is not None or not is_missing_engine(error):
            raise
    with _ContiguousDepthwise():  # type: ignore[no-untyped-call]
        found = compute()
    _remember(device)
    return found


def _convolutions_of_torch(device: torch.device) -> AbstractContextManager[Any]:
    # Only where it is needed, because each operation takes longer in such a mode.
    return nullcontext() if contiguous_reason(device) is None else _ContiguousDepthwise()  # type: ignore[no-untyped-call]


def _remember(device: torch.device) -> None:
    if contiguous_reason(device) is None:
        _without_engine.add(device)
        _LOGGER.info("Depthwise convolutions on contiguous tensors: %s.", contiguous_reason(device))


def _passed_to_cudnn(tensors: tuple[Tensor, ...]) -> bool:
    """Whether torch passes a depthwise convolution of these tensors to cuDNN as a channels-last one."""
    if tensors[0].device.type not in _DEVICES or torch.compiler.is_compiling():
        return False
    return any(not hides_layout(tensor) and has_channels_last_strides(tensor) for tensor in tensors)


def _contiguous(tensor: Tensor) -> Tensor:
    """The tensor, contiguous, with the usual strides of axes of size 1 too, by which torch recognizes the format."""
    return tensor.contiguous().flatten().view(tensor.shape)


class _ContiguousDepthwise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes the depthwise convolutions of torch, and their gradients, on contiguous tensors."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation; results have the memory format that they would have otherwise."""
        kwargs, aten = kwargs or {}, torch.ops.aten
        if func is aten.convolution.default:
            tensors, groups = 2, args[8]
        elif func is aten.convolution_backward.default:
            tensors, groups = 3, args[9]
        elif func in (aten.conv2d.default, aten.conv2d.padding):  # in inference mode, where it is not divided before
            with self:
                return func.decompose(*args, **kwargs)
        else:
            return func(*args, **kwargs)
        input = args[tensors - 2]
        if not (input.dim() == 4 and groups == input.shape[1] > 1 and _passed_to_cudnn(args[:tensors])):
            return func(*args, **kwargs)
        found = func(*map(_contiguous, args[:tensors]), *args[tensors:], **kwargs)
        if not is_channels_last(args[0]):
            return found
        if tensors == 2:
            return found.contiguous(memory_format=torch.channels_last)
        first, *others = found
        return (None if first is None else first.contiguous(memory_format=torch.channels_last), *others)
