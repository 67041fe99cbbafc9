"""Size of an effective receptive field, by four named protocols.

Every protocol measures how much of the input holds a given share of the contribution, and takes the first window (or
set of pixels) whose share is *strictly above* the threshold, as the published script does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_choice

FloatArray: TypeAlias = npt.NDArray[np.float64]
Protocol: TypeAlias = Literal["paper", "linear", "centred", "pixels"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
# What the ratios are by the number of axes of the map.
RATIO_NAMES = {1: "length ratio", 2: "area ratio", 3: "volume ratio"}
DEFAULT_THRESHOLDS = (0.2, 0.3, 0.5, 0.99)  # the four of the paper's Table 10

# Sums in another order differ by at most n * eps = 1e-10 relative for 1024 x 1024 terms; a share closer to its
# threshold than this is decided by the very sum that the published script takes.
_TIE = 1e-9

# log10(x + 1) is linear in x to 0.5 % below this: there no side moves by more than a pixel.
_LOG_LINEAR_BELOW = 1e-2
# Below half the spacing of float64 at 1, x + 1 is 1 and the logarithm of the published script is zero everywhere.
_LOG_VANISHES_BELOW = 2.0**-53


class AreaRatio(NamedTuple):
    """Result of one protocol at one threshold.

    Attributes:
        side: Side in input pixels: a whole number for windows (the longer edge of the window after clipping to the
            map), the square root of the area for ``"pixels"`` (of a volume the cube root, of a sequence the number).
        ratio: Area as a fraction of the map, in (0, 1]; of a sequence the length, of a volume the volume.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import area_ratio
        >>> side, ratio = area_ratio(np.ones((32, 32)), 0.25, "paper")
        >>> side, round(ratio, 3)
        (17, 0.282)
    """

    side: float
    ratio: float


def area_ratio(
    scores: npt.ArrayLike, threshold: float, protocol: str = "paper", center: Sequence[float] | None = None
) -> AreaRatio:
    r"""Smallest window, or set of pixels, holding more than ``threshold`` of the total contribution.

    * ``"paper"``: the scores become log10(x + 1) (as ``log1p``, so that small ones survive), divided by their maximum;
      squares of side 2i + 1, i = 1, 2, ..., centered at pixel (H // 2, W // 2); the ratio is side / H * side / W. These
      are the numbers of the published script wherever it is defined. It is undefined from i = H // 2 on, and
      on tall maps its window wraps around from i = W // 2 + 1 on: there the same square is clipped to the map, up to
      the whole map, whose ratio is 1; ``side`` is then the longer edge of the clipped square.
    * ``"linear"``: the same square on the scores themselves, independent of their scale.
    * ``"centred"``: as ``"linear"``, around ``center``. A window of half-width r holds the pixels whose centers lie
      within r of it on both axes; r runs through every value at which pixels enter, and the smallest window is the
      first with more than one pixel. A whole-numbered center gives sides 3, 5, 7, ..., one half-way between
      pixels (527.5) gives 2, 4, 6, ...; windows are clipped to the map, and side and ratio are those of the clipped
      window.
    * ``"pixels"``: the fewest pixels, wherever they lie, taken in order of decreasing score; ``side`` is the square
      root of their number.

    Maps of one axis ``[L]`` and of three ``[D, H, W]`` have the same protocols: the windows are intervals and boxes
    that extend equally far along every axis, clipped to the map, and areas are lengths and volumes.

    Args:
        scores: Contribution scores, ``[H, W]``, >= 0, in arbitrary units (sums of positive input gradients).
        threshold: Fraction of the total, in (0, 1), dimensionless.
        protocol: One of :data:`PROTOCOLS`.
        center: (y, x) in input pixels, where whole numbers are centers of pixels; default (H // 2, W // 2). Used by
            ``"centred"`` only.

    Returns:
        Side in input pixels and area as a fraction of ``H * W``.

    Raises:
        InvalidInputError: ``scores`` is not a non-empty array of one to three axes, has a negative or non-finite value
            or sums to zero; ``threshold`` is not in (0, 1); ``protocol`` is unknown; ``center`` lies outside the map.

    Source:
        Ding et al., CVPR 2022, arXiv:2203.06717, section 4.2 and Table 10, and the script published with it.

    Examples:
        A square of 8 x 8 equal pixels in an image of 32 x 32 covers 1/16 of it:

        >>> import numpy as np
        >>> from replk_probe.erf import area_ratio
        >>> scores = np.zeros((32, 32))
        >>> scores[12:20, 12:20] = 1
        >>> area_ratio(scores, 0.99, "pixels")
        AreaRatio(side=8.0, ratio=0.0625)
        >>> area_ratio(scores, 0.99, "centred", center=(15.5, 15.5))
        AreaRatio(side=8, ratio=0.0625)
    """
    return area_ratios(scores, (threshold,), (protocol,), center)[protocol, float(threshold)]


def area_ratios(
    scores: npt.ArrayLike,
    thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
    protocols: Iterable[str] = PROTOCOLS,
    center: Sequence[float] | None = None,
    middle: Sequence[int] | None = None,
) -> dict[tuple[str, float], AreaRatio]:
    """:func:`area_ratio` for every protocol and threshold, with one pass over the map per protocol.

    Args:
        scores: Contribution scores, as in :func:`area_ratio`.
        thresholds: Fractions of the total, each in (0, 1).
        protocols: Protocols from :data:`PROTOCOLS`.
        center: Center, as in :func:`area_ratio`.
        middle: Pixel (y, x) in the middle of the windows of ``"paper"`` and ``"linear"``; default (H // 2, W // 2). At
            another pixel, windows that reach beyond the map are clipped to it, and so is their area.

    Returns:
        Mapping from ``(protocol, threshold)`` to :class:`AreaRatio`, protocols first, both in the order given.

    Raises:
        InvalidInputError: As for :func:`area_ratio`.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import area_ratios
        >>> ratios = area_ratios(np.eye(9), thresholds=[0.5, 0.99], protocols=["linear", "pixels"])
        >>> ratios["linear", 0.5].side, round(ratios["linear", 0.5].ratio, 3)
        (5, 0.309)
        >>> round(ratios["pixels", 0.5].ratio * 81)
        5
    """
    return measure_ratios(scores, thresholds, protocols, center, middle, between=False)


def measure_ratios(
    scores: npt.ArrayLike,
    thresholds: Iterable[float],
    protocols: Iterable[str],
    center: Sequence[float] | None,
    middle: Sequence[int] | None = None,
    *,
    between: bool,
) -> dict[tuple[str, float], AreaRatio]:
    """:func:`area_ratios`; ``between`` interpolates between the last window below the threshold and the first above it.

    Windows grow by whole pixels; interpolated ratios change with every change of the map, as the jackknife needs them.
    """
    thresholds = tuple(check_threshold(threshold) for threshold in thresholds)
    protocols = tuple(protocols)
    for protocol in protocols:
        check_choice("protocol", protocol, PROTOCOLS)
    raw = check_scores(scores)
    usual = check_center(None, raw.shape)
    pixel = check_center(middle, raw.shape)
    # Dividing by the maximum first, as the script does, makes the sums over a uniform map whole numbers, hence exact,
    # and keeps huge scores from overflowing.
    linear = raw / raw.max()

    answers: dict[tuple[str, float], AreaRatio] = {}
    for protocol in protocols:
        if protocol == "pixels":
            found = _pixel_sets(linear, thresholds)
        elif protocol == "centred":
            true_center = check_center(center, raw.shape)
            found = _windows(linear, thresholds, true_center, as_script=False, between=between)
        else:
            values = linear if protocol == "linear" else _paper_scores(raw)
            found = _windows(values, thresholds, pixel, as_script=pixel == usual, between=between)
        answers.update({(protocol, threshold): answer for threshold, answer in zip(thresholds, found, strict=True)})
    return answers


def centered_windows(
    scores: npt.ArrayLike, thresholds: Sequence[float], center: Sequence[float]
) -> list[tuple[slice, ...]]:
    """The windows of protocol ``"centred"``: rows and columns of the smallest one above each threshold.

    Arguments and errors are those of :func:`area_ratios`.
    """
    raw = check_scores(scores)
    rings, _, found = _crossings(raw / raw.max(), thresholds, check_center(center, raw.shape))
    return [tuple(slice(*edges[k].tolist()) for edges in rings.edges) for k in found]


def logarithm_note(scores: npt.ArrayLike) -> str | None:
    """A note if the map is too small for the paper's logarithm, else None."""
    largest = float(check_scores(scores).max())
    if largest >= _LOG_LINEAR_BELOW:
        return None
    note = (
        f"The map is too small for the paper's logarithm: its largest score is {largest:.2g}, where log10(x + 1) is "
        "proportional to x, so that 'paper' is effectively 'linear' here."
    )
    if largest < _LOG_VANISHES_BELOW:
        note += " Evaluated in float64 the logarithm is zero everywhere, and the published script gives no number."
    return note


def saturation_note(scores: npt.ArrayLike, center: Sequence[float], border_share: float) -> str | None:
    """A note if the image or other input, rather than the network, limits the numbers of a map, else None.

    The protocol is ``"centred"``: by definition, ``"pixels"`` never needs more than half of the image for 50 %.

    Args:
        scores: Contribution scores, as in :func:`area_ratio`.
        center: Center of the receptive field in input pixels, as there.
        border_share: Share of the outermost ring of pixels (:attr:`~replk_probe.erf.ErfNumbers.border_share`).
    """
    found = []
    if area_ratio(scores, 0.5, "centred", center).ratio > 0.5:
        found.append("more than half of it is needed for 50 % of the contribution ('centred')")
    shape = np.shape(scores)
    uniform = 1 - math.prod(max(length - 2, 0) for length in shape) / math.prod(shape)
    if border_share > uniform + _TIE:
        found.append(f"its border{' ring' * (len(shape) == 2)} contributes more than that of a uniform map")
    kind = "image" if len(shape) == 2 else "input"
    return f"The {kind} limits these numbers: {' and '.join(found)}. Measure larger {kind}s." if found else None


def check_threshold(threshold: float) -> float:
    """``threshold`` as a float, or InvalidInputError if it is not a number in (0, 1)."""
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 < value < 1.0:
        raise InvalidInputError(
            f"Threshold {threshold} is invalid. It is the share of the total contribution that a window must "
            "exceed. Give a number above 0 and below 1, such as 0.5."
        )
    return value


def check_scores(scores: npt.ArrayLike) -> FloatArray:
    """``scores`` as float64 ``[H, W]``, or InvalidInputError if they have no area ratio."""
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"The contribution scores are not an array of real numbers ({error}). Give an array [H, W]."
        ) from error
    if not 1 <= array.ndim <= 3 or array.size == 0:
        raise InvalidInputError(
            f"The contribution scores have shape {list(array.shape)}. An area ratio needs a map of at least one pixel. "
            "Give an array [H, W], for instance the mean over images, or [L] or [D, H, W]."
        )
    if not np.isfinite(array).all():
        raise InvalidInputError(
            f"The contribution map has {int((~np.isfinite(array)).sum())} of {array.size} values that are not finite. "
            "Shares of such a total are undefined. Leave the image out, or measure with precision 'fp32'."
        )
    if array.min() < 0:
        raise InvalidInputError(
            f"The contribution map has negative values (smallest {array.min():.3g}). Scores are sums of positive "
            "gradients. Apply the ReLU first."
        )
    if array.max() == 0:
        raise InvalidInputError(
            "The contribution map is zero everywhere. The chosen output does not depend on the input, its ReLU is zero "
            "on every image, or all of its gradients are negative. Choose another layer, other images or other weights."
        )
    return array


class _Rings(NamedTuple):
    """Nested windows around one center; window k is the union of rings 0..k."""

    of_pixel: npt.NDArray[np.intp]  # ring index of every pixel, [H * W]
    # First and last-plus-one row of every window, [K, 2], and likewise for the other axes.
    edges: tuple[npt.NDArray[np.intp], ...]

    def extents(self) -> npt.NDArray[np.intp]:
        """Numbers of rows and columns (or along each axis) of every window, ``[K, 2]``."""
        return np.stack([np.ptp(edges, axis=1) for edges in self.edges], axis=1)


@lru_cache(maxsize=4)
def _rings(size: tuple[int, ...], center: tuple[float, ...]) -> _Rings:
    """Windows of growing half-width around ``center``, one for every half-width at which a pixel enters."""
    distances = [np.abs(np.arange(length) - middle) for length, middle in zip(size, center, strict=True)]
    # All axes must be reached before a window has a pixel at all.
    smallest = max(distance.min() for distance in distances)
    half_widths = np.unique(np.concatenate(distances))
    half_widths = half_widths[half_widths >= smallest]
    rings = [np.searchsorted(half_widths, distance) for distance in distances]
    of_pixel = reduce(np.maximum.outer, rings).ravel()
    return _Rings(of_pixel, tuple(_edges(ring, len(half_widths)) for ring in rings))


def _edges(ring: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """First and last-plus-one index of the pixels within ring k, for every k: ``[count, 2]``."""
    held = np.cumsum(np.bincount(ring, minlength=count))
    # Ring numbers fall toward the center and rise again, so the pixels of a window are contiguous.
    first = np.searchsorted(-np.minimum.accumulate(ring), -np.arange(count))
    return np.stack([first, first + held], axis=1)


def _crossings(
    scores: FloatArray, thresholds: Sequence[float], center: tuple[float, ...]
) -> tuple[_Rings, FloatArray, list[int]]:
    """The windows around ``center``, the share in each, and the index of the first one above each threshold."""
    rings = _rings(scores.shape, center)
    held = np.cumsum(np.bincount(rings.of_pixel, weights=scores.ravel()))
    shares = held / held[-1]
    # From 3 px for a whole-numbered center: the first window of more than one pixel, or the only one of one pixel.
    start = min(int(np.searchsorted(rings.extents().max(axis=1), 2)), len(shares) - 1)
    return rings, shares, [_first_above(scores, rings, shares, threshold, start) for threshold in thresholds]


def _windows(
    scores: FloatArray, thresholds: Sequence[float], center: tuple[float, ...], *, as_script: bool, between: bool
) -> list[AreaRatio]:
    """First window around ``center`` above each threshold; ``as_script`` takes areas as the published script does."""
    rings, shares, found = _crossings(scores, thresholds, center)
    extents = rings.extents()

    answers = []
    for threshold, k in zip(thresholds, found, strict=True):
        if between:
            answers.append(_between(shares, extents.prod(axis=1) / scores.size, k, threshold))
        elif as_script and scores.ndim == 2 and 1 <= k < scores.shape[0] // 2 and k <= scores.shape[1] // 2:
            side, (height, width) = 2 * k + 1, scores.shape
            # The order of the script's own operations, for the last bit. On a map of even width and two rows more than
            # columns its largest window is a column wider than the map; the whole map is used instead.
            answers.append(AreaRatio(side, min(side / height * side / width, 1.0)))
        else:
            sides = extents[k].tolist()
            answers.append(AreaRatio(max(sides), math.prod(sides) / scores.size))
    return answers


def _between(shares: FloatArray, areas: npt.NDArray[Any], k: int, threshold: float) -> AreaRatio:
    """The ratio (no side) at which the share crosses the threshold, on the line between windows k - 1 and k."""
    below = (shares[k - 1], areas[k - 1]) if k > 0 else (0.0, 0.0)
    rise = shares[k] - below[0]
    way = min(max((threshold - below[0]) / rise, 0.0), 1.0) if rise > 0 else 1.0
    return AreaRatio(math.nan, float(below[1] + way * (areas[k] - below[1])))


def _first_above(scores: FloatArray, rings: _Rings, shares: FloatArray, threshold: float, start: int) -> int:
    """Index of the first window from ``start`` on whose share is strictly above ``threshold``."""
    sure = start + int(np.argmax(shares[start:] > threshold + _TIE))
    if shares[sure] <= threshold + _TIE:  # a threshold within _TIE of 1
        sure = len(shares) - 1
    doubtful = start + int(np.argmax(shares[start:] > threshold - _TIE))
    if doubtful < sure:
        total = np.sum(scores)
        for k in range(doubtful, sure):
            window = tuple(slice(*edges[k]) for edges in rings.edges)
            if np.sum(scores[window]) / total > threshold:
                return k
    return sure


def _paper_scores(raw: FloatArray) -> FloatArray:
    """The paper's transform, log10(x + 1) over its maximum."""
    logs = np.log1p(raw) / math.log(10.0)
    largest = logs.max()
    # The division underflows to zero only for subnormal scores, where log1p(x) is x.
    return np.asarray(logs / largest if largest > 0 else raw / raw.max())


def check_center(center: Sequence[float] | None, shape: tuple[int, ...]) -> tuple[float, ...]:
    """``center`` as (y, x), by default the middle pixel, or InvalidInputError if it is not a point of the map."""
    if center is None:
        return tuple(float(length // 2) for length in shape)
    try:
        point = tuple(float(value) for value in center)
    except (TypeError, ValueError):
        point = ()
    inside = all(-0.5 <= value <= length - 0.5 for value, length in zip(point, shape, strict=False))
    if len(point) != len(shape) or not inside:
        raise InvalidInputError(
            f"The center {center} is invalid for a map of {' x '.join(map(str, shape))} pixels. It must be a point of "
            "the map, (y, x) in input pixels. Omit it to use the middle pixel."
        )
    return point


def _pixel_sets(scores: FloatArray, thresholds: Sequence[float]) -> list[AreaRatio]:
    """Fewest pixels above each threshold."""
    held = np.cumsum(np.sort(scores, axis=None)[::-1])
    shares = held / held[-1]
    counts = [min(int(np.searchsorted(shares, threshold, side="right")) + 1, shares.size) for threshold in thresholds]
    return [AreaRatio(_edge(count, scores.ndim), count / shares.size) for count in counts]


def _edge(count: int, axes: int) -> float:
    """Edge of the square with this number of pixels, or of an interval or a cube."""
    return math.sqrt(count) if axes == 2 else float(count) if axes == 1 else float(np.cbrt(count))
