"""Gradients that are zero outside a box: that of one position of a map is limited to its receptive field."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

# Slices of the last two spatial axes: rows and columns.
Box: TypeAlias = tuple[slice, slice]

# Share of the plane below which cropping to a box and padding the result is faster.
_SMALL = 0.8


def box_of(grad: Tensor) -> Box | None:
    """Rows and columns of a gradient, ``[N, C, H, W]``, outside of which it is zero; NaN counts as non-zero.

    None if the box covers most of the plane or the device is not a CPU, where finding the box costs more than it saves.
    """
    # Check two corners first: most gradients of a network are dense, and need no further reads.
    if grad.device.type != "cpu" or grad.numel() == 0 or grad[..., 0, 0].any() or grad[..., -1, -1].any():
        return None
    # Measured: the largest of numbers is found two to seven times as fast as whether any of them is true.
    busy = grad.bool().view(torch.uint8).amax(1).amax(0)
    rows, columns = (busy.any(axis).nonzero().flatten().tolist() or [0] for axis in (1, 0))
    return _worthwhile((slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)), grad)


def grown(box: Box | None, kernel_size: tuple[int, ...], grad: Tensor) -> Box | None:
    """The box that a convolution of stride 1 maps ``box`` to; None as in :func:`box_of`."""
    if box is None:
        return None
    rows, columns = (
        slice(max(part.start - size // 2, 0), min(part.stop + size // 2, extent))
        for part, size, extent in zip(box, kernel_size, grad.shape[2:], strict=True)
    )
    return _worthwhile((rows, columns), grad)


def put_back(part: Tensor, box: Box, like: Tensor) -> Tensor:
    """``part``, ``[N, C', h, w]``, padded with zeros to the size and layout of ``like``, ``[N, C, H, W]``."""
    layout = torch.contiguous_format if like.is_contiguous() else torch.channels_last
    shape = (*part.shape[:2], *like.shape[2:])
    found = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout).zero_()
    found[:, :, box[0], box[1]] = part
    return found


def _worthwhile(box: Box, grad: Tensor) -> Box | None:
    area = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    return box if area < _SMALL * grad.shape[2] * grad.shape[3] else None
