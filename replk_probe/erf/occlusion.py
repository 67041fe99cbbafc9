"""Occlusion check: whether the window of an effective receptive field holds what the features depend on.

A contribution map says where the gradient is large. This check replaces the rest of the image, or the window itself,
and compares the features at the measured position with those of the untouched image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor, nn

from replk_probe.models.inference.check import evaluating
from replk_probe.models.inference.copying import device_and_dtype

from .occlusion_rows import ALL_FILLS, FILLS, KEPT, OcclusionRow
from .target_layer import TargetLayer, run_to

# Passes for each image besides that of the untouched one.
MOST_PASSES = 12
# An image is blurred by resizing it to this share of its sides and back.
_BLUR = 1 / 32

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Occlusion:
    """A part of the image that is kept, and what replaces the rest."""

    threshold: float
    window: Window
    kept: str  # one of KEPT
    fill: str  # one of FILLS

    def apply(self, image: Tensor, fills: Mapping[str, Tensor]) -> Tensor:
        """The image ``[C, H, W]`` with a part replaced."""
        inner, outer = (image, fills[self.fill]) if self.kept == "window" else (fills[self.fill], image)
        found = outer.clone()
        found[:, self.window[0], self.window[1]] = inner[:, self.window[0], self.window[1]]
        return found


def window_of(side: tuple[int, int], center: tuple[float, float], half_width: float) -> Window:
    """Rows and columns of the pixels whose centers lie within ``half_width`` of the center on both axes."""
    rows, columns = (
        slice(max(math.ceil(middle - half_width), 0), min(math.floor(middle + half_width), extent - 1) + 1)
        for middle, extent in zip(center, side, strict=True)
    )
    return rows, columns


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


def fills_of(image: Tensor, other: Tensor | None) -> dict[str, Tensor]:
    """What replaces parts of an image ``[C, H, W]``: its mean color, the blurred image, another image."""
    size = image.shape[1:]
    small = [max(round(side * _BLUR), 1) for side in size]
    blurred = F.interpolate(image[None], small, mode="bilinear", antialias=True)
    fills = {
        "mean color": image.mean((1, 2), keepdim=True).expand_as(image),
        "blurred image": F.interpolate(blurred, size, mode="bilinear")[0],
    }
    return fills if other is None else {**fills, "other image": other}


def compare(
    model: nn.Module,
    target: TargetLayer,
    image: Tensor,
    other: Tensor | None,
    occlusions: Sequence[Occlusion],
    batch_size: int,
) -> list[tuple[float, float]]:
    """Cosine and relative distance between the features of an image and those of each of its occlusions.

    Args:
        model: The network.
        target: The layer and the position.
        image: Normalized image ``[C, H, W]``.
        other: Another image of the same shape, or None.
        occlusions: Occlusions.
        batch_size: Images at once.

    Returns:
        For each occlusion the cosine, in [-1, 1], and the norm of the difference divided by that of the features; NaN
        where the features are zero or not finite.
    """
    fills = fills_of(image, other)
    images = [image, *(occlusion.apply(image, fills) for occlusion in occlusions)]
    rows = []
    with evaluating(model), torch.no_grad():
        for first in range(0, len(images), batch_size):
            batch = torch.stack(images[first : first + batch_size]).to(**device_and_dtype(model))
            rows.append(target.layout.at_middle(run_to(model, batch, target)).double().cpu())
    own, *changed = torch.cat(rows).numpy()
    return [_compared(own, features) for features in changed]


def _compared(own: npt.NDArray[np.float64], features: npt.NDArray[np.float64]) -> tuple[float, float]:
    norm, other = float(np.linalg.norm(own)), float(np.linalg.norm(features))
    if not (0 < norm < math.inf and 0 < other < math.inf):
        return math.nan, math.nan
    cosine = float(own @ features) / norm / other
    return min(max(cosine, -1.0), 1.0), float(np.linalg.norm(features - own)) / norm


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
