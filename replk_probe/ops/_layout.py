"""The two layouts of ``[N, C, H, W]``: plane by plane, or with the channels of a pixel side by side (channels-last).

Results have the layout of what they are made from, as torch's own convolutions have.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the channels come last in memory, and not the planes as well (as with one channel, or one pixel)."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def layout_of(tensor: Tensor) -> torch.memory_format:
    """The layout of what is made from ``tensor``: channels-last where it is that, else plane by plane."""
    return torch.channels_last if is_channels_last(tensor) else torch.contiguous_format


def in_planes(tensor: Tensor) -> Tensor:
    """The same values, plane by plane.

    A transposed matrix is what torch copies by blocks: up to six times as fast as ``contiguous()``.

    Args:
        tensor: ``[N, C, H, W]``, of any strides.
    """
    if not is_channels_last(tensor):
        return tensor.contiguous()
    channels, height, width = tensor.shape[1:]
    planes = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    for target, source in zip(planes, tensor, strict=True):
        target.view(channels, height * width).copy_(source.permute(1, 2, 0).view(height * width, channels).t())
    return planes


def in_channels_last(planes: Tensor) -> Tensor:
    """The same values with the channels last; see :func:`in_planes`.

    Args:
        planes: ``[N, C, H, W]``, contiguous.
    """
    channels, height, width = planes.shape[1:]
    found = torch.empty_like(planes, memory_format=torch.channels_last)
    for target, source in zip(found, planes, strict=True):
        target.permute(1, 2, 0).view(height * width, channels).copy_(source.view(channels, height * width).t())
    return found
