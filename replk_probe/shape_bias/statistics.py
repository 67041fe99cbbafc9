"""Statistics of decisions on cue-conflict stimuli: counts, ratios, intervals, agreement."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError

# Two-sided 95 % of the normal distribution.
_Z = 1.959963984540054

DRAWS = 1000
SEED = 0

# With fewer items in all, or fewer in a group on average, the intervals of a bootstrap are too narrow. The mean of n
# resampled items varies less than that of n new ones, by the factor sqrt((n - 1) / n): by more than a tenth for 5.
# Among fewer than 20, decisions that are not frequent are often missing.
_FEW, _FEW_EACH = 20, 6

# Cue that a decision follows.
OTHER, SHAPE, TEXTURE = 0, 1, 2

Interval: TypeAlias = tuple[float, float]
Choices: TypeAlias = npt.NDArray[np.int8]


@dataclass(frozen=True)
class CueCounts:
    """Number of decisions for each cue, by shape category, on the stimuli whose cues conflict.

    Ratios with a denominator of zero are NaN.

    Attributes:
        categories: Category names in alphabetical order.
        shape: Number of decisions for the shape's category, by category of the shape.
        texture: Number of decisions for the texture's category, by category of the shape.
        other: Number of other decisions, by category of the shape.
        na: Number of trials without an answer, which are included in ``other``.
        congruent_correct: Number of correct decisions on the stimuli whose cues agree.
        n_congruent: Number of those stimuli.
    """

    categories: tuple[str, ...]
    shape: tuple[int, ...]
    texture: tuple[int, ...]
    other: tuple[int, ...]
    na: int = 0
    congruent_correct: int = 0
    n_congruent: int = 0

    def __post_init__(self) -> None:
        """Check that there is one non-negative count per category."""
        rows = (self.shape, self.texture, self.other)
        if any(len(row) != len(self.categories) for row in rows) or min((0, *sum(rows, ()))) < 0:
            raise InvalidInputError(
                f"The counts of {len(self.categories)} categories cannot be used. Each category has one count of "
                "decisions for the shape, one for the texture and one of others, none below zero. Give such counts."
            )

    @property
    def n_shape(self) -> int:
        """Number of decisions for the shape."""
        return sum(self.shape)

    @property
    def n_texture(self) -> int:
        """Number of decisions for the texture."""
        return sum(self.texture)

    @property
    def n_other(self) -> int:
        """Number of decisions for neither cue."""
        return sum(self.other)

    @property
    def n_conflict(self) -> int:
        """Number of decisions on stimuli whose cues conflict."""
        return sum(self.n_by_category)

    @property
    def n_by_category(self) -> tuple[int, ...]:
        """Number of decisions on stimuli whose cues conflict, by category of the shape."""
        return _added([self.shape, self.texture, self.other])

    @property
    def overall(self) -> float:
        """Shape bias: S / (S + T) of the pooled counts, in [0, 1] (micro-average)."""
        return _ratio(self.n_shape, self.n_shape + self.n_texture)

    @property
    def by_category(self) -> tuple[float, ...]:
        """Shape bias on the stimuli of each shape category."""
        return tuple(_ratio(s, s + t) for s, t in zip(self.shape, self.texture, strict=True))

    @property
    def n_defined(self) -> int:
        """Number of categories with a decision for one of the cues, over which ``macro`` and ``median`` are taken."""
        return len(self._defined)

    @property
    def _defined(self) -> list[float]:
        return [bias for bias in self.by_category if not math.isnan(bias)]

    @property
    def macro(self) -> float:
        """Mean of the shape bias over the defined categories."""
        return math.fsum(self._defined) / self.n_defined if self._defined else math.nan

    @property
    def median(self) -> float:
        """Median of the shape bias over the defined categories."""
        return float(np.median(self._defined)) if self._defined else math.nan

    @property
    def cue_accuracy(self) -> float:
        """(S + T) / ``n_conflict``; model-vs-human divides by all stimuli instead."""
        return _ratio(self.n_shape + self.n_texture, self.n_conflict)

    @property
    def congruent_accuracy(self) -> float:
        """Share of correct decisions on the stimuli whose cues agree."""
        return _ratio(self.congruent_correct, self.n_congruent)


@dataclass(frozen=True)
class BootstrapIntervals:
    """95 % percentile intervals; None if the ratio is undefined.

    Attributes:
        overall: Interval of the shape bias.
        macro: Interval of the mean over categories.
        median: Interval of the median over categories.
        resampled: ``"stimuli"`` (within each shape category) or ``"observers"``.
        draws: Number of resamples.
        seed: Seed of the random generator.
    """

    overall: Interval | None
    macro: Interval | None
    median: Interval | None
    resampled: str
    draws: int = DRAWS
    seed: int = SEED


@dataclass(frozen=True)
class PairedComparison:
    """Comparison of two observers on the same stimuli.

    Attributes:
        n_pairs: Number of conflict stimuli on which both followed a cue.
        first_only: Number of those on which the first followed the shape and the second the texture.
        second_only: Number of those on which the second followed the shape and the first the texture.
        p_value: p-value of McNemar's exact two-sided test of ``first_only`` against ``second_only``.
        difference: Shape bias of the first minus that of the second, each with its own denominator; NaN if undefined.
        ci95: Bootstrap interval of the difference, stimuli resampled in pairs within each shape category.
    """

    n_pairs: int
    first_only: int
    second_only: int
    p_value: float
    difference: float
    ci95: Interval | None


def choices(shape: Sequence[str], texture: Sequence[str], response: Sequence[str]) -> Choices:
    """:data:`SHAPE`, :data:`TEXTURE` or :data:`OTHER` per stimulus; a correct one without conflict is shape."""
    answers = np.asarray(response, dtype=str)
    followed = np.where(np.asarray(texture, dtype=str) == answers, TEXTURE, OTHER)
    return np.where(np.asarray(shape, dtype=str) == answers, SHAPE, followed).astype(np.int8)


def count_cues(
    shape: Sequence[str], texture: Sequence[str], response: Sequence[str], categories: Sequence[str]
) -> CueCounts:
    """Count decisions, ``[N]`` categories or ``na``, separately for stimuli whose cues conflict and agree."""
    position = {name: index for index, name in enumerate(categories)}
    rows = np.array([position[name] for name in shape], dtype=np.intp)
    conflict = np.array([one != other for one, other in zip(shape, texture, strict=True)], dtype=bool)
    followed = choices(shape, texture, response)
    table = np.zeros((len(categories), 3), dtype=np.int64)
    np.add.at(table, (rows[conflict], followed[conflict].astype(np.intp)), 1)
    unanswered = np.array([answer not in position for answer in response], dtype=bool)
    return CueCounts(
        categories=tuple(categories),
        shape=tuple(table[:, SHAPE].tolist()),
        texture=tuple(table[:, TEXTURE].tolist()),
        other=tuple(table[:, OTHER].tolist()),
        na=int((unanswered & conflict).sum()),
        congruent_correct=int((followed[~conflict] == SHAPE).sum()),
        n_congruent=int((~conflict).sum()),
    )


def pooled(counts: Sequence[CueCounts]) -> CueCounts:
    """Sum the counts of several observers over the same categories.

    Raises:
        InvalidInputError: There are no observers, or their categories differ.
    """
    if len({one.categories for one in counts}) != 1:
        raise InvalidInputError(
            f"The counts of {len(counts)} observers cannot be added up. Pooling requires at least one observer and "
            "the same categories for all. Pool observers of the same stimulus set."
        )
    return CueCounts(
        categories=counts[0].categories,
        shape=_added(one.shape for one in counts),
        texture=_added(one.texture for one in counts),
        other=_added(one.other for one in counts),
        na=sum(one.na for one in counts),
        congruent_correct=sum(one.congruent_correct for one in counts),
        n_congruent=sum(one.n_congruent for one in counts),
    )


def wilson_interval(successes: int, n: int) -> Interval | None:
    """Wilson's 95 % score interval of a proportion, or None for ``n`` = 0.

    Source:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if n == 0:
        return None
    p, z2 = successes / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At the ends the formula gives 0 and 1 up to rounding errors.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


