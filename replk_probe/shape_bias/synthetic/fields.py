"""Black-and-white drawings of shapes and textures, softened so that they can be drawn at any size."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
Field: TypeAlias = npt.NDArray[np.int16]
Integer = TypeVar("Integer", np.int16, np.int64)

# Pixels along each side of a field, a power of two.
SIDE = 512
# Width of an edge in field pixels, about one pixel of a 64 px image: sampling in larger steps does not alias, and
# samples in smaller steps are sharpened.
SOFTNESS = 11
# Absolute value of a field far from any edge.
FULL = SOFTNESS**4


def soften(mask: Mask) -> Field:
    """Blur a drawing periodically with a tent filter of half-width :data:`SOFTNESS`; -:data:`FULL` is far outside."""
    total = mask.astype(np.int16)
    for axis in (0, 0, 1, 1):
        total = box_sum(total, SOFTNESS, axis)
    return 2 * total - FULL


def box_sum(values: npt.NDArray[Integer], width: int, axis: int) -> npt.NDArray[Integer]:
    """Sums over ``width`` (odd) adjacent values along an axis of a periodic plane."""
    half, length = width // 2, values.shape[axis]
    padded = np.take(values, np.arange(-half, length + half), axis=axis, mode="wrap")
    shifted = [
        padded[start : start + length] if axis == 0 else padded[:, start : start + length] for start in range(width)
    ]
    total = shifted[0] + shifted[1]
    for further in shifted[2:]:
        total += further
    return total
