"""Dead-leaves images: opaque shapes ("leaves") on top of each other that cover the whole image.

This is the standard model of natural-image statistics: with leaf radii of density r**-3, images are scale-invariant,
with sharp occlusion edges and an amplitude spectrum near 1/f. The leaves are shaded and textured ellipses, colored from
a small palette per image.

Bytes are the same on every platform: random bits come from PCG64's raw stream, which numpy guarantees, and everything
else is computed by operations whose rounding IEEE 754 defines (+, -, *, /, square root, floor), one numpy call each, so
that no operations are fused. There is no sine, logarithm, matrix product or sum in an order chosen by a library.

Source: Lee, Mumford and Huang, International Journal of Computer Vision 41 (2001), "Occlusion models for natural
images: a statistical study of a scale-invariant dead leaves model".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Plane = npt.NDArray[np.float32]

IDS = tuple(f"dead-leaves-{number:04d}" for number in range(1, 1001))

# Radii in units of the image side, with density r**-3 between them: at 1024 px the smallest leaf is 7 px across.
_SMALLEST, _LARGEST = 1 / 300, 1 / 2
# log(_LARGEST / _SMALLEST), written out because a logarithm's last bit differs between platforms.
_LOG_RANGE = 5.010635
# Mean number of leaves that cover a point: exp(-5) = 0.7 % of the ground, which is itself a leaf, stays visible.
_DEPTH = 5.0
# The mean of pi r**2 under the density r**-3, times the mean aspect of 0.775.
_MEAN_AREA = 3.14159265 * 0.775 * 2 * _SMALLEST**2 * _LOG_RANGE / (1 - (_SMALLEST / _LARGEST) ** 2)
_MARGIN = 0.25  # leaves are centered up to this far outside, so that the border has the statistics of the middle
# Reaches in pixels, multiples of a half. Leaves between two of them are drawn together, larger ones one by one.
_REACHES = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_LEAVES = 1 + int(_DEPTH * (1 + 2 * _MARGIN) ** 2 / _MEAN_AREA)
_ILLUMINATION = 0.1  # light and shadow over the whole scene, as a share of the coarse noise
_FINEST_NOISE = 512  # cells per side of the finest octave of the texture
_SPLIT_NOISE = 32  # octaves below are "coarse", from here on "fine"


class _Uniform:
    """Uniform numbers in [0, 1) with 53 bits, from the raw stream of PCG64: one for each leaf, or ``count`` of them."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        self._kept = np.arange(_LEAVES)

    def keep(self, leaves: npt.NDArray[np.intp]) -> None:
        """Return the numbers of these leaves only from now on. The numbers themselves do not change."""
        self._kept = leaves

    def __call__(self, low: float = 0.0, high: float = 1.0, *, count: int | None = None) -> Floats:
        raw = self._bits.random_raw(_LEAVES)[self._kept] if count is None else self._bits.random_raw(count)
        raw >>= np.uint64(11)
        values: Floats = raw.astype(np.float64)
        values *= 2.0**-53
        values *= high - low
        values += low
        return values

    def signed(self, count: int | None = None) -> Floats:
        """Numbers with a triangular distribution on (-1, 1)."""
        return self(count=count) - self(count=count)

    def direction(self) -> tuple[Floats, Floats]:
        """Unit vectors, by the rational parametrization of the circle."""
        t = self(-1.0, 1.0)
        cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        flip = np.where(self() < 0.5, -1.0, 1.0)
        return cosine * flip, sine * flip


@dataclass(frozen=True)
class _Leaves:
    """Leaves that reach into the image, from the lowest to the topmost, in units of its side; entry 0 is the ground."""

    y: Floats  # vertical position of the center, [L]
    x: Floats  # horizontal position of the center, [L]
    reach: Floats  # half the side of the bounding square, [L]
    form: Floats  # coefficients (a, b, c) of a dy**2 + b dy dx + c dx**2 <= 1, [3, L]
    color: Floats  # RGB in [0, 1], [3, L]
    shade: Floats  # offset of the brightness, and its slopes along y and x, [3, L]
    wave: Floats  # amplitude of stripes, and their cycles along y and x, [3, L]
    grain: Floats  # amplitudes of the coarse and of the fine noise, [2, L]
    shift: Floats  # position in the noise at which the leaf's texture starts, (y, x), [2, L]


