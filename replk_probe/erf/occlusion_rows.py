"""The rows of an occlusion check, and what they say about the contribution map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Window: TypeAlias = tuple[slice, slice]

FILLS = ("mean color", "blurred image", "other image")
ALL_FILLS = "all"
KEPT = ("window", "surroundings")

# Passes for each image besides that of the untouched one.
MOST_PASSES = 12
# Share of the contribution from which on a window should matter more than the rest of the image.
_MOST_OF_IT = 0.5


@dataclass(frozen=True)
class OcclusionRow:
    """Features at the measured position with a part of the image replaced, compared with those of the whole image.

    Attributes:
        threshold: Share of the contribution that the window exceeds, in (0, 1).
        window: Height and width of the window in pixels: that of protocol ``"centred"``.
        kept: ``"window"`` if everything outside of the window was replaced, ``"surroundings"`` if the window was.
        fill: What the part was replaced with: ``"mean color"`` (of the image), ``"blurred image"`` (resized to 1/32 of
            its sides and back), ``"other image"`` (the one before it in the measurement), or ``"all"`` for the mean of
            the three.
        n_images: Number of images; at most 12 occlusions are computed for each image, so that more take turns.
        cosine: Cosine between the two feature vectors, mean over images, in [-1, 1]; None if it is undefined.
        cosine_ci95: 95 % confidence interval of ``cosine``; None for fewer than two images.
        distance: Norm of the difference divided by the norm of the features of the whole image, mean over images.
        distance_ci95: 95 % confidence interval of ``distance``.
    """

    threshold: float
    window: tuple[int, int]
    kept: str
    fill: str
    n_images: int
    cosine: float | None
    cosine_ci95: tuple[float, float] | None
    distance: float | None
    distance_ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Occlusion:
    """A window, whether it or the rest of the image is kept, and what replaces the other part."""

    threshold: float
    window: Window
    kept: str  # one of KEPT
    fill: str  # one of FILLS


def occlusions_of(windows: Mapping[float, Window], size: tuple[int, int], *, several: bool) -> list[Occlusion]:
    """All occlusions of the windows of the thresholds, except those that are the whole image.

    Args:
        windows: Window of each threshold.
        size: (H, W) of the image.
        several: Whether there is another image that can be the fill.
    """
    fills = FILLS if several else tuple(fill for fill in FILLS if fill != "other image")
    return [
        Occlusion(threshold, window, kept, fill)
        for (threshold, window), kept, fill in product(windows.items(), KEPT, fills)
        if (window[0].stop - window[0].start, window[1].stop - window[1].start) != size
    ]


def turn_of(occlusions: Sequence[Occlusion], image: int) -> list[int]:
    """Indices of the occlusions of one image: at most 12, so that more of them take turns over the images."""
    turns = max(-(-len(occlusions) // MOST_PASSES), 1)
    return list(range(image % turns, len(occlusions), turns))


def summarize(
    occlusions: Sequence[Occlusion], values: Sequence[Sequence[tuple[float, float]]]
) -> tuple[OcclusionRow, ...]:
    """Means over images with 95 % intervals, for each occlusion, and for all fills of a window together.

    Args:
        occlusions: All occlusions.
        values: For each image, cosine and distance for each of its occlusions (:func:`turn_of`).

    Returns:
        One row for each occlusion, and after the fills of a window a row for all of them: its values are the means over
        the fills. Intervals are those of Student's t over images.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in occlusions]
    for image, compared in enumerate(values):
        for index, value in zip(turn_of(occlusions, image), compared, strict=True):
            if not math.isnan(value[0]):
                found[index].append(value)
    rows: list[OcclusionRow] = []
    group: list[int] = []
    for index, one in enumerate(occlusions):
        rows.append(_row(one, one.fill, [found[index]]))
        group.append(index)
        following = occlusions[index + 1] if index + 1 < len(occlusions) else None
        if following is None or (following.threshold, following.kept) != (one.threshold, one.kept):
            rows.append(_row(one, ALL_FILLS, [found[each] for each in group]))
            group = []
    return tuple(rows)


def _row(one: Occlusion, fill: str, groups: Sequence[Sequence[tuple[float, float]]]) -> OcclusionRow:
    """The row of one or several fills: the mean of their means."""
    rows, columns = one.window
    numbers = [np.array([value[which] for value in group]) for which in (0, 1) for group in groups if group]
    half = len(numbers) // 2
    cosine, distance = _mean(numbers[:half]), _mean(numbers[half:])
    return OcclusionRow(
        threshold=one.threshold,
        window=(rows.stop - rows.start, columns.stop - columns.start),
        kept=one.kept,
        fill=fill,
        n_images=sum(map(len, groups)) if fill != ALL_FILLS else min(map(len, groups)),
        cosine=cosine[0],
        cosine_ci95=cosine[1],
        distance=distance[0],
        distance_ci95=distance[1],
    )


def _mean(groups: Sequence[npt.NDArray[np.float64]]) -> tuple[float | None, tuple[float, float] | None]:
    """The mean of the means of independent groups of images, and its 95 % interval; None if there are too few."""
    if not groups:
        return None, None
    mean = float(np.mean([group.mean() for group in groups]))
    if min(map(len, groups)) < 2:
        return mean, None
    # Fills of the same image are not independent: the errors are added, which overestimates the interval.
    error = float(np.mean([group.std(ddof=1) / math.sqrt(len(group)) for group in groups]))
    quantile = float(stdtrit(min(map(len, groups)) - 1, 0.975))
    return mean, (mean - quantile * error, mean + quantile * error)


def disagreement_note(rows: Sequence[OcclusionRow]) -> str | None:
    """A note where windows with most of the contribution matter less than the rest of the image, or None."""
    means = {(row.threshold, row.kept): row for row in rows if row.fill == ALL_FILLS}
    found = []
    for threshold in dict.fromkeys(row.threshold for row in rows):
        window, rest = (means.get((threshold, kept)) for kept in KEPT)
        if threshold < _MOST_OF_IT or window is None or rest is None:
            continue
        if window.distance is not None and rest.distance is not None and window.distance >= rest.distance:
            found.append(f"{100 * threshold:g} %")
    if not found:
        return None
    return (
        f"Gradient and occlusion disagree at {', '.join(found)}: replacing the surroundings of the window changes the "
        "features more than replacing the window itself."
    )
