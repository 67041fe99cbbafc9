"""Statistics of kernels with known exact values, and of three published kernels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.kernels import Kernel, statistics

# Figures printed in Ding et al., arXiv:2203.06717v1, appendix C (D in later versions), Fig. 6, in hundredths: the
# magnitude over its maximum of MobileNet V2's first stride-1 13 x 13 convolution of the last stage.
BEFORE_REPARAM = """
 19  18  19  20  24  26  42  26  23  21  19  18  18
 19  18  19  21  23  26  41  26  23  21  19  18  18
 19  19  21  23  25  29  44  29  26  23  21  19  19
 21  22  24  23  27  31  47  31  27  24  24  22  21
 24  26  27  26  33  37  61  38  32  27  28  26  25
 30  29  32  33  40  30  46  30  40  34  34  30  29
 46  43  49  45  57  42 100  42  61  46  48  44  46
 29  30  33  34  40  31  51  31  40  34  33  29  30
 24  25  27  27  33  37  63  38  32  28  28  25  24
 22  22  23  23  26  31  48  31  27  23  24  22  21
 20  21  22  24  26  30  46  30  26  23  22  20  20
 18  18  19  21  24  27  39  27  23  21  21  18  19
 19  18  19  21  22  26  39  27  24  21  19  18  19
"""
AFTER_REPARAM = """
  5   5   5   5   6   7  11   7   6   5   5   5   5
  5   5   5   6   6   7  11   7   6   6   5   5   5
  5   5   6   6   7   8  12   8   7   6   6   5   5
  6   6   6   6   7   8  13   8   7   6   6   6   6
  7   7   7   7   9  10  16  10   8   7   7   7   7
  8   8   9   9  11  23  43  23  11   9   9   8   8
 12  12  13  12  15  34 100  35  16  12  13  12  12
  8   8   9   9  11  24  46  24  11   9   9   8   8
  6   7   7   7   9  10  17  10   9   8   8   7   7
  6   6   6   6   7   8  13   8   7   6   6   6   6
  5   6   6   6   7   8  12   8   7   6   6   5   5
  5   5   5   6   6   7  11   7   6   6   6   5   5
  5   5   5   6   6   7  10   7   6   6   5   5   5
"""
WITHOUT_REPARAM = """
  9   9  10  11  12  12  19  12  12  11  10   9  10
  9  10  11  12  12  13  19  13  12  11  10  10   9
 10  10  10  12  14  15  22  14  13  12  12  10  10
 11  12  12  12  15  15  22  15  14  12  12  11  10
 13  12  13  13  15  18  33  18  15  14  14  13  12
 14  14  16  16  21  29  51  29  21  16  16  15  14
 21  20  21  20  29  40 100  41  28  20  21  19  20
 15  14  16  16  21  30  54  29  20  16  16  15  14
 12  13  14  13  16  19  32  19  15  14  13  12  12
 11  11  13  12  12  15  22  15  14  12  12  11  11
 10  11  11  13  12  15  21  14  13  12  11  11  10
  9  10  10  11  12  13  20  13  12  11  10  10   9
 10  10  10  12  12  14  19  13  12  12  10  10  10
