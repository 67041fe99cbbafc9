"""The transforms that suppress a cue, of images with eight bits per value.

Gaussian blur and grayscale are those of torchvision, the bilateral filter and non-local means those of OpenCV, which
computes them for eight-bit images without a conversion to floating-point numbers. The other transforms move pixels.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.runtime.formatting import dimensions

from .suppressions import (
    BILATERAL,
    CHANNEL_SHUFFLE,
    GAUSSIAN_BLUR,
    GRAYSCALE,
    NON_LOCAL_MEANS,
    PATCH_ROTATION,
    PATCH_SHUFFLE,
    REFERENCE_SIDE,
    Step,
    Suppression,
    parse_suppressions,
)

if TYPE_CHECKING:
    from types import ModuleType

OPENCV_METHODS = (BILATERAL, NON_LOCAL_MEANS)
_BILATERAL_SIGMA = 5.0  # spatial standard deviation, in pixels of an image of the reference side
# Sides of the compared patches and of the area in which they are searched, in pixels: the recommended ones.
_TEMPLATE, _SEARCH = 7, 21
_ORDERS = tuple(itertools.permutations(range(3)))[1:]  # all orders of the channels but the original one


def suppress(image: Tensor, suppression: str | Suppression, *, seed: int = 0, image_id: str = "") -> Tensor:
    """Suppress one or several cues of an image.

    Args:
        image: RGB image, ``[3, H, W]`` uint8.
        suppression: The suppression, or its name such as ``"patch-shuffle:4"``.
        seed: Random seed.
        image_id: Name of the image. The random numbers depend on nothing but it, the seed, the method and its strength.

    Returns:
        The image after the suppression, ``[3, H, W]`` uint8 on the same device.

    Raises:
        InvalidInputError: The image has another form or is too small, or the suppression is unknown or stands for
            several strengths.
        BackendError: OpenCV is required and not installed.

    Examples:
        >>> import torch
        >>> from replk_probe.reliance import suppress
        >>> image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
        >>> shuffled = suppress(image, "patch-shuffle:2", image_id="a.png")
        >>> bool((shuffled == image).all()), bool((shuffled[0].unique() == image[0].unique()).all())
        (False, True)
    """
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 3 or len(image) != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InvalidInputError(
            f"Expected an RGB image [3, H, W] of type uint8, but got {found}. The transforms are defined for eight "
            "bits per value. Convert the image."
        )
    several = (suppression,) if isinstance(suppression, Suppression) else parse_suppressions([suppression])
    if len(several) > 1:
        raise InvalidInputError(
            f"{suppression!r} stands for {len(several)} strengths. One is needed here. Use for instance "
            f"{several[0].name!r}."
        )
    check_size(several, (image.shape[1], image.shape[2]))
    for step in several[0].steps:
        if step.method in OPENCV_METHODS:
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
            image = torch.from_numpy(opencv_filtered(pixels, step)).permute(2, 0, 1).to(image.device)
        else:
            image = transformed(image, step, seed, image_id)
    return image


def check_size(suppressions: tuple[Suppression, ...], size: tuple[int, int]) -> None:
    """Raise InvalidInputError if images of ``(H, W)`` pixels are too small or have a side too long for a method."""
    for suppression in suppressions:
        for step in suppression.steps:
            if step.method == GAUSSIAN_BLUR and min(size) <= _blur_radius(step, size):
                raise InvalidInputError(
                    f"Images of {dimensions(size)} pixels cannot be blurred by {step.text}. The filter reaches beyond "
                    "the opposite edge. Use a smaller strength, or larger images."
                )
            if step.method not in (PATCH_SHUFFLE, PATCH_ROTATION):
                continue
            assert step.strength is not None
            rows, columns = (side // int(step.strength) for side in size)
            if min(rows, columns) < 1:
                raise InvalidInputError(
                    f"Images of {dimensions(size)} pixels cannot be divided into {step.strength:g} x {step.strength:g} "
                    f"patches. A patch has at least one pixel. Use a smaller strength of {step.method}, or larger "
                    "images."
                )
            if step.method == PATCH_ROTATION and rows != columns:
                raise InvalidInputError(
                    f"Patches of {rows} x {columns} pixels cannot be rotated by 90 degrees. Only squares keep their "
                    f"place. Use a square input size, or leave out {step.method}."
                )


def _blur_radius(step: Step, size: Sequence[int]) -> int:
    """Pixels on each side of one that a blur takes into account."""
    assert step.strength is not None
    return math.ceil(3 * _scaled(step.strength, size))


def opencv(methods: tuple[str, ...] = OPENCV_METHODS) -> ModuleType:
    """The module of OpenCV.

    Raises:
        BackendError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise BackendError(
            f"Cannot compute {' and '.join(methods)}. OpenCV is not installed. Run pip install "
            "'replk-probe[reliance]', or choose other suppressions."
        ) from error
    return cv2


