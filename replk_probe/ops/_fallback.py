"""The same three functions by torch's own convolution: other devices, dtypes, and sizes that no native method takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layout import hides_layout, layout_of

# Taps of a kernel from which torch's depthwise convolution on a CPU falls, in the plain layout, to a hundredth of its
# speed (measured: at 15x15), while the channels-last one goes on at its pace. Not so for the types that oneDNN does not
# have: there the plain layout is the faster one at any size.
_CHANNELS_LAST_FROM = 14 * 14
_CHANNELS_LAST_TYPES = (torch.float32, torch.bfloat16)


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """``act(conv(input, weight) + bias)`` in the layout of ``input``; even kernels as ``padding="same"`` does."""
    if input.numel() == 0:
        # Torch refuses planes without pixels; this keeps the graph of autograd whole, with gradients of zero.
        nothing = weight.sum() * 0 if bias is None else (weight.sum() + bias.sum()) * 0
        return input.contiguous() + nothing.to(input.dtype)
    layout = layout_of(input)
    kh, kw = weight.shape[2:]
    padding = (kh // 2, kw // 2)
    if kh % 2 == 0 or kw % 2 == 0:
        left, top = (kw - 1) // 2, (kh - 1) // 2
        input, padding = F.pad(input, (left, kw - 1 - left, top, kh - 1 - top)), (0, 0)
    output = F.conv2d(_laid_out(input, kh * kw), weight, bias, padding=padding, groups=input.shape[1])
    return (output.relu() if relu else output).contiguous(memory_format=layout)


def grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the input in the layout of ``grad``: the convolution with the kernel turned by 180 degrees."""
    return forward(grad, weight.flip(2, 3), None, False)


def grad_weight(input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous."""
    channels = input.shape[1]
    if input.numel() == 0:
        return input.new_zeros((channels, 1, kh, kw))
    # The operator wants a weight for its shape alone; one element, repeated, serves.
    like = input.new_empty(1).expand(channels, 1, kh, kw)
    geometry = ([1, 1], [kh // 2, kw // 2], [1, 1], False, [0, 0], channels, (False, True, False))
    found: Tensor = torch.ops.aten.convolution_backward(grad, input, like, None, *geometry)[1]
    return found.contiguous()


def _laid_out(input: Tensor, taps: int) -> Tensor:
    """``input`` in the layout that torch is fast in."""
    is_faster = input.device.type == "cpu" and taps >= _CHANNELS_LAST_FROM and input.dtype in _CHANNELS_LAST_TYPES
    if is_faster and not hides_layout(input):
        return input.contiguous(memory_format=torch.channels_last)
    return input