def draw(image_id: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Draw one image of :data:`IDS` as RGB, ``[H, W, 3]`` uint8.

    The square scene is the same at every ``size``, ``(H, W)`` in pixels, and warped if H and W differ.
    """
    uniform = _Uniform(IDS.index(image_id) + 1)
    leaves = _scatter(uniform)
    return _soften(_paint(leaves, _topmost(leaves, size), *_noise(uniform, size)))


def _scatter(uniform: _Uniform) -> _Leaves:
    ratio2 = (_SMALLEST / _LARGEST) ** 2
    radius = _SMALLEST / np.sqrt(1 - uniform() * (1 - ratio2))
    y, x = uniform(-_MARGIN, 1 + _MARGIN), uniform(-_MARGIN, 1 + _MARGIN)
    inside = (y + radius > 0) & (y - radius < 1) & (x + radius > 0) & (x - radius < 1)
    inside[0] = True
    kept = np.flatnonzero(inside)
    uniform.keep(kept)
    radius, y, x = radius[kept], y[kept], x[kept]
    aspect = uniform(0.55, 1.0)
    cosine, sine = uniform.direction()
    along, across = 1 / (radius * radius), 1 / (radius * aspect * radius * aspect)
    form = np.stack(
        [
            along * sine * sine + across * cosine * cosine,
            2 * (along - across) * sine * cosine,
            along * cosine * cosine + across * sine * sine,
        ]
    )

    light_y, light_x = uniform.direction()
    slope = uniform(0.0, 0.16) / radius
    shade = np.stack([-(slope * light_y * y + slope * light_x * x), slope * light_y, slope * light_x])
    shade[:, 0] = 0.0

    wave_y, wave_x = uniform.direction()
    striped = uniform() < 0.2
    cycles = uniform(1.5, 6.0) / radius
    wave = np.stack([np.where(striped, uniform(0.02, 0.14), 0.0), cycles * wave_y, cycles * wave_x])

    grain = np.stack([uniform(0.0, 0.25), uniform() * uniform(0.0, 0.5)])
    shift = np.stack([uniform(), uniform()])
    return _Leaves(y, x, radius, form, _colors(uniform), shade, wave, grain, shift)


def _colors(uniform: _Uniform) -> Floats:
    """Variations of six colors per image, whose brightness varies more than their hue, as in natural scenes."""
    tints = 6
    choice = np.minimum((uniform() * tints).astype(np.intp), tints - 1)
    # Spread over the range, so that no image is uniformly bright or dark.
    spread = (np.arange(tints) + uniform(count=tints)) / tints
    brightness = (0.14 + 0.62 * spread)[choice] + 0.22 * uniform.signed()
    yellow = (0.05 + 0.3 * uniform.signed(tints))[choice] + 0.06 * uniform.signed()
    green = (0.16 * uniform.signed(tints))[choice] + 0.04 * uniform.signed()
    return np.stack(
        [brightness + 0.5 * yellow - 0.5 * green, brightness + 0.25 * yellow + 0.5 * green, brightness - 0.75 * yellow]
    )


def _topmost(leaves: _Leaves, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Index of the highest leaf over the center of every pixel, ``[H, W]``."""
    height, width = size
    top = np.zeros(size, dtype=np.int32)
    reach = np.maximum(leaves.reach * height, leaves.reach * width)[1:]
    for leaf in 1 + np.flatnonzero(reach >= _REACHES[-1]):
        _draw_one(leaves, int(leaf), top)
    # The largest first: most of the smaller ones are then hidden.
    for high, low in pairwise(reversed(_REACHES)):
        _draw_small(leaves, 1 + np.flatnonzero((reach >= low) & (reach < high)), high, top)
    return top


def _draw_small(leaves: _Leaves, chosen: npt.NDArray[np.intp], reach: float, top: npt.NDArray[np.int32]) -> None:
    """Update ``top`` for all chosen leaves together, each of which extends less than ``reach`` pixels."""
    height, width = top.shape
    side = int(2 * reach)  # of the square with the centers of all pixels that a leaf can cover
    first_row = np.floor(leaves.y[chosen] * height - reach + 0.5).astype(np.intp)
    first_column = np.floor(leaves.x[chosen] * width - reach + 0.5).astype(np.intp)
    is_seen = chosen > _lowest(top, side)[first_row + side, first_column + side]
    chosen, first_row, first_column = chosen[is_seen], first_row[is_seen], first_column[is_seen]
    rows, columns = first_row[:, None] + np.arange(side), first_column[:, None] + np.arange(side)
    dy = ((rows + 0.5) / height - leaves.y[chosen, None])[:, :, None]
    dx = ((columns + 0.5) / width - leaves.x[chosen, None])[:, None, :]
    a, b, c = leaves.form[:, chosen, None, None]
    covered = a * dy * dy + b * dy * dx + c * dx * dx <= 1
    covered &= ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    pixels = (rows[:, :, None] * width + columns[:, None, :])[covered]
    layer = np.zeros(top.size, dtype=np.int32)
    # Leaves ascend, and where an index is repeated numpy keeps the last value.
    layer[pixels] = np.repeat(chosen, covered.sum(axis=(1, 2)))
    np.maximum(top, layer.reshape(top.shape), out=top)


def _lowest(top: npt.NDArray[np.int32], side: int) -> npt.NDArray[np.int32]:
    """The lowest entry of ``top`` in every square of this side, ``[H + side + 1, W + side + 1]``.

    The squares begin from ``side`` rows and columns before ``top`` to its end; what is outside of it does not count.
    """
    lowest = np.pad(top, side, constant_values=np.iinfo(np.int32).max)
    length = 1  # side of the squares so far
    while length < side:
        step = min(length, side - length)
        lowest = np.minimum(lowest[:-step], lowest[step:])
        lowest = np.minimum(lowest[:, :-step], lowest[:, step:])
        length += step
    return lowest


def _draw_one(leaves: _Leaves, leaf: int, top: npt.NDArray[np.int32]) -> None:
    height, width = top.shape
    y, x, reach = leaves.y[leaf], leaves.x[leaf], leaves.reach[leaf]
    first_row, last_row = max(int((y - reach) * height), 0), min(int((y + reach) * height) + 1, height)
    first_column, last_column = max(int((x - reach) * width), 0), min(int((x + reach) * width) + 1, width)
    dy = ((np.arange(first_row, last_row) + 0.5) / height - y)[:, None]
    dx = ((np.arange(first_column, last_column) + 0.5) / width - x)[None, :]
    a, b, c = leaves.form[:, leaf]
    # a dy**2 + dx (b dy + c dx), half of it per row or column before anything is as large as the region.
    covered = a * dy * dy + dx * (b * dy + c * dx) <= 1
    region = top[first_row:last_row, first_column:last_column]
    np.maximum(region, np.int32(leaf), out=region, where=covered)


def _noise(uniform: _Uniform, size: tuple[int, int]) -> tuple[Plane, Plane]:
    """Coarse and fine fractal noise in about [-1, 1]."""
    planes = [np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)]
    cells = 4
    while cells <= _FINEST_NOISE:
        grid = uniform(-1.0, 1.0, count=cells * cells).astype(np.float32).reshape(cells, cells)
        plane = planes[cells >= _SPLIT_NOISE]
        plane += np.float32(0.6) * _stretch(_stretch(grid, size[0]).T, size[1]).T
        cells *= 2
    return planes[0], planes[1]


