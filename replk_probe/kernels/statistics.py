"""Numbers of one kernel's magnitude: where its mass lies, how far it reaches, how even it is. Free of torch.

A magnitude is ``[Kh, Kw]``, >= 0: absolute weights, added up over channels. Its mass is the sum of its entries. The
centre is ((Kh - 1) / 2, (Kw - 1) / 2), between entries where a side is even. Shares do not depend on the scale; those
of a magnitude without mass are NaN.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError

FloatArray: TypeAlias = npt.NDArray[np.float64]

# Shares that a result has the effective size of, in percent.
EFFECTIVE_SHARES = (50, 90, 99)
# Of the mass: what sums in another order may differ by.
_ROUNDING = 1e-12


def as_magnitude(values: npt.ArrayLike) -> FloatArray:
    """``values`` as float64 ``[Kh, Kw]``.

    Raises:
        InvalidInputError: They have another rank, or one is negative or not finite.
    """
    magnitude = np.array(values, dtype=np.float64)
    if magnitude.ndim != 2 or magnitude.size == 0:
        raise InvalidInputError(
            f"A kernel's magnitude has shape {list(magnitude.shape)}. It has a height and a width. Aggregate the "
            "absolute weights over channels first."
        )
    if not np.isfinite(magnitude).all() or (magnitude < 0).any():
        raise InvalidInputError(
            "A kernel's magnitude has negative or non-finite entries. It is made of absolute weights. "
            "Look at the weights: those of a training that diverged are NaN."
        )
    return magnitude


def centre_share(magnitude: FloatArray, side: int) -> float:
    """Share of the mass in the centred square of that side.

    Args:
        magnitude: ``[Kh, Kw]``.
        side: Entries at most ``(side - 1) / 2`` from the centre on either axis count; the square is clipped to the
            kernel. In a kernel with an even side, a square of odd side is therefore one entry narrower.

    Returns:
        In [0, 1].

    Raises:
        InvalidInputError: ``side`` is below 1.
    """
    if side < 1:
        raise InvalidInputError(f"A centred square of side {side} is empty. Give a side of 1 or more.")
    return _share(magnitude, _distances(magnitude)[2] <= (side - 1) / 2)


def skeleton_share(magnitude: FloatArray) -> float:
    """Share of the mass in the criss-cross: the centre row and the centre column (two of each where a side is even)."""
    rows, columns, _ = _distances(magnitude)
    return _share(magnitude, np.minimum(rows, columns) <= 0.5)


def effective_size(magnitude: FloatArray, share: float) -> int | None:
    """Side of the smallest centred square with at least that share of the mass.

    Args:
        magnitude: ``[Kh, Kw]``.
        share: In (0, 1].

    Returns:
        From 1 to the longer side, of its parity (see :func:`centre_share`); None without mass.

    Raises:
        InvalidInputError: ``share`` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise InvalidInputError(f"Share {share} has no effective size. Give one in (0, 1].")
    longest = max(magnitude.shape)
    for side in range(2 - longest % 2, longest + 1, 2):
        if centre_share(magnitude, side) >= share - _ROUNDING:
            return side
    return None


def radial_profile(magnitude: FloatArray) -> FloatArray:
    """Mean magnitude at each distance from the centre, relative to the maximum.

    Args:
        magnitude: ``[Kh, Kw]``.

    Returns:
        ``[R]``: entry r is the mean over the entries whose Euclidean distance from the centre, rounded half up, is r;
        NaN where there is none (at 0 in a kernel with even sides) and without mass.
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
    """How much of the mass stays in its place when the kernel is mirrored.

    Args:
        magnitude: ``[Kh, Kw]``.

    Returns:
        Overlap ``sum(min(m, mirrored m)) / sum(m)`` in [0, 1] for ``left_right``, ``up_down``, ``rotation`` (by 180
        degrees) and, of a square kernel, ``transpose``.
    """
    mirrored = {"left_right": magnitude[:, ::-1], "up_down": magnitude[::-1], "rotation": magnitude[::-1, ::-1]}
    if magnitude.shape[0] == magnitude.shape[1]:
        mirrored["transpose"] = magnitude.T
    mass = magnitude.sum()
    return {
        name: float(np.minimum(magnitude, other).sum() / mass) if mass else math.nan for name, other in mirrored.items()
    }


def means_inside_and_outside(magnitude: FloatArray, side: int) -> tuple[float, float]:
    """Mean entry, relative to the maximum, in the centred square of that side and around it; NaN of none."""
    inside = _distances(magnitude)[2] <= (side - 1) / 2
    parts = (magnitude[inside], magnitude[~inside])
    largest = magnitude.max()
    first, second = (float(part.mean() / largest) if part.size and largest else math.nan for part in parts)
    return first, second


def _distances(magnitude: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of every entry from the centre: along the rows' axis, along the columns' axis, and the larger of the two."""
    height, width = magnitude.shape
    rows = np.abs(np.arange(height) - (height - 1) / 2)[:, None] + np.zeros((1, width))
    columns = np.abs(np.arange(width) - (width - 1) / 2)[None, :] + np.zeros((height, 1))
    return rows, columns, np.maximum(rows, columns)


def _share(magnitude: FloatArray, chosen: npt.NDArray[np.bool_]) -> float:
    mass = magnitude.sum()
    return float(magnitude[chosen].sum() / mass) if mass else math.nan
