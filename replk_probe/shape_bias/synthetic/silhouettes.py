"""The sixteen shapes, as outlines with the same area and centroid: eight with straight edges, eight with arcs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .fields import SIDE, Field, Mask, soften

Plane: TypeAlias = npt.NDArray[np.float64]
Outline: TypeAlias = Callable[[Plane, Plane], Mask]

# Radius of a disc with the area of every shape, in field pixels. No shape extends farther than REACH radii from its
# centroid; the rest of the field is margin.
RADIUS = 144
REACH = 1.51

_PI = 3.141592653589793


def _box(x: Plane, y: Plane, left: float, right: float, top: float, bottom: float) -> Mask:
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def _disc(x: Plane, y: Plane, center_x: float, center_y: float, radius: float) -> Mask:
    dx, dy = x - center_x, y - center_y
    return dx * dx + dy * dy < radius * radius


def _drop(x: Plane, y: Plane) -> Mask:
    # The sides are tangents of the disc with normals (0.6, 0.8), so the tip is 1 / 0.6 radii above its center.
    side = 0.8 * np.abs(x) - 0.6 * y
    return _disc(x, y, 0, 0, 1) | ((side < 1) & (y < -0.6))


def _heart(x: Plane, y: Plane) -> Mask:
    away = np.abs(x)
    lobe = _disc(away, y, 0.5, -0.4, 0.56)
    # The sides are tangents of the lobes and meet at the tip.
    return lobe | ((0.75 * away + 0.661438 * y < 0.670425) & (y > -0.4) & (away < 1.06))


def _aitch(x: Plane, y: Plane) -> Mask:
    return _box(x, y, -1, 1, -1, 1) & ~_box(x, y, -0.36, 0.36, -1, -0.3) & ~_box(x, y, -0.36, 0.36, 0.3, 1)


def _trefoil(x: Plane, y: Plane) -> Mask:
    return _disc(x, y, 0, -0.6, 0.6) | _disc(x, y, 0.52, 0.3, 0.6) | _disc(x, y, -0.52, 0.3, 0.6)


# In the order of the categories, which have the names of their shapes.
OUTLINES: dict[str, Outline] = {
    "aitch": _aitch,
    "block": lambda x, y: _box(x, y, -1, 1, -1, 1),
    "crescent": lambda x, y: _disc(x, y, 0, 0, 1) & ~_disc(x, y, 0.75, 0, 0.72),
    "cup": lambda x, y: _box(x, y, -1, 1, -0.9, 0.9) & ~_box(x, y, -0.34, 0.34, -0.9, 0.2),
    "disc": lambda x, y: _disc(x, y, 0, 0, 1),
    "dome": lambda x, y: _disc(x, y, 0, 0, 1) & (y < 0.15),
    "drop": _drop,
    "dumbbell": lambda x, y: _disc(np.abs(x), y, 0.62, 0, 0.56) | _box(x, y, -0.62, 0.62, -0.26, 0.26),
    "ell": lambda x, y: _box(x, y, -0.85, 0.05, -0.95, 0.05) | _box(x, y, -0.85, 0.85, 0.05, 0.95),
    "frame": lambda x, y: _box(x, y, -1, 1, -1, 1) & ~_box(x, y, -0.5, 0.5, -0.5, 0.5),
    "heart": _heart,
    "plus": lambda x, y: _box(x, y, -0.36, 0.36, -1, 1) | _box(x, y, -1, 1, -0.36, 0.36),
    "ring": lambda x, y: _disc(x, y, 0, 0, 1) & ~_disc(x, y, 0, 0, 0.5),
    "tee": lambda x, y: _box(x, y, -1, 1, -1, -0.25) | _box(x, y, -0.375, 0.375, -0.25, 0.9),
    "trefoil": _trefoil,
    "zed": lambda x, y: _box(x, y, -1, 0.4, -0.85, 0) | _box(x, y, -0.4, 1, 0, 0.85),
}


def silhouette(shape: str) -> Mask:
    """Mask of one shape, ``[SIDE, SIDE]``, with the area of a disc of :data:`RADIUS`, centered at its centroid."""
    outline = OUTLINES[shape]
    middle = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    # On a square with sides of 4 units, which contains every outline defined above.
    y, x = 4 * middle[:, None], 4 * middle[None, :]
    mask = outline(x, y)
    area = int(mask.sum())
    center_y = int((mask.sum(axis=1) * (2 * np.arange(SIDE) + 1 - SIDE)).sum()) / area / 2
    center_x = int((mask.sum(axis=0) * (2 * np.arange(SIDE) + 1 - SIDE)).sum()) / area / 2
    zoom = np.sqrt(area / _PI) / RADIUS
    pixels = SIDE * middle
    y, x = (zoom * pixels[:, None] + center_y) * (4 / SIDE), (zoom * pixels[None, :] + center_x) * (4 / SIDE)
    return outline(x, y)


@functools.cache
def shape_fields() -> Field:
    """All shapes softened, in the order of :data:`OUTLINES`, ``[16, SIDE, SIDE]``."""
    return np.stack([soften(silhouette(shape)) for shape in OUTLINES])
