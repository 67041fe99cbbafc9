"""The numbers that follow from a contribution map alone, with their definitions, units and sources."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from replk_probe.errors import InvalidInputError
from replk_probe.results import Row

Pair: TypeAlias = tuple[float, float]
Interval: TypeAlias = tuple[float, float]

# Columns of the tables: name, label and unit.
_COLUMNS = (
    ("center_of_mass_y", "center of mass, y", "px"),
    ("center_of_mass_x", "center of mass, x", "px"),
    ("center_offset_y", "offset from the center, y", "px"),
    ("center_offset_x", "offset from the center, x", "px"),
    ("standard_deviation_y", "standard deviation, y", "px"),
    ("standard_deviation_x", "standard deviation, x", "px"),
    ("standard_deviation_ratio", "standard deviations, y / x", ""),
    ("effective_area", "effective area", "%"),
    ("peak_y", "peak, y", "px"),
    ("peak_x", "peak, x", "px"),
    ("radial_area", "area under the radial share", ""),
    ("border_share", "share of the border ring", "%"),
    ("gaussian_amplitude", "Gaussian, amplitude", ""),
    ("gaussian_center_y", "Gaussian, center y", "px"),
    ("gaussian_center_x", "Gaussian, center x", "px"),
    ("gaussian_sigma_y", "Gaussian, sigma y", "px"),
    ("gaussian_sigma_x", "Gaussian, sigma x", "px"),
    ("gaussian_angle", "Gaussian, angle", "degrees"),
    ("gaussian_r_squared", "Gaussian, R squared", ""),
)
NUMBER_LABELS = {name: (label, unit) for name, label, unit in _COLUMNS}
# Numbers with one entry for each axis of the input.
POSITIONS = ("center_of_mass", "center_offset", "standard_deviation", "peak")
# The numbers along the first axis of an input with three.
_LABELS_Z = {
    f"{name}_z": (NUMBER_LABELS[f"{name}_y"][0].removesuffix("y") + "z", NUMBER_LABELS[f"{name}_y"][1])
    for name in POSITIONS
}
ALL_LABELS = NUMBER_LABELS | _LABELS_Z
THRESHOLD_RADIUS = "threshold_radius"
# Columns of the CSV file: each number is followed by its interval.
NUMBER_COLUMNS = tuple(
    f"{name}{suffix}" for name in (THRESHOLD_RADIUS, *NUMBER_LABELS) for suffix in ("", "_ci95_low", "_ci95_high")
)


@dataclass(frozen=True, kw_only=True)
class GaussianFit:
    """The two-dimensional Gaussian with the smallest sum of squared differences from the map, without an offset.

    With the coordinates ``v = (x - center_x) cos(angle) + (y - center_y) sin(angle)`` and
    ``u = (y - center_y) cos(angle) - (x - center_x) sin(angle)``, it is
    ``amplitude * exp(-(u / sigma[0])**2 / 2 - (v / sigma[1])**2 / 2)``. Each ``ci95`` is a 95 % interval of the number
    before it, or None where it is undefined.

    Attributes:
        amplitude: Value at the center, in the units of the map.
        amplitude_ci95: Interval of ``amplitude``.
        center: Center (y, x) in input pixels.
        center_ci95: Intervals of ``center``.
        sigma: Standard deviations in input pixels, along the axis nearest to y and along the axis nearest to x.
        sigma_ci95: Intervals of ``sigma``.
        angle: Angle of the axes in degrees, in [-45, 45), from x towards y (clockwise as an image is displayed).
            It is arbitrary where both sigmas are equal.
        angle_ci95: Interval of ``angle``, which may extend beyond [-45, 45).
        r_squared: Coefficient of determination, dimensionless, in (0, 1]: one minus the ratio of the sum of squared
            differences from the Gaussian to the sum of squared differences from the mean of the map.
        r_squared_ci95: Interval of ``r_squared``.

    Source:
        Luo et al., NeurIPS 2016, arXiv:1701.04128, where effective receptive fields are found to be nearly Gaussian.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import erf_numbers
        >>> y, x = np.mgrid[:33, :33]
        >>> fit = erf_numbers(np.exp(-((y - 16) ** 2) / 18 - (x - 16) ** 2 / 50)).gaussian
        >>> [round(sigma, 3) for sigma in fit.sigma], round(fit.r_squared, 3)
        ([3.0, 5.0], 1.0)
    """

    amplitude: float
    amplitude_ci95: Interval | None = None
    center: Pair
    center_ci95: tuple[Interval, Interval] | None = None
    sigma: Pair
    sigma_ci95: tuple[Interval, Interval] | None = None
    angle: float
    angle_ci95: Interval | None = None
    r_squared: float
    r_squared_ci95: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class ErfNumbers:
    """Numbers of a contribution map.

    The map is taken as a distribution over pixels: the contribution of each pixel divided by the total. Positions are
    (y, x) in input pixels, where whole numbers are centers of pixels. None of the numbers changes if the map is
    multiplied by a constant, except the amplitude of the Gaussian. Each ``ci95`` is a 95 % interval of the number
    before it by the jackknife over blocks of images, or None where it is undefined (fewer than two images).

    Maps of sequences have one position instead of two, (x,), and those of volumes three, (z, y, x), in the order of the
    axes of the input; areas are lengths and volumes, and the border ring is the two ends or the outermost shell.

    Attributes:
        center_of_mass: Mean position (y, x), in pixels.
        center_of_mass_ci95: Intervals of ``center_of_mass``.
        center_offset: Center of mass minus the center of the receptive field, (y, x), in pixels.
        center_offset_ci95: Intervals of ``center_offset``.
        standard_deviation: Standard deviations of the position about the center of mass along y and x, in pixels.
        standard_deviation_ci95: Intervals of ``standard_deviation``.
        standard_deviation_ratio: Standard deviation along y divided by that along x, or None where that is zero, and
            for sequences and volumes.
        standard_deviation_ratio_ci95: Interval of ``standard_deviation_ratio``.
        effective_area: exp(entropy) / (H * W), a fraction of the image in (0, 1]: the number of pixels of a uniform map
            with the same entropy (natural logarithm), divided by the number of pixels of the image.
        effective_area_ci95: Interval of ``effective_area``.
        peak: Position (y, x) of the largest contribution, in whole pixels; the first in reading order if several are
            equal.
        peak_ci95: Intervals of ``peak``. The position changes by jumps, so that the intervals are approximate.
        radial_share: ``(radius, share)`` for every whole radius in pixels, from 0 to the smallest that covers the map:
            the fraction of the total contribution in the pixels whose centers lie within the radius (inclusive,
            Euclidean distance) of the center of the receptive field. In optics, this is the encircled energy.
        radial_share_ci95: Intervals of the shares.
        radial_area: Area under ``radial_share`` by the trapezoidal rule, divided by the largest radius, in [0, 1]:
            one if everything lies at the center.
        radial_area_ci95: Interval of ``radial_area``.
        threshold_radii: ``(threshold, radius)`` for each threshold of the area ratios: the radius in pixels at which
            ``radial_share``, interpolated linearly, reaches the threshold.
        threshold_radii_ci95: Intervals of the radii.
        border_share: Fraction of the total contribution of the outermost ring of pixels, one pixel wide. It is
            1 - (H - 2) (W - 2) / (H W) for a uniform map of at least two pixels in each direction.
        border_share_ci95: Interval of ``border_share``.
        gaussian: Least-squares fit of a Gaussian, or None if the map does not determine one: the sum of squares has no
            minimum, or only one with a sigma below 0.3 pixels or above ten lengths of the map, or its center lies
            outside the map, or the Gaussian is no closer to the map than its mean; also for sequences and volumes.

    Source:
        Shannon, Bell System Technical Journal 27 (1948), for the entropy; Born and Wolf, "Principles of Optics",
        section 8.8.4, for the encircled energy. The others are elementary moments of a distribution.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import erf_numbers
        >>> numbers = erf_numbers(np.ones((32, 32)))
        >>> numbers.center_of_mass, round(numbers.effective_area, 6)
        ((15.5, 15.5), 1.0)
        >>> round(numbers.border_share, 3)  # 124 of 1024 pixels
        0.121
    """

    center_of_mass: tuple[float, ...]
    center_of_mass_ci95: tuple[Interval, ...] | None = None
    center_offset: tuple[float, ...]
    center_offset_ci95: tuple[Interval, ...] | None = None
    standard_deviation: tuple[float, ...]
    standard_deviation_ci95: tuple[Interval, ...] | None = None
    standard_deviation_ratio: float | None
    standard_deviation_ratio_ci95: Interval | None = None
    effective_area: float
    effective_area_ci95: Interval | None = None
    peak: tuple[int, ...]
    peak_ci95: tuple[Interval, ...] | None = None
    radial_share: tuple[tuple[int, float], ...]
    radial_share_ci95: tuple[Interval, ...] | None = None
    radial_area: float
    radial_area_ci95: Interval | None = None
    threshold_radii: tuple[tuple[float, float], ...]
    threshold_radii_ci95: tuple[Interval, ...] | None = None
    border_share: float
    border_share_ci95: Interval | None = None
    gaussian: GaussianFit | None

    def __post_init__(self) -> None:
        """Check the fractions, and that every number of a list has an interval if one has."""
        axes = {name: len(getattr(self, name)) for name in POSITIONS}
        if len({*axes.values()}) != 1 or not 1 <= len(self.peak) <= 3:
            raise InvalidInputError(
                f"The numbers {', '.join(axes)} have {', '.join(map(str, axes.values()))} entries. Each needs one for "
                "each axis of the input. Give one to three of each."
            )
        for name in ("radial_share", "threshold_radii", *POSITIONS):
            values, intervals = getattr(self, name), getattr(self, f"{name}_ci95")
            if intervals is not None and len(intervals) != len(values):
                raise InvalidInputError(
                    f"{name}_ci95 has {len(intervals)} intervals for {len(values)} numbers. Each number needs one. "
                    "Give as many intervals as numbers."
                )
        shares = {f"share within {radius} px": share for radius, share in self.radial_share}
        fractions = {name: getattr(self, name) for name in ("effective_area", "radial_area", "border_share")}
        for name, value in (fractions | shares).items():
            if not 0 <= value <= 1:
                raise InvalidInputError(
                    f"The number {name!r} cannot be {value}. It is a fraction. Give a number in [0, 1]."
                )

    def radii(self) -> list[tuple[float, float, Interval | None]]:
        """Each threshold with its radius and the interval of the radius."""
        intervals = self.threshold_radii_ci95 or (None,) * len(self.threshold_radii)
        return [(*one, interval) for one, interval in zip(self.threshold_radii, intervals, strict=True)]

    def named(self) -> dict[str, tuple[float, Interval | None]]:
        """Every number with its interval, by its name in :data:`ALL_LABELS`; NaN where it is undefined.

        Of sequences and volumes, only those that are defined.
        """
        rank = len(self.peak)
        names = NUMBER_LABELS if rank == 2 else ()
        found: dict[str, tuple[float, Interval | None]] = dict.fromkeys(names, (math.nan, None))
        for prefix, owner in (("", self), ("gaussian_", self.gaussian)):
            for name in [] if owner is None else owner.__dataclass_fields__:
                if name in ("radial_share", "threshold_radii", "gaussian") or name.endswith("_ci95"):
                    continue
                value, interval = getattr(owner, name), getattr(owner, f"{name}_ci95")
                if isinstance(value, tuple):
                    names_of_axes = "zyx"[-len(value) :]
                    for axis, one, ends in zip(names_of_axes, value, interval or (None,) * len(value), strict=True):
                        found[f"{prefix}{name}_{axis}"] = (one, ends)
                elif value is not None:
                    found[f"{prefix}{name}"] = (value, interval)
        return found


def number_cells(numbers: ErfNumbers | None, threshold: float) -> Row:
    """The cells of :data:`NUMBER_COLUMNS` in the row of one threshold; NaN where a number is undefined.

    Volumes have further cells for their first axis, whose names contain ``_z``.
    """
    cells: dict[str, Any] = dict.fromkeys(NUMBER_COLUMNS, math.nan)
    if numbers is None:
        return cells
    found = numbers.named()
    for one, radius, ends in numbers.radii():
        if one == threshold:
            found[THRESHOLD_RADIUS] = (radius, ends)
    for name, (value, interval) in found.items():
        cells[name] = value
        if interval is not None:
            cells[f"{name}_ci95_low"], cells[f"{name}_ci95_high"] = interval
    return cells
