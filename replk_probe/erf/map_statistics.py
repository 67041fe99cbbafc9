"""Computation of the numbers of a contribution map, and of their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from .area_protocols import DEFAULT_THRESHOLDS, FloatArray, check_center, check_scores, check_threshold
from .gaussian_fit import Gaussian, fit_gaussian
from .jackknife import Blocks
from .map_numbers import POSITIONS, THRESHOLD_RADIUS, ErfNumbers, GaussianFit, Interval

_Values = dict[str, FloatArray]  # each number as an array [K]; those of the Gaussian are missing if there is none


def erf_numbers(
    scores: npt.ArrayLike,
    thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
    center: Sequence[float] | None = None,
) -> ErfNumbers:
    """The numbers that follow from a contribution map alone, without intervals.

    Args:
        scores: Contribution scores, ``[H, W]``, >= 0, in arbitrary units, or ``[L]`` or ``[D, H, W]``.
        thresholds: Fractions of the total, each in (0, 1), for ``threshold_radii``.
        center: Center (y, x) of the receptive field in input pixels, where whole numbers are centers of pixels; default
            (H // 2, W // 2). Used by ``center_offset``, ``radial_share``, ``radial_area`` and ``threshold_radii``.

    Returns:
        The numbers; :class:`ErfNumbers` has their definitions, units and sources.

    Raises:
        InvalidInputError: ``scores`` is not a non-empty array of one to three axes, has a negative or non-finite value
            or sums to zero; a threshold is not in (0, 1); ``center`` lies outside the map.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import erf_numbers
        >>> scores = np.zeros((32, 32))
        >>> scores[12:20, 12:20] = 1
        >>> numbers = erf_numbers(scores, center=(15.5, 15.5))
        >>> numbers.center_offset, round(numbers.effective_area, 4)  # 64 of 1024 pixels
        ((0.0, 0.0), 0.0625)
    """
    raw = check_scores(scores)
    thresholds = tuple(map(check_threshold, thresholds))
    values = _measured(raw, thresholds, check_center(center, raw.shape)) | _as_values(_fit(raw))
    return _as_numbers(values, thresholds, {})


@dataclass(frozen=True)
class MapStatistics:
    """The numbers of a map before they are arranged as :class:`ErfNumbers`.

    Attributes:
        values: Each number as an array with its entries. Those of the Gaussian are missing if there is none.
        errors: Half the widths of the 95 % intervals of ``values``, before those are limited to possible values;
            without those that are undefined.
        shape: Shape of the map.
        thresholds: Thresholds of the radii.
    """

    values: Mapping[str, FloatArray]
    errors: Mapping[str, FloatArray]
    shape: tuple[int, ...]
    thresholds: tuple[float, ...]

    def numbers(self) -> ErfNumbers:
        """The numbers with their intervals, which are limited to possible values."""
        ends: dict[str, tuple[Interval, ...]] = {}
        for name, errors in self.errors.items():
            low, high = _limits(name, self.shape, len(self.values["radial_share"]) - 1)
            least, most = np.maximum(self.values[name] - errors, low), np.minimum(self.values[name] + errors, high)
            ends[name] = tuple(zip(least.tolist(), most.tolist(), strict=True))
        return _as_numbers(self.values, self.thresholds, ends)

    def entries(self) -> dict[tuple[str, float | None], tuple[float, float | None]]:
        """Value and half-width by the name in :data:`ALL_LABELS`, without ``radial_share``.

        The radii of the thresholds have the name :data:`THRESHOLD_RADIUS` and their threshold, all others None.
        """
        found: dict[tuple[str, float | None], tuple[float, float | None]] = {}
        for name, values in self.values.items():
            keys: list[tuple[str, float | None]] = [(name.replace(".", "_"), None)]
            if name == "radial_share" or not np.isfinite(values).all():
                continue
            if name == "threshold_radii":
                keys = [(THRESHOLD_RADIUS, threshold) for threshold in self.thresholds]
            elif len(values) > 1 or name in POSITIONS:
                keys = [(f"{keys[0][0]}_{axis}", None) for axis in "zyx"[-len(values) :]]
            errors = self.errors[name].tolist() if name in self.errors else [None] * len(values)
            found |= dict(zip(keys, zip(values.tolist(), errors, strict=True), strict=True))
        return found


def statistics_of(
    blocks: Blocks,
    thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
    center: Sequence[float] | None = None,
    *,
    has_fit_errors: bool = True,
) -> MapStatistics:
    """The numbers of the mean over all images, as in :func:`erf_numbers`, with the errors of their 95 % intervals.

    They are those of the delete-one-group jackknife that the area ratios have. Numbers have none if fewer than two
    blocks have images, or if the map without one of them is zero everywhere. The Gaussian has none either if the map
    without one of the blocks does not determine one.

    ``has_fit_errors`` is whether the Gaussian, whose fit takes longer than all other numbers, has errors.
    """
    raw = check_scores(blocks.mean)
    thresholds = tuple(map(check_threshold, thresholds))
    place = check_center(center, raw.shape)
    fit = _fit(raw)
    values = _measured(raw, thresholds, place) | _as_values(fit)

    def measured_without(others: FloatArray) -> _Values:
        refit = None if fit is None or not has_fit_errors else _fit(others, start=fit)
        return _measured(others, thresholds, place) | _as_values(refit)

    left_out = blocks.left_out(measured_without)
    errors = {}
    for name, estimates in values.items():
        if left_out is None or not all(name in one and np.isfinite(one[name]).all() for one in (values, *left_out)):
            continue
        others = np.array([one[name] for one in left_out])
        errors[name] = np.array(
            [blocks.half_width(one, others[:, index]) for index, one in enumerate(estimates.tolist())]
        )
    return MapStatistics(values, errors, raw.shape, thresholds)


def _measured(raw: FloatArray, thresholds: Sequence[float], center: tuple[float, ...]) -> _Values:
    """All numbers but those of the Gaussian."""
    scores = raw / raw.max()
    axes = range(scores.ndim)
    profiles = [scores.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    total = float(profiles[0].sum())
    mass, deviation = (np.array(numbers) for numbers in zip(*map(_moments, profiles), strict=True))
    entropy = entropy_of(scores, total)
    shares, area = _radial_share(scores, center)
    ratio = deviation[0] / deviation[1] if scores.ndim == 2 and deviation[1] > 0 else math.nan
    border = _border_sum(scores)
    return {
        "center_of_mass": mass,
        "center_offset": mass - center,
        "standard_deviation": deviation,
        "standard_deviation_ratio": np.array([ratio]),
        "effective_area": np.array([min(math.exp(entropy) / scores.size, 1.0)]),
        "peak": np.array(np.unravel_index(scores.argmax(), scores.shape), dtype=np.float64),
        "radial_share": shares,
        "radial_area": np.array([area]),
        "threshold_radii": np.array([_radius(shares, threshold) for threshold in thresholds]),
        "border_share": np.array([min(float(border) / total, 1.0)]),
    }


def entropy_of(scores: FloatArray, total: float) -> float:
    """Entropy in nats of scores, >= 0, as a distribution over pixels; ``total`` is their sum."""
    return math.log(total) - float(np.sum(xlogy(scores, scores))) / total


def _border_sum(scores: FloatArray) -> float:
    """Sum over the outermost pixels of a map."""
    if scores.ndim != 2:
        outer = scores.copy()
        outer[(slice(1, -1),) * scores.ndim] = 0.0
        return float(outer.sum())
    height, width = scores.shape
    border = scores[0].sum() + scores[1:, 0].sum()
    border += scores[-1, 1:].sum() if height > 1 else 0.0
    border += scores[1:-1, -1].sum() if width > 1 else 0.0
    return float(border)


def _moments(profile: FloatArray) -> tuple[float, float]:
    """Mean and standard deviation of the position in a profile, in pixels."""
    positions, total = np.arange(len(profile)), profile.sum()
    mean = float(np.sum(profile * positions) / total)
    return mean, math.sqrt(float(np.sum(profile * (positions - mean) ** 2) / total))


@lru_cache(maxsize=4)
def _radii(size: tuple[int, ...], center: tuple[float, ...]) -> npt.NDArray[np.intp]:
    """Smallest whole radius within which each pixel lies, ``[H * W]``."""
    # Squares of distances in half or quarter pixels are exact, and so are the roots of those that are squares.
    along = [(np.arange(length) - middle) ** 2 for length, middle in zip(size, center, strict=True)]
    squares = reduce(np.add.outer, along)
    radii: npt.NDArray[np.intp] = np.ceil(np.sqrt(squares)).astype(np.intp).ravel()
    return radii


def _radial_share(scores: FloatArray, center: tuple[float, ...]) -> tuple[FloatArray, float]:
    """The share within every whole radius, and the area under this curve as a fraction of the largest radius."""
    held = np.cumsum(np.bincount(_radii(scores.shape, center), weights=scores.ravel()))
    shares = held / held[-1]
    largest = len(shares) - 1
    # The trapezoidal rule with unit steps.
    return shares, float((shares.sum() - (shares[0] + shares[-1]) / 2) / largest) if largest > 0 else 1.0


def _radius(shares: FloatArray, threshold: float) -> float:
    """Radius at which the curve, linear between whole radii, reaches the threshold."""
    after = int(np.searchsorted(shares, threshold))
    if after == 0:
        return 0.0
    return after - float((shares[after] - threshold) / (shares[after] - shares[after - 1]))


def _fit(raw: FloatArray, start: Gaussian | None = None) -> Gaussian | None:
    """The Gaussian of a map in the units of the map; ``start`` is that of a similar map. None without two axes."""
    if raw.ndim != 2:
        return None
    largest = float(raw.max())
    fit = fit_gaussian(raw / largest, start and start._replace(amplitude=start.amplitude / largest))
    return fit and fit._replace(amplitude=fit.amplitude * largest)


def _as_values(fit: Gaussian | None) -> _Values:
    return {} if fit is None else {f"gaussian.{name}": np.atleast_1d(value) for name, value in fit._asdict().items()}


def _limits(name: str, shape: tuple[int, ...], largest_radius: int) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    """Smallest and largest possible value of a number."""
    if name in ("center_of_mass", "peak"):
        return (0,) * len(shape), tuple(length - 1 for length in shape)
    if name == "gaussian.center":
        return (-0.5, -0.5), (shape[0] - 0.5, shape[1] - 0.5)
    if name in ("center_offset", "gaussian.angle"):
        return -math.inf, math.inf
    if name == "threshold_radii":
        return 0, largest_radius
    fractions = ("effective_area", "radial_share", "radial_area", "border_share", "gaussian.r_squared")
    return 0, 1 if name in fractions else math.inf


def _as_numbers(
    values: Mapping[str, FloatArray], thresholds: Sequence[float], ends: Mapping[str, tuple[Interval, ...]]
) -> ErfNumbers:
    """The numbers as they are saved; those of one entry are not in tuples."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        is_list = name in ("radial_share", "threshold_radii", *POSITIONS)
        numbers, interval = tuple(value.tolist()), ends.get(name)
        is_single = len(numbers) == 1 and not is_list
        found[name] = numbers[0] if is_single else numbers
        found[f"{name}_ci95"] = interval[0] if interval is not None and is_single else interval
    found["peak"] = tuple(map(int, found["peak"]))
    found["radial_share"] = tuple(enumerate(found["radial_share"]))
    found["threshold_radii"] = tuple(zip(thresholds, found["threshold_radii"], strict=True))
    if math.isnan(found["standard_deviation_ratio"]):
        found["standard_deviation_ratio"] = None
    fit = {name.removeprefix("gaussian."): found.pop(name) for name in [*found] if name.startswith("gaussian.")}
    return ErfNumbers(**found, gaussian=GaussianFit(**fit) if fit else None)
