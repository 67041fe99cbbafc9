"""The two memory formats of ``[N, C, H, W]``: contiguous planes, and channels-last.

Results have the memory format of the input, as in torch's own convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Elements of an image from which copying it as a transposed matrix is faster than `contiguous()`, to planes and back.
# (1,128,56,56): 0.22 ms and 0.40; (1,384,14,14): equal; 64 images of (96,7,7): 0.52 and 0.10.
_BLOCKS_FROM, _BLOCKS_BACK_FROM = 1 << 16, 1 << 19


def hides_layout(tensor: Tensor) -> bool:
    """Whether ``torch.vmap`` batches the tensor, so that the memory format of the batch is not known."""
    try:
        tensor.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:
        return True
    return False


def is_channels_last(tensor: Tensor) -> bool:
    """Whether ``[N, C, H, W]`` is channels-last and not contiguous at the same time, as with one channel.

    Determined from the strides, as in torch's convolutions, so that cropped tensors have a memory format too.

    Args:
        tensor: Tensor with four axes.

    Returns:
        True for channels-last only.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import is_channels_last
        >>> tensor = torch.rand(1, 8, 4, 4)
        >>> is_channels_last(tensor), is_channels_last(tensor.to(memory_format=torch.channels_last))
        (False, True)
    """
    if tensor.is_contiguous() or hides_layout(tensor):
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last) or has_channels_last_strides(tensor)


def has_channels_last_strides(tensor: Tensor) -> bool:
    """Whether torch's convolutions take ``[N, C, H, W]`` as channels-last, which may be contiguous at the same time."""
    shape, strides = tensor.shape, tensor.stride()
    least = 0
    for axis in (1, 3, 2, 0):
        if shape[axis] == 0 or strides[axis] < least or (axis == 1 and strides[axis] == 0):
            return False
        if axis == 0 and least == strides[1]:  # one channel, or one pixel: both formats
            return False
        least = strides[axis] * max(shape[axis], 1)
    return True


def layout_of(tensor: Tensor) -> torch.memory_format:
    """The memory format of ``tensor``: channels-last, or contiguous for all others."""
    return torch.channels_last if is_channels_last(tensor) else torch.contiguous_format


def in_planes(tensor: Tensor) -> Tensor:
    """The tensor, contiguous.

    Args:
        tensor: ``[N, C, H, W]``, with any strides.
    """
    is_small = tensor[:1].numel() < _BLOCKS_FROM
    if is_small or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.contiguous()
    channels, height, width = tensor.shape[1:]
    planes = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    for target, source in zip(planes, tensor, strict=True):
        target.view(channels, height * width).copy_(source.permute(1, 2, 0).view(height * width, channels).t())
    return planes


def in_channels_last(planes: Tensor) -> Tensor:
    """The tensor, channels-last.

    Args:
        planes: ``[N, C, H, W]``, contiguous.
    """
    if planes[:1].numel() < _BLOCKS_BACK_FROM:
        return planes.contiguous(memory_format=torch.channels_last)
    channels, height, width = planes.shape[1:]
    found = torch.empty_like(planes, memory_format=torch.channels_last)
    for target, source in zip(found, planes, strict=True):
        target.permute(1, 2, 0).view(height * width, channels).copy_(source.view(channels, height * width).t())
    return found