def bootstrap_stimuli(counts: CueCounts, draws: int = DRAWS, seed: int = SEED) -> BootstrapIntervals:
    """Bootstrap intervals over stimuli, which are resampled with replacement within each shape category.

    Drawing n of the n stimuli of a category is equivalent to drawing its three counts from a multinomial distribution,
    so the order of the decisions does not matter.
    """
    return _percentiles(_redrawn(_table(counts), draws, seed)[..., :2], "stimuli", draws, seed)


def few_note(sizes: Sequence[int], items: str) -> str | None:
    """A note if so few items are resampled that the intervals of a bootstrap are too narrow; otherwise None.

    Args:
        sizes: Number of items in each group within which they are resampled.
        items: What is resampled, in the plural.
    """
    total = sum(sizes)
    if not total or total >= max(_FEW, _FEW_EACH * sum(size > 0 for size in sizes)):
        return None
    return f"The number of {items} is only {total}: bootstrap intervals over them are too narrow."


def bootstrap_observers(members: Sequence[CueCounts], draws: int = DRAWS, seed: int = SEED) -> BootstrapIntervals:
    """Bootstrap intervals of pooled counts over observers, who are resampled with replacement.

    The decisions of several humans on one stimulus are not independent, nor are those of one human, so neither
    Wilson's interval nor a bootstrap of single decisions is valid for their sum. All have the same categories.
    """
    tables = np.stack([_table(member) for member in members])
    weights = np.random.default_rng(seed).multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return _percentiles(np.tensordot(weights, tables, axes=1)[..., :2], "observers", draws, seed)


