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

from replk_probe.errors import InvalidInputError

from .position_rule import PositionRule

Window: TypeAlias = tuple[slice, ...]
# Cosine and relative distance for each occlusion of an image; None where they are undefined.
Compared: TypeAlias = list[tuple[float, float] | None]

CHECKS = ("occlusion",)
FILLS = ("mean color", "blurred image", "other image")
ALL_FILLS = "all"
KEPT = ("window", "surroundings")

# Forward passes for each image, that of the untouched image included.
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
        n_images: Number of images, of each fill for ``"all"``. At most 11 occlusions are computed for each image, so
            that more of them take turns.
        cosine: Cosine between the two feature vectors, mean over images, in [-1, 1]; None if it is undefined.
        cosine_ci95: 95 % confidence interval of ``cosine``; None for fewer than two images.
        distance: Norm of the difference divided by the norm of the features of the whole image, mean over images;
            None if it is undefined.
        distance_ci95: 95 % confidence interval of ``distance``.

    Examples:
        >>> import torch
        >>> from replk_probe import measure_erf
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU())
        >>> result = measure_erf(network, torch.rand(2, 3, 32, 32), layer="0", check="occlusion")
        >>> row = next(row for row in result.occlusion if row.threshold == 0.99 and row.fill == "mean color")
        >>> row.window, row.kept, round(row.cosine, 6)
        ((5, 5), 'window', 1.0)
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


def check_single(rule: PositionRule) -> None:
    """Raise InvalidInputError unless a rule chooses one position, whose features can be compared."""
    if rule.kind not in ("center", "at"):
        raise InvalidInputError(
            f"The occlusion check cannot be made with position {str(rule)!r}. It compares the features at one "
            "position. Give center, or a row and column of the feature map."
        )


def occlusions_of(windows: Mapping[float, Window], size: tuple[int, ...], *, several: bool) -> list[Occlusion]:
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
        if not _is_whole(window, size)
    ]


def turn_of(occlusions: Sequence[Occlusion], image: int) -> list[int]:
    """Indices of the occlusions of one image: at most 11, so that more of them take turns over the images."""
    turns = _turns(occlusions)
    # Every image has all fills, also where there are as many turns as fills.
    shift = turns % len(FILLS) == 0
    return [
        index for index in range(len(occlusions)) if (index + shift * (index // len(FILLS))) % turns == image % turns
    ]


def _turns(occlusions: Sequence[Occlusion]) -> int:
    """Number of images that together have every occlusion once."""
    return max(-(-len(occlusions) // (MOST_PASSES - 1)), 1)


def summarize(occlusions: Sequence[Occlusion], values: Sequence[Compared]) -> tuple[OcclusionRow, ...]:
    """Means over images with 95 % intervals, for each occlusion, and for all fills of a window together.

    Args:
        occlusions: All occlusions.
        values: For each image, cosine and distance for each of its occlusions (:func:`turn_of`).

    Returns:
        One row for each occlusion, and after the fills of a window a row for all of them: its values are the means over
        the fills. Intervals are those of Student's t over images; for several fills, they are upper bounds.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in occlusions]
    for image, compared in enumerate(values):
        for index, value in zip(turn_of(occlusions, image), compared, strict=True):
            if value is not None:
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
    # The mean over the fills is not known if an image for one of them is missing.
    known = groups if all(groups) else []
    numbers = [np.array([value[which] for value in group]) for which in (0, 1) for group in known]
    half = len(numbers) // 2
    cosine, distance = _mean(numbers[:half], (-1.0, 1.0)), _mean(numbers[half:], (0.0, math.inf))
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


def _mean(
    groups: Sequence[npt.NDArray[np.float64]], limits: tuple[float, float]
) -> tuple[float | None, tuple[float, float] | None]:
    """The mean of the means of groups of images, and its 95 % interval within ``limits``; None if there are too few."""
    if not groups:
        return None, None
    mean = float(np.mean([group.mean() for group in groups]))
    if min(map(len, groups)) < 2:
        return mean, None
    # The error of a mean is at most the mean of the errors; it is smaller if the fills have different images.
    error = float(np.mean([group.std(ddof=1) / math.sqrt(len(group)) for group in groups]))
    quantile = float(stdtrit(min(map(len, groups)) - 1, 0.975))
    return mean, (max(mean - quantile * error, limits[0]), min(mean + quantile * error, limits[1]))


def whole_image_note(windows: Mapping[float, Window], size: tuple[int, ...]) -> str | None:
    """A note on the windows that are the whole image, of which nothing can be replaced, or None."""
    found = [f"{100 * threshold:g} %" for threshold, window in windows.items() if _is_whole(window, size)]
    if not found:
        return None
    return f"The occlusion check leaves out {', '.join(found)}, where the window is the whole image."


def _is_whole(window: Window, size: tuple[int, ...]) -> bool:
    return tuple(part.stop - part.start for part in window) == size


def few_images_note(occlusions: Sequence[Occlusion], images: int) -> str | None:
    """A note if there are too few images for every occlusion, or None."""
    turns = _turns(occlusions)
    if images >= turns:
        return None
    return (
        f"The occlusion check has {len(occlusions)} occlusions, of which at most {MOST_PASSES - 1} are computed for "
        f"each image: at least {turns} images are needed for all of them."
    )


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
