"""Images for networks with other channels than red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from replk_probe.errors import InvalidInputError


def check_channels(channels: int, bgr: bool) -> None:
    """Raise InvalidInputError if there are fewer channels than colors to reverse."""
    if bgr and channels < 3:
        raise InvalidInputError(
            f"The order BGR needs three channels. The network takes {channels}. Omit bgr, or choose other channels."
        )


def with_channels(rgb: npt.NDArray[np.uint8], channels: int, *, bgr: bool = False) -> npt.NDArray[np.uint8]:
    """The image with another number or order of channels.

    Args:
        rgb: RGB image, ``[H, W, 3]`` uint8.
        channels: Number of channels: 1 for the luminance (PIL's mode L); with more than 3, the colors are repeated
            in order.
        bgr: Whether the colors are in the order blue, green, red.

    Returns:
        ``[H, W, channels]`` uint8.
    """
    if channels == 1:
        return np.array(Image.fromarray(rgb).convert("L"))[:, :, None]
    return rgb[:, :, _colors(channels, bgr)]


def fitted_statistics(values: Sequence[float], channels: int, *, bgr: bool = False) -> tuple[float, ...]:
    """One mean or standard deviation for each channel.

    Args:
        values: One number for all channels, one for each channel, or those of red, green and blue; of these, a network
            with one channel takes the average, and others the one of each channel's color.
        channels: Number of channels.
        bgr: Whether the colors are in the order blue, green, red.

    Raises:
        InvalidInputError: The number of values does not fit.
    """
    if len(values) == 1:
        return tuple(values) * channels
    if len(values) == 3:
        if channels == 1:
            return (sum(values) / 3,)
        return tuple(values[color] for color in _colors(channels, bgr))
    if len(values) == channels:
        return tuple(values)
    raise InvalidInputError(
        f"{len(values)} means or standard deviations do not fit {channels} channels. Either one for all of them, one "
        "for each or three (of red, green and blue) are needed. Give them as mean and std."
    )


def channels_note(channels: int, *, bgr: bool = False) -> str | None:
    """Note on channels other than red, green and blue, or None."""
    if channels == 1:
        return "The network takes 1 channel: images are converted to their luminance."
    names = ", ".join("RGB"[color] for color in _colors(channels, bgr)[:8]) + (", ..." if channels > 8 else "")
    if channels != 3:
        return f"The network takes {channels} channels: the colors of the images are repeated in the order {names}."
    return f"The channels are in the order {names}." if bgr else None


def _colors(channels: int, bgr: bool) -> list[int]:
    """Index of the color (red, green, blue) of each channel."""
    return [2 - index % 3 if bgr else index % 3 for index in range(channels)]
