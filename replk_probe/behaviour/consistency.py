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
    """The numbers of every pair of observers in one condition; NaN for a pair without a common image."""
    n, one, other, both = joint_counts(condition.right, condition.seen)
    return Pairs((_ratio(one, n) - _ratio(other, n)) ** 2, *consistencies(n, one, other, both))


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
    """Bootstrap the numbers of one set over images, which are resampled within each condition.

    Those of an observer are resampled on which it decided, so that its resamples do not depend on the images of other
    observers. Observers of the same images have the same resamples.

    Args:
        conditions: Conditions of the benchmark.
        people: Rows of the observers who are people.
        draws: Number of resamples.
        seed: Seed of the random generator.

    Returns:
        ``[draws, observers]`` by the names of the numbers.
    """
    alike: dict[bytes, list[int]] = {}  # rows of observers of the same images
    for row, seen in enumerate(np.concatenate([condition.seen for condition in conditions], axis=1)):
        alike.setdefault(seen.tobytes(), []).append(row)
    groups = [(rows, np.random.default_rng(seed)) for rows in alike.values()]
    observers = len(conditions[0].seen)
    drawn = []
    for condition in conditions:
        accuracy = np.empty((draws, observers))
        pairs = np.empty((len(PAIRED), draws, observers, len(people)))
        for rows, generator in groups:
            accuracy[:, rows], pairs[:, :, rows] = _resampled_images(condition, rows, people, generator, draws)
        means = {name: mean_over_people(values, people) for name, values in zip(PAIRED, pairs, strict=True)}
        drawn.append({"accuracy": accuracy, **means})
    return {name: np.mean([one[name] for one in drawn], axis=0) for name in NUMBERS}


def resample_people(
    pairs: Mapping[str, Array], people: Sequence[int], draws: int = DRAWS, seed: int | Sequence[int] = SEED
) -> dict[str, Array]:
    """Bootstrap the numbers of one set over the people with whom an observer is compared.

    The resamples of an observer do not depend on the other observers who are not people.

    Args:
        pairs: Numbers of every pair of observers, averaged over conditions, ``[observers, observers]``.
        people: Rows of the observers who are people.
        draws: Number of resamples.
        seed: Seed of the random generator.

    Returns:
        ``[draws, observers]`` by the names of the numbers; NaN for an observer with less than two people to compare.
    """
    observers = len(next(iter(pairs.values())))
    drawn = {name: np.full((draws, observers), np.nan) for name in pairs}
    for row in range(observers):
        others = np.array([person for person in people if person != row], dtype=np.intp)
        if len(others) > 1:  # a single person cannot be resampled
            generator = np.random.default_rng(seed)
            chosen = others[generator.integers(len(others), size=(draws, len(others)))]
            for name, values in pairs.items():
                drawn[name][:, row] = values[row][chosen].mean(axis=1)
    return drawn


def intervals(drawn: Array) -> list[Interval | None]:
    """95 % percentile intervals of ``[draws, observers]``; None where a resample is undefined."""
    return [None if np.isnan(column).any() else percentile_interval(column) for column in drawn.T]


def mean_ranks(scores: Sequence[tuple[float, float, float]]) -> list[float]:
    """Mean rank of each network by accuracy difference (ascending), observed and error consistency (descending).

    Networks with the same number share the mean of their ranks. NaN for all of them where a number is undefined, and
    for a single network.
    """
    table = np.array(scores, dtype=np.float64).reshape(len(scores), len(PAIRED)) * [1, -1, -1]
    if len(scores) == 1 or np.isnan(table).any():
        return [math.nan] * len(scores)
    less = (table[:, None] > table[None, :]).sum(axis=1)
    same = (table[:, None] == table[None, :]).sum(axis=1)
    ranks: list[float] = (less + (same + 1) / 2).mean(axis=1).tolist()
    return ranks


def _resampled_images(
    condition: Condition, rows: Sequence[int], people: Sequence[int], generator: np.random.Generator, draws: int
) -> tuple[Array, Array]:
    """Resample the images of one condition on which some observers decided, all of them on the same.

    Returns:
        Accuracies ``[draws, rows]``, and the other numbers of each observer and person ``[3, draws, rows, people]``.
    """
    columns = np.flatnonzero(condition.seen[rows[0]])
    n = len(columns)
    chosen = generator.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    # How often each image was drawn; sums of such small integers are exact in float32.
    times = np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float32)
    seen, right = condition.seen[:, columns].astype(np.float32), condition.right[:, columns].astype(np.float32)
    own, answered, theirs = right[rows], seen[people], right[people]

    def of_pairs(second: npt.NDArray[np.float32]) -> Array:
        """Number of images in each resample on which the observer is right and ``second`` is true."""
        true = (own[:, None] * second[None]).reshape(len(rows) * len(people), n)
        counts: Array = (times @ true.T).reshape(draws, len(rows), len(people)).astype(np.float64)
        return counts

    n_right, n_answered, n_theirs = ((times @ values.T).astype(np.float64) for values in (own, answered, theirs))
    common, other, both = n_answered[:, None], n_theirs[:, None], of_pairs(theirs)
    one = n_right[:, :, None] if answered.all() else of_pairs(answered)
    difference = (_ratio(one, common) - _ratio(other, common)) ** 2
    return _ratio(n_right, np.float64(n)), np.stack([difference, *consistencies(common, one, other, both)])


def _ratio(
    part: npt.NDArray[np.floating] | npt.NDArray[np.integer], whole: npt.NDArray[np.generic] | np.float64
) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.asarray(part, dtype=np.float64) / np.asarray(whole, dtype=np.float64)
    return found