def opencv_filtered(rgb: npt.NDArray[np.uint8], step: Step) -> npt.NDArray[np.uint8]:
    """An image after a filter of OpenCV, which releases the lock of the interpreter.

    Args:
        rgb: RGB image, ``[H, W, 3]`` uint8.
        step: The filter.
    """
    cv2: Any = opencv((step.method,))
    if step.method == BILATERAL:
        return np.asarray(cv2.bilateralFilter(rgb, -1, step.strength, _scaled(_BILATERAL_SIGMA, rgb.shape[:2])))
    # It expects the order blue, green, red, and treats lightness and color separately.
    filtered = cv2.fastNlMeansDenoisingColored(
        np.ascontiguousarray(rgb[:, :, ::-1]), None, step.strength, step.strength, _TEMPLATE, _SEARCH
    )
    return np.ascontiguousarray(filtered[:, :, ::-1])


def _torchvision() -> Any:
    """The functions of torchvision, which have no type annotations; importing them loads torch's compiler."""
    from torchvision.transforms.v2 import functional

    return functional


def transformed(image: Tensor, step: Step, seed: int, image_id: str) -> Tensor:
    """An image ``[3, H, W]`` uint8 after a transform that is computed on its device."""
    if step.method == GRAYSCALE:
        grayscale: Tensor = _torchvision().rgb_to_grayscale(image, num_output_channels=3)
        return grayscale
    if step.method == CHANNEL_SHUFFLE:
        order = _ORDERS[int(_words(step, seed, image_id, 1)[0] % np.uint64(len(_ORDERS)))]
        return image[list(order)]
    assert step.strength is not None
    if step.method == GAUSSIAN_BLUR:
        sigma = _scaled(step.strength, image.shape[1:])
        side = 2 * _blur_radius(step, image.shape[1:]) + 1
        # The filter is separable. One axis after the other takes a few percent of the time of a square window.
        blurred: Tensor = image.float()
        for window in ([side, 1], [1, side]):
            blurred = _torchvision().gaussian_blur(blurred, window, [sigma, sigma])
        return blurred.round_().to(torch.uint8)
    grid = int(step.strength)
    words = _words(step, seed, image_id, grid * grid)
    rows, columns = image.shape[1] // grid, image.shape[2] // grid
    area = image[:, : grid * rows, : grid * columns]
    patches = area.reshape(3, grid, rows, grid, columns).permute(1, 3, 0, 2, 4).reshape(-1, 3, rows, columns)
    if step.method == PATCH_SHUFFLE:
        places = torch.from_numpy(np.argsort(words, kind="stable")).to(image.device)
        moved = patches[places]
    else:
        moved = torch.empty_like(patches)
        turns = words >> np.uint64(62)
        for quarter in range(4):
            chosen = torch.from_numpy(np.flatnonzero(turns == quarter)).to(image.device)
            moved[chosen] = torch.rot90(patches[chosen], quarter, (2, 3))
    result = image.clone()
    moved = moved.reshape(grid, grid, 3, rows, columns).permute(2, 0, 3, 1, 4).reshape(area.shape)
    result[:, : grid * rows, : grid * columns] = moved
    return result


def _scaled(length: float, sides: Sequence[int]) -> float:
    """A length that is given for an image of the reference side, in pixels of an image with these sides."""
    return length * min(sides) / REFERENCE_SIDE


def _words(step: Step, seed: int, image_id: str, count: int) -> npt.NDArray[np.uint64]:
    """Random 64-bit words for a transform of an image; those of a bit generator are the same in all versions."""
    text = f"{seed}\0{step.text}\0{image_id}"
    key = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:16], "little")
    words: npt.NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return words
