"""The sixteen textures, as periodic black-and-white drawings, which differ in the arrangement and scale of edges."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .fields import SIDE, Field, Mask, box_sum, soften
from .random_numbers import Integers, integers_below, random_words

Plane: TypeAlias = npt.NDArray[np.float64]

_PIXEL = np.arange(SIDE)
_Y, _X = np.broadcast_arrays((_PIXEL + 0.5)[:, None], (_PIXEL + 0.5)[None, :])
_PI = 3.141592653589793
_SQRT_HALF = 0.7071067811865476


def _upper_half(values: npt.NDArray[np.generic]) -> Mask:
    """The half of the pixels with the larger values."""
    return np.asarray(values > np.partition(values, values.size // 2 - 1, axis=None)[values.size // 2 - 1])


def _wave(position: Plane) -> Plane:
    """Triangle wave of period 1: -1 at integers, 1 halfway between them."""
    return np.asarray(1 - 4 * np.abs(position - np.floor(position) - 0.5))


def _staggered(columns: int, rows: int) -> Plane:
    """Centers (y, x) of a lattice with every other row shifted by half a period, in pixels, ``[columns * rows, 2]``."""
    row, column = np.divmod(np.arange(columns * rows), columns)
    return np.stack([(row + 0.5) * (SIDE / rows), (column + 0.25 + 0.5 * (row % 2)) * (SIDE / columns)], axis=1)


def _around(center: Plane, reach: int) -> tuple[tuple[Integers, Integers], Plane, Plane]:
    """Indices of the pixels up to ``reach`` rows and columns from a center, and their offsets (y, x) from it."""
    corner = np.floor(center).astype(np.int64) - reach
    span = np.arange(2 * reach + 1)
    row, column = corner[0] + span, corner[1] + span
    there = np.ix_(row % SIDE, column % SIDE)
    return there, (row + 0.5 - center[0])[:, None], (column + 0.5 - center[1])[None, :]


def _nearest(centers: Plane, reach: int) -> tuple[Plane, Plane]:
    """Distances to the nearest and the second nearest center, in pixels, at most ``reach``."""
    first = np.full((SIDE, SIDE), np.inf)
    second = first.copy()
    for center in centers:
        there, dy, dx = _around(center, reach)
        square, best = dy * dy + dx * dx, first[there]
        second[there] = np.minimum(second[there], np.maximum(best, square))
        first[there] = np.minimum(best, square)
    return np.sqrt(first), np.sqrt(second)


def _noise(stream: int, height: int, width: int) -> Integers:
    """White noise of 16 bits."""
    words = random_words((stream,), np.zeros(1, dtype=np.int64), height * width)
    return integers_below(1 << 16, words).reshape(height, width)


def _blurred(noise: Integers, width: int, axes: tuple[int, ...] = (0, 1)) -> Integers:
    """Three box sums along each axis, approximately a Gaussian of variance ``(width**2 - 1) / 4``."""
    for axis in axes:
        for _ in range(3):
            noise = box_sum(noise, width, axis)
    return noise


def _enlarged(coarse: Integers) -> Integers:
    """Interpolate a plane smoothly to four times its resolution, the size of a tile."""
    fine = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)
    for axis in (0, 0, 1, 1):
        fine = box_sum(fine, 5, axis)
    return fine


def _barcode() -> Mask:
    # 256 px each of ink and ground, in as many bands as the stripes have.
    widths = (14, 40, 56, 16, 20, 58, 44, 22, 16, 48, 30, 14, 52, 34, 24, 24)
    bands = np.repeat(np.arange(len(widths)) % 2 == 0, widths)
    return np.asarray(np.broadcast_to(bands[:, None], (SIDE, SIDE)))


def _triangles() -> Mask:
    row, column = _Y * 6 / SIDE, _X * 5 / SIDE
    lines = np.floor(row) + np.floor(column - row / 2) + np.floor(column + row / 2)
    return np.asarray(lines % 2 == 0)


def _bricks() -> Mask:
    row = np.floor(_Y / 64)
    dy, dx = _Y % 64 - 32, (_X + 64 * (row % 2)) % 128 - 64
    return np.asarray((np.abs(dy) < 21) & (np.abs(dx) < 49))  # 42 x 98 px of 64 x 128


def _weave() -> Mask:
    upright = (_Y % 256 < 128) ^ (_X % 256 < 128)
    along = np.where(upright, _X, _Y)
    return np.asarray((along + 16) % 64 >= 32)


def _labyrinth() -> Mask:
    lines = _noise(1, 128, 128)
    # A few iterations of short-range activation and long-range inhibition give lines of equal width.
    for _ in range(3):
        # Sums over width**6 values; the difference of the two, equally weighted, is a band-pass filter.
        band = 9**6 * _blurred(lines, 7) - 7**6 * _blurred(lines, 9)
        lines = np.where(_upper_half(band), 1 << 15, 0)
    return _upper_half(_enlarged(band))


def _patches() -> Mask:
    noise = _noise(2, 128, 128)
    # The sums of a wider blur are larger: width**6 values, of which width vary independently.
    fine, middle, coarse = (_blurred(noise, width) for width in (3, 7, 13))
    return _upper_half(_enlarged(1528 * fine + 22 * middle + coarse))


def _mosaic() -> Mask:
    cells = _upper_half(_noise(3, 16, 16))
    return np.repeat(np.repeat(cells, SIDE // 16, axis=0), SIDE // 16, axis=1)


def _cells() -> Mask:
    jitter = _noise(4, 36, 2) / 2**16 - 0.5
    row, column = np.divmod(np.arange(36), 6)
    centers = (np.stack([row, column], axis=1) + 0.5 + jitter) * (SIDE / 6)
    first, second = _nearest(centers, 200)
    return _upper_half(second - first)


def _scales() -> Mask:
    # Each point shows the scale with the lowest center among those that cover it.
    lowest = np.full((SIDE, SIDE), np.inf)
    distance = np.zeros((SIDE, SIDE))
    for center in _staggered(5, 8):
        there, dy, dx = _around(center, 69)
        square = dy * dy + dx * dx
        shown = (square < 68 * 68) & (dy < lowest[there])
        lowest[there] = np.where(shown, dy, lowest[there])
        distance[there] = np.where(shown, square, distance[there])
    return _upper_half(distance)


def _crosses() -> Mask:
    # Plus signs interlock on a lattice spanned by knight's moves.
    step = SIDE / 10
    i, j = np.divmod(np.arange(100), 10)
    centers = (np.stack([i, j], axis=1)[(i + 3 * j) % 5 == 0] + 0.5) * step
    reach = np.full((SIDE, SIDE), np.inf)
    for center in centers:
        there, dy, dx = _around(center, 80)
        dy, dx = np.abs(dy), np.abs(dx)
        cross = np.minimum(np.maximum(3 * dy, dx), np.maximum(dy, 3 * dx))
        reach[there] = np.minimum(reach[there], cross)
    return _upper_half(-reach)


# In the order of the categories.
TILES: dict[str, Callable[[], Mask]] = {
    "rings": lambda: _upper_half(-np.abs(_nearest(_staggered(4, 4), 100)[0] - 42)),
    "barcode": _barcode,
    "checks": lambda: np.asarray((_Y % 128 < 64) ^ (_X % 128 < 64)),
    "streaks": lambda: _upper_half(_enlarged(_blurred(_blurred(_noise(5, 128, 128), 3, (0,)), 15, (1,)))),
    "labyrinth": _labyrinth,
    "weave": _weave,
    "mosaic": _mosaic,
    "triangles": _triangles,
    "crosses": _crosses,
    "dots": lambda: _upper_half(-_nearest(_staggered(7, 8), 60)[0]),
    "bricks": _bricks,
    "patches": _patches,
    "cells": _cells,
    "zigzag": lambda: _upper_half(_wave(_Y * 6 / SIDE + 0.375 * _wave(_X * 4 / SIDE))),
    "stripes": lambda: np.asarray(_Y % 64 < 32),
    "scales": _scales,
}


# Wavelengths relative to that of the finest textures: four scales, assigned so that similar textures differ in scale.
_SCALES = (1.0, 1.34, 1.8, 2.4)
_SCALE_OF = {
    **dict.fromkeys(("checks", "labyrinth", "stripes", "streaks"), 0),
    **dict.fromkeys(("bricks", "crosses", "cells", "rings"), 1),
    **dict.fromkeys(("zigzag", "scales", "mosaic", "barcode"), 2),
    **dict.fromkeys(("dots", "patches", "weave", "triangles"), 3),
}


@functools.cache
def coarseness() -> Plane:
    """Wavelength of each texture relative to the finest ones, ``[16]``."""
    return np.array([_SCALES[_SCALE_OF[texture]] for texture in TILES])


def edge_length(tile: Mask) -> float:
    """Edge length per pixel of a periodic drawing, by Crofton's formula over four directions, within 6 %."""
    crossings = 0.0
    for (dy, dx), spacing in {(0, 1): 1.0, (1, 0): 1.0, (1, 1): _SQRT_HALF, (1, -1): _SQRT_HALF}.items():
        crossings += spacing * int((tile != np.roll(tile, (dy, dx), (0, 1))).sum())
    return _PI / 8 * crossings / tile.size


@functools.cache
def tile(texture: str) -> Mask:
    """One period of a texture, True for ink, ``[SIDE, SIDE]``, read-only."""
    drawing = TILES[texture]()
    drawing.setflags(write=False)
    return drawing


@functools.cache
def texture_fields() -> Field:
    """All textures softened, in the order of :data:`TILES`, ``[16, SIDE, SIDE]``."""
    return np.stack([soften(tile(texture)) for texture in TILES])


@functools.cache
def wavelengths() -> Plane:
    """Period of stripes with the edge length of each texture, in field pixels, ``[16]``."""
    # Softening removes the finest details of an edge.
    return np.array([2 / edge_length(field > 0) for field in texture_fields()])
