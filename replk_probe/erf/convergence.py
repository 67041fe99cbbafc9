"""Ratios and numbers as functions of the number of images, and the criterion by which a measurement ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replk_probe.errors import InvalidInputError

from .area_protocols import PROTOCOLS, AreaRatio, FloatArray, Protocol, area_ratios
from .jackknife import Blocks, half_widths
from .map_statistics import MapStatistics, statistics_of

# The protocols whose ratios describe the network; those of a measurement with ``until`` must converge.
CRITERION: tuple[Protocol, ...] = ("centred", "pixels")
# An interval over fewer blocks is itself too uncertain to end a measurement.
FEWEST_BLOCKS = 10
# Every further point costs as many evaluations of the ratios as it has blocks.
_POINTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20)


@dataclass(frozen=True)
class RatioCurve:
    """One area ratio as a function of the number of images.

    Attributes:
        protocol: Protocol of the ratio.
        threshold: Share of the total contribution, in (0, 1).
        values: Area ratios of the mean over the first images, as fractions of the input; one for each entry of
            ``Convergence.n_images``.
        half_widths: Half the widths of their 95 % intervals before those are clipped to [0, 1], by the jackknife over
            the blocks of these images; None where an interval is undefined (one block).
    """

    protocol: str
    threshold: float
    values: tuple[float, ...]
    half_widths: tuple[float | None, ...]


@dataclass(frozen=True)
class NumberCurve:
    """One number of the map as a function of the number of images.

    Attributes:
        name: Name of the number, as in the columns of ``erf.csv``: ``"effective_area"``, ``"center_of_mass_y"``, ...
        threshold: Threshold of a ``"threshold_radius"``, otherwise None.
        values: The number of the mean over the first images, in the unit of :class:`~replk_probe.erf.ErfNumbers`; one
            for each entry of ``Convergence.n_images``; None where it is undefined.
        half_widths: Half the widths of their 95 % intervals, as in :class:`RatioCurve`. Those of the Gaussian are None
            except for the last.
    """

    name: str
    threshold: float | None
    values: tuple[float | None, ...]
    half_widths: tuple[float | None, ...]


@dataclass(frozen=True)
class Convergence:
    """The area ratios and the numbers of the map as functions of the number of images.

    Images are added in the order of the measurement, in whole blocks: those over which intervals are computed, at most
    20. There are at most 10 points: after 1, 2, 3, 4, 6, 8, 10, 12, 16 and 20 blocks, and after all of them. The last
    point is the result itself.

    Attributes:
        n_images: Number of images in the mean, ascending.
        ratios: A curve for each protocol and threshold of the result, in the order of its rows.
        until: Relative half-width at which the measurement was to end, or None if it had a fixed number of images.
        converged: Whether every ratio of ``criterion`` reached it, over at least 10 blocks; None without ``until``.
        numbers: A curve for each number of :class:`~replk_probe.erf.ErfNumbers` except ``radial_share``; empty in files
            of earlier versions.
        criterion: The ratios that ``until`` refers to: protocols, or protocols with a threshold (``"pixels@0.5"``).

    Examples:
        >>> import torch
        >>> from replk_probe import measure_erf
        >>> result = measure_erf(torch.nn.Conv2d(3, 8, 3, padding=1), torch.rand(8, 3, 16, 16), layer="forward")
        >>> result.convergence.n_images
        (1, 2, 3, 4, 6, 8)
        >>> result.convergence.ratios[0].protocol
        'paper'
    """

    n_images: tuple[int, ...]
    ratios: tuple[RatioCurve, ...]
    until: float | None = None
    converged: bool | None = None
    numbers: tuple[NumberCurve, ...] = ()
    criterion: tuple[str, ...] = CRITERION

    def __post_init__(self) -> None:
        """Check that every curve has a value for each number of images."""
        curves: list[tuple[str, RatioCurve | NumberCurve]] = [(repr(curve.name), curve) for curve in self.numbers]
        curves += [(f"{curve.protocol!r} at {curve.threshold:g}", curve) for curve in self.ratios]
        for name, curve in curves:
            if not len(curve.values) == len(curve.half_widths) == len(self.n_images):
                raise InvalidInputError(
                    f"The curve of {name} has {len(curve.values)} values and "
                    f"{len(curve.half_widths)} half-widths for {len(self.n_images)} numbers of images. Each number of "
                    "images needs one of both. Give curves of that length."
                )


@dataclass(frozen=True)
class MeasuredBlocks:
    """Everything that is measured over blocks of images.

    Attributes:
        ratios: The area ratios of the mean over all images.
        half_widths: Half the widths of their intervals, or None where those are undefined.
        statistics: The numbers of the mean, with their errors.
    """

    ratios: Mapping[tuple[str, float], AreaRatio]
    half_widths: Mapping[tuple[str, float], float] | None
    statistics: MapStatistics

    @classmethod
    def of(
        cls,
        blocks: Blocks,
        thresholds: Sequence[float],
        center: Sequence[float],
        middle: Sequence[int] | None = None,
        *,
        has_fit_errors: bool = True,
    ) -> MeasuredBlocks:
        """Measure blocks; arguments are those of :func:`convergence_of`."""
        return cls(
            area_ratios(blocks.mean, thresholds, center=center, middle=middle),
            half_widths(blocks, thresholds, center, middle=middle),
            statistics_of(blocks, thresholds, center, has_fit_errors=has_fit_errors),
        )


@dataclass(frozen=True)
class Criterion:
    """The criterion by which a measurement ends.

    Attributes:
        until: Largest half-width of an interval relative to its ratio, in (0, 1).
        ratios: The ratios that must reach it: protocols, or protocols with a threshold (``"pixels@0.5"``).
    """

    until: float
    ratios: tuple[str, ...] = CRITERION

    def widest(
        self, blocks: Blocks, thresholds: Sequence[float], center: Sequence[float], middle: Sequence[int] | None = None
    ) -> tuple[tuple[str, float], float]:
        """The ratio with the largest relative half-width, and that width; infinite where undefined."""
        chosen = {key for name in self.ratios for key in _named_ratios(name, thresholds)}
        protocols = tuple(protocol for protocol in PROTOCOLS if any(protocol == one for one, _ in chosen))
        ratios = area_ratios(blocks.mean, thresholds, protocols, center, middle)
        halves = half_widths(blocks, thresholds, center, protocols, middle)
        widths = {key: math.inf if halves is None else halves[key] / ratios[key].ratio for key in ratios}
        widest = max((key for key in ratios if key in chosen), key=lambda key: widths[key])
        return widest, widths[widest]

    def is_met(
        self, blocks: Blocks, thresholds: Sequence[float], center: Sequence[float], middle: Sequence[int] | None = None
    ) -> bool:
        """Whether no relative half-width is above ``until``, over enough blocks."""
        return blocks.n_used >= FEWEST_BLOCKS and self.widest(blocks, thresholds, center, middle)[1] <= self.until

    def note(
        self, blocks: Blocks, thresholds: Sequence[float], center: Sequence[float], middle: Sequence[int] | None = None
    ) -> str:
        """Why a measurement has not converged."""
        if blocks.n_used < FEWEST_BLOCKS:
            return (
                f"Not converged: {blocks.n_images} images are too few for the criterion, which needs at least "
                f"{FEWEST_BLOCKS} blocks of images. Measure more images."
            )
        (protocol, threshold), width = self.widest(blocks, thresholds, center, middle)
        return (
            f"Not converged: with all {blocks.n_images} images, the relative half-width of {protocol!r} at "
            f"{100 * threshold:g} % is {width:.2g}, above {self.until:g}. Measure more images."
        )


def convergence_of(
    block_sums: FloatArray,
    block_counts: Sequence[int],
    thresholds: Sequence[float],
    center: Sequence[float],
    criterion: Criterion | None = None,
    *,
    middle: Sequence[int] | None = None,
    map_of: Callable[[FloatArray], FloatArray] | None = None,
    whole: MeasuredBlocks | None = None,
) -> Convergence:
    """The area ratios and the numbers of the map as functions of the number of images.

    Args:
        block_sums: Sums of the contribution maps over the images of each block, ``[B, H, W]``.
        block_counts: Number of images in each block, ``[B]``; blocks without an image are left out.
        thresholds: Thresholds, as in :func:`~replk_probe.erf.area_ratios`.
        center: Center, as in :func:`~replk_probe.erf.area_ratios`.
        criterion: Criterion by which the measurement was to end, or None.
        middle: Middle of windows, as in :func:`~replk_probe.erf.area_ratios`.
        map_of: Function from a mean to the map that is measured; None for the mean itself.
        whole: What was measured over all blocks, if it is known.
    """
    used = [block for block, count in enumerate(block_counts) if count]
    n_images: list[int] = []
    curves: dict[tuple[str, float], list[tuple[float, float | None]]] = {}
    points: list[dict[tuple[str, float | None], tuple[float, float | None]]] = []
    for point in sorted({*(point for point in _POINTS if point < len(used)), len(used)}):
        end = used[point - 1] + 1
        blocks = Blocks(block_sums[:end], block_counts[:end], map_of)
        if blocks.mean.max() == 0:  # the first images may have no contribution at all
            continue
        n_images.append(blocks.n_images)
        is_whole = point == len(used)
        measured = whole if is_whole else None
        if measured is None:
            measured = MeasuredBlocks.of(blocks, thresholds, center, middle, has_fit_errors=is_whole)
        for key, answer in measured.ratios.items():
            half = None if measured.half_widths is None else measured.half_widths[key]
            curves.setdefault(key, []).append((answer.ratio, half))
        points.append(measured.statistics.entries())
    converged = None
    if criterion is not None:
        converged = criterion.is_met(Blocks(block_sums, block_counts, map_of), thresholds, center, middle)
    return Convergence(
        n_images=tuple(n_images),
        ratios=tuple(RatioCurve(*key, *zip(*found, strict=True)) for key, found in curves.items()),
        until=None if criterion is None else criterion.until,
        converged=converged,
        numbers=tuple(
            NumberCurve(*key, *zip(*(one.get(key, (None, None)) for one in points), strict=True))
            for key in dict.fromkeys(key for one in points for key in one)
        ),
        criterion=CRITERION if criterion is None else criterion.ratios,
    )


def next_check(done: int) -> int:
    """The number of images after ``done`` at which the criterion is checked next.

    At 10 to 20 full blocks, every second block; blocks hold twice as many images whenever 20 of them are full.
    """
    step = 2
    while done >= 10 * step:
        step *= 2
    return max((done // step + 1) * step, FEWEST_BLOCKS)


def check_until(until: Any) -> float | None:
    """The relative half-width as a float or None, or InvalidInputError if it is not a number in (0, 1)."""
    if until is None:
        return None
    try:
        value = math.nan if isinstance(until, bool) else float(until)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < 1:
        raise InvalidInputError(
            f"The option until cannot be {until!r}. It is half the width of an interval relative to its ratio. Give a "
            "number above 0 and below 1, such as 0.02."
        )
    return value


def check_until_ratios(names: Any, thresholds: Sequence[float]) -> tuple[str, ...]:
    """The names of the ratios of a criterion, or InvalidInputError if one is not a ratio of the measurement."""
    given = (names,) if isinstance(names, str) else names
    found = tuple(given) if isinstance(given, Sequence) else ()
    for name in found or (names,):
        if not isinstance(name, str) or not _named_ratios(name, thresholds):
            raise InvalidInputError(
                f"The option until_ratios cannot contain {name!r}. It lists protocols ({', '.join(PROTOCOLS)}), each "
                "with or without one of the thresholds of the measurement. Give for example 'pixels' or "
                f"'pixels@{thresholds[0]:g}'."
            )
    return tuple(dict.fromkeys(found))


def _named_ratios(name: str, thresholds: Sequence[float]) -> list[tuple[str, float]]:
    """The protocol and thresholds of ``"pixels"`` or ``"pixels@0.5"``; empty if there are none of that name."""
    protocol, at, number = name.partition("@")
    try:
        chosen = {float(number)} if at else set(thresholds)
    except ValueError:
        return []
    return [(protocol, threshold) for threshold in thresholds if protocol in PROTOCOLS and threshold in chosen]
