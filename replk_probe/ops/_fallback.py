"""The three operators by torch's own convolution, for everything that the native kernels do not support."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layout import hides_layout, layout_of
from ._shapes import check_operands, check_sizes
from .cudnn_layout import convolved

# Number of taps from which torch's depthwise convolution of contiguous tensors on a CPU drops to a hundredth of its
# speed (measured: at 15x15), unlike the channels-last one. For dtypes that oneDNN does not support, the contiguous
# format is faster at any size.
_CHANNELS_LAST_FROM = 14 * 14
_CHANNELS_LAST_TYPES = (torch.float32, torch.bfloat16)


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """``act(conv(input, weight) + bias)`` in the memory format of ``input``; even kernels as in ``padding="same"``."""
    if input.numel() == 0:
        # Torch rejects empty planes. This keeps the autograd graph connected, with zero gradients.
        nothing = weight.sum() * 0 if bias is None else (weight.sum() + bias.sum()) * 0
        return input.contiguous() + nothing.to(input.dtype)
    layout = layout_of(input)
    kh, kw = weight.shape[2:]
    input, padding = _padded(input, kh, kw)

    def convolve(input: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(input, weight, bias, padding=padding, groups=input.shape[1])

    output = convolved(convolve, _laid_out(input, kh * kw), weight)
    return (output.relu() if relu else output).contiguous(memory_format=layout)


def is_recorded() -> bool:
    """Whether the current call is recorded for use outside of this process, in torch's own operators.

    A program made by ``torch.export``, ``torch.onnx.export`` or ``torch.jit.trace`` may be loaded where this package is
    not installed. ``torch.compile`` records the operators of this package, which are faster.
    """
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    # In code that torch 2.10 compiles, is_exporting() is always true; the flag that it returns elsewhere is not.
    is_exported = torch.compiler.is_exporting() and getattr(torch.compiler, "_is_exporting_flag", True)
    return is_exported or is_traced or torch.onnx.is_in_onnx_export()


def recorded(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """:func:`forward` by operators that any sizes and strides of later calls fit."""
    with warnings.catch_warnings() if torch.jit.is_tracing() else nullcontext():  # type: ignore[attr-defined, no-untyped-call]
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            # The number of channels and the shape of the weight are constants of the program.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        check_operands(input=input, weight=weight, **({} if bias is None else {"bias": bias}))
        check_sizes(input, weight, bias)
        groups, _, kh, kw = map(int, weight.shape)
    input, padding = _padded(input, kh, kw)
    output = F.conv2d(input, weight, bias, padding=padding, groups=groups)
    return output.relu() if relu else output


def grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the input in the memory format of ``grad``: convolution with the kernel rotated by 180 degrees."""
    return forward(grad, weight.flip(2, 3), None, False)


def grad_weight(input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous."""
    channels = input.shape[1]
    if input.numel() == 0:
        return input.new_zeros((channels, 1, kh, kw))
    # The operator uses only the shape of the weight, so a single element is expanded.
    like = input.new_empty(1).expand(channels, 1, kh, kw)
    geometry = ([1, 1], [kh // 2, kw // 2], [1, 1], False, [0, 0], channels, (False, True, False))

    def convolve(grad: Tensor, input: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.convolution_backward(grad, input, like, None, *geometry)[1]
        return found

    return convolved(convolve, grad, input).contiguous()


def _padded(input: Tensor, kh: int, kw: int) -> tuple[Tensor, tuple[int, int]]:
    """``input``, padded if the padding is not symmetric, and the padding of the convolution."""
    if kh % 2 and kw % 2:
        return input, (kh // 2, kw // 2)
    left, top = (kw - 1) // 2, (kh - 1) // 2
    return F.pad(input, (left, kw - 1 - left, top, kh - 1 - top)), (0, 0)


def _laid_out(input: Tensor, taps: int) -> Tensor:
    """``input`` in the memory format in which torch is faster."""
    is_faster = input.device.type == "cpu" and taps >= _CHANNELS_LAST_FROM and input.dtype in _CHANNELS_LAST_TYPES
    if is_faster and not hides_layout(input):
        return input.contiguous(memory_format=torch.channels_last)
    return input