def error_consistency(
    correct: npt.NDArray[np.bool_], seen: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float64]:
    """Cohen's kappa of being correct or wrong, for every pair of observers, over the stimuli that both saw.

    ``(observed - expected) / (1 - expected)`` with the expected agreement ``p1 p2 + (1 - p1)(1 - p2)``, and 1 if the
    observed agreement is 1.

    Args:
        correct: Whether the response was the shape's category, ``[observers, stimuli]``.
        seen: Mask of the existing decisions, of the same shape; defaults to all.

    Returns:
        Symmetric ``[observers, observers]`` with ones on its diagonal; NaN if two have no stimulus in common.

    Source:
        Geirhos, Meding & Wichmann, Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by
        measuring error consistency, NeurIPS 2020, arXiv:2006.16736.
    """
    return consistencies(*joint_counts(correct, seen))[1]


def joint_counts(
    correct: npt.NDArray[np.bool_], seen: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.float64], ...]:
    """Numbers of common stimuli, and of those on which the one, the other and both of a pair of observers are correct.

    Args:
        correct: Whether the response was correct, ``[observers, stimuli]``.
        seen: Mask of the existing decisions, of the same shape; defaults to all.

    Returns:
        Four arrays ``[observers, observers]``.
    """
    there = np.ones(correct.shape) if seen is None else seen.astype(np.float64)
    right = correct.astype(np.float64) * there
    one = right @ there.T
    return there @ there.T, one, one.T, right @ right.T