"""

# The sums, shares and means of those figures, taken from the page by hand.
PRINTED = {
    BEFORE_REPARAM: (48.78, 0.0826, 0.2534, 0.448, 0.280),
    AFTER_REPARAM: (15.51, 0.2270, 0.3308, 0.391, 0.075),
    WITHOUT_REPARAM: (26.28, 0.1533, 0.2793, 0.448, 0.139),
}


def kernel(magnitude: object) -> Kernel:
    return Kernel("stage1.0", "conv", "merged", np.asarray(magnitude, dtype=np.float64), channels=1)


def delta(height: int, width: int | None = None) -> Kernel:
    values = np.zeros((height, width or height))
    values[height // 2, (width or height) // 2] = 5.0
    return kernel(values)


def cross(side: int) -> Kernel:
    values = np.zeros((side, side))
    values[side // 2] = values[:, side // 2] = 2.0
    return kernel(values)


def gaussian(side: int, sigma: float) -> Kernel:
    offsets = np.arange(side) - side // 2
    return kernel(np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2)))


@pytest.mark.parametrize("text", PRINTED)
def test_the_printed_matrices(text: str) -> None:
    printed = kernel(np.array([line.split() for line in text.strip().splitlines()], dtype=np.float64) / 100)
    mass, center, skeleton, inside, outside = PRINTED[text]
    assert printed.kernel_size == (13, 13) and printed.maximum == 1.0
    assert printed.relative_mass == pytest.approx(mass, abs=1e-9)
    # Each to the digits it is given in.
    assert printed.center3x3_share == pytest.approx(center, abs=5e-5)
    assert printed.skeleton_share == pytest.approx(skeleton, abs=5e-5)
    assert printed.center3x3_mean == pytest.approx(inside, abs=5e-4)
    assert printed.outside3x3_mean == pytest.approx(outside, abs=5e-4)


def test_the_published_claim_about_the_printed_matrices_holds() -> None:
    shares = [
        kernel(np.array([line.split() for line in text.strip().splitlines()], dtype=np.float64)).center3x3_share
        for text in (BEFORE_REPARAM, AFTER_REPARAM, WITHOUT_REPARAM)
    ]
    assert [f"{100 * share:.1f}" for share in shares] == ["8.3", "22.7", "15.3"]


@pytest.mark.parametrize("side", [3, 13, 31])
def test_the_center_share_of_a_delta_is_one(side: int) -> None:
    one = delta(side)
    assert one.center_share(1) == one.center3x3_share == one.skeleton_share == 1.0
    assert one.effective_size == {50: 1, 90: 1, 99: 1}
    assert one.entropy == one.relative_entropy == 0.0
    assert one.relative_mass == 1.0
    assert one.radial_profile[0] == 1.0 and not one.radial_profile[1:].any()
    assert one.symmetry == {"left_right": 1.0, "up_down": 1.0, "rotation": 1.0, "transpose": 1.0}


@pytest.mark.parametrize("side", [3, 13, 31, 51])
def test_shares_of_a_uniform_kernel_are_area_ratios(side: int) -> None:
    one = kernel(np.full((side, side), 0.25))
    for inner, share in one.center_shares.items():
        assert share == pytest.approx(inner**2 / side**2, rel=1e-12)
    assert list(one.center_shares) == list(range(1, side + 1, 2))
    assert one.skeleton_share == pytest.approx((2 * side - 1) / side**2, rel=1e-12)
    wanted = {p: next(s for s in range(1, side + 1, 2) if 100 * s * s >= p * side * side) for p in (50, 90, 99)}
    assert one.effective_size == wanted
    assert one.entropy == pytest.approx(2 * math.log2(side), rel=1e-12)
    assert one.relative_entropy == pytest.approx(1.0, rel=1e-12)
    assert one.relative_mass == side * side
    assert one.radial_profile == pytest.approx(np.ones(len(one.radial_profile)))
    assert len(one.radial_profile) == math.floor(math.hypot(side // 2, side // 2) + 0.5) + 1
    assert (one.center3x3_mean, one.outside3x3_mean) == pytest.approx((1.0, 1.0 if side > 3 else math.nan), nan_ok=True)


def test_the_skeleton_share_of_a_cross_is_one() -> None:
    one = cross(13)  # 25 entries, 5 of them in the center 3 x 3
    assert one.skeleton_share == 1.0
    assert one.center3x3_share == pytest.approx(5 / 25)
    assert one.effective_size == {50: 7, 90: 13, 99: 13}  # a square of side s holds 2 s - 1 entries
    assert one.entropy == pytest.approx(math.log2(25))
    # At distance 1 lie the four of the cross and the four diagonal neighbors (1.41, rounded): half of them are 1.
    assert one.radial_profile[:2] == pytest.approx([1.0, 0.5])
    assert set(one.symmetry.values()) == {1.0}


def test_a_gaussian_falls_off_as_it_should() -> None:
    sigma = 3.0
    one = gaussian(31, sigma)
    axis = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(16)]
    total = axis[0] + 2 * sum(axis[1:])
    for side in (1, 3, 7, 13, 31):
        inside = axis[0] + 2 * sum(axis[1 : (side + 1) // 2])
        assert one.center_share(side) == pytest.approx((inside / total) ** 2, rel=1e-12)
    assert one.skeleton_share == pytest.approx(2 / total - 1 / total**2, rel=1e-12)
    assert one.effective_size == {50: 7, 90: 13, 99: 17}
    # Within the rounding of distances by half an entry.
    for radius, value in enumerate(one.radial_profile[:10]):
        nearest, farthest = max(radius - 0.5, 0), radius + 0.5
        assert math.exp(-(farthest**2) / 18) <= value <= math.exp(-(nearest**2) / 18)
    assert 0 < one.relative_entropy < 1


def test_symmetry_differs_between_axes() -> None:
    left = np.zeros((5, 5))
    left[:, 0] = 1.0
    assert kernel(left).symmetry == {"left_right": 0.0, "up_down": 1.0, "rotation": 0.0, "transpose": 0.2}
    assert kernel(left.T).symmetry == {"left_right": 1.0, "up_down": 0.0, "rotation": 0.0, "transpose": 0.2}
    corner = np.zeros((3, 3))
    corner[0, 0], corner[2, 2] = 3.0, 1.0
    assert kernel(corner).symmetry == {"left_right": 0.0, "up_down": 0.0, "rotation": 0.5, "transpose": 1.0}


def test_strips_have_no_transpose_and_squares_are_clipped_to_them() -> None:
    strip = kernel(np.ones((51, 5)))
    assert "transpose" not in strip.symmetry
    assert strip.center3x3_share == pytest.approx(9 / 255)
    assert strip.center_share(11) == pytest.approx(55 / 255)
    assert strip.center_share(51) == 1.0
    assert strip.skeleton_share == pytest.approx((51 + 5 - 1) / 255)
    assert strip.effective_size == {50: 27, 90: 47, 99: 51}


def test_kernels_with_an_even_side_have_their_center_between_entries() -> None:
    one = kernel(np.ones((4, 4)))
    assert one.center_shares == {2: 0.25, 4: 1.0}
    assert one.center3x3_share == 0.25
    assert one.skeleton_share == pytest.approx(12 / 16)  # two rows and two columns
    assert one.effective_size == {50: 4, 90: 4, 99: 4}
    assert math.isnan(one.radial_profile[0]) and one.radial_profile[1:].tolist() == [1.0, 1.0]


def test_numbers_do_not_depend_on_the_scale() -> None:
    values = np.random.default_rng(0).random((7, 7))
    first, second = kernel(values).to_json(), kernel(values * 2.0**40).to_json()
    assert first.pop("maximum") * 2.0**40 == second.pop("maximum")
    assert first == second


def test_a_kernel_without_mass_has_no_shares() -> None:
    record = kernel(np.zeros((5, 5))).to_json()
    assert record["centre3x3_share"] is record["skeleton_share"] is record["entropy_bits"] is None
    assert record["effective_size"] == {"50": None, "90": None, "99": None}
    assert record["radial_profile"] == [None] * 4
    assert record["maximum"] == record["relative_mass"] == 0.0


@pytest.mark.parametrize("values", [[[1.0, -1.0]], [[math.nan]], [[math.inf]], [1.0, 2.0], [[]]])
def test_what_is_no_magnitude_is_refused(values: object) -> None:
    with pytest.raises(InvalidInputError, match="magnitude"):
        kernel(values)


def test_impossible_squares_and_shares_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="side 0"):
        delta(3).center_share(0)
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(InvalidInputError, match=r"effective size for a share of .* is undefined"):
            statistics.effective_size(delta(3).magnitude, share)


def test_a_kernel_owns_its_arrays() -> None:
    values = np.ones((3, 3))
    one = kernel(values)
    values[0, 0] = 7.0
    assert one.maximum == 1.0
    with pytest.raises(ValueError, match="read-only"):
        one.magnitude[0, 0] = 2.0
