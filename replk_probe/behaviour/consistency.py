"""How well observers classify, and how consistent they are with people: the four numbers of model-vs-human.

All are computed per observer, person and condition, and then averaged over conditions, people and sets, equally.

Source: Geirhos et al., NeurIPS 2021, arXiv:2106.07411.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.shape_bias.statistics import (
    DRAWS,
    SEED,
    Interval,
    consistencies,
    joint_counts,
    percentile_interval,
)

from .trials import Trials, conditions_of

Array: TypeAlias = npt.NDArray[np.float64]

NUMBERS = ("accuracy", "accuracy_difference", "observed_consistency", "error_consistency")
PAIRED = NUMBERS[1:]  # those of an observer and a person


class Condition(NamedTuple):
    """The trials of one condition.

    Attributes:
        level: The condition.
        seen: Whether an observer decided on an image, ``[observers, images]``.
        right: Whether the decision was correct, ``[observers, images]``; False where there is none.
    """

    level: str
    seen: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> Array:
        """Share of correct decisions, ``[observers]``; NaN for an observer without decisions."""
        return _ratio(self.right.sum(axis=1), self.seen.sum(axis=1))


@dataclass(frozen=True, eq=False)
class Pairs:
    """The numbers of every pair of observers, ``[observers, observers]``, on their common images; all are symmetric.

    Attributes:
        accuracy_difference: Squared difference of the accuracies.
        observed_consistency: Share of images on which both are right or both are wrong.
        error_consistency: Cohen's kappa of this, see :func:`~replk_probe.shape_bias.statistics.error_consistency`.
    """

    accuracy_difference: Array
    observed_consistency: Array
    error_consistency: Array


def by_condition(trials: Sequence[Trials]) -> list[Condition]:
    """Join the trials of several observers on one set by condition and image, in the order of the set's levels."""
    keys = trials[0].keys
    if all(np.array_equal(one.keys, keys) for one in trials[1:]):
        right = np.stack([one.correct_by_key for one in trials])
        seen = np.ones_like(right)
    else:
        keys = np.unique(np.concatenate([one.keys for one in trials]))
        seen = np.zeros((len(trials), len(keys)), dtype=bool)
        right = np.zeros_like(seen)
        for row, one in enumerate(trials):
            columns = np.searchsorted(keys, one.keys)
            seen[row, columns], right[row, columns] = True, one.correct_by_key
    levels = conditions_of(keys)
    found = []
    for level in trials[0].benchmark_set.levels:
        columns = np.flatnonzero(levels == level)
        if len(columns):
            found.append(Condition(level, seen[:, columns], right[:, columns]))
    return found


def pairs_of(condition: Condition) -> Pairs:
    """The numbers of every pair of observers in one condition."""
    accuracy = condition.accuracy
    difference = (accuracy[:, None] - accuracy[None, :]) ** 2
    return Pairs(difference, *consistencies(*joint_counts(condition.right, condition.seen)))


def mean_over_people(values: Array, people: Sequence[int]) -> Array:
    """Mean over the people with whom observers are compared, each without itself.

    Args:
        values: Numbers of every observer and person, ``[..., observers, people]``.
        people: Rows of the observers who are people, in the order of the last axis.

    Returns:
        ``[..., observers]``; NaN where there is nobody else, or a value is undefined.
    """
    others, own = values.copy(), np.array(people, dtype=np.intp)
    others[..., own, np.arange(len(own))] = 0.0
    counts = np.full(values.shape[-2], float(len(own)))
    counts[own] -= 1
    return _ratio(others.sum(axis=-1), counts)


def resample_images(
    conditions: Sequence[Condition], people: Sequence[int], draws: int = DRAWS, seed: int | Sequence[int] = SEED
) -> dict[str, Array]:
    """Bootstrap the numbers of one set over images, which are resampled within each condition, for all observers alike.

    Args:
        conditions: Conditions of the benchmark.
        people: Rows of the observers who are people.
        draws: Number of resamples.
        seed: Seed of the random generator.

    Returns:
        ``[draws, observers]`` by the names of the numbers.
    """
    generator = np.random.default_rng(seed)
    drawn = [_resampled_images(condition, people, generator, draws) for condition in conditions]
    return {name: np.mean([one[name] for one in drawn], axis=0) for name in NUMBERS}