def consistencies(
    n: npt.NDArray[np.float64],
    one: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    both: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Observed consistency and error consistency of pairs of observers, from the numbers of :func:`joint_counts`.

    The observed consistency is the share of stimuli on which both are right or both are wrong; NaN without stimuli.
    """
    agreeing = n - one - other + 2 * both
    with np.errstate(divide="ignore", invalid="ignore"):
        observed: npt.NDArray[np.float64] = agreeing / n
        p, q = one / n, other / n
        expected = p * q + (1 - p) * (1 - q)
        kappa: npt.NDArray[np.float64] = (observed - expected) / (1 - expected)
    kappa[np.broadcast_to((agreeing == n) & (n > 0), kappa.shape)] = 1.0
    return observed, kappa


def paired_comparison(
    first: Choices, second: Choices, stratum: npt.NDArray[np.intp], draws: int = DRAWS, seed: int = SEED
) -> PairedComparison:
    """Test whether two observers differ in shape bias on the same stimuli.

    Args:
        first: :data:`SHAPE`, :data:`TEXTURE` or :data:`OTHER` of the first observer per conflict stimulus, ``[N]``.
        second: Choices of the second observer, ``[N]``.
        stratum: Index of the shape category of each stimulus, ``[N]``, from 0.
        draws: Number of resamples.
        seed: Seed of the random generator.

    Source:
        McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12 (1947).
    """
    table = np.zeros((int(stratum.max(initial=-1)) + 1, 3, 3), dtype=np.int64)
    np.add.at(table, (stratum, first.astype(np.intp), second.astype(np.intp)), 1)
    both = table.sum(axis=0)
    only, against = int(both[SHAPE, TEXTURE]), int(both[TEXTURE, SHAPE])
    resampled = _redrawn(table.reshape(len(table), 9), draws, seed).sum(axis=1).reshape(draws, 3, 3)
    differences = _difference(resampled)
    return PairedComparison(
        n_pairs=int(both[SHAPE:, SHAPE:].sum()),
        first_only=only,
        second_only=against,
        p_value=_even_chances(only, against),
        difference=float(_difference(both)),
        ci95=percentile_interval(differences),
    )


def _even_chances(one: int, other: int) -> float:
    """Two-sided p-value of ``one`` against ``other`` tosses under a fair coin."""
    n = one + other
    tail = sum(math.comb(n, k) for k in range(min(one, other) + 1))
    return min(1.0, 2 * tail / (1 << n))


def _added(columns: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(cells) for cells in zip(*columns, strict=True))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _table(counts: CueCounts) -> npt.NDArray[np.int64]:
    """Counts ``[categories, 3]`` for the shape, for the texture and for neither."""
    return np.stack([np.array(row, dtype=np.int64) for row in (counts.shape, counts.texture, counts.other)], axis=1)


def _redrawn(table: npt.NDArray[np.int64], draws: int, seed: int) -> npt.NDArray[np.int64]:
    """Resample counts ``[strata, cells]`` within each stratum, ``[draws, strata, cells]``."""
    totals = table.sum(axis=1)
    chances = np.where(totals[:, None] > 0, table / np.maximum(totals, 1)[:, None], 1 / table.shape[1])
    redrawn: npt.NDArray[np.int64] = np.random.default_rng(seed).multinomial(totals, chances, size=(draws, len(table)))
    return redrawn


def _percentiles(drawn: npt.NDArray[np.int64], resampled: str, draws: int, seed: int) -> BootstrapIntervals:
    """Intervals from counts for shape and texture, ``[draws, categories, 2]``."""
    total = drawn.sum(axis=1)
    biases = _ratios(drawn)
    some = biases[~np.isnan(biases).all(axis=1)]
    return BootstrapIntervals(
        overall=percentile_interval(_ratios(total)),
        macro=percentile_interval(np.nanmean(some, axis=1)),
        median=percentile_interval(np.nanmedian(some, axis=1)),
        resampled=resampled,
        draws=draws,
        seed=seed,
    )


def _ratios(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Shape bias of counts ``[..., 2]``, NaN if both are zero."""
    with np.errstate(invalid="ignore"):
        ratios: npt.NDArray[np.float64] = counts[..., 0] / counts.sum(axis=-1)
    return ratios


def _difference(table: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Difference of the shape biases of a joint table ``[..., 3, 3]``, the first observer's choices as rows."""
    return _ratios(table.sum(axis=-1)[..., SHAPE:]) - _ratios(table.sum(axis=-2)[..., SHAPE:])


def percentile_interval(values: npt.NDArray[np.float64]) -> Interval | None:
    """95 % percentile interval of resampled values; None if all of them are NaN."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
