"""Relative accuracies with intervals by the bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Interval: TypeAlias = tuple[float, float]
Floats: TypeAlias = npt.NDArray[np.float64]

DRAWS, SEED = 2000, 0
_LEVEL = 0.95
_MAX_UNDEFINED = (1 - _LEVEL) / 2  # share of samples
_CHUNK = 4_000_000  # entries of a table of counts in memory


def resampled_correct(correct: npt.NDArray[np.bool_], draws: int = DRAWS, seed: int = SEED) -> Floats:
    """Correct decisions in samples of the images, which are drawn with replacement.

    A sample has the same images for every row: the bootstrap is paired.

    Args:
        correct: Whether each decision is correct, ``[rows, N]``.
        draws: Number of samples.
        seed: Random seed.

    Returns:
        Counts ``[draws, rows]``; integers, so that they do not depend on the order of sums.
    """
    count = correct.shape[1]
    random, values = np.random.default_rng(seed), correct.T.astype(np.float64)
    counts = np.empty((draws, len(correct)))
    step = max(_CHUNK // count, 1)
    for first in range(0, draws, step):
        rows = min(step, draws - first)
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        counts[first : first + rows] = times.astype(np.float64) @ values
    return counts


def interval(values: Floats) -> Interval | None:
    """The interval between the percentiles of 95 % of the values that are defined.

    It is None if more than 2.5 % of them are undefined: these could all lie outside of the interval on the same side.
    """
    defined = values[np.isfinite(values)]
    if len(values) - len(defined) > _MAX_UNDEFINED * len(values):
        return None
    low, high = np.quantile(defined, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)


def ratios(counts: Floats) -> Floats:
    """Counts ``[..., 1 + rows]`` of suppressions divided by the first, without one: ``[..., rows]``.

    They are NaN where no decision without a suppression is correct.
    """
    first = counts[..., :1]
    return np.asarray(counts[..., 1:] / np.where(first > 0, first, np.nan))


def mean_by_method(values: Floats, methods: Sequence[str], chosen: Sequence[int]) -> Floats:
    """The mean over methods of the mean over their strengths.

    Args:
        values: ``[..., rows]``.
        methods: Method of each row.
        chosen: Indices of the rows that belong to it.
    """
    groups: dict[str, list[int]] = {}
    for index in chosen:
        groups.setdefault(methods[index], []).append(index)
    return np.asarray(np.mean([values[..., rows].mean(axis=-1) for rows in groups.values()], axis=0))
