"""Numbers of contribution maps, against values derived on paper."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from replk_probe.erf import erf_numbers
from replk_probe.erf.gaussian_fit import fit_gaussian
from replk_probe.erf.jackknife import Blocks
from replk_probe.erf.map_statistics import statistics_of
from replk_probe.errors import InvalidInputError

# Of the six published maps: center of mass and standard deviation, (y, x) in pixels, and exp(entropy) / area.
PUBLISHED = {
    "resnet101.a1_in1k": (102.4, 103.7, 53.3, 52.5, 0.840),
    "swin_tiny_patch4_window7_224.ms_in1k": (110.5, 110.0, 60.1, 59.7, 0.834),
    "deit_small_patch16_224.fb_in1k": (107.5, 109.5, 57.5, 58.5, 0.688),
    "xcit_tiny_12_p16_224.fb_in1k": (106.1, 107.5, 54.2, 54.8, 0.697),
    "beit_base_patch16_384.in22k_ft_in22k_in1k": (185.5, 187.8, 91.1, 93.0, 0.604),
    "swinv2_cr_small_ns_224.sw_in1k": (89.4, 134.2, 67.9, 65.8, 0.522),
}


def gaussian(shape, center, sigma, angle=0.0, amplitude=1.0) -> np.ndarray:
    y, x = (positions - middle for positions, middle in zip(np.indices(shape), center, strict=True))
    turn = math.radians(angle)
    u, v = y * math.cos(turn) - x * math.sin(turn), x * math.cos(turn) + y * math.sin(turn)
    return amplitude * np.exp(-((u / sigma[0]) ** 2) / 2 - (v / sigma[1]) ** 2 / 2)


def single(shape, place) -> np.ndarray:
    scores = np.zeros(shape)
    scores[place] = 3.0
    return scores


def test_a_single_pixel() -> None:
    numbers = erf_numbers(single((8, 11), (2, 9)), (0.2, 0.99))
    assert numbers.center_of_mass == numbers.peak == (2, 9) and all(type(value) is int for value in numbers.peak)
    assert numbers.center_offset == (-2, 4)
    assert numbers.standard_deviation == (0, 0) and numbers.standard_deviation_ratio is None
    assert numbers.effective_area == pytest.approx(1 / 88)
    # The distance from the center (4, 5) is sqrt(20) = 4.47, so that radius 5 is the first one with the pixel.
    assert [share for _, share in numbers.radial_share] == [0] * 5 + [1] * 3
    assert [radius for radius, _ in numbers.radial_share] == [*range(8)]  # the farthest corner is sqrt(41) away
    assert numbers.radial_area == pytest.approx(2.5 / 7)
    assert numbers.threshold_radii == ((0.2, pytest.approx(4.2)), (0.99, pytest.approx(4.99)))
    assert numbers.border_share == 0 and numbers.gaussian is None


def test_a_single_pixel_at_the_center_or_on_the_border() -> None:
    numbers = erf_numbers(single((9, 9), (4, 4)))
    assert numbers.radial_area == 1 and {share for _, share in numbers.radial_share} == {1}
    assert {radius for _, radius in numbers.threshold_radii} == {0}
    for place in ((0, 0), (0, 5), (8, 8), (3, 0), (3, 8), (8, 2), (0, 8), (8, 0)):
        assert erf_numbers(single((9, 9), place)).border_share == 1


@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (9, 12), (1, 1), (1, 6), (5, 1), (2, 3)])
def test_a_uniform_map(shape: tuple[int, int]) -> None:
    height, width = shape
    numbers = erf_numbers(np.full(shape, 1e-9))
    assert numbers.center_of_mass == pytest.approx(((height - 1) / 2, (width - 1) / 2))
    assert numbers.standard_deviation == pytest.approx([math.sqrt((side**2 - 1) / 12) for side in shape])
    assert numbers.effective_area == pytest.approx(1)
    assert numbers.border_share == pytest.approx(1 - max(height - 2, 0) * max(width - 2, 0) / (height * width))
    y, x = np.indices(shape)
    distances = np.hypot(y - height // 2, x - width // 2)
    for radius, share in numbers.radial_share:
        assert share == pytest.approx((distances <= radius).mean())
    assert numbers.radial_share[-1] == (math.ceil(distances.max()), 1)
    assert numbers.peak == (0, 0) and numbers.gaussian is None


def test_a_disk() -> None:
    y, x = np.indices((201, 201))
    numbers = erf_numbers((np.hypot(y - 100, x - 100) <= 50).astype(float), (0.25, 0.81))
    assert numbers.center_of_mass == pytest.approx((100, 100)) and numbers.center_offset == pytest.approx((0, 0))
    # Second moments of a disk are r^2 / 4 along each axis, and the share within a radius is its square.
    assert numbers.standard_deviation == pytest.approx((25, 25), rel=2e-3)
    assert numbers.standard_deviation_ratio == pytest.approx(1)
    assert numbers.effective_area == pytest.approx(math.pi * 50**2 / 201**2, rel=2e-3)
    assert [radius for _, radius in numbers.threshold_radii] == pytest.approx([25, 45], abs=0.5)
    assert numbers.radial_share[50][1] == 1 > numbers.radial_share[49][1]
    # One minus the mean distance, two thirds of the radius, relative to the largest radius.
    assert numbers.radial_area == pytest.approx(1 - 100 / 3 / 142, abs=4e-3)


@pytest.mark.parametrize(("shape", "center"), [((64, 64), (30.0, 33.0)), ((65, 90), (31.5, 47.25))])
@pytest.mark.parametrize(
    ("sigma", "angle"),
    [((8.0, 5.0), 0.0), ((5.0, 8.0), 0.0), ((4.0, 9.0), 30.0), ((9.0, 4.0), -40.0), ((2.0, 9.0), 44.0)],
)
def test_a_gaussian_is_found(shape, center, sigma, angle) -> None:
    fit = erf_numbers(gaussian(shape, center, sigma, angle, 1e-7)).gaussian
    assert fit is not None
    assert fit.amplitude == pytest.approx(1e-7) and fit.center == pytest.approx(center)
    assert fit.sigma == pytest.approx(sigma) and fit.angle == pytest.approx(angle, abs=1e-5)
    assert fit.r_squared == pytest.approx(1)


def test_the_moments_of_a_separable_gaussian() -> None:
    numbers = erf_numbers(gaussian((101, 121), (50, 60), (6, 9)), center=(50, 60))
    assert numbers.center_of_mass == pytest.approx((50, 60)) and numbers.peak == (50, 60)
    assert numbers.standard_deviation == pytest.approx((6, 9), rel=1e-6)
    assert numbers.standard_deviation_ratio == pytest.approx(2 / 3)
    # The entropy of a normal distribution is 1 + log(2 pi sigma_y sigma_x).
    assert numbers.effective_area == pytest.approx(math.e * 2 * math.pi * 6 * 9 / (101 * 121), rel=1e-6)


def test_the_radii_of_a_circular_gaussian() -> None:
    numbers = erf_numbers(gaussian((201, 201), (100, 100), (12, 12)), (0.2, 0.5, 0.99))
    for threshold, radius in numbers.threshold_radii:
        assert radius == pytest.approx(12 * math.sqrt(-2 * math.log(1 - threshold)), abs=0.1)


def test_two_peaks() -> None:
    scores = gaussian((64, 64), (20, 20), (4, 4)) + 0.5 * gaussian((64, 64), (20, 44), (4, 4))
    numbers = erf_numbers(scores)
    assert numbers.peak == (20, 20)
    assert numbers.center_of_mass == pytest.approx((20, 28), abs=1e-3)
    assert numbers.standard_deviation == pytest.approx((4, math.hypot(4, 24 * math.sqrt(2) / 3)), rel=1e-3)
    assert numbers.gaussian is not None
    # Both peaks together are fitted worse than the higher one alone, which is 80 % of the sum of squares.
    assert numbers.gaussian.center == pytest.approx((20, 20), abs=0.5) and 0.75 < numbers.gaussian.r_squared < 0.85


def test_a_narrow_peak_on_a_wide_background_is_found() -> None:
    scores = gaussian((96, 96), (70, 30), (2, 3)) + 0.02 * gaussian((96, 96), (40, 50), (30, 30))
    fit = fit_gaussian(scores)
    assert fit is not None and fit.center == pytest.approx((70, 30), abs=0.1)
    assert fit.sigma == pytest.approx((2, 3), rel=0.1)


def test_the_fit_is_the_minimum_of_the_sum_of_squares() -> None:
    generator = np.random.default_rng(0)
    scores = gaussian((40, 50), (18, 27), (5, 8), 25) * generator.exponential(size=(40, 50))
    fit = fit_gaussian(scores)
    assert fit is not None

    def misfit(**changes: float) -> float:
        values = fit._asdict() | {name: value for name, value in changes.items()}
        model = gaussian((40, 50), values["center"], values["sigma"], values["angle"], values["amplitude"])
        return float(((scores - model) ** 2).sum())

    least = misfit()
    assert fit.r_squared == pytest.approx(1 - least / ((scores - scores.mean()) ** 2).sum())
    for step in (-1e-3, 1e-3):
        assert misfit(amplitude=fit.amplitude * (1 + step)) > least and misfit(angle=fit.angle + 100 * step) > least
        for axis in np.eye(2):
            assert misfit(center=fit.center + step * axis) > least
            assert misfit(sigma=fit.sigma * (1 + step * axis)) > least


@pytest.mark.parametrize(
    "scores",
    [
        np.add.outer((np.arange(30) - 15.0) ** 2, (np.arange(30) - 15.0) ** 2),  # a bowl has no maximum
        np.exp(np.add.outer(np.arange(30) / 5, np.zeros(30))),  # a ramp, whose maximum is infinitely far
        np.ones((30, 2)),
    ],
)
def test_maps_without_a_gaussian(scores: np.ndarray) -> None:
    assert erf_numbers(scores).gaussian is None


def close(left: object, right: object) -> bool:
    if left is None or right is None or isinstance(left, int):
        return left == right
    return bool(np.allclose(np.array(left), np.array(right), rtol=1e-9, atol=1e-9))


@pytest.mark.parametrize("scale", [1e-200, 0.3, 1e200])
def test_the_numbers_do_not_depend_on_the_scale(scale: float) -> None:
    scores = gaussian((33, 40), (15, 22), (4, 6), 20) + 0.1
    numbers, scaled = erf_numbers(scores), erf_numbers(scale * scores)
    for field in dataclasses.fields(numbers):
        if field.name != "gaussian":
            assert close(getattr(numbers, field.name), getattr(scaled, field.name)), field.name
    assert numbers.gaussian is not None and scaled.gaussian is not None
    assert scaled.gaussian.amplitude == pytest.approx(scale * numbers.gaussian.amplitude)
    assert scaled.gaussian.sigma == pytest.approx(numbers.gaussian.sigma, rel=1e-5)


def test_the_numbers_turn_with_the_map() -> None:
    scores = np.random.default_rng(0).random((20, 31)) ** 4 + gaussian((20, 31), (8, 12), (3, 6), 15)
    numbers, turned = erf_numbers(scores, center=(7.5, 12)), erf_numbers(scores.T, center=(12, 7.5))
    for name in ("center_of_mass", "center_offset", "standard_deviation", "peak"):
        assert getattr(turned, name) == pytest.approx(getattr(numbers, name)[::-1])
    for name in ("effective_area", "radial_area", "border_share"):
        assert getattr(turned, name) == pytest.approx(getattr(numbers, name))
    assert np.allclose(turned.radial_share, numbers.radial_share)
    assert numbers.gaussian is not None and turned.gaussian is not None
    assert turned.gaussian.sigma == pytest.approx(numbers.gaussian.sigma[::-1], rel=1e-5)
    assert turned.gaussian.angle == pytest.approx(-numbers.gaussian.angle, abs=1e-3)


maps = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(0, 1e6, allow_subnormal=False)
).filter(lambda scores: scores.max() > 0)


@settings(max_examples=40)
@given(maps)
def test_properties_of_every_map(scores: np.ndarray) -> None:
    numbers = erf_numbers(scores, (0.3, 0.7))
    height, width = scores.shape
    share = scores / scores.sum()
    y, x = np.indices(scores.shape)
    assert numbers.center_of_mass == pytest.approx(((share * y).sum(), (share * x).sum()), abs=1e-9)
    assert numbers.standard_deviation[1] == pytest.approx(
        math.sqrt((share * (x - (share * x).sum()) ** 2).sum()), abs=1e-6
    )
    assert 1 / scores.size <= numbers.effective_area * (1 + 1e-9) and numbers.effective_area <= 1
    assert scores[numbers.peak] == scores.max()
    is_inner = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    assert numbers.border_share == pytest.approx(share[~is_inner].sum(), abs=1e-9)
    shares = [one for _, one in numbers.radial_share]
    assert shares == sorted(shares) and shares[-1] == 1
    distances = np.hypot(y - height // 2, x - width // 2)
    assert shares == pytest.approx([share[distances <= radius].sum() for radius in range(len(shares))], abs=1e-9)
    for threshold, radius in numbers.threshold_radii:
        assert np.interp(radius, range(len(shares)), shares) >= threshold - 1e-9
        assert radius == 0 or np.interp(radius - 1e-6, range(len(shares)), shares) < threshold
    means = [(first + second) / 2 for first, second in pairwise(shares)]
    assert numbers.radial_area == pytest.approx(np.mean(means) if means else 1)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (np.zeros((4, 4)), "zero everywhere"),
        (-np.ones((4, 4)), "negative values"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.ones((1, 1, 4, 4)), "have shape"),
    ],
)
def test_a_map_without_numbers_is_refused(scores: np.ndarray, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        erf_numbers(scores)


def test_other_arguments_are_checked() -> None:
    with pytest.raises(InvalidInputError, match=r"The center .* is invalid"):
        erf_numbers(np.ones((4, 4)), center=(9, 0))
    with pytest.raises(InvalidInputError, match="Threshold 1 is invalid"):
        erf_numbers(np.ones((4, 4)), (1,))


def blocks_of(maps: np.ndarray) -> Blocks:
    return Blocks(maps, [1] * len(maps))


def test_the_intervals_of_a_linear_number_are_those_of_the_mean() -> None:
    # Maps of equal total: the center of mass is the mean of theirs, and its interval that of Student's t.
    places = np.array([3, 5, 4, 7, 6, 4])
    maps = np.stack([single((9, 12), (4, place)) for place in places])
    numbers = statistics_of(blocks_of(maps), (0.5,)).numbers()
    error = 2.570581836 * places.std(ddof=1) / math.sqrt(6)
    assert numbers.center_of_mass_ci95 is not None and numbers.center_offset_ci95 is not None
    assert numbers.center_of_mass_ci95[0] == (4, 4)
    assert numbers.center_of_mass_ci95[1] == pytest.approx((places.mean() - error, places.mean() + error))
    assert numbers.center_offset_ci95[1] == pytest.approx((places.mean() - 6 - error, places.mean() - 6 + error))
    assert numbers.border_share_ci95 == (0, 0)
    assert numbers.radial_share_ci95 is not None and len(numbers.radial_share_ci95) == len(numbers.radial_share)
    assert numbers.radial_share_ci95[-1] == (1, 1)


def test_intervals_hold_the_numbers_and_stay_within_their_range() -> None:
    generator = np.random.default_rng(0)
    maps = gaussian((48, 40), (22, 21), (7, 5), 20) * generator.exponential(size=(8, 48, 40))
    numbers = statistics_of(blocks_of(maps)).numbers()
    plain = erf_numbers(maps.mean(axis=0))
    assert plain.radii() == [(*one[:2], None) for one in numbers.radii()]
    for name, (value, interval) in numbers.named().items():
        assert interval is not None, name
        assert interval[0] <= value <= interval[1], name
        assert plain.named()[name] == (pytest.approx(value, rel=1e-6, abs=1e-6), None)
    assert all(interval is not None and interval[0] <= radius <= interval[1] for _, radius, interval in numbers.radii())
    shares, ends = numbers.radial_share, numbers.radial_share_ci95
    assert ends is not None
    assert all(0 <= low <= share <= high <= 1 for (_, share), (low, high) in zip(shares, ends, strict=True))


def test_the_interval_of_the_angle_is_small_at_the_end_of_its_range() -> None:
    generator = np.random.default_rng(0)
    maps = gaussian((64, 64), (32, 32), (4, 10), 44.9) * (1 + 0.2 * generator.random((8, 64, 64)))
    fit = statistics_of(blocks_of(maps)).numbers().gaussian
    assert fit is not None and fit.angle_ci95 is not None and fit.sigma_ci95 is not None
    assert fit.angle_ci95[1] - fit.angle_ci95[0] < 2 and fit.sigma_ci95[0][1] < 5


@pytest.mark.parametrize(
    "blocks",
    [
        Blocks(np.ones((1, 6, 6)), [1]),
        Blocks(np.stack([np.ones((6, 6)), np.zeros((6, 6))]), [3, 0]),
        Blocks(np.stack([np.ones((6, 6)), np.zeros((6, 6))]), [1, 1]),
    ],
    ids=["one image", "one block with images", "one block holds everything"],
)
def test_without_a_spread_there_are_no_intervals(blocks: Blocks) -> None:
    numbers = statistics_of(blocks).numbers()
    assert numbers == erf_numbers(blocks.mean)
    assert all(interval is None for _, interval in numbers.named().values()) and numbers.radial_share_ci95 is None


def test_an_undefined_number_has_no_interval() -> None:
    numbers = statistics_of(blocks_of(np.stack([single((9, 9), (4, 4))] * 3))).numbers()
    assert numbers.standard_deviation_ratio is numbers.standard_deviation_ratio_ci95 is numbers.gaussian is None
    assert numbers.standard_deviation_ci95 == ((0, 0), (0, 0))
    json.dumps(dataclasses.asdict(numbers), allow_nan=False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_maps(name: str, data_dir: Path) -> None:
    path = data_dir / "erf-maps" / f"{name}.npy"
    if not path.exists():
        pytest.skip(f"the test data have no file {path.name}")
    numbers = erf_numbers(np.load(path))
    found = (*numbers.center_of_mass, *numbers.standard_deviation)
    assert [round(value, 1) for value in found] == [*PUBLISHED[name][:4]]
    assert round(numbers.effective_area, 3) == PUBLISHED[name][4]
    assert numbers.gaussian is not None
