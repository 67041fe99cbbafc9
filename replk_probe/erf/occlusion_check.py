"""Occlusion check: whether the window of an effective receptive field holds what the features depend on.

A contribution map says where the gradient is large. This check replaces the rest of the image, or the window itself,
and compares the features at the measured position with those of the untouched image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replk_probe.models.inference.check import evaluating
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.models.inference.cudnn_passes import with_engines

from .occlusion_rows import KEPT, Compared, Occlusion
from .target_layer import TargetLayer, run_to

# An image is blurred by resizing it to this share of its sides and back.
_BLUR = 1 / 32


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


def _occluded(image: Tensor, fills: Mapping[str, Tensor], occlusion: Occlusion) -> Tensor:
    """The image ``[C, H, W]`` with a part replaced."""
    fill, (rows, columns) = fills[occlusion.fill], occlusion.window
    inner, outer = (image, fill) if occlusion.kept == KEPT[0] else (fill, image)
    found = outer.clone()
    found[:, rows, columns] = inner[:, rows, columns]
    return found


def compare(
    model: nn.Module,
    target: TargetLayer,
    image: Tensor,
    other: Tensor | None,
    occlusions: Sequence[Occlusion],
    batch_size: int,
) -> Compared:
    """Cosine and relative distance between the features of an image and those of each of its occlusions.

    Args:
        model: The network.
        target: The layer and the position.
        image: Normalized image ``[C, H, W]``.
        other: Another image of the same shape, or None.
        occlusions: Occlusions.
        batch_size: Images at once.

    Returns:
        For each occlusion the cosine, in [-1, 1], and the norm of the difference divided by that of the features; None
        where the features are zero or not finite.
    """
    fills = fills_of(image, other)
    images = [image, *(_occluded(image, fills, occlusion) for occlusion in occlusions)]
    rows = []
    with evaluating(model), torch.no_grad():
        for first in range(0, len(images), batch_size):
            batch = torch.stack(images[first : first + batch_size]).to(**device_and_dtype(model))
            output = with_engines(partial(run_to, model, batch, target), batch.device)
            rows.append(target.features(output)[0].cpu().double())
    own, *changed = torch.cat(rows).numpy()
    return [_compared(own, features) for features in changed]


def _compared(own: npt.NDArray[np.float64], features: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    norm, other = float(np.linalg.norm(own)), float(np.linalg.norm(features))
    if not (0 < norm < math.inf and 0 < other < math.inf):
        return None
    cosine = float(own @ features) / norm / other
    return min(max(cosine, -1.0), 1.0), float(np.linalg.norm(features - own)) / norm