def _stretch(grid: Plane, length: int) -> Plane:
    """Interpolate rows linearly and periodically to ``length``."""
    cells = grid.shape[0]
    position = (np.arange(length) + 0.5) * cells / length
    before = np.floor(position).astype(np.intp)
    fraction = (position - before).astype(np.float32)[:, None]
    low, high = grid[before % cells], grid[(before + 1) % cells]
    return np.asarray(low + fraction * (high - low))


def _paint(leaves: _Leaves, top: npt.NDArray[np.int32], coarse: Plane, fine: Plane) -> npt.NDArray[np.int32]:
    """Color of every pixel in [0, 255], ``[3, H, W]``."""
    height, width = top.shape
    y = ((np.arange(height) + 0.5) / height).astype(np.float32)[:, None]
    x = ((np.arange(width) + 0.5) / width).astype(np.float32)[None, :]

    def of_leaf(values: Floats) -> Plane:
        return values.astype(np.float32)[top]

    brightness = of_leaf(leaves.shade[0])
    brightness += np.float32(_ILLUMINATION) * coarse
    brightness += of_leaf(leaves.shade[1]) * y
    brightness += of_leaf(leaves.shade[2]) * x

    phase = of_leaf(leaves.wave[1]) * y
    phase += of_leaf(leaves.wave[2]) * x
    phase -= np.floor(phase)
    phase -= np.float32(0.5)
    triangle = np.float32(4) * np.abs(phase) - np.float32(1)
    brightness += of_leaf(leaves.wave[0]) * triangle

    row = (np.arange(height)[:, None] + (leaves.shift[0] * height).astype(np.int32)[top]) % height
    column = (np.arange(width)[None, :] + (leaves.shift[1] * width).astype(np.int32)[top]) % width
    start = row * width + column
    brightness += of_leaf(leaves.grain[0]) * coarse.ravel()[start]
    brightness += of_leaf(leaves.grain[1]) * fine.ravel()[start]

    image = np.empty((3, height, width), dtype=np.int32)
    for channel in range(3):
        level = of_leaf(leaves.color[channel])
        level += brightness
        level *= np.float32(255)
        np.clip(level, 0, 255, out=level)
        image[channel] = level
    return image


def _soften(image: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Apply the (1, 6, 1) / 8 filter along both axes in integer arithmetic; ``[3, H, W]`` to ``[H, W, 3]``."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 6 * padded[:, 1:-1] + padded[:, 2:]
    both = rows[:, :, :-2] + 6 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.ascontiguousarray(((both + 32) >> 6).astype(np.uint8).transpose(1, 2, 0))
