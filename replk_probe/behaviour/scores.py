"""Scores of observers on sets of images, and over all sets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from replk_probe.errors import InvalidInputError
from replk_probe.results import ByValue, as_plain, nan_if_null, null_if_nan
from replk_probe.runtime.file_reading import decode
from replk_probe.shape_bias.statistics import SEED, Interval, wilson_interval

from .benchmark_sets import BENCHMARK_SETS
from .consistency import (
    NUMBERS,
    PAIRED,
    Array,
    Condition,
    Pairs,
    by_condition,
    intervals,
    mean_over_people,
    mean_ranks,
    pairs_of,
    resample_images,
    resample_people,
)
from .people import SOURCE, PublishedPeople, published_people
from .trials import Trials

Kind: TypeAlias = Literal["model", "human"]


@dataclass(frozen=True)
class Scores:
    """The four numbers of an observer, each averaged with equal weights; NaN if undefined.

    Attributes:
        accuracy: Share of correct decisions, in [0, 1].
        accuracy_difference: Mean squared difference of the accuracies of the observer and of people.
        observed_consistency: Mean share of the images on which the observer and a person are both right or both wrong.
        error_consistency: Mean error consistency (Cohen's kappa) with people.
    """

    accuracy: float = math.nan
    accuracy_difference: float = math.nan
    observed_consistency: float = math.nan
    error_consistency: float = math.nan

    @property
    def paired(self) -> tuple[float, float, float]:
        """The three numbers that depend on people."""
        return self.accuracy_difference, self.observed_consistency, self.error_consistency

    def to_json(self) -> dict[str, Any]:
        """The numbers by name; undefined ones are None."""
        return {name: null_if_nan(getattr(self, name)) for name in NUMBERS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scores:
        """The inverse of :meth:`to_json`.

        Args:
            data: Object that :meth:`to_json` returned, possibly with other entries.

        Returns:
            The scores.
        """
        return decode(cls, {name: nan_if_null(data[name]) for name in NUMBERS}, "scores")


@dataclass(frozen=True)
class Bootstrap:
    """95 % percentile intervals of one number; None if undefined.

    Attributes:
        images: With the images of each condition resampled.
        people: With the people resampled with whom the observer is compared.
    """

    images: Interval | None = None
    people: Interval | None = None


@dataclass(frozen=True)
class ConditionScores:
    """Scores in one condition.

    Attributes:
        scores: The four numbers.
        n: Number of trials.
        correct: Number of correct decisions.
        ci95: Wilson's 95 % interval of the accuracy.
    """

    scores: Scores
    n: int
    correct: int
    ci95: Interval | None


@dataclass(frozen=True)
class ObserverScores:
    """Scores of one observer on one set.

    Attributes:
        name: Name of the observer.
        kind: ``"model"`` or ``"human"``.
        source: Source of the decisions.
        scores: The four numbers, averaged over the conditions of the benchmark; NaN if one of them is missing.
        intervals: Bootstrap intervals of each number by its name.
        by_condition: Scores in each condition, also in those that the benchmark leaves out.
    """

    name: str
    kind: Kind
    source: str
    scores: Scores
    intervals: Mapping[str, Bootstrap] = field(default_factory=dict)
    by_condition: Mapping[str, ConditionScores] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; undefined numbers are None."""
        return {
            "kind": self.kind,
            "source": self.source,
            **self.scores.to_json(),
            "intervals": as_plain(self.intervals),
            "by_condition": {
                level: {**one.scores.to_json(), "n": one.n, "correct": one.correct, "ci95": as_plain(one.ci95)}
                for level, one in self.by_condition.items()
            },
        }

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> ObserverScores:
        """The inverse of :meth:`to_json`.

        Args:
            name: Name of the observer.
            data: Object that :meth:`to_json` returned.

        Returns:
            The scores.
        """
        conditions = {
            level: ConditionScores(
                Scores.from_json(one),
                decode(int, one["n"], "n"),
                decode(int, one["correct"], "correct"),
                decode(Interval | None, one["ci95"], "ci95"),  # type: ignore[arg-type]
            )
            for level, one in data["by_condition"].items()
        }
        return cls(
            name,
            decode(Kind, data["kind"], "kind"),  # type: ignore[arg-type]
            decode(str, data["source"], "source"),
            Scores.from_json(data),
            decode(dict[str, Bootstrap], data["intervals"], "intervals"),
            conditions,
        )


@dataclass(frozen=True, eq=False)
class SetScores(ByValue):
    """Scores of all observers on one set.

    Attributes:
        name: Name of the set.
        observers: Scores of each observer: networks and people in the given order.
        people: Mean of the numbers of the people, each compared with the others; NaN if there are none.
        observed_consistency: Observed consistency of every pair of observers, averaged over the conditions of the
            benchmark, ``[observers, observers]``; NaN where the decisions of one of them are not known.
        error_consistency: Error consistency of every pair, likewise.
    """

    name: str
    observers: tuple[ObserverScores, ...]
    people: Scores
    observed_consistency: Array
    error_consistency: Array

    def __post_init__(self) -> None:
        """Make the matrices read-only."""
        for matrix in (self.observed_consistency, self.error_consistency):
            if matrix.shape != (len(self.observers),) * 2:
                raise InvalidInputError(
                    f"A matrix of the set {self.name} has shape {list(matrix.shape)}. It has one row and one column "
                    f"for each of {len(self.observers)} observers. Give such a matrix."
                )
            matrix.setflags(write=False)

    def observer(self, name: str) -> ObserverScores | None:
        """The scores of one observer, or None if it has none on this set.

        Args:
            name: Name of the observer.
        """
        return next((one for one in self.observers if one.name == name), None)


@dataclass(frozen=True)
class OverallScores:
    """Scores of one observer over sets.

    Attributes:
        name: Name of the observer.
        kind: ``"model"`` or ``"human"``.
        scores: The four numbers, averaged over the sets on which the observer has trials.
        intervals: Bootstrap intervals of each number, with the images or the people of each set resampled.
        n_sets: Number of those sets.
        mean_rank: Mean rank among the networks with trials on all sets, by accuracy difference (ascending), observed
            and error consistency (descending); NaN for people, for a single network, and where a number is undefined.
    """

    name: str
    kind: Kind
    scores: Scores
    intervals: Mapping[str, Bootstrap]
    n_sets: int
    mean_rank: float = math.nan


@dataclass(frozen=True, eq=False)
class _Analyzed:
    """One set with its resamples, ``[draws, observers]`` by the names of the numbers."""

    scores: SetScores
    images: Mapping[str, Array]
    people: Mapping[str, Array]


def analyze(trials: Sequence[Trials], sources: Mapping[str, str]) -> tuple[list[SetScores], list[OverallScores]]:
    """Compute the scores of observers on each set, and over all sets.

    In a set without trials of people, networks are compared with the published numbers of people.

    Args:
        trials: Trials of any observers on any sets.
        sources: Source of the decisions of each observer.

    Returns:
        Scores by set, in the order of the benchmark, and over sets, in the order of the observers.

    Raises:
        InvalidInputError: An observer has two records for one set.
    """
    of_set: dict[str, list[Trials]] = {name: [] for name in BENCHMARK_SETS}
    for one in trials:
        of_set[one.dataset].append(one)
    found = [_analyze_set(name, members, sources) for name, members in of_set.items() if members]
    return [one.scores for one in found], _over_sets(found)


def _analyze_set(name: str, trials: Sequence[Trials], sources: Mapping[str, str]) -> _Analyzed:
    counted = Counter(one.observer for one in trials)
    twice = [observer for observer, times in counted.items() if times > 1]
    if twice:
        raise InvalidInputError(
            f"There are {counted[twice[0]]} observers named {twice[0]!r} on the set {name}. Observers are identified "
            "by their names. Rename one of them, or omit it."
        )
    conditions = by_condition(trials)
    people = [row for row, one in enumerate(trials) if one.is_human]
    published = None if people else published_people()[name]
    labels: list[tuple[str, Kind, str]] = [
        (one.observer, "human" if one.is_human else "model", sources.get(one.observer, "given")) for one in trials
    ]
    counts = {one.level: (one.seen.sum(axis=1), one.right.sum(axis=1)) for one in conditions}
    pairs = {one.level: pairs_of(one) for one in conditions}
    if published is not None:
        people = list(range(len(trials), len(trials) + len(published.people)))
        labels += [(person, "human", SOURCE) for person in published.people]
        counts, pairs = _with_published(conditions, published)
    levels = BENCHMARK_SETS[name].conditions
    complete = all(level in pairs for level in levels)
    seed = (SEED, list(BENCHMARK_SETS).index(name))  # sets are resampled independently
    undefined = np.full((len(labels),) * 2, np.nan)
    means = {
        one: np.mean([getattr(pairs[level], one) for level in levels], axis=0) if complete else undefined.copy()
        for one in PAIRED
    }
    accuracy = np.full(len(labels), np.nan)
    images = dict.fromkeys(NUMBERS, np.full((1, len(labels)), np.nan))
    if complete:
        accuracy = np.mean([_share(*counts[level]) for level in levels], axis=0)
        own = [] if published is not None else people
        images = resample_images([one for one in conditions if one.level in levels], own, seed=seed)
        if published is not None:  # their images cannot be resampled
            unknown = np.full((len(images["accuracy"]), len(published.people)), np.nan)
            images = {one: np.concatenate([drawn, unknown], axis=1) for one, drawn in images.items()}
    over_people = resample_people(means, people, seed=seed)
    numbers = {"accuracy": accuracy} | {one: mean_over_people(means[one][:, people], people) for one in PAIRED}
    ranges = {one: intervals(images[one]) for one in NUMBERS}
    nothing: list[Interval | None] = [None] * len(labels)
    ranges_of_people = {"accuracy": nothing} | {one: intervals(over_people[one]) for one in PAIRED}
    alone = {level: {one: mean_over_people(getattr(found, one)[:, people], people) for one in PAIRED}
             for level, found in pairs.items()}  # fmt: skip
    observers = tuple(
        ObserverScores(
            observer,
            kind,
            source,
            Scores(*(float(numbers[one][row]) for one in NUMBERS)),
            {one: Bootstrap(ranges[one][row], ranges_of_people[one][row]) for one in NUMBERS},
            {
                level: ConditionScores(
                    Scores(float(_share(n, right)[row]), *(float(alone[level][one][row]) for one in PAIRED)),
                    int(n[row]),
                    int(right[row]),
                    wilson_interval(int(right[row]), int(n[row])),
                )
                for level, (n, right) in counts.items()
                if n[row]
            },
        )
        for row, (observer, kind, source) in enumerate(labels)
    )
    group = Scores(*(float(numbers[one][people].mean()) for one in NUMBERS))
    scores = SetScores(name, observers, group, means["observed_consistency"], means["error_consistency"])
    return _Analyzed(scores, images, over_people)


def _with_published(
    conditions: Sequence[Condition], published: PublishedPeople
) -> tuple[dict[str, tuple[Array, Array]], dict[str, Pairs]]:
    """Numbers of trials and of correct ones, and the numbers of pairs, of networks followed by published people."""
    counts: dict[str, tuple[Array, Array]] = {}
    pairs = {}
    for condition in conditions:
        people = published.conditions[condition.level]
        n = np.append(condition.seen.sum(axis=1), [people.n] * len(people.correct))
        right = np.append(condition.right.sum(axis=1), people.correct)
        own, accuracy = pairs_of(condition), _share(n, right)
        matrices, networks = [], len(condition.seen)
        for name in ("observed_consistency", "error_consistency"):
            matrix = np.full((len(n),) * 2, np.nan)
            matrix[:networks, :networks] = getattr(own, name)
            matrix[networks:, networks:] = people.matrix(name)
            matrices.append(matrix)
        counts[condition.level] = n, right
        # Published people are compared on all of their images: which of them they classified correctly is not known.
        difference = (accuracy[:, None] - accuracy[None, :]) ** 2
        difference[:networks, :networks] = own.accuracy_difference
        pairs[condition.level] = Pairs(difference, *matrices)
    return counts, pairs


def _over_sets(sets: Sequence[_Analyzed]) -> list[OverallScores]:
    """Scores of each observer over the sets on which it has trials."""
    rows: dict[str, list[tuple[_Analyzed, int]]] = {}
    for found in sets:
        for row, one in enumerate(found.scores.observers):
            rows.setdefault(one.name, []).append((found, row))
    overall = {}
    for name, places in rows.items():
        members = [found.scores.observers[row] for found, row in places]
        numbers = {one: float(np.mean([getattr(member.scores, one) for member in members])) for one in NUMBERS}
        ranges = {
            one: Bootstrap(
                _interval([found.images[one][:, row] for found, row in places]),
                _interval([found.people[one][:, row] for found, row in places]) if one in PAIRED else None,
            )
            for one in NUMBERS
        }
        overall[name] = OverallScores(name, members[0].kind, Scores(**numbers), ranges, len(places))
    ranked = [one for one in overall.values() if one.kind == "model" and one.n_sets == len(sets)]
    for network, rank in zip(ranked, mean_ranks([one.scores.paired for one in ranked]), strict=True):
        overall[network.name] = replace(network, mean_rank=rank)
    return list(overall.values())


def _interval(columns: Sequence[Array]) -> Interval | None:
    if len({len(column) for column in columns}) > 1:  # a set without all of its conditions has no resamples
        return None
    return intervals(np.mean(columns, axis=0)[:, None])[0]


def _share(n: Array, right: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = right / n
    return found
