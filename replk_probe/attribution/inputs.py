"""The images whose class scores are attributed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replk_probe.errors import InvalidInputError
from replk_probe.images import list_images, normalize
from replk_probe.images.channels import with_channels
from replk_probe.images.decode import load_rgb
from replk_probe.images.depth import DEPTH
from replk_probe.runtime.paths import usable_path


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """How images become inputs of a network."""

    size: tuple[int, int]  # (H, W) in pixels
    mean: tuple[float, ...]  # mean of each channel, for inputs in [0, 1]
    std: tuple[float, ...]  # standard deviation of each channel, for inputs in [0, 1]
    bgr: bool = False  # whether the colors are in the order blue, green, red


@dataclass(frozen=True, eq=False)
class Inputs:
    """Normalized images with their names and pictures."""

    ids: tuple[str, ...]
    source: str  # "files", "folder:NAME" or "tensor"
    batch: Tensor  # [N, C, H, W]
    pictures: npt.NDArray[np.uint8]  # [N, H, W, 3]
    depths: tuple[int, ...] = ()  # depth in bits of the images with more than eight bits per value


def check_images(images: Any) -> Tensor | list[Path]:
    """Normalized images ``[N, C, H, W]``, or the files of images.

    Raises:
        InvalidInputError: There are no images, or they are given in another form.
    """
    batch = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    if isinstance(batch, Tensor):
        if batch.dim() != 4 or not batch.numel() or not batch.is_floating_point():
            raise InvalidInputError(
                f"Expected normalized images as a floating-point tensor [N, C, H, W], but got {batch.dtype} "
                f"{list(batch.shape)}. Add a batch dimension to a single image, and subtract the mean of the model."
            )
        return batch.detach()
    single = isinstance(images, (str, os.PathLike))
    given: list[Any] = [images] if single else list(images) if isinstance(images, Sequence) else [None]
    if not all(isinstance(one, (str, os.PathLike)) for one in given):
        raise InvalidInputError(
            f"Expected images as files, a folder or a tensor, but got an object of type {type(images).__name__}. Give "
            "a path, a list of paths, or normalized images [N, C, H, W]."
        )
    if not given:
        raise InvalidInputError("There are no images. An attribution is that of an image. Give at least one file.")
    return [usable_path(one, "The image") for one in given]


def load_inputs(images: Tensor | list[Path], how: Preprocessing) -> Inputs:
    """Decode and normalize images, or undo the normalization of a tensor for its pictures.

    Raises:
        UnreadableImageError: A file is missing or damaged.
        InvalidInputError: A folder has no images.
    """
    if isinstance(images, Tensor):
        numbered = tuple(f"tensor-{index:04d}" for index in range(len(images)))
        return Inputs(numbered, "tensor", images, _pictures_of(images, how))
    source = "files"
    if len(images) == 1 and images[0].is_dir():
        source = f"folder:{images[0].name or images[0].resolve().name}"
    files = [path / name for path in images for name in (list_images(path) if path.is_dir() else ("",))]
    names = Counter(file.name for file in files)
    # The whole path where two files have the same name.
    ids = [file.name if names[file.name] == 1 else str(file) for file in files]
    loaded = [load_rgb(file, name, how.size) for file, name in zip(files, ids, strict=True)]
    pictures = np.stack([np.asarray(picture) for picture in loaded])
    inputs = [normalize(with_channels(picture, len(how.mean), bgr=how.bgr), how.mean, how.std) for picture in pictures]
    depths = tuple(picture.info[DEPTH] for picture in loaded if DEPTH in picture.info)
    return Inputs(tuple(ids), source, torch.from_numpy(np.stack(inputs)), pictures, depths)


def _pictures_of(batch: Tensor, how: Preprocessing) -> npt.NDArray[np.uint8]:
    """RGB pictures of normalized images; values outside of [0, 1] are clipped, other channels than colors averaged."""
    values = batch.double().cpu().numpy()
    mean, std = (np.asarray(one)[:, None, None] for one in (how.mean, how.std))
    shown = np.nan_to_num(values * std + mean)
    if shown.shape[1] == 3:
        shown = shown[:, ::-1] if how.bgr else shown
    else:
        shown = shown.mean(axis=1, keepdims=True).repeat(3, axis=1)
    return np.asarray((shown.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1))
