"""Rendering of scenes in integer arithmetic, by the same steps for all classes.

An affine map gives the position of each pixel in the field of its shape and in that of its texture. The softened fields
are sampled there by bilinear interpolation, and their edges are sharpened to the width of a pixel.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .fields import FULL, SIDE, SOFTNESS, Field
from .random_numbers import Floats, following_words
from .scenes import Scenes
from .silhouettes import RADIUS, shape_fields
from .textures import texture_fields, wavelengths

Pixels: TypeAlias = npt.NDArray[np.uint8]
Levels: TypeAlias = npt.NDArray[np.int32]

# Smaller images are drawn at a multiple of their size and averaged: finer textures would alias.
SMALLEST_DRAWN = 64
NOISE = 8  # levels of 255, uniform from -8 to 7, the same in all channels

_POINT = 16  # fractional bits of positions
_CHUNK = 1 << 16  # pixels drawn together: their planes stay in a core's cache


def draw(scenes: Scenes, size: int) -> Pixels:
    """Draw N scenes as RGB images of ``size`` pixels, ``[N, size, size, 3]``."""
    times = -(-SMALLEST_DRAWN // size)
    side = times * size
    images = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    step = max(_CHUNK // (side * side), 1)
    for start in range(0, len(scenes), step):
        chunk = slice(start, start + step)
        images[chunk] = _averaged(_draw(scenes[chunk], side), times)
    return images


def coverage(scenes: Scenes, size: int) -> tuple[Levels, Levels]:
    """Coverage of each pixel by the figure, and by ink within the figure, from 0 to 256, ``[N, size * size]`` each.

    The size in pixels is at least :data:`SMALLEST_DRAWN`.
    """
    radius, y, x, cosine, sine = scenes.pose.T
    # Field pixels per side of the image.
    zoom = RADIUS / radius
    middle_y = SIDE / 2 - zoom * (cosine * y - sine * x)
    middle_x = SIDE / 2 - zoom * (cosine * x + sine * y)
    figure = _read(shape_fields(), scenes.shape, size, zoom, cosine, sine, middle_y, middle_x, periodic=False)

    wavelength, y, x, cosine, sine = scenes.patch.T
    zoom = wavelengths()[scenes.texture] / wavelength
    ink = _read(texture_fields(), scenes.texture, size, zoom, cosine, sine, SIDE * y, SIDE * x, periodic=True)
    return figure, ink


def _draw(scenes: Scenes, size: int) -> Pixels:
    figure, ink = coverage(scenes, size)
    ink *= figure
    figure <<= 8
    noise = _noise(scenes, size)
    images = np.empty((len(scenes), size * size, 3), dtype=np.uint8)
    colors = scenes.colors.astype(np.int32)
    for channel in range(3):
        of_ink, of_ground, of_background = (colors[:, part, channel, None] for part in range(3))
        level = figure * (of_ground - of_background)
        level += ink * (of_ink - of_ground)
        level += (of_background << 16) + (1 << 15)
        level >>= 16
        level += noise
        images[:, :, channel] = level
    return images.reshape(len(scenes), size, size, 3)


def _read(
    fields: Field,
    which: npt.NDArray[np.int64],
    size: int,
    zoom: Floats,
    cosine: Floats,
    sine: Floats,
    middle_y: Floats,
    middle_x: Floats,
    periodic: bool,
) -> Levels:
    """Values of fields at the pixels of images, from 0 to 256, ``[N, size * size]``.

    ``zoom`` is the number of field pixels per side of an image, the rotation is clockwise, and the middle is that of
    the image in field pixels. Border values are repeated unless a field is ``periodic``.
    """
    # Positions of pixels relative to the image center, in units of half a pixel, and their positions in the field.
    half = 2 * np.arange(size, dtype=np.int64) + 1 - size
    unit = zoom / (2 * size) * 2**_POINT
    along, across = (np.rint(unit * part).astype(np.int64)[:, None] for part in (cosine, sine))
    # Field values are located at pixel centers.
    start_y, start_x = (
        np.rint((middle - 0.5) * 2**_POINT).astype(np.int64)[:, None] for middle in (middle_y, middle_x)
    )
    rows = (start_y + half * along)[:, :, None] - (half * across)[:, None, :]
    columns = (start_x + half * across)[:, :, None] + (half * along)[:, None, :]
    rows, columns = rows.reshape(len(which), -1), columns.reshape(len(which), -1)

    if not periodic:
        for part in (rows, columns):
            np.clip(part, 0, (SIDE - 1 << _POINT) - 1, out=part)
    down, right = ((part >> (_POINT - 8) & 255).astype(np.int32) for part in (rows, columns))
    rows >>= _POINT
    columns >>= _POINT
    begin = (which * SIDE * SIDE)[:, None]
    upper, lower = (begin + (row & (SIDE - 1)) * SIDE for row in (rows, rows + 1))
    before, behind = (column & (SIDE - 1) for column in (columns, columns + 1))
    values = fields.reshape(-1)

    def between(row: npt.NDArray[np.int64]) -> Levels:
        first: Levels = values.take(row + before, mode="clip").astype(np.int32)
        second = values.take(row + behind, mode="clip").astype(np.int32)
        second -= first
        second *= right
        second >>= 8
        first += second
        return first

    value, below = between(upper), between(lower)
    below -= value
    below *= down
    below >>= 8
    value += below
    # An edge of SOFTNESS field pixels becomes one of a single pixel, unless it is narrower than that already.
    sharpness = np.maximum(SOFTNESS * size / zoom, 1.0)
    value *= np.ceil(sharpness * (128 * 2**15 / FULL)).astype(np.int32)[:, None]
    value >>= 15
    value += 128
    np.clip(value, 0, 256, out=value)
    return value


def _noise(scenes: Scenes, size: int) -> Levels:
    count = size * size
    octets = following_words(scenes.noise, -(-count // 8)).astype("<u8").view(np.uint8)
    return np.asarray((octets[:, :count] & (2 * NOISE - 1)).astype(np.int32) - NOISE)


def _averaged(images: Pixels, times: int) -> Pixels:
    if times == 1:
        return images
    n, side = images.shape[:2]
    blocks = images.reshape(n, side // times, times, side // times, times, 3).astype(np.int32)
    sums = blocks.sum(axis=(2, 4)) + times * times // 2
    return np.asarray(sums // (times * times), dtype=np.uint8)
