"""Counts, ratios, intervals and agreement against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.statistics import (
    OTHER,
    SHAPE,
    TEXTURE,
    CueCounts,
    bootstrap_observers,
    bootstrap_stimuli,
    choices,
    count_cues,
    error_consistency,
    few_note,
    paired_comparison,
    pooled,
    wilson_interval,
)

CATEGORIES = ("bear", "cat", "dog")
# bear: 3 shape, 1 texture; cat: 0 shape, 1 texture, 1 other; dog: neither cue; and two whose cues agree.
TABLE = (
    ("bear", "cat", "bear"),
    ("bear", "dog", "bear"),
    ("bear", "dog", "bear"),
    ("bear", "cat", "cat"),
    ("cat", "dog", "dog"),
    ("cat", "bear", "na"),
    ("dog", "cat", "bear"),
    ("bear", "bear", "bear"),
    ("cat", "cat", "dog"),
)


def counted(rows: Sequence[tuple[str, str, str]] = TABLE) -> CueCounts:
    shape, texture, response = zip(*rows, strict=True)
    return count_cues(shape, texture, response, CATEGORIES)


def test_a_table_with_known_values() -> None:
    counts = counted()
    assert (counts.shape, counts.texture, counts.other) == ((3, 0, 0), (1, 1, 0), (0, 1, 1))
    assert (counts.n_shape, counts.n_texture, counts.n_other, counts.na, counts.n_conflict) == (3, 2, 2, 1, 7)
    assert counts.overall == 3 / 5
    assert counts.by_category[:2] == (0.75, 0.0) and math.isnan(counts.by_category[2])
    assert (counts.macro, counts.median, counts.n_defined) == (0.375, 0.375, 2)
    assert counts.cue_accuracy == 5 / 7
    assert (counts.congruent_accuracy, counts.n_congruent) == (0.5, 2)


def test_the_order_of_rows_has_no_effect() -> None:
    expected = counted()
    random = np.random.default_rng(1)
    for _ in range(20):
        assert counted([TABLE[index] for index in random.permutation(len(TABLE))]) == expected


def test_ratios_without_a_denominator_are_nan() -> None:
    counts = counted([("bear", "cat", "dog")])
    for value in (counts.overall, counts.macro, counts.median, counts.congruent_accuracy):
        assert math.isnan(value)
    assert (counts.n_defined, counts.cue_accuracy) == (0, 0.0)
    assert bootstrap_stimuli(counts).overall is None
    assert math.isnan(counted([("bear", "bear", "bear")]).cue_accuracy)


def test_micro_and_macro_and_median_are_different_things() -> None:
    counts = CueCounts(CATEGORIES, (9, 1, 1), (1, 1, 9), (0, 0, 0))
    assert counts.overall == 0.5
    skewed = CueCounts(CATEGORIES, (9, 1, 0), (1, 0, 1), (0, 0, 0))
    assert skewed.overall == 10 / 12
    assert skewed.macro == pytest.approx((0.9 + 1 + 0) / 3)
    assert skewed.median == 0.9


def test_stimuli_whose_cues_agree_are_left_out_of_the_bias() -> None:
    conflict = [row for row in TABLE if row[0] != row[1]]
    assert counted(conflict).overall == counted().overall
    # Counted in, the right answers among them would pass for decisions for the shape.
    followed = choices(*zip(*TABLE, strict=True))
    assert (followed == SHAPE).sum() / (followed != OTHER).sum() != counted().overall


def test_intervals_of_few_stimuli_are_too_narrow_and_noted() -> None:
    one_each = CueCounts(CATEGORIES, (1, 1, 0), (0, 0, 1), (0, 0, 0))
    assert bootstrap_stimuli(one_each).overall == (2 / 3, 2 / 3)
    assert few_note(one_each.n_by_category, "stimuli in 3 categories") == (
        "The number of stimuli in 3 categories is only 3: bootstrap intervals over them are too narrow."
    )
    assert few_note([20], "images") is None and few_note([19], "images")
    assert few_note([6] * 16, "stimuli") is None and few_note([5] * 16, "stimuli")
    assert few_note([0, 0, 80], "stimuli") is None and few_note([], "stimuli") is None


def test_counts_must_be_one_per_category_and_not_negative() -> None:
    for shape in ((1, 2), (1, 2, -3)):
        with pytest.raises(InvalidInputError, match="counts of 3 categories"):
            CueCounts(CATEGORIES, shape, (0, 0, 0), (0, 0, 0))


def test_pooled_counts_are_sums() -> None:
    both = pooled([counted(), counted()])
    assert both.shape == (6, 0, 0) and both.na == 2 and both.n_congruent == 4
    assert both.overall == counted().overall
    for unfit in ([], [counted(), CueCounts(("a", "b"), (0, 0), (0, 0), (0, 0))]):
        with pytest.raises(InvalidInputError, match="cannot be added up"):
            pooled(unfit)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    found = wilson_interval(successes, n)
    assert found is not None
    assert (round(found[0], 4), round(found[1], 4)) == (low, high)
    mirrored = wilson_interval(n - successes, n)
    assert mirrored is not None
    assert mirrored == pytest.approx((1 - found[1], 1 - found[0]))
    assert wilson_interval(0, 0) is None


def test_bootstrap_agrees_with_wilson_where_both_are_valid() -> None:
    counts = CueCounts(CATEGORIES, (30, 40, 50), (70, 60, 50), (0, 0, 0))
    found, wilson = bootstrap_stimuli(counts).overall, wilson_interval(120, 300)
    assert found is not None and wilson is not None
    # Stimuli are drawn again within their categories, which takes the variance between these out.
    assert found == pytest.approx(wilson, abs=0.01)
    assert bootstrap_stimuli(counts) == bootstrap_stimuli(counts)
    assert bootstrap_stimuli(counts, seed=1).overall != found


def test_bootstrap_interval_of_humans_reflects_their_differences() -> None:
    alike = [CueCounts(CATEGORIES, (5, 5, 5), (5, 5, 5), (0, 0, 0))] * 10
    assert bootstrap_observers(alike).overall == (0.5, 0.5)
    unlike = [CueCounts(CATEGORIES, (10 * k, 10, 10), (10, 10, 10 * k), (0, 0, 0)) for k in (0, 1)] * 2
    unlike += [CueCounts(CATEGORIES, (30, 30, 30), (0, 0, 1), (0, 0, 0))]
    low, high = bootstrap_observers(unlike).overall or (0, 0)
    assert low < pooled(unlike).overall < high and high - low > 0.2


def kappa_by_hand(first: Sequence[bool], second: Sequence[bool]) -> float:
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    p1, p2 = sum(first) / n, sum(second) / n
    expected = p1 * p2 + (1 - p1) * (1 - p2)
    return 1.0 if observed == 1 else (observed - expected) / (1 - expected)


def test_error_consistency_is_cohens_kappa() -> None:
    random = np.random.default_rng(2)
    correct = random.random((6, 200)) < random.random((6, 1))
    found = error_consistency(correct)
    for row, column in itertools.product(range(6), repeat=2):
        expected = kappa_by_hand(correct[row].tolist(), correct[column].tolist())
        assert found[row, column] == pytest.approx(expected, abs=1e-12)


def test_error_consistency_at_its_limits() -> None:
    correct = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]], dtype=bool)
    kappa = error_consistency(correct)
    np.testing.assert_array_equal(kappa[0], [1, 1, -1, 0, 0])
    assert kappa[4, 4] == 1  # where the expected agreement is 1 as well


def test_error_consistency_is_computed_over_common_stimuli() -> None:
    correct = np.array([[1, 0, 1, 1], [1, 0, 0, 1]], dtype=bool)
    seen = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], dtype=bool)
    assert error_consistency(correct, seen)[0, 1] == 1
    apart = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    assert math.isnan(error_consistency(correct, apart)[0, 1])


def test_mcnemar_is_exact() -> None:
    # Ten discordant pairs, nine to one: 2 (1 + 10) / 2^10.
    first = np.array([SHAPE] * 9 + [TEXTURE] + [SHAPE] * 5 + [OTHER], dtype=np.int8)
    second = np.array([TEXTURE] * 9 + [SHAPE] + [SHAPE] * 5 + [SHAPE], dtype=np.int8)
    found = paired_comparison(first, second, np.zeros(16, dtype=np.intp))
    assert (found.n_pairs, found.first_only, found.second_only) == (15, 9, 1)
    assert found.p_value == 22 / 1024
    assert found.difference == pytest.approx(14 / 15 - 7 / 16)
    low, high = found.ci95 or (0, 0)
    assert 0 < low < found.difference < high
    turned = paired_comparison(second, first, np.zeros(16, dtype=np.intp))
    assert (turned.p_value, turned.difference) == (found.p_value, -found.difference)


def test_an_observer_does_not_differ_from_itself() -> None:
    followed = np.array([SHAPE, TEXTURE, OTHER, SHAPE], dtype=np.int8)
    found = paired_comparison(followed, followed, np.array([0, 0, 1, 1]))
    assert (found.p_value, found.difference, found.ci95) == (1.0, 0.0, (0.0, 0.0))
