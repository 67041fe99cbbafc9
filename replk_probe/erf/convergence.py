"""Area ratios as functions of the number of images, and the criterion by which a measurement ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replk_probe.errors import InvalidInputError

from .area_protocols import AreaRatio, FloatArray, Protocol, area_ratios
from .jackknife import Blocks, half_widths

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
class Convergence:
    """The area ratios as functions of the number of images.

    Images are added in the order of the measurement, in whole blocks: those over which intervals are computed, at most
    20. There are at most 10 points: after 1, 2, 3, 4, 6, 8, 10, 12, 16 and 20 blocks, and after all of them. The last
    point is the result itself.

    Attributes:
        n_images: Number of images in the mean, ascending.
        ratios: A curve for each protocol and threshold of the result, in the order of its rows.
        until: Relative half-width at which the measurement was to end, or None if it had a fixed number of images.
        converged: Whether every ratio of the protocols ``"centred"`` and ``"pixels"`` reached it, over at least 10
            blocks; None without ``until``.
    """

    n_images: tuple[int, ...]
    ratios: tuple[RatioCurve, ...]
    until: float | None = None
    converged: bool | None = None

    def __post_init__(self) -> None:
        """Check that every curve has a value for each number of images."""
        for curve in self.ratios:
            if not len(curve.values) == len(curve.half_widths) == len(self.n_images):
                raise InvalidInputError(
                    f"The curve of {curve.protocol!r} at {curve.threshold:g} has {len(curve.values)} values and "
                    f"{len(curve.half_widths)} half-widths for {len(self.n_images)} numbers of images. Each number of "
                    "images needs one of both. Give curves of that length."
                )


def convergence_of(
    block_sums: FloatArray,
    block_counts: Sequence[int],
    thresholds: Sequence[float],
    center: Sequence[float],
    until: float | None = None,
    *,
    middle: Sequence[int] | None = None,
    map_of: Callable[[FloatArray], FloatArray] | None = None,
    whole: tuple[Mapping[tuple[str, float], AreaRatio], Mapping[tuple[str, float], float] | None] | None = None,
) -> Convergence:
    """The area ratios as functions of the number of images.

    Args:
        block_sums: Sums of the contribution maps over the images of each block, ``[B, H, W]``.
        block_counts: Number of images in each block, ``[B]``; blocks without an image are left out.
        thresholds: Thresholds, as in :func:`~replk_probe.erf.area_ratios`.
        center: Center, as in :func:`~replk_probe.erf.area_ratios`.
        until: Relative half-width of the criterion, or None.
        middle: Middle of windows, as in :func:`~replk_probe.erf.area_ratios`.
        map_of: Function from a mean to the map that is measured; None for the mean itself.
        whole: The area ratios of all images and their half-widths, if they are known.
    """
    used = [block for block, count in enumerate(block_counts) if count]
    n_images: list[int] = []
    curves: dict[tuple[str, float], list[tuple[float, float | None]]] = {}
    for point in sorted({*(point for point in _POINTS if point < len(used)), len(used)}):
        end = used[point - 1] + 1
        blocks = Blocks(block_sums[:end], block_counts[:end], map_of)
        if blocks.mean.max() == 0:  # the first images may have no contribution at all
            continue
        n_images.append(blocks.n_images)
        if whole is not None and point == len(used):
            ratios, halves = whole
        else:
            ratios = area_ratios(blocks.mean, thresholds, center=center, middle=middle)
            halves = half_widths(blocks, thresholds, center, middle=middle)
        for key, answer in ratios.items():
            curves.setdefault(key, []).append((answer.ratio, None if halves is None else halves[key]))
    converged = None
    if until is not None:
        converged = has_converged(Blocks(block_sums, block_counts, map_of), thresholds, center, until)
    found = tuple(RatioCurve(*key, *zip(*points, strict=True)) for key, points in curves.items())
    return Convergence(tuple(n_images), found, until, converged)


def has_converged(blocks: Blocks, thresholds: Sequence[float], center: Sequence[float], until: float) -> bool:
    """Whether the relative half-width of every ratio of the criterion is at most ``until``, over enough blocks."""
    return blocks.n_used >= FEWEST_BLOCKS and _widest(blocks, thresholds, center)[1] <= until


def convergence_note(blocks: Blocks, thresholds: Sequence[float], center: Sequence[float], until: float) -> str:
    """Why a measurement has not converged."""
    if blocks.n_used < FEWEST_BLOCKS:
        return (
            f"Not converged: {blocks.n_images} images are too few for the criterion, which needs at least "
            f"{FEWEST_BLOCKS} blocks of images. Measure more images."
        )
    (protocol, threshold), width = _widest(blocks, thresholds, center)
    return (
        f"Not converged: with all {blocks.n_images} images, the relative half-width of {protocol!r} at "
        f"{100 * threshold:g} % is {width:.2g}, above {until:g}. Measure more images."
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


def _widest(blocks: Blocks, thresholds: Sequence[float], center: Sequence[float]) -> tuple[tuple[str, float], float]:
    """The ratio of the criterion with the largest relative half-width, and that width; infinite where undefined."""
    ratios = area_ratios(blocks.mean, thresholds, CRITERION, center)
    halves = half_widths(blocks, thresholds, center, CRITERION)
    widths = {key: math.inf if halves is None else halves[key] / answer.ratio for key, answer in ratios.items()}
    widest = max(widths, key=lambda key: widths[key])
    return widest, widths[widest]
