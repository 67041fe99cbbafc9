"""Which convolutions of a network `replk_probe.ops` computes: the depthwise ones of stride 1."""

from __future__ import annotations

from torch import nn

from replk_probe.ops import DepthwiseConv2d, is_same_depthwise

# Exact types: a subclass may standardise its weight, pad by itself or carry something more, which would be lost.
PLAIN_CONVS = (nn.Conv2d, DepthwiseConv2d)


def with_native_kernels(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, with the same parameters, as a :class:`~replk_probe.ops.DepthwiseConv2d` where it is one.

    Args:
        conv: A plain convolution; it is returned itself where it is of another geometry.
    """
    if type(conv) is not nn.Conv2d or not is_same_depthwise(conv):
        return conv
    return DepthwiseConv2d.from_conv(conv)


def activation_of(conv: nn.Module) -> str | None:
    """The activation that is computed with a convolution, or None."""
    return conv.activation if isinstance(conv, DepthwiseConv2d) else None
