from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from replk_probe.erf.area_protocols import PROTOCOLS, AreaRatio, area_ratio, area_ratios, logarithm_note
from replk_probe.erf.jackknife import jackknife
from replk_probe.errors import InvalidInputError

TABLE = (0.2, 0.3, 0.5, 0.99)
SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (4, 2), (6, 4), (7, 7), (8, 8), (12, 9), (9, 12), (31, 10), (40, 40)]


def gaussian(sigma: float, size: int = 1024, offset: float = 0.0) -> np.ndarray:
    grid = np.arange(size) - (size // 2 + offset)
    profile = np.exp(-(grid**2) / (2 * sigma**2))
    return np.outer(profile, profile)


def slow_windows(data: np.ndarray, threshold: float) -> tuple[float, float]:
    """The published rule, one window at a time, and the clipped square where that rule ends or wraps around."""
    height, width = data.shape
    total = np.sum(data)
    for i in range(1, height + width):
        top, left = height // 2 - i, width // 2 - i
        window = data[max(top, 0) : height // 2 + 1 + i, max(left, 0) : width // 2 + 1 + i]
        if np.sum(window) / total > threshold:
            if i < height // 2 and left >= 0:
                return 2 * i + 1, min((2 * i + 1) / height * (2 * i + 1) / width, 1.0)
            return max(window.shape), window.size / data.size
    return max(data.shape), 1.0


def slow_centred(data: np.ndarray, threshold: float, center: tuple[float, float]) -> tuple[float, float]:
    height, width = data.shape
    y, x = np.mgrid[:height, :width]
    distance = np.maximum(abs(y - center[0]), abs(x - center[1]))
    for radius in np.unique(distance):
        inside = distance <= radius
        rows, columns = inside.any(1).sum(), inside.any(0).sum()
        if max(rows, columns) == 1 and data.size > 1:
            continue
        if data[inside].sum() / data.sum() > threshold:
            return max(rows, columns), rows * columns / data.size
    raise AssertionError("the whole map holds everything")


def slow_pixels(data: np.ndarray, threshold: float) -> tuple[float, float]:
    held, count = 0.0, 0
    for value in sorted(data.ravel(), reverse=True):
        held, count = held + value, count + 1
        if held / data.sum() > threshold:
            break
    return math.sqrt(count), count / data.size


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_windows_equal_a_literal_loop(shape, scale):
    rng = np.random.default_rng(shape[0] * 100 + shape[1])
    for power in (1, 6):
        scores = scale * rng.random(shape) ** power
        logs = np.log1p(scores) / np.log(10)
        for threshold in (0.01, *TABLE, 0.9, 0.999):
            assert area_ratio(scores, threshold, "paper") == slow_windows(logs / logs.max(), threshold)
            assert area_ratio(scores, threshold, "linear") == slow_windows(scores / scores.max(), threshold)


def test_every_small_shape_has_an_answer_that_grows_with_the_threshold():
    rng = np.random.default_rng(0)
    for height in range(1, 13):
        for width in range(1, 13):
            scores = rng.random((height, width)) ** 3
            for protocol in PROTOCOLS:
                answers = [area_ratio(scores, t, protocol) for t in (1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-15)]
                ratios = [answer.ratio for answer in answers]
                assert ratios == sorted(ratios)
                assert 0 < ratios[0] and ratios[-1] <= 1
                assert all(0 < answer.side <= max(height, width) for answer in answers)


@pytest.mark.parametrize("shape", SHAPES)
def test_centred_equals_a_literal_search(shape):
    rng = np.random.default_rng(5)
    height, width = shape
    scores = rng.random(shape) ** 4
    centers = [(height // 2, width // 2), (height / 2 - 0.5, width / 2 - 0.5), (0.3 * height, 0.7 * width - 0.5)]
    for center in [*centers, (0.0, width - 1.0), (-0.5, width - 0.5)]:
        for threshold in TABLE:
            assert area_ratio(scores, threshold, "centred", center) == pytest.approx(
                slow_centred(scores, threshold, center)
            )


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_equal_a_literal_count(shape):
    scores = np.random.default_rng(2).random(shape) ** 4
    for threshold in TABLE:
        assert area_ratio(scores, threshold, "pixels") == pytest.approx(slow_pixels(scores, threshold))


# Answers of the published script itself: side at each of the four thresholds; the ratio is (side / 1024) ** 2.
SCALE_EFFECT_SIGMA_60 = {
    0.001: (73, 91, 127, 337),
    0.01: (73, 91, 127, 337),
    0.1: (73, 93, 129, 339),
    1.0: (77, 99, 135, 345),
    10.0: (93, 117, 159, 369),
    50.0: (107, 135, 183, 397),
    100.0: (115, 143, 193, 411),
    1000.0: (135, 167, 225, 457),
    10000.0: (153, 189, 255, 505),
}
OFFSET_EFFECT = {
    (20, 0.0): (25, 31, 43, 113),
    (20, 15.5): (33, 41, 55, 135),
    (40, 0.0): (49, 61, 85, 225),
    (40, 15.5): (53, 65, 91, 241),
    (80, 0.0): (95, 121, 169, 449),
    (80, 15.5): (97, 123, 173, 459),
    (160, 0.0): (191, 241, 337, 873),
    (160, 15.5): (191, 243, 339, 877),
}


@pytest.mark.parametrize("scale", SCALE_EFFECT_SIGMA_60)
def test_paper_depends_on_the_scale_as_the_script_does_and_linear_does_not(scale):
    answers = area_ratios(scale * gaussian(60), TABLE, ("paper", "linear"))
    expected = SCALE_EFFECT_SIGMA_60[scale]
    assert [answers["paper", t] for t in TABLE] == [(side, (side / 1024) ** 2) for side in expected]
    assert [answers["linear", t].side for t in TABLE] == [73, 91, 127, 337]


@pytest.mark.parametrize(("sigma", "offset"), OFFSET_EFFECT)
def test_a_shifted_map_inflates_paper_as_in_the_script_but_not_centred(sigma, offset):
    # The script's numbers were taken where the logarithm is linear.
    scores = 1e-6 * gaussian(sigma, offset=offset)
    center = (512 + offset, 512 + offset)
    answers = area_ratios(scores, TABLE, ("paper", "linear", "centred"), center)
    expected = [(side, (side / 1024) ** 2) for side in OFFSET_EFFECT[sigma, offset]]
    assert [answers["paper", t] for t in TABLE] == expected
    assert [answers["linear", t] for t in TABLE] == expected
    for t, unshifted in zip(TABLE, OFFSET_EFFECT[sigma, 0.0], strict=True):
        assert abs(answers["centred", t].side - unshifted) <= 3


@pytest.mark.parametrize(
    ("shape", "threshold", "expected"),
    [
        ((96, 48), 0.2, (31, 0.20855034722222224)),
        ((96, 48), 0.3, (39, 0.330078125)),
        ((96, 48), 0.5, (49, 0.5210503472222222)),
        ((48, 96), 0.2, (31, 0.20855034722222224)),
        ((48, 96), 0.3, (39, 0.330078125)),
        ((128, 32), 0.2, (29, 0.205322265625)),
        ((32, 128), 0.2, (29, 0.205322265625)),
        ((1024, 512), 0.2, (325, 0.2014636993408203)),
        ((1024, 512), 0.3, (397, 0.3006153106689453)),
        ((1024, 512), 0.5, (513, 0.5019550323486328)),
        # The script has no answer below, or one whose window wraps around (side 69, ratio 1.16 at 0.3 on 128 x 32).
        ((128, 32), 0.3, (39, 39 / 128)),
        ((128, 32), 0.99, (127, 127 / 128)),
        ((32, 128), 0.5, (65, 65 / 128)),
        ((48, 96), 0.99, (96, 1.0)),
        ((96, 48), 0.99, (96, 1.0)),
        ((198, 198), 0.99, (198, 1.0)),
        ((200, 200), 0.99, (199, 199 / 200 * 199 / 200)),
        ((397, 397), 0.99, (397, 1.0)),
        ((399, 399), 0.99, (397, 397 / 399 * 397 / 399)),
    ],
)
def test_uniform_maps(shape, threshold, expected):
    for value in (1.0, 0.1, 1e-300, 1e300):
        for protocol in ("paper", "linear"):
            assert area_ratio(np.full(shape, value), threshold, protocol) == expected


def test_ties_are_strictly_above_the_threshold():
    assert area_ratio(np.ones((10, 10)), 0.25, "pixels") == AreaRatio(math.sqrt(26), 0.26)
    assert area_ratio(np.ones((10, 10)), 0.25, "linear") == (7, 7 / 10 * 7 / 10)  # the square of 5 holds exactly 0.25
    assert area_ratio(0.3 * np.ones((6, 6)), 0.25, "paper").side == 5


def test_a_single_pixel_in_the_middle():
    scores = np.zeros((64, 64))
    scores[32, 32] = 7.0
    assert {key[0]: answer for key, answer in area_ratios(scores, (0.99,)).items()} == {
        "paper": (3, 9 / 4096),
        "linear": (3, 9 / 4096),
        "centred": (3, 9 / 4096),
        "pixels": (1, 1 / 4096),
    }
    assert area_ratio(scores, 0.99, "centred", (32.5, 32.5)) == (2, 4 / 4096)


def test_centred_windows_have_even_sides_half_way_between_pixels():
    scores = np.zeros((64, 64))
    scores[20:24, 30:34] = 1.0
    assert area_ratio(scores, 0.5, "centred", (21.5, 31.5)) == (4, 16 / 4096)
    assert area_ratio(scores, 0.2, "centred", (21.5, 31.5)) == (2, 4 / 4096)
    # Clipped at the border: rows 0..3 of a window of side 8 around row -0.5.
    scores = np.zeros((64, 64))
    scores[:4, 28:36] = 1.0
    assert area_ratio(scores, 0.99, "centred", (-0.5, 31.5)) == (8, 32 / 4096)


def test_pixels_ignore_where_the_pixels_lie():
    scores = np.random.default_rng(3).random((20, 30))
    shuffled = np.random.default_rng(4).permutation(scores.ravel()).reshape(30, 20)
    for threshold in TABLE:
        assert area_ratio(scores, threshold, "pixels") == area_ratio(shuffled, threshold, "pixels")


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 3.7, 1e30, 1e300])
@pytest.mark.parametrize("protocol", ["linear", "centred", "pixels"])
def test_scale_free_protocols(protocol, factor):
    scores = np.random.default_rng(1).random((33, 47)) ** 5
    for threshold in TABLE:
        assert area_ratio(factor * scores, threshold, protocol) == area_ratio(scores, threshold, protocol)


@pytest.mark.parametrize("factor", [1e-17, 1e-300, 5e-324])
def test_the_logarithm_is_accurate_for_scores_much_smaller_than_one(factor):
    scores = factor * gaussian(5, 64)
    assert area_ratio(scores, 0.5, "paper") == area_ratio(scores, 0.5, "linear")


def test_a_map_too_small_for_the_logarithm_is_noted():
    scores = gaussian(5, 64)
    assert logarithm_note(scores) is None
    small = logarithm_note(1e-4 * scores)
    assert small is not None and "0.0001" in small and "linear" in small and "no number" not in small
    vanishing = logarithm_note(1e-20 * scores)
    assert vanishing is not None and "no number" in vanishing


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((8, 8)), "zero everywhere"),
        (np.full((8, 8), np.nan), "not finite"),
        (np.where(np.eye(8) > 0, np.inf, 1.0), "8 of 64"),
        (-np.ones((8, 8)), "negative"),
        (np.ones(()), "shape []"),
        (np.ones((1, 1, 8, 8)), "shape [1, 1, 8, 8]"),
        (np.ones((0, 8)), "shape [0, 8]"),
        (np.full((2, 2), "a"), "real numbers"),
    ],
)
def test_maps_without_an_answer_are_errors(protocol, scores, message):
    with pytest.raises(InvalidInputError, match=message.replace("[", r"\[")):
        area_ratio(scores, 0.5, protocol)


