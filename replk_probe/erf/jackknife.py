"""95 % intervals by the jackknife over blocks of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from replk_probe.errors import InvalidInputError

from .area_protocols import DEFAULT_THRESHOLDS, PROTOCOLS, AreaRatio, FloatArray, area_ratios, measure_ratios

_T = TypeVar("_T")


def jackknife(
    block_sums: npt.ArrayLike,
    block_counts: Sequence[int],
    thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
    center: Sequence[float] | None = None,
    protocols: Iterable[str] = PROTOCOLS,
    map_of: Callable[[FloatArray], FloatArray] | None = None,
    middle: Sequence[int] | None = None,
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
        map_of: Function from a mean to the map that is measured; None for the mean itself.
        middle: Middle of windows, as in :func:`area_ratios`.

    Returns:
        Interval ``(low, high)`` by ``(protocol, threshold)``; None if fewer than two blocks have images, or if the map
        without one of them is zero everywhere.

    Source:
        Busing, Meijer and Van der Leeden, Statistics and Computing 9 (1999), "Delete-m jackknife for unequal m".
    """
    blocks = Blocks(block_sums, block_counts, map_of)
    thresholds, protocols = tuple(thresholds), tuple(protocols)
    estimate = area_ratios(blocks.mean, thresholds, protocols, center, middle)
    return intervals_of(estimate, half_widths(blocks, thresholds, center, protocols, middle))


def intervals_of(
    estimate: Mapping[tuple[str, float], AreaRatio], errors: Mapping[tuple[str, float], float] | None
) -> dict[tuple[str, float], tuple[float, float] | None]:
    """The intervals around area ratios from their :func:`half_widths`, clipped to [0, 1]."""
    if errors is None:
        return dict.fromkeys(estimate)
    return {key: (max(ratio - errors[key], 0.0), min(ratio + errors[key], 1.0)) for key, (_, ratio) in estimate.items()}


def half_widths(
    blocks: Blocks,
    thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
    center: Sequence[float] | None = None,
    protocols: Iterable[str] = PROTOCOLS,
    middle: Sequence[int] | None = None,
) -> dict[tuple[str, float], float] | None:
    """Half the widths of the intervals of :func:`jackknife` before they are clipped; None where those are None."""
    thresholds, protocols = tuple(thresholds), tuple(protocols)
    left_out = blocks.left_out(lambda one: measure_ratios(one, thresholds, protocols, center, middle, between=True))
    if left_out is None:
        return None
    crossing = measure_ratios(blocks.mean, thresholds, protocols, center, middle, between=True)
    return {
        key: blocks.half_width(ratio, np.array([answers[key].ratio for answers in left_out]))
        for key, (_, ratio) in crossing.items()
    }


class Blocks:
    """Sums of maps over blocks of images, and the jackknife of any number that is computed from their mean.

    Attributes:
        mean: Mean over all images, ``[H, W]``, or the map that is computed from it.
        n_images: Number of images in all blocks.
    """

    def __init__(
        self,
        block_sums: npt.ArrayLike,
        block_counts: Sequence[int],
        map_of: Callable[[FloatArray], FloatArray] | None = None,
    ) -> None:
        """Arguments are those of :func:`jackknife`."""
        sums = np.asarray(block_sums, dtype=np.float64)
        counts = np.asarray(block_counts)
        if sums.ndim < 2 or counts.shape != sums.shape[:1] or (counts < 0).any() or counts.sum() == 0:
            raise InvalidInputError(
                f"Block sums of shape {list(sums.shape)} do not match image counts {counts.tolist()}. Each block needs "
                "a sum and a count, and at least one image is needed. Give sums [B, H, W] (or [B, L] or [B, D, H, W]) "
                "and B counts."
            )
        self._sums, self._counts = sums, counts
        self._used = [int(block) for block in np.flatnonzero(counts)]
        self.n_images = int(counts.sum())
        self._total = sums[self._used[0]].copy()
        for block in self._used[1:]:  # block order, as the result itself is summed
            self._total += sums[block]
        self._map_of = map_of or (lambda mean: mean)
        self.mean: FloatArray = self._map_of(self._total / self.n_images)

    @property
    def n_used(self) -> int:
        """Number of blocks that have images."""
        return len(self._used)

    def left_out(self, measure: Callable[[FloatArray], _T]) -> list[_T] | None:
        """``measure`` of the mean without each block.

        None if fewer than two blocks have images, or if the mean without one of them is zero everywhere.
        """
        if len(self._used) < 2:
            return None
        found = []
        for block in self._used:
            # The subtraction may leave -eps where one block holds everything.
            others = np.maximum(self._total - self._sums[block], 0.0) / (self.n_images - self._counts[block])
            if others.max() == 0:
                return None
            found.append(measure(self._map_of(others)))
        return found

    def half_width(self, estimate: float, left_out: FloatArray) -> float:
        """Half the width of the 95 % interval of ``estimate``, from its values without each block."""
        quantile = float(stdtrit(len(self._used) - 1, 0.975))
        return quantile * _jackknife_error(estimate, left_out, self._counts[self._used] / self.n_images)


def _jackknife_error(estimate: float, left_out: FloatArray, shares: npt.NDArray[Any]) -> float:
    """Standard error of ``estimate`` from its values without each group, whose share of the images is ``shares``."""
    inverse = 1.0 / shares
    pseudo = inverse * estimate - (inverse - 1.0) * left_out
    mean = len(left_out) * estimate - np.sum((1.0 - shares) * left_out)
    return math.sqrt(float(np.mean((pseudo - mean) ** 2 / (inverse - 1.0))))
