"""Statistics of single channels with values that are known on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from replk_probe.kernels.channel_statistics import ChannelStatistics, KernelChange, compare_kernels, measure_channels
from replk_probe.kernels.statistics import FloatArray

FLAT = (math.pi / 36, math.pi / 12, 1 - math.pi / 9)


def shares(found: ChannelStatistics) -> tuple[float | None, ...]:
    return found.low_frequency_share, found.middle_frequency_share, found.high_frequency_share


def one(kernel: FloatArray) -> ChannelStatistics:
    return measure_channels(kernel[None].astype(np.float64))


def gabor(angle: float, frequency: float, sigma: float = 6.0, side: int = 81) -> FloatArray:
    """A wave that varies along ``angle`` (degrees, counterclockwise from the right), in a Gaussian window."""
    x = np.arange(side) - side // 2
    y = -x[:, None]
    along = x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))
    return np.asarray(np.exp(-(x**2 + y**2) / (2 * sigma**2)) * np.cos(2 * math.pi * frequency * along))


@pytest.mark.parametrize(("row", "column"), [(2, 2), (0, 4), (3, 1)])
@pytest.mark.parametrize("scale", [1.0, -3e-150, 1e200])
def test_a_single_entry_has_a_flat_spectrum(row: int, column: int, scale: float) -> None:
    kernel = np.zeros((5, 5))
    kernel[row, column] = scale
    found = one(kernel)
    assert shares(found) == pytest.approx(FLAT, rel=1e-13)
    assert found.orientation is None and found.anisotropy == pytest.approx(0, abs=1e-14)
    assert found.distance_mean == pytest.approx(math.hypot(row - 2, column - 2) / math.hypot(2, 2), abs=1e-15)
    assert (found.rank_mean, found.rank_median) == (1, 1)


@pytest.mark.parametrize("side", [2, 5, 16])
def test_a_constant_kernel_has_the_spectrum_of_a_square(side: int) -> None:
    found = one(np.full((side, side), -0.5))
    # The integral of the squared Dirichlet kernels over disks, by the midpoint rule on a fine grid.
    grid = (np.arange(4096) + 0.5) / 4096 - 0.5
    with np.errstate(invalid="ignore"):
        line = (np.sin(math.pi * side * grid) / np.sin(math.pi * grid)) ** 2 / side / 4096
    radius = np.hypot(grid[:, None], grid)
    energy = line[:, None] * line
    low, middle = (float(energy[radius <= limit].sum()) for limit in (1 / 6, 1 / 3))
    # Cells on the circles: its circumference times the side of a cell times the largest density, of which half errs.
    assert shares(found) == pytest.approx((low, middle - low, 1 - middle), abs=1e-3)
    assert found.orientation is None and found.rank_mean == 1


def test_the_three_shares_add_up_to_one() -> None:
    kernels = np.random.default_rng(0).standard_normal((40, 7, 9))
    assert sum(map(float, shares(measure_channels(kernels)))) == pytest.approx(1, abs=1e-14)  # type: ignore[arg-type]


def test_the_shares_are_means_over_channels_whatever_their_scale() -> None:
    kernels = np.random.default_rng(0).standard_normal((2, 5, 5))
    both = measure_channels(kernels * np.array([1.0, 1e6])[:, None, None])
    first, second = map(one, kernels)
    for name in ("low_frequency_share", "high_frequency_share", "distance_mean", "rank_mean", "channel_anisotropy"):
        mean = (getattr(first, name) + getattr(second, name)) / 2
        assert getattr(both, name) == pytest.approx(mean, rel=1e-13), name


@pytest.mark.parametrize(("frequency", "band"), [(0.08, 0), (0.25, 1), (0.42, 2)])
@pytest.mark.parametrize("angle", [0.0, 20.0, 45.0, 110.0])
def test_a_grating_is_in_its_band_at_its_angle(frequency: float, band: int, angle: float) -> None:
    found = one(gabor(angle, frequency))
    # The spectrum is a Gaussian of standard deviation 1 / (sqrt(8) pi sigma) around the frequency and its negative.
    spread = 1 / (math.sqrt(8) * math.pi * 6)
    distance = min(abs(frequency - limit) for limit in (1 / 6, 1 / 3))
    inside = shares(found)[band]
    assert inside is not None and inside >= math.erf(distance / spread / math.sqrt(2)) - 1e-9
    if frequency + 4 * spread < 0.5:
        # Stripes are perpendicular to the direction along which the wave varies.
        difference = abs((found.orientation or 0.0) - (angle + 90) % 180)
        assert min(difference, 180 - difference) < 1e-4
    if band == 1:  # the Gaussian overlaps neither its mirror image nor the edge of the spectrum
        expected = frequency**2 / (frequency**2 + 2 * spread**2)
        assert found.anisotropy == pytest.approx(expected, rel=1e-9) == found.channel_anisotropy


@pytest.mark.parametrize(
    ("kernel", "orientation"),
    [
        (np.ones((1, 7)), 0),
        (np.ones((7, 1)), 90),
        (np.eye(7)[::-1], 45),
        (np.eye(7), 135),
    ],
)
def test_lines(kernel: FloatArray, orientation: float) -> None:
    assert one(kernel).orientation == pytest.approx(orientation, abs=1e-10)


def test_a_row_of_two_has_a_known_tensor() -> None:
    found = one(np.ones((1, 2)))
    # |W|^2 = 2 + 2 cos(2 pi f): second moments 1/12 - 1/(2 pi^2) and 1/12, relative to the energy.
    across, down = 1 / 12 - 1 / (2 * math.pi**2), 1 / 12
    assert found.anisotropy == pytest.approx((down - across) / (down + across), rel=1e-13)


def test_channels_of_different_directions_cancel() -> None:
    found = measure_channels(np.stack([gabor(10, 0.25), gabor(100, 0.25)]))
    assert found.anisotropy is not None and found.anisotropy < 1e-9 and found.orientation is None
    assert found.channel_anisotropy is not None and found.channel_anisotropy > 0.9


def test_a_ring_is_at_its_distance() -> None:
    x = np.arange(31) - 15
    radius = np.hypot(x[:, None], x)
    ring = (np.abs(radius - 10) < 1e-9).astype(float)  # exact distances such as those of (6, 8) and (0, 10)
    assert ring.sum() == 12
    found = one(ring)
    assert found.distance_mean == found.distance_median == pytest.approx(10 / (15 * math.sqrt(2)), rel=1e-14)


def test_ranks() -> None:
    generator = np.random.default_rng(0)
    separable = generator.standard_normal((5, 9, 1)) * generator.standard_normal((5, 1, 9))
    assert measure_channels(separable).rank_mean == 1
    # Ten equal singular values: nine of them have 90 %.
    assert one(np.eye(10)).rank_mean == 9
    assert one(np.diag([3.0, 1.0, 0.0])).rank_mean == 1  # 9 / 10
    assert one(np.diag([2.9, 1.0, 0.0])).rank_mean == 2
    both = measure_channels(np.stack([np.eye(10), np.ones((10, 10)), np.ones((10, 10))]))
    assert both.rank_mean == pytest.approx(11 / 3) and both.rank_median == 1


def test_undefined_numbers_are_none() -> None:
    assert measure_channels(np.zeros((3, 5, 5))) == ChannelStatistics()
    assert measure_channels(np.zeros((0, 5, 5))) == ChannelStatistics()
    point = one(np.ones((1, 1)))
    assert point.distance_mean is None and point.rank_mean == 1 and shares(point) == pytest.approx(FLAT)
    kernels = np.stack([np.zeros((3, 3)), np.ones((3, 3))])
    assert measure_channels(kernels) == one(np.ones((3, 3)))


def test_many_channels_are_the_same_as_few() -> None:
    kernels = np.random.default_rng(0).standard_normal((300, 31, 31))  # more than one chunk
    found = measure_channels(kernels)
    parts = [measure_channels(kernels[start : start + 100]) for start in (0, 100, 200)]
    low = np.mean([part.low_frequency_share for part in parts])
    assert found.low_frequency_share == pytest.approx(low, rel=1e-12)


def test_change() -> None:
    kernels = np.random.default_rng(0).standard_normal((3, 5, 5))
    assert compare_kernels(kernels, kernels) == KernelChange(0.0, pytest.approx(1.0, abs=1e-15))  # type: ignore[arg-type]
    twice = compare_kernels(2e200 * kernels, 1e200 * kernels)
    assert (twice.relative_norm, twice.cosine) == (pytest.approx(1.0), pytest.approx(1.0))
    opposite = compare_kernels(-kernels, kernels)
    assert (opposite.relative_norm, opposite.cosine) == (pytest.approx(2.0), pytest.approx(-1.0))
    first, second = np.zeros((1, 1, 2)), np.zeros((1, 1, 2))
    first[..., 0], second[..., 1] = 3, 4
    assert compare_kernels(first, second) == KernelChange(1.25, 0.0)
    assert compare_kernels(first, 0 * first) == KernelChange(None, None)
    assert compare_kernels(0 * first, first) == KernelChange(1.0, None)
