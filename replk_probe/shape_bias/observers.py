"""Statistics and comparisons of observers: networks, humans and humans pooled."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.results import as_plain, nan_if_null, null_if_nan
from replk_probe.runtime.file_reading import decode

from .decisions import HUMANS, Decisions
from .statistics import (
    BootstrapIntervals,
    CueCounts,
    Interval,
    PairedComparison,
    bootstrap_observers,
    bootstrap_stimuli,
    error_consistency,
    paired_comparison,
    pooled,
    wilson_interval,
)

Kind: TypeAlias = Literal["model", "human", "humans"]


@dataclass(frozen=True)
class ErrorConsistency:
    """Error consistency: Cohen's kappa of being correct or wrong on the same stimuli.

    Attributes:
        mean_human: Mean over the other human observers; for ``humans``, the mean over all pairs of humans; NaN if there
            are none.
        by_observer: Error consistency with each other observer; for ``humans``, the mean over the humans.
    """

    mean_human: float = math.nan
    by_observer: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Observer:
    """Statistics of one observer.

    Attributes:
        name: Name as in the file of the observer, or name of the model.
        kind: ``"model"``, ``"human"``, or ``"humans"`` for the pooled decisions of several humans.
        counts: Number of decisions for each cue, from which the shape bias is computed.
        ci95: 95 % interval of the shape bias: Wilson's, or for ``humans`` the bootstrap over observers, since their
            decisions are not independent; None if undefined.
        ci95_method: Name of the method of ``ci95``.
        bootstrap: Bootstrap intervals of the shape bias, of its mean and of its median over categories.
        consistency: Error consistency with others.
        source: Source of the decisions.

    Examples:
        >>> from replk_probe.shape_bias import Decisions, Observer
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> decisions = Decisions.from_names("network", names, ["cat", "dog", "cat", "truck"])
        >>> observer = Observer.from_counts("network", "model", decisions.counts())
        >>> round(observer.counts.overall, 3), [round(end, 2) for end in observer.ci95]
        (0.667, [0.21, 0.94])
    """

    name: str
    kind: Kind
    counts: CueCounts
    ci95: Interval | None
    ci95_method: str
    bootstrap: BootstrapIntervals
    consistency: ErrorConsistency = ErrorConsistency()
    source: str = ""

    @classmethod
    def from_counts(
        cls,
        name: str,
        kind: Kind,
        counts: CueCounts,
        *,
        members: Sequence[CueCounts] = (),
        consistency: ErrorConsistency | None = None,
        source: str = "",
    ) -> Observer:
        """Compute the intervals from counts.

        Args:
            name: Name of the observer.
            kind: Kind of the observer.
            counts: Counts of its decisions.
            members: Counts of the humans that were pooled, for ``humans``.
            consistency: Error consistency with others, if known.
            source: Source of the decisions.

        Returns:
            The statistics, with 95 % intervals.
        """
        if len(members) > 1:
            bootstrap = bootstrap_observers(members)
            ci95, method = bootstrap.overall, f"bootstrap over {len(members)} observers"
        else:
            bootstrap = bootstrap_stimuli(counts)
            ci95, method = wilson_interval(counts.n_shape, counts.n_shape + counts.n_texture), "Wilson"
        return cls(name, kind, counts, ci95, method, bootstrap, consistency or ErrorConsistency(), source)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; undefined ratios are None."""
        counts = self.counts
        rows = zip(counts.categories, counts.shape, counts.texture, counts.other, counts.by_category, strict=True)
        return {
            "observer": self.name,
            "kind": self.kind,
            "source": self.source,
            "overall": null_if_nan(counts.overall),
            "macro": null_if_nan(counts.macro),
            "median": null_if_nan(counts.median),
            "n_defined": counts.n_defined,
            "ci95": as_plain(self.ci95),
            "ci95_method": self.ci95_method,
            "bootstrap": as_plain(self.bootstrap),
            "shape": counts.n_shape,
            "texture": counts.n_texture,
            "other": counts.n_other,
            "na": counts.na,
            "n_conflict": counts.n_conflict,
            "cue_accuracy": null_if_nan(counts.cue_accuracy),
            "congruent_accuracy": null_if_nan(counts.congruent_accuracy),
            "congruent_correct": counts.congruent_correct,
            "n_congruent": counts.n_congruent,
            "by_category": {
                category: {"shape": shape, "texture": texture, "other": other, "bias": null_if_nan(bias)}
                for category, shape, texture, other, bias in rows
            },
            "error_consistency": {
                "mean_human": null_if_nan(self.consistency.mean_human),
                "by_observer": {name: null_if_nan(kappa) for name, kappa in self.consistency.by_observer.items()},
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observer:
        """The inverse of :meth:`to_json`, from parsed JSON.

        Args:
            data: Object that :meth:`to_json` returned.

        Returns:
            The statistics.

        Raises:
            InvalidInputError: The counts are inconsistent.
            LookupError: An entry is missing.
            TypeError: An entry has another type.
            ValueError: An entry has another type, or is missing.
        """
        rows, consistency = data["by_category"], data["error_consistency"]
        counts = {cue: [row[cue] for row in rows.values()] for cue in ("shape", "texture", "other")}
        kappas = {name: nan_if_null(kappa) for name, kappa in consistency["by_observer"].items()}
        return decode(
            cls,
            {
                **data,
                "name": data["observer"],
                "counts": {**data, **counts, "categories": list(rows)},
                "consistency": {"mean_human": nan_if_null(consistency["mean_human"]), "by_observer": kappas},
            },
            "observer",
        )


def analyze(decisions: Sequence[Decisions], source: str = "") -> tuple[Observer, ...]:
    """Compute the statistics of several observers, and of all humans pooled.

    Args:
        decisions: Decisions of each observer, with the same categories; they are paired by the ids of the stimuli.
        source: Source of the decisions, for the record.

    Returns:
        Observers in the given order, after ``humans`` if there are any humans.

    Raises:
        InvalidInputError: Two observers share a name, or their categories differ.
    """
    check_names(decisions)
    if not decisions:
        return ()
    kappa = consistency_matrix(decisions)
    human_indices = [index for index, one in enumerate(decisions) if one.is_human]
    counts = [one.counts() for one in decisions]
    observers = [
        Observer.from_counts(
            one.observer,
            "human" if one.is_human else "model",
            counts[index],
            consistency=_consistency(decisions, kappa[index], human_indices, leave_out=index),
            source=source,
        )
        for index, one in enumerate(decisions)
    ]
    if human_indices:
        members = [counts[index] for index in human_indices]
        among = kappa[np.ix_(human_indices, human_indices)][np.triu_indices(len(human_indices), 1)]
        others = [index for index in range(len(decisions)) if index not in human_indices]
        consistency = ErrorConsistency(
            _mean(among), {decisions[index].observer: _mean(kappa[index, human_indices]) for index in others}
        )
        population = Observer.from_counts(
            HUMANS, "humans", pooled(members), members=members, consistency=consistency, source=source
        )
        observers.insert(0, population)
    return tuple(observers)


def consistency_with(decisions: Decisions, others: Sequence[Decisions]) -> ErrorConsistency:
    """Compute the error consistency of one observer with others, one of which may have the same name.

    Raises:
        InvalidInputError: Two of the others share a name.
    """
    check_names(others)
    row = consistency_matrix([decisions, *others])[0, 1:]
    return _consistency(others, row, [index for index, one in enumerate(others) if one.is_human])


def consistency_matrix(decisions: Sequence[Decisions]) -> npt.NDArray[np.float64]:
    """Cohen's kappa of every pair, ``[n, n]``, over the stimuli that both decided on; NaN if there are none."""
    columns: dict[str, int] = {}
    positions = [[columns.setdefault(image_id, len(columns)) for image_id in one.image_ids] for one in decisions]
    seen = np.zeros((len(decisions), len(columns)), dtype=bool)
    correct = np.zeros_like(seen)
    for row, (one, position) in enumerate(zip(decisions, positions, strict=True)):
        seen[row, position] = True
        correct[row, position] = one.correct
    return error_consistency(correct, seen)


def compare(first: Decisions, second: Decisions) -> PairedComparison:
    """Test whether two observers differ in shape bias, on the conflict stimuli that both decided on.

    Args:
        first: Decisions of one observer.
        second: Decisions of another one.

    Returns:
        Numbers of decisions, McNemar's exact two-sided p-value, and the difference of the shape biases (first minus
        second, in [-1, 1]) with its 95 % bootstrap interval.

    Raises:
        InvalidInputError: They have no such stimulus in common.

    Source:
        McNemar, Psychometrika 12 (1947).

    Examples:
        >>> from replk_probe.shape_bias import Decisions, compare
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> first = Decisions.from_names("first", names, ["cat", "dog", "bear", "cat"])
        >>> second = Decisions.from_names("second", names, ["dog", "cat", "cat", "cat"])
        >>> found = compare(first, second)
        >>> found.n_pairs, found.first_only, found.p_value, found.difference
        (4, 3, 0.25, 0.75)
    """
    found = _paired(first, second)
    if found is None:
        raise InvalidInputError(
            f"Observers {first.observer!r} and {second.observer!r} cannot be compared. They have no stimulus with a "
            "cue conflict in common. Compare observers of the same stimulus set."
        )
    return found


def compare_pairs(decisions: Sequence[Decisions]) -> Iterator[tuple[str, str, PairedComparison]]:
    """Yield the names and the comparison of every pair that has a stimulus with a cue conflict in common."""
    for first, second in itertools.combinations(decisions, 2):
        found = _paired(first, second)
        if found is not None:
            yield first.observer, second.observer, found


def check_decisions(decisions: Sequence[Decisions]) -> tuple[Decisions, ...]:
    """Check the decisions of several observers, and return them as a tuple.

    Raises:
        InvalidInputError: They are not a sequence of decisions, or two observers share a name.
    """
    several = isinstance(decisions, Sequence) and not isinstance(decisions, str)
    wrong = [one for one in decisions if not isinstance(one, Decisions)] if several else [decisions]
    if wrong:
        raise InvalidInputError(
            "Expected observers as a sequence with the Decisions of each, but got an object of type "
            f"{type(wrong[0]).__name__}. Read them with read_folder, or make them with Decisions.from_names."
        )
    check_names(decisions)
    return tuple(decisions)


def _paired(first: Decisions, second: Decisions) -> PairedComparison | None:
    answers = dict(zip(first.image_ids, first.choices(), strict=True))
    others = dict(zip(second.image_ids, second.choices(), strict=True))
    position = {category: index for index, category in enumerate(first.categories)}
    shared = [
        (answers[image_id], others[image_id], position[shape])
        for image_id, shape, texture in zip(first.image_ids, first.shape, first.texture, strict=True)
        if shape != texture and image_id in others
    ]
    if not shared:
        return None
    columns = np.array(shared)
    return paired_comparison(
        columns[:, 0].astype(np.int8), columns[:, 1].astype(np.int8), columns[:, 2].astype(np.intp)
    )


def check_names(decisions: Sequence[Decisions]) -> None:
    """Raise InvalidInputError if two observers share a name."""
    counted = Counter(one.observer for one in decisions)
    twice = [name for name, times in counted.items() if times > 1]
    if twice:
        raise InvalidInputError(
            f"There are {counted[twice[0]]} observers named {twice[0]!r}. Observers are identified by their names. "
            "Rename one of them, or omit it."
        )


def _consistency(
    others: Sequence[Decisions], kappas: npt.NDArray[np.float64], human_indices: Sequence[int], leave_out: int = -1
) -> ErrorConsistency:
    humans = kappas[[index for index in human_indices if index != leave_out]]
    by_observer = {one.observer: float(kappas[index]) for index, one in enumerate(others) if index != leave_out}
    return ErrorConsistency(_mean(humans), by_observer)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the defined values; NaN for none."""
    defined = values[~np.isnan(values)]
    return math.fsum(defined) / len(defined) if len(defined) else math.nan