@pytest.mark.parametrize("threshold", [0, 1, 1.5, -0.1, math.nan, math.inf, "half", None])
def test_thresholds_outside_0_1_are_errors(threshold):
    with pytest.raises(InvalidInputError, match=f"Threshold {threshold}"):
        area_ratio(np.ones((8, 8)), threshold)


@pytest.mark.parametrize("center", [(-1, 3), (3, 8), (3,), (math.nan, 3), "ab", (1, 2, 3)])
def test_centers_outside_the_map_are_errors(center):
    with pytest.raises(InvalidInputError, match="The center"):
        area_ratio(np.ones((8, 8)), 0.5, "centred", center)


def test_an_unknown_protocol_is_an_error_that_names_the_known_ones():
    with pytest.raises(InvalidInputError, match=r"'square'.*paper, linear, centred, pixels"):
        area_ratio(np.ones((8, 8)), 0.5, "square")


def test_the_caller_s_array_is_left_alone():
    scores = np.random.default_rng(0).random((16, 16))
    before = scores.copy()
    area_ratios(scores)
    assert (scores == before).all()


def test_further_thresholds_take_no_further_pass_over_the_map(monkeypatch):
    passes = []

    def counted(function):
        return lambda *args, **kwargs: (passes.append(function.__name__), function(*args, **kwargs))[1]

    monkeypatch.setattr(np, "bincount", counted(np.bincount))
    monkeypatch.setattr(np, "sort", counted(np.sort))
    scores = gaussian(6, 64)
    area_ratios(scores, TABLE)  # which windows there are is found once for every shape
    passes.clear()
    area_ratios(scores, np.linspace(0.01, 0.99, 99))
    assert sorted(passes) == ["bincount"] * 3 + ["sort"]


