"""Maps as small images, which are part of the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from functools import cache

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import seaborn.cm  # noqa: F401 (adds the color map to those of matplotlib)
from PIL import Image

from replk_probe.plot_style import COLOR_MAP, block_means

FloatArray = npt.NDArray[np.float64]
LARGEST = 256  # pixels of the longer side of an image


def block_of(height: int, width: int) -> int:
    """Side of the squares of pixels that are drawn as one, so that a map has at most ``LARGEST`` pixels each way."""
    return math.ceil(max(height, width) / LARGEST)


def map_image(values: FloatArray, floor: float | None = None) -> str:
    """A map relative to its maximum, in the colors of all figures, as a data URI.

    Args:
        values: Scores, ``[H, W]``, >= 0.
        floor: Lower end of a logarithmic scale up to 1, or None for a linear scale from 0 to 1.
    """
    reduced = block_means(values / (float(values.max()) or 1.0), block_of(*values.shape))
    if floor is not None:
        reduced = 1 - np.log(np.clip(reduced, floor, 1.0)) / math.log(floor)
    image = Image.fromarray(np.rint(255 * np.clip(reduced, 0.0, 1.0)).astype(np.uint8))
    image.putpalette(_palette())
    return _png(image)


def set_images(scores: FloatArray, counts: Sequence[int]) -> list[str]:
    """What the ``counts`` largest pixels leave out, as data URIs: dark, half transparent layers.

    In a reduced map, a square of pixels is left out if most of its pixels are.
    """
    if not counts:
        return []
    order = np.argsort(-scores, axis=None, kind="stable")
    images = []
    for count in counts:
        outside = np.ones(scores.size)
        outside[order[:count]] = 0.0
        reduced = block_means(outside.reshape(scores.shape), block_of(*scores.shape))
        image = Image.fromarray((reduced > 0.5).astype(np.uint8))
        image.putpalette([255, 255, 255, 0, 0, 0])
        images.append(_png(image, transparency=bytes([0, 170])))
    return images


def color_stops(count: int = 16) -> list[tuple[str, str]]:
    """Offsets and colors of the color map, from its lower end."""
    colors = np.rint(255 * mpl.colormaps[COLOR_MAP](np.linspace(0, 1, count))[:, :3]).astype(int)
    return [
        (f"{100 * index / (count - 1):.4g}%", "#{:02x}{:02x}{:02x}".format(*color))
        for index, color in enumerate(colors.tolist())
    ]


def _png(image: Image.Image, **options: bytes) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True, **options)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


@cache
def _palette() -> list[int]:
    colors = mpl.colormaps[COLOR_MAP](np.linspace(0, 1, 256))[:, :3]
    values: list[int] = np.rint(255 * colors).astype(int).ravel().tolist()
    return values
