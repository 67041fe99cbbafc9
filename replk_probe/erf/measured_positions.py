"""Maps of several positions: their recentered mean, and the ratios of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replk_probe.runtime.formatting import counted

from .area_protocols import FloatArray, area_ratios
from .jackknife import jackknife
from .result import MeasuredPosition, RatioRow
from .target_layer import TargetLayer


@dataclass(frozen=True)
class Recentering:
    """The mean of maps of several positions, each shifted so that the centers of their receptive fields coincide.

    Position p contributes its pixel ``y + shifts[p]`` to pixel ``y`` of the mean. A pixel that lies outside the image
    for some of the positions is the mean over the others; it is zero if it does for all of them.

    Attributes:
        shifts: Shift of each position in whole pixels.
        size: Size of the maps in pixels.
    """

    shifts: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]

    def counts(self) -> npt.NDArray[np.int64]:
        """Number of positions that have each pixel, ``[H, W]``."""
        found = np.zeros(self.size, np.int64)
        for shift in self.shifts:
            found[self._slices(shift)[0]] += 1
        return found

    def mean(self, maps: FloatArray) -> FloatArray:
        """The mean of maps ``[P, H, W]``."""
        total = np.zeros(self.size)
        for shift, one in zip(self.shifts, maps, strict=True):
            to, origin = self._slices(shift)
            total[to] += one[origin]
        return total / np.maximum(self.counts(), 1)

    def _slices(self, shift: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        pairs = list(zip(shift, self.size, strict=True))
        to = tuple(slice(max(-by, 0), max(length - max(by, 0), 0)) for by, length in pairs)
        return to, tuple(slice(max(by, 0), max(length + min(by, 0), 0)) for by, length in pairs)

    @property
    def note(self) -> str:
        """One or two sentences on the mean."""
        counts = self.counts()
        missing = int((counts == 0).sum())
        text = (
            f"The map is the mean of {counted(len(self.shifts), 'position')}, each shifted by whole pixels to the "
            "center of the receptive field of the middle position. Each pixel is the mean over the positions that have "
            f"it within the image ({counts[counts > 0].min()} to {counts.max()} of them)."
        )
        return text + (f" No position has {counted(missing, 'pixel')}, which are zero." if missing else "")


def recentering_of(target: TargetLayer) -> Recentering:
    """The recentering of the positions of a layer."""
    return Recentering(tuple(map(target.shift_of, target.places)), target.input_size)


def map_function(target: TargetLayer, each: Callable[[FloatArray], FloatArray]) -> Callable[[FloatArray], FloatArray]:
    """The function from the mean over images to the map: ``each`` for every position, and their recentered mean."""
    if not target.position.is_several:
        return each
    recentering = recentering_of(target)
    return lambda mean: recentering.mean(each(mean))


def position_note(target: TargetLayer) -> str | None:
    """A note on the position that was measured; None for the middle one."""
    kind, middle = target.position.kind, ",".join(map(str, target.layout.middle))
    if kind == "center" or str(target.position) == middle:
        return None
    if kind == "mean":
        return (
            "The gradient of the mean over all positions of the feature map. It cannot be recentered: it shows the "
            "pixels on which the whole feature map depends, not the field of one position. Use grid:RxC or random:N "
            "for that."
        )
    if kind == "at":
        return (
            f"Measured at position {target.position} of the feature map instead of its middle "
            f"{middle}. The windows of 'paper' and 'linear' are moved with it."
        )
    return recentering_of(target).note


def middle_of(target: TargetLayer, place: Sequence[int]) -> tuple[int, ...]:
    """Pixel in the middle of the windows of ``paper`` and ``linear`` for a position.

    It is (H // 2, W // 2) for the middle position, and as far from it as the center of the receptive field is from
    that of the middle position; at the border of the image if it would lie outside.
    """
    shift = target.shift_of(place)
    return tuple(min(max(length // 2 + by, 0), length - 1) for length, by in zip(target.input_size, shift, strict=True))


def window_middle(target: TargetLayer) -> tuple[int, ...] | None:
    """:func:`middle_of` the single position that was chosen; None for the middle, the mean and several positions."""
    return middle_of(target, target.places[0]) if target.places and not target.position.is_several else None


def measured_position(
    target: TargetLayer,
    place: Sequence[int],
    blocks: FloatArray,
    counts: Sequence[int],
    thresholds: Sequence[float],
    map_of: Callable[[FloatArray], FloatArray],
) -> MeasuredPosition:
    """The ratios of one position, from its sums over blocks of images, ``[B, H, W]``, and their numbers of images.

    ``map_of`` gives the map for a mean. There are no ratios if the map is zero everywhere.
    """
    center, middle = target.center_of(place), middle_of(target, place)
    ratios: tuple[RatioRow, ...] = ()
    if blocks.any():
        mean = map_of(blocks.sum(axis=0) / sum(counts))
        intervals = jackknife(blocks, counts, thresholds, center, map_of=map_of, middle=middle)
        ratios = tuple(
            RatioRow(*key, answer.side, answer.ratio, intervals[key])
            for key, answer in area_ratios(mean, thresholds, center=center, middle=middle).items()
        )
    distances = (min(index, length - 1 - index) for index, length in zip(place, target.layout.size, strict=True))
    return MeasuredPosition(tuple(place), center, middle, min(distances), ratios)
