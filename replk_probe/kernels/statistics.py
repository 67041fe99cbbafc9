"""Statistics of the magnitude of one kernel: distribution of its mass, effective size, entropy.

A magnitude is ``[Kh, Kw]``, >= 0: absolute weights, summed over channels. Its mass is the sum of its entries. The
center is ((Kh - 1) / 2, (Kw - 1) / 2), between entries if a side is even. Shares do not depend on the scale; they are
NaN for a magnitude without mass.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError

FloatArray: TypeAlias = npt.NDArray[np.float64]

# Shares, in percent, for which a result contains the effective size.
EFFECTIVE_SHARES = (50, 90, 99)
# Relative rounding error of a sum that depends on the order.
_ROUNDING = 1e-12


def as_magnitude(values: npt.ArrayLike) -> FloatArray:
    """Convert ``values`` to a float64 magnitude ``[Kh, Kw]``, which must be finite and non-negative."""
    magnitude = np.array(values, dtype=np.float64)
    if magnitude.ndim != 2 or magnitude.size == 0:
        raise InvalidInputError(
            f"A kernel's magnitude has shape {list(magnitude.shape)}. Expected a height and a width. Aggregate the "
            "absolute weights over channels."
        )
    if not np.isfinite(magnitude).all() or (magnitude < 0).any():
        raise InvalidInputError(
            "A kernel's magnitude has negative or non-finite entries. It must consist of absolute "
            "weights. Check the weights: they are NaN if the training diverged."
        )
    return magnitude


def center_share(magnitude: FloatArray, side: int) -> float:
    """Share of the mass in a centered square: entries at most ``(side - 1) / 2`` from the center on both axes.

    The square is clipped to the kernel. In a kernel with an even side, a square of odd side is one entry narrower.
    """
    if side < 1:
        raise InvalidInputError(f"A centered square of side {side} is empty. Give a side of 1 or more.")
    return _share(magnitude, _distances(magnitude)[2] <= (side - 1) / 2)


def skeleton_share(magnitude: FloatArray) -> float:
    """Share of the mass in the central row and column (kernel skeleton), two of each if a side is even."""
    rows, columns, _ = _distances(magnitude)
    return _share(magnitude, np.minimum(rows, columns) <= 0.5)


def effective_size(magnitude: FloatArray, share: float) -> int | None:
    """Side of the smallest centered square with at least ``share`` of the mass; None without mass.

    It has the parity of the longer side of the kernel, which is the maximum (see :func:`center_share`).
    """
    if not 0 < share <= 1:
        raise InvalidInputError(
            f"The effective size for a share of {share} is undefined. The share must be positive and "
            "at most 1. Give one in (0, 1]."
        )
    longest = max(magnitude.shape)
    for side in range(2 - longest % 2, longest + 1, 2):
        if center_share(magnitude, side) >= share - _ROUNDING:
            return side
    return None


def radial_profile(magnitude: FloatArray) -> FloatArray:
    """Mean magnitude at each distance from the center, relative to the maximum: ``[R]``.

    Entry r is the mean over the entries whose Euclidean distance from the center, rounded half up, is r; NaN if there
    is none (at 0 in a kernel with even sides) and without mass.
    """
    rows, columns, _ = _distances(magnitude)
    radii = np.floor(np.hypot(rows, columns) + 0.5).astype(np.int64).ravel()
    counts = np.bincount(radii)
    sums = np.bincount(radii, weights=magnitude.ravel())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / counts / magnitude.max())


def entropy(magnitude: FloatArray) -> float:
    """Entropy of the mass over the entries, in bits: 0 for a single entry, log2(Kh * Kw) for a uniform kernel."""
    mass = magnitude.sum()
    if not mass:
        return math.nan
    shares = magnitude[magnitude > 0] / mass
    return float(abs((shares * np.log2(shares)).sum()))


def symmetry(magnitude: FloatArray) -> dict[str, float]:
    """Overlap ``sum(min(m, mirrored m)) / sum(m)`` of the kernel with its mirror images, in [0, 1].

    Mirrored ``left_right``, ``up_down``, by ``rotation`` (180 degrees) and, for a square kernel, by ``transpose``.
    """
    mirrored = {"left_right": magnitude[:, ::-1], "up_down": magnitude[::-1], "rotation": magnitude[::-1, ::-1]}
    if magnitude.shape[0] == magnitude.shape[1]:
        mirrored["transpose"] = magnitude.T
    mass = magnitude.sum()
    return {
        name: float(np.minimum(magnitude, other).sum() / mass) if mass else math.nan for name, other in mirrored.items()
    }


def means_inside_and_outside(magnitude: FloatArray, side: int) -> tuple[float, float]:
    """Mean entry inside and outside a centered square, relative to the maximum; NaN if there are no entries."""
    inside = _distances(magnitude)[2] <= (side - 1) / 2
    parts = (magnitude[inside], magnitude[~inside])
    largest = magnitude.max()
    first, second = (float(part.mean() / largest) if part.size and largest else math.nan for part in parts)
    return first, second


def _distances(magnitude: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Vertical distance of every entry from the center, horizontal distance, and the larger of the two."""
    height, width = magnitude.shape
    rows = np.abs(np.arange(height) - (height - 1) / 2)[:, None] + np.zeros((1, width))
    columns = np.abs(np.arange(width) - (width - 1) / 2)[None, :] + np.zeros((height, 1))
    return rows, columns, np.maximum(rows, columns)


def _share(magnitude: FloatArray, chosen: npt.NDArray[np.bool_]) -> float:
    mass = magnitude.sum()
    return float(magnitude[chosen].sum() / mass) if mass else math.nan
