"""Properties of area ratios that hold for every map, center and threshold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from replk_probe.erf import area_ratio, area_ratios

WINDOWS = ("paper", "linear", "centred")
PROTOCOLS = (*WINDOWS, "pixels")
MOST = 2**10

# Sixteenths are where windows of maps of zeros and ones hold the share exactly, which is not yet more than the share.
thresholds = st.one_of(st.floats(0.001, 0.999), st.integers(1, 15).map(lambda n: n / 16))
any_side = st.integers(1, 14)
odd_side = st.integers(0, 7).map(lambda half: 2 * half + 1)


def maps(sides: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    """Maps of whole numbers whose maximum is a power of two.

    Sums of them are exact in every order, also after the division by the maximum, so that ties are ties.
    """
    numbers = st.sampled_from([st.integers(0, MOST), st.sampled_from([0, MOST]), st.just(MOST)])
    values = st.tuples(sides, sides, numbers).flatmap(
        lambda drawn: arrays.arrays(np.float64, drawn[:2], elements=drawn[2].map(float))
    )

    def with_maximum(values: np.ndarray, place: int) -> np.ndarray:
        values = values.copy()
        values.flat[place % values.size] = MOST
        return values

    return st.builds(with_maximum, values, st.integers(0, 10**6))


@st.composite
def maps_with_centers(draw: Any) -> tuple[np.ndarray, tuple[float, float]]:
    scores = draw(maps(any_side))
    height, width = scores.shape
    # Quarters of pixels: distances to pixels are exact.
    return scores, (draw(st.integers(-2, 4 * height - 2)) / 4, draw(st.integers(-2, 4 * width - 2)) / 4)


def smallest_window(scores: np.ndarray, threshold: float, center: tuple[float, float]) -> tuple[int, float]:
    """The definition, one window at a time: the first with more than one pixel that holds more than the share."""
    distance = np.maximum(*np.abs(np.indices(scores.shape) - np.reshape(center, (2, 1, 1))))
    for radius in np.unique(distance):
        rows, columns = (len(np.unique(pixels)) for pixels in np.nonzero(distance <= radius))
        held = scores[distance <= radius].sum() / scores.sum()
        if held > threshold and (rows * columns > 1 or scores.size == 1):
            return max(rows, columns), rows * columns / scores.size
    raise AssertionError("the whole map holds everything")


@given(maps_with_centers(), thresholds)
def test_centred_is_the_smallest_window_around_the_center(drawn, threshold):
    scores, center = drawn
    assert area_ratio(scores, threshold, "centred", center) == smallest_window(scores, threshold, center)


@given(maps(odd_side), thresholds)
def test_linear_is_the_smallest_square_around_the_middle(scores, threshold):
    side, ratio = smallest_window(scores, threshold, (scores.shape[0] // 2, scores.shape[1] // 2))
    assert area_ratio(scores, threshold, "linear") == (side, pytest.approx(ratio))


@given(maps(any_side), thresholds)
def test_pixels_is_the_smallest_set(scores, threshold):
    shares = np.cumsum(np.sort(scores, axis=None)[::-1]) / scores.sum()
    count = next(count for count, share in enumerate(shares, 1) if share > threshold)
    assert area_ratio(scores, threshold, "pixels") == (math.sqrt(count), count / scores.size)


@given(maps(any_side), st.lists(thresholds, min_size=2, max_size=6))
def test_a_larger_share_never_takes_a_smaller_area(scores, thresholds):
    answers = area_ratios(scores, sorted(thresholds))
    for protocol in PROTOCOLS:
        found = [answers[protocol, threshold] for threshold in sorted(thresholds)]
        assert found == sorted(found)
        assert all(0 < ratio <= 1 and 0 < side <= max(scores.shape) for side, ratio in found)


@given(maps_with_centers(), thresholds, st.integers(-900, 900))
def test_only_paper_depends_on_the_scale(drawn, threshold, exponent):
    scores, center = drawn
    protocols = ("linear", "centred", "pixels")
    scaled = area_ratios(scores * 2.0**exponent, (threshold,), protocols, center)
    assert scaled == area_ratios(scores, (threshold,), protocols, center)


@given(arrays.arrays(np.float64, (21, 21), elements=st.floats(1e-3, 1e3)), thresholds, st.sampled_from(WINDOWS))
def test_the_window_holds_the_share_and_the_next_smaller_one_does_not(scores, threshold, protocol):
    side = int(area_ratio(scores, threshold, protocol).side)
    values = np.log10(scores + 1) if protocol == "paper" else scores

    def share(half: int) -> float:
        return float(values[10 - half : 11 + half, 10 - half : 11 + half].sum() / values.sum())

    assert side % 2 == 1
    assert share(side // 2) > threshold - 1e-12
    assert side == 3 or share(side // 2 - 1) <= threshold + 1e-12


@given(maps(any_side), thresholds, st.randoms(use_true_random=False))
def test_where_the_pixels_lie_does_not_matter_to_their_number(scores, threshold, random):
    order = list(range(scores.size))
    random.shuffle(order)
    shuffled = scores.ravel()[order].reshape(scores.shape)
    assert area_ratio(shuffled, threshold, "pixels") == area_ratio(scores, threshold, "pixels")
    # Any set of pixels that holds the share, a window among them, is at least as large as the smallest.
    assert area_ratio(scores, threshold, "pixels").ratio <= area_ratio(scores, threshold, "centred").ratio