# -- intervals --


def slow_crossing(scores: np.ndarray, threshold: float, protocol: str, center: tuple[float, float]) -> float:
    """The ratio at which the share crosses the threshold, interpolated between windows that grow one by one."""
    if protocol == "pixels":
        return area_ratio(scores, threshold, protocol).ratio
    data = np.log10(scores + 1) if protocol == "paper" else scores
    y, x = center if protocol == "centred" else (scores.shape[0] // 2, scores.shape[1] // 2)
    rows, columns = np.indices(scores.shape)
    distance = np.maximum(abs(rows - y), abs(columns - x))
    shares, areas = [], []
    for reach in np.unique(distance):
        shares.append(data[distance <= reach].sum() / data.sum())
        areas.append((distance <= reach).mean())
    assert shares[0] < threshold  # no map of these tests is answered by its smallest window
    return float(np.interp(threshold, shares, areas))


def test_jackknife_of_equal_blocks_is_the_textbook_formula():
    rng = np.random.default_rng(0)
    maps = rng.random((6, 12, 12)) ** 4
    intervals = jackknife(maps, [1] * 6, TABLE, center=(5.5, 5.5))
    assert list(intervals) == [(protocol, t) for protocol in PROTOCOLS for t in TABLE]
    for (protocol, t), interval in intervals.items():
        estimate = area_ratio(maps.mean(0), t, protocol, (5.5, 5.5)).ratio
        without = [slow_crossing(np.delete(maps, i, 0).mean(0), t, protocol, (5.5, 5.5)) for i in range(6)]
        error = 2.5705818366147395 * math.sqrt(5 / 6 * np.sum((without - np.mean(without)) ** 2))
        assert interval == pytest.approx((max(estimate - error, 0), min(estimate + error, 1)))


def test_the_jackknife_resolves_differences_below_one_pixel():
    maps = np.stack([gaussian(8 + 0.01 * i, 64) for i in range(20)])
    for low, high in jackknife(maps, [1] * 20, TABLE, protocols=("paper", "linear", "centred")).values():
        assert high > low


def test_jackknife_of_unequal_blocks_is_the_weighted_formula():
    rng = np.random.default_rng(1)
    counts = [3, 3, 2, 2, 1]
    blocks = [rng.random((count, 10, 10)) ** 3 for count in counts]
    sums = np.stack([block.sum(0) for block in blocks])
    n, g = 11, 5
    estimate = area_ratio(sums.sum(0) / n, 0.5, "pixels").ratio
    without = [area_ratio((sums.sum(0) - sums[j]) / (n - m), 0.5, "pixels").ratio for j, m in enumerate(counts)]
    center = g * estimate - sum((1 - m / n) * w for m, w in zip(counts, without, strict=True))
    variance = 0.0
    for m, w in zip(counts, without, strict=True):
        h = n / m
        variance += ((h * estimate - (h - 1) * w) - center) ** 2 / (h - 1) / g
    error = 2.7764451051977934 * math.sqrt(variance)
    (interval,) = jackknife(sums, counts, (0.5,), protocols=("pixels",)).values()
    assert interval == pytest.approx((estimate - error, estimate + error))
    # A block without images changes nothing.
    padded = jackknife(np.concatenate([sums, np.zeros((1, 10, 10))]), [*counts, 0], (0.5,), protocols=("pixels",))
    assert list(padded.values()) == [interval]


@pytest.mark.parametrize("protocol", ["paper", "linear", "pixels"])
def test_jackknife_coverage_is_about_nominal(protocol):
    # Gaussians of random width, much wider than a pixel, whose mean map is known.
    offsets = np.arange(65) - 32

    def maps(widths: np.ndarray) -> np.ndarray:
        lines = np.exp(-(offsets**2) / (2 * widths[:, None] ** 2))
        return lines[:, :, None] * lines[:, None, :]

    truth = area_ratio(maps(np.linspace(3, 15, 1001)).mean(0), 0.5, protocol).ratio
    rng = np.random.default_rng(7)
    hits, trials = 0, 60
    for _ in range(trials):
        (interval,) = jackknife(maps(rng.uniform(3, 15, 20)), [1] * 20, (0.5,), protocols=(protocol,)).values()
        assert interval is not None
        hits += interval[0] <= truth <= interval[1]
    # Intervals that cover the truth 95 times in 100 do worse than this once in a thousand times.
    assert hits >= binom.ppf(0.001, trials, 0.95)


def test_jackknife_is_clipped_and_null_where_there_is_no_answer():
    rng = np.random.default_rng(2)
    wild = rng.random((3, 8, 8)) ** 9 * np.array([1, 10, 100]).reshape(3, 1, 1)
    for interval in jackknife(wild, [1, 1, 1]).values():
        assert interval is not None
        assert 0 <= interval[0] <= interval[1] <= 1
    one = rng.random((1, 8, 8))
    assert set(jackknife(one, [5]).values()) == {None}
    half_empty = np.concatenate([one, np.zeros((1, 8, 8))])
    assert set(jackknife(half_empty, [1, 1]).values()) == {None}


@pytest.mark.parametrize(("shape", "counts"), [((2, 4, 4), [1]), ((4, 4), [1]), ((1, 4, 4), [0]), ((2, 4, 4), [1, -1])])
def test_jackknife_refuses_blocks_that_do_not_fit(shape, counts):
    with pytest.raises(InvalidInputError, match="Block sums"):
        jackknife(np.ones(shape), counts)
