"""The bootstrap over images."""

from __future__ import annotations

import math

import numpy as np
import pytest

from replk_probe.reliance import statistics
from replk_probe.reliance.statistics import interval, mean_by_method, ratios, resampled_correct


def test_samples_are_drawn_with_replacement_and_are_the_same_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = np.random.default_rng(1).random((3, 40)) < 0.6
    random = np.random.default_rng(0)
    drawn = random.integers(40, size=(50, 40))
    expected = correct[:, drawn].sum(2).T
    np.testing.assert_array_equal(resampled_correct(correct, 50), expected)
    monkeypatch.setattr(statistics, "_CHUNK", 100)  # two samples at a time
    np.testing.assert_array_equal(resampled_correct(correct, 50), expected)


def test_the_interval_of_an_accuracy_is_that_of_a_binomial_distribution() -> None:
    count = 400
    correct = (np.arange(count) % 2 == 0)[None]
    low, high = interval(resampled_correct(correct)[:, 0] / count)
    deviation = math.sqrt(0.25 / count)
    # Five standard errors of a percentile of 2000 samples, with the density of the normal distribution there, and one
    # image, by which the distribution is not continuous.
    error = 5 * math.sqrt(0.025 * 0.975 / statistics.DRAWS) / 0.0584 * deviation + 1 / count
    assert abs(low - (0.5 - 1.96 * deviation)) < error and abs(high - (0.5 + 1.96 * deviation)) < error


def test_equal_decisions_have_a_ratio_of_one_without_an_error() -> None:
    row = np.random.default_rng(0).random(60) < 0.5
    drawn = ratios(resampled_correct(np.stack([row, row, ~row])))
    assert interval(drawn[:, 0]) == (1.0, 1.0)
    low, high = interval(drawn[:, 1])
    assert low < (~row).sum() / row.sum() < high


def test_without_correct_decisions_ratios_are_undefined() -> None:
    correct = np.zeros((2, 5), bool)
    correct[1, 0] = True
    assert np.isnan(ratios(correct.sum(1).astype(float))).all()
    assert interval(ratios(resampled_correct(correct))[:, 0]) is None


@pytest.mark.parametrize("undefined", [1, 50, 51, 2000])
def test_a_few_undefined_samples_do_not_count(undefined: int) -> None:
    values = np.random.default_rng(0).random(2000)
    values[:undefined] = np.nan
    expected = tuple(np.quantile(values[undefined:], (0.025, 0.975))) if undefined <= 50 else None
    assert interval(values) == (expected and pytest.approx(expected, rel=1e-12))


def test_each_method_counts_once_in_the_mean_of_a_cue() -> None:
    values = np.array([[0.2, 0.4, 0.9, 0.5]])
    assert mean_by_method(values, ["a", "a", "b", "c"], [0, 1, 2]) == pytest.approx([(0.3 + 0.9) / 2])
