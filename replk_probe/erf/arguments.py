"""Checks of single arguments, and the images of a measurement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replk_probe.errors import InvalidInputError
from replk_probe.images import ImageSet, sample_images

from .area_protocols import check_threshold


@dataclass(frozen=True)
class TensorImages:
    """Images given as an array, already normalized."""

    batch: Tensor  # [N, C, H, W] floating point, or with one or three axes instead of H and W

    source = "tensor"
    sampling = "first"
    shortfall_note = None

    @property
    def ids(self) -> tuple[str, ...]:
        """``tensor-0000``, ``tensor-0001``, ..."""
        return tuple(map(self.id_of, range(len(self.batch))))

    @staticmethod
    def id_of(index: int) -> str:
        """The id of one image."""
        return f"tensor-{index:04d}"

    @property
    def requested(self) -> int:
        """Number of images; all of them are used."""
        return len(self.batch)


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The thresholds, each in (0, 1), without duplicates, in the order given."""
    if isinstance(thresholds, (str, bytes)) or not isinstance(thresholds, Iterable):
        raise InvalidInputError(
            f"Expected a sequence of thresholds, got {thresholds!r}. Give a list of numbers such as [0.2, 0.5]."
        )
    checked = tuple(dict.fromkeys(check_threshold(threshold) for threshold in thresholds))
    if not checked:
        raise InvalidInputError("No thresholds were given. Area ratios need at least one. Give for instance 0.2,0.5.")
    return checked


def choose_images(data: Any, n: int, seed: int, sampling: str) -> ImageSet | TensorImages:
    """The images given as the ``data`` of :func:`~replk_probe.measure_erf`."""
    if isinstance(data, ImageSet):
        if not data.ids:
            raise InvalidInputError(
                "The image set is empty. A contribution map is a mean over images. Give at least one."
            )
        return data
    if data is None or isinstance(data, (str, Path)):
        return sample_images(data, n, seed, sampling)  # type: ignore[arg-type]
    batch = torch.from_numpy(data) if isinstance(data, np.ndarray) else data
    if (
        not isinstance(batch, Tensor)
        or not 3 <= batch.dim() <= 5
        or batch.numel() == 0
        or not batch.is_floating_point()
    ):
        given = f"an object of type {type(data).__name__}"
        if isinstance(batch, Tensor):
            given = f"{batch.dtype} {list(batch.shape)}"
        raise InvalidInputError(
            f"Expected images as data, but got {given}. Give an ImageSet, a folder or normalized floating-point images "
            "[N, C, H, W], sequences [N, C, L] or volumes [N, C, D, H, W]; or the inputs of a network with several as "
            "inputs=(a, b)."
        )
    return TensorImages(batch.detach())
