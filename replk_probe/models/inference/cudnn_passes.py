"""Passes through networks with depthwise convolutions that cuDNN cannot compute channels-last, also those of users."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from replk_probe.ops import is_channels_last
from replk_probe.ops.cudnn_layout import (
    contiguous_reason,
    has_cudnn,
    in_contiguous_format,
    is_missing_engine,
    is_passed_to_cudnn,
    remember_missing_engine,
)
from replk_probe.runtime.dispatch_mode import UncompiledDispatchMode

__all__ = ["contiguous_note", "is_missing_engine", "with_engines"]

ResultT = TypeVar("ResultT")


def contiguous_note(model: nn.Module, device: torch.device) -> str | None:
    """A note for the results of a network whose depthwise convolutions were computed on contiguous tensors, or None."""
    reason = contiguous_reason(device)
    layers = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    if reason is None or not any(layer.groups == layer.in_channels > 1 for layer in layers):
        return None
    return f"Depthwise convolutions of torch were computed on contiguous tensors, because {reason}."


def with_engines(compute: Callable[[], ResultT], device: torch.device) -> ResultT:
    """``compute()``, a pass through any network, with depthwise convolutions on contiguous tensors if cuDNN needs them.

    If an engine is missing, the pass is repeated.
    """
    try:
        with _convolutions_of_torch(device):
            return compute()
    except RuntimeError as error:
        if not has_cudnn(device) or contiguous_reason(device) is not None or not is_missing_engine(error):
            raise
    with _ContiguousDepthwise():  # type: ignore[no-untyped-call]
        found = compute()
    remember_missing_engine(device)
    return found


def _convolutions_of_torch(device: torch.device) -> AbstractContextManager[Any]:
    # Only where it is needed, because each operation takes longer in such a mode.
    return nullcontext() if contiguous_reason(device) is None else _ContiguousDepthwise()  # type: ignore[no-untyped-call]


class _ContiguousDepthwise(UncompiledDispatchMode):  # type: ignore[no-untyped-call]
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
        if not (input.dim() == 4 and groups == input.shape[1] > 1 and is_passed_to_cudnn(*args[:tensors])):
            return func(*args, **kwargs)
        found = func(*map(in_contiguous_format, args[:tensors]), *args[tensors:], **kwargs)
        if not is_channels_last(args[0]):
            return found
        if tensors == 2:
            return found.contiguous(memory_format=torch.channels_last)
        first, *others = found
        return (None if first is None else first.contiguous(memory_format=torch.channels_last), *others)
