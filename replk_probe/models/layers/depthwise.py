"""Replacing depthwise convolutions of stride 1 by those of `replk_probe.ops`."""

from __future__ import annotations

from torch import nn

from replk_probe.ops import DepthwiseConv2d, is_same_depthwise

# Exact types: a subclass may standardize its weight, pad its input or hold other state, which would be lost.
PLAIN_CONVS = (nn.Conv2d, DepthwiseConv2d)


def with_native_kernels(conv: nn.Conv2d) -> nn.Conv2d:
    """``conv`` as a :class:`~replk_probe.ops.DepthwiseConv2d` that shares its parameters, if the geometry allows it."""
    if type(conv) is not nn.Conv2d or not is_same_depthwise(conv):
        return conv
    return DepthwiseConv2d.from_conv(conv)


def activation_of(conv: nn.Module) -> str | None:
    """The activation that a convolution applies to its output, or None."""
    return conv.activation if isinstance(conv, DepthwiseConv2d) else None
