"""95 % intervals of area ratios by the jackknife over blocks of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from replk_probe.errors import InvalidInputError

from .area_protocols import DEFAULT_THRESHOLDS, PROTOCOLS, AreaRatio, FloatArray, area_ratios, measure_ratios


def jackknife(
    block_sums: npt.ArrayLike,
    block_counts: Sequence[int],
    thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
    center: Sequence[float] | None = None,
    protocols: Iterable[str] = PROTOCOLS,
) -> dict[tuple[str, float], tuple[float, float] | None]:
    """95 % intervals of the area ratios, from the means without one block of images each.

    The delete-one-group jackknife for groups of unequal size, around the ratio of the mean over all images, with the
    quantile of Student's t at (blocks - 1) degrees of freedom, clipped to [0, 1]. Windows grow by whole pixels, and a
    block that moves the crossing by less than one would not count: the spread is therefore that of the ratio
    interpolated between the last window below the threshold and the first above it.

    Args:
        block_sums: Sums of the contribution maps over the images of each block, ``[B, H, W]``.
        block_counts: Number of images in each block, ``[B]``; blocks without an image are left out.
        thresholds: Thresholds, as in :func:`area_ratios`.
        center: Center, as in :func:`area_ratios`.
        protocols: Protocols, as in :func:`area_ratios`.

    Returns:
        Interval ``(low, high)`` by ``(protocol, threshold)``; None if fewer than two blocks have images, or if the map
        without one of them is zero everywhere.

    Source:
        Busing, Meijer and Van der Leeden, Statistics and Computing 9 (1999), "Delete-m jackknife for unequal m".
    """
    sums = np.asarray(block_sums, dtype=np.float64)
    counts = np.asarray(block_counts)
    if sums.ndim != 3 or counts.shape != sums.shape[:1] or (counts < 0).any() or counts.sum() == 0:
        raise InvalidInputError(
            f"Block sums of shape {list(sums.shape)} do not match image counts {counts.tolist()}. Each block needs a "
            "sum and a count, and at least one image is needed. Give sums [B, H, W] and B counts."
        )
    used = [int(block) for block in np.flatnonzero(counts)]
    n_images = int(counts.sum())
    thresholds, protocols = tuple(thresholds), tuple(protocols)
    total = sums[used[0]].copy()
    for block in used[1:]:  # block order, as the result itself is summed
        total += sums[block]
    estimate = area_ratios(total / n_images, thresholds, protocols, center)
    if len(used) < 2:
        return dict.fromkeys(estimate)
    crossing = measure_ratios(total / n_images, thresholds, protocols, center, between=True)

    left_out: list[dict[tuple[str, float], AreaRatio]] = []
    for block in used:
        # The subtraction may leave -eps where one block holds everything.
        others = np.maximum(total - sums[block], 0.0) / (n_images - counts[block])
        if others.max() == 0:
            return dict.fromkeys(estimate)
        left_out.append(measure_ratios(others, thresholds, protocols, center, between=True))

    shares = counts[used] / n_images
    quantile = float(stdtrit(len(used) - 1, 0.975))
    intervals: dict[tuple[str, float], tuple[float, float] | None] = {}
    for key, (_, ratio) in estimate.items():
        without = np.array([answers[key].ratio for answers in left_out])
        error = quantile * _jackknife_error(crossing[key].ratio, without, shares)
        intervals[key] = (max(ratio - error, 0.0), min(ratio + error, 1.0))
    return intervals


def _jackknife_error(estimate: float, left_out: FloatArray, shares: npt.NDArray[Any]) -> float:
    """Standard error of ``estimate`` from its values without each group, whose share of the images is ``shares``."""
    inverse = 1.0 / shares
    pseudo = inverse * estimate - (inverse - 1.0) * left_out
    mean = len(left_out) * estimate - np.sum((1.0 - shares) * left_out)
    return math.sqrt(float(np.mean((pseudo - mean) ** 2 / (inverse - 1.0))))