def resample_people(
    pairs: Mapping[str, Array], people: Sequence[int], draws: int = DRAWS, seed: int | Sequence[int] = SEED
) -> dict[str, Array]:
    """Bootstrap the numbers of one set over the people with whom an observer is compared.

    Args:
        pairs: Numbers of every pair of observers, averaged over conditions, ``[observers, observers]``.
        people: Rows of the observers who are people.
        draws: Number of resamples.
        seed: Seed of the random generator.

    Returns:
        ``[draws, observers]`` by the names of the numbers; NaN for an observer with less than two people to compare.
    """
    generator = np.random.default_rng(seed)
    observers = len(next(iter(pairs.values())))
    drawn = {name: np.full((draws, observers), np.nan) for name in pairs}
    for row in range(observers):
        others = np.array([person for person in people if person != row], dtype=np.intp)
        if len(others) > 1:  # a single person cannot be resampled
            chosen = others[generator.integers(len(others), size=(draws, len(others)))]
            for name, values in pairs.items():
                drawn[name][:, row] = values[row][chosen].mean(axis=1)
    return drawn


def intervals(drawn: Array) -> list[Interval | None]:
    """95 % percentile intervals of ``[draws, observers]``; None where a resample is undefined."""
    return [None if np.isnan(column).any() else percentile_interval(column) for column in drawn.T]


def mean_ranks(scores: Sequence[tuple[float, float, float]]) -> list[float]:
    """Mean rank of each network by accuracy difference (ascending), observed and error consistency (descending).

    Networks with the same number share the mean of their ranks. NaN for all of them where a number is undefined.
    """
    table = np.array(scores, dtype=np.float64).reshape(len(scores), len(PAIRED)) * [1, -1, -1]
    if np.isnan(table).any():
        return [math.nan] * len(scores)
    less = (table[:, None] > table[None, :]).sum(axis=1)
    same = (table[:, None] == table[None, :]).sum(axis=1)
    ranks: list[float] = (less + (same + 1) / 2).mean(axis=1).tolist()
    return ranks


def _resampled_images(
    condition: Condition, people: Sequence[int], generator: np.random.Generator, draws: int
) -> dict[str, Array]:
    """The numbers of one condition, averaged over people, with its images resampled."""
    observers, n = condition.seen.shape
    chosen = generator.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    # How often each image was drawn; sums of such small integers are exact in float32.
    times = np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float32)
    seen, right = condition.seen.astype(np.float32), condition.right.astype(np.float32)
    rows = list(people)

    def of_pairs(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> Array:
        """Number of images in each resample on which both are true, ``[draws, observers, people]``."""
        true = (first[:, None] * second[None, rows]).reshape(observers * len(rows), n)
        counts: Array = (times @ true.T).reshape(draws, observers, len(rows)).astype(np.float64)
        return counts

    n_seen, n_right = ((times @ values.T).astype(np.float64) for values in (seen, right))
    accuracy = _ratio(n_right, n_seen)
    both = of_pairs(right, right)
    if condition.seen.all():
        total = np.full((1, 1, 1), float(n))
        one, other = n_right[:, :, None], n_right[:, None, rows]
    else:
        total, one, other = of_pairs(seen, seen), of_pairs(right, seen), of_pairs(seen, right)
    found = ((accuracy[:, :, None] - accuracy[:, None, rows]) ** 2, *consistencies(total, one, other, both))
    means = {name: mean_over_people(values, rows) for name, values in zip(PAIRED, found, strict=True)}
    return {"accuracy": accuracy, **means}


def _ratio(part: npt.NDArray[np.floating] | npt.NDArray[np.integer], whole: npt.NDArray[np.generic]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.asarray(part, dtype=np.float64) / np.asarray(whole, dtype=np.float64)
    return found
