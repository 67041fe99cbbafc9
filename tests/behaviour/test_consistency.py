"""The four numbers against a computation in fractions, and the bootstraps against their definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from replk_probe.behaviour.consistency import (
    NUMBERS,
    PAIRED,
    by_condition,
    intervals,
    mean_over_people,
    mean_ranks,
    pairs_of,
    resample_images,
    resample_people,
)
from replk_probe.behaviour.trials import Trials

MakeTrials = Callable[..., list[Trials]]


def part_of(trials: Trials, rows: range) -> Trials:
    """Some of the trials."""
    columns = (trials.names, trials.category, trials.condition, trials.response)
    return Trials(trials.observer, trials.dataset, *(column[rows.start : rows.stop] for column in columns))


def exact(one: Trials, other: Trials, level: str) -> tuple[Fraction, Fraction, Fraction]:
    """Accuracy difference, observed and error consistency of two observers on their common images in one condition."""
    right = [
        {
            name.split("_")[-2]: bool(ok)
            for name, ok, found in zip(x.names, x.correct, x.condition, strict=True)
            if found == level
        }
        for x in (one, other)
    ]
    common = right[0].keys() & right[1].keys()
    p, q = (Fraction(sum(each[image] for image in common), len(common)) for each in right)
    observed = Fraction(sum(right[0][image] == right[1][image] for image in common), len(common))
    expected = p * q + (1 - p) * (1 - q)
    kappa = Fraction(1) if observed == 1 else (observed - expected) / (1 - expected)
    return (p - q) ** 2, observed, kappa


@pytest.mark.parametrize("partial", [False, True])
def test_the_numbers_of_pairs_are_exact(partial: bool, random_trials: MakeTrials) -> None:
    trials = random_trials(["first", "second", "subject-01", "subject-02"], "contrast", per_cell=2)
    if partial:  # observers who saw different images
        trials = [part_of(one, range(5 * row, len(one.names) - 7 * row)) for row, one in enumerate(trials)]
    conditions = by_condition(trials)
    assert [one.level for one in conditions] == list(trials[0].benchmark_set.levels)
    # Sums of small integers are exact: what remains is the rounding of at most eight operations.
    bound = 16 * np.finfo(np.float64).eps
    for condition in conditions:
        found = pairs_of(condition)
        for row, column in itertools.product(range(4), repeat=2):
            wanted = exact(trials[row], trials[column], condition.level)
            for name, value in zip(PAIRED, wanted, strict=True):
                matrix = getattr(found, name)
                assert abs(matrix[row, column] - float(value)) <= bound * max(1, abs(float(value)))
                assert np.array_equal(matrix, matrix.T)


def test_observers_without_a_common_image_have_no_consistency(random_trials: MakeTrials) -> None:
    (trials,) = random_trials(["first"], "edge")
    first, second = part_of(trials, range(8)), part_of(trials, range(8, 16))
    (condition,) = by_condition([first, second])
    found = pairs_of(condition)
    assert np.isnan(found.observed_consistency[0, 1]) and np.isnan(found.error_consistency[0, 1])
    assert np.isnan(found.accuracy_difference[0, 1]) and found.accuracy_difference[0, 0] == 0


def test_people_are_compared_with_the_others() -> None:
    values = np.arange(12, dtype=np.float64).reshape(4, 3)  # of four observers and the people in rows 1 to 3
    assert mean_over_people(values, [1, 2, 3]).tolist() == [1.0, 4.5, 7.0, 9.5]
    assert np.isnan(mean_over_people(np.ones((2, 1)), [1]))[1]  # nobody else
    assert np.isnan(mean_over_people(np.ones((2, 0)), [])).all()


@pytest.mark.parametrize("partial", [False, True])
def test_images_are_resampled_within_conditions(partial: bool, random_trials: MakeTrials) -> None:
    trials = random_trials(["first", "second", "subject-01", "subject-02", "subject-03"], "contrast", per_cell=2)
    if partial:  # in the second and third of the conditions, which have 32 images each
        trials[1] = part_of(trials[1], range(40, 84))
        trials[4] = part_of(trials[4], range(50, 96))
    conditions, people, draws = by_condition(trials)[1:3], [2, 3, 4], 5
    found = resample_images(conditions, people, draws, seed=3)
    wanted = {name: np.zeros((draws, 5)) for name in NUMBERS}
    for row, condition, generator in (
        (row, condition, generator)
        for row in range(5)
        for generator in [np.random.default_rng(3)]
        for condition in conditions
    ):
        own = np.flatnonzero(condition.seen[row])
        for draw, chosen in enumerate(generator.integers(len(own), size=(draws, len(own)))):
            columns = own[chosen]
            again = condition._replace(seen=condition.seen[:, columns], right=condition.right[:, columns])
            numbers = pairs_of(again)
            wanted["accuracy"][draw, row] += again.accuracy[row] / 2
            for name in PAIRED:
                wanted[name][draw, row] += mean_over_people(getattr(numbers, name)[:, people], people)[row] / 2
    for name in NUMBERS:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-14)


def test_the_resamples_of_an_observer_do_not_depend_on_other_networks(random_trials: MakeTrials) -> None:
    trials = random_trials(["first", "part", "subject-01", "subject-02", "subject-03"], "contrast", per_cell=2)
    first, part, *people = trials
    part = part_of(part, range(40, 84))
    few = [part_of(one, range(40, 84)) for one in people]  # the union of all images is then that of the network
    numbers = {}
    for among in ([part, *people], [first, part, *people], [part, *few]):
        own, rows = among.index(part), list(range(len(among) - 3, len(among)))
        conditions = by_condition(among)
        conditions = [one for one in conditions if one.level in ("c50", "c30")]
        images = resample_images(conditions, rows, 50)
        pairs = {name: np.mean([getattr(pairs_of(one), name) for one in conditions], axis=0) for name in PAIRED}
        over_people = resample_people(pairs, rows, 50)
        found = [*(images[name][:, own] for name in NUMBERS), *(over_people[name][:, own] for name in PAIRED)]
        numbers[len(numbers)] = np.stack(found)
    assert not np.isnan(numbers[0]).any() and (numbers[0].std(axis=1) > 0).all()
    for other in (1, 2):
        np.testing.assert_allclose(numbers[other], numbers[0], rtol=0, atol=1e-14)


def test_an_observer_without_images_of_a_condition_has_no_resamples(random_trials: MakeTrials) -> None:
    first, second = random_trials(["first", "subject-01"], "contrast", per_cell=2)
    conditions = by_condition([part_of(first, range(32)), second])[:2]
    drawn = resample_images(conditions, [1], 3)
    assert np.isnan(drawn["accuracy"][:, 0]).all() and not np.isnan(drawn["accuracy"][:, 1]).any()


def test_people_are_resampled() -> None:
    matrix = np.array([[1.0, 0.2, 0.6], [0.2, 1.0, 0.5], [0.6, 0.5, 1.0]])
    drawn = resample_people({"error_consistency": matrix}, [1, 2], draws=4000)["error_consistency"]
    # A network with two people: both are the one, both the other, or one each.
    values, counts = np.unique(drawn[:, 0].round(12), return_counts=True)
    assert values.tolist() == [0.2, 0.4, 0.6]
    # Six standard deviations of binomial counts.
    assert (abs(counts - np.array([1000, 2000, 1000])) < 6 * np.sqrt([750, 1000, 750])).all()
    assert intervals(drawn)[0] == pytest.approx((0.2, 0.6), abs=1e-15)
    assert intervals(drawn)[1:] == [None, None]  # a person with only one other


def test_ranks_share_ties() -> None:
    scores = [(0.1, 0.7, 0.3), (0.2, 0.8, 0.3), (0.3, 0.6, 0.1)]
    # By the difference 1, 2, 3; by the observed consistency 2, 1, 3; by the error consistency 1.5, 1.5, 3.
    assert mean_ranks(scores) == pytest.approx([4.5 / 3, 4.5 / 3, 3], abs=1e-15)
    assert math.isnan(*mean_ranks([(0.1, 0.2, 0.3)]))  # a single network has no rank
    assert mean_ranks([]) == []
    assert all(map(math.isnan, mean_ranks([(0.1, 0.2, math.nan), (0.1, 0.2, 0.3)])))
