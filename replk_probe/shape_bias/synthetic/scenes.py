"""Content of synthetic images: shape, texture, size, position, rotation and colors, with lengths relative to a side."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .random_numbers import Floats, Integers, Words, fractions, integers_below, random_words
from .silhouettes import OUTLINES, REACH
from .textures import coarseness

N_CLASSES = len(OUTLINES)
EXEMPLARS = 5  # images per pair of a shape and a texture

RADII = (0.205, 0.29)  # of a disc with the area of the shape: 13 to 26 % of the image
MARGIN = 0.025  # minimum distance between a shape and the border of the image
WAVELENGTHS = (0.07, 0.082)  # of stripes with the edge length of the finest textures: 4.5 to 5.2 px of 64

TILT = 0.17632698070846498  # tangent of half the largest rotation in either direction, 20 degrees

CONTRASTS = (105, 130)  # distance between any two of three colors, in RGB levels (of 255)
LEAST_STEP = 30  # minimum difference between the brightness of any two of them, in levels
LEVELS = (24, 56, 88, 120, 152, 184, 216)  # of red, green and blue

# Streams of random numbers.
_TRAINING, _POSES, _PATCHES, _STRATA, _COLORS, _NOISE, _CUES = range(7)


@dataclass(frozen=True, eq=False)
class Scenes:
    """Descriptions of N images."""

    shape: Integers  # category index of the shape, [N]
    texture: Integers  # category index of the texture, [N]
    # Pose of the silhouette, [N, 5]: radius of a disc of the same area, centroid (y, x) relative to the image center,
    # cosine and sine of the clockwise rotation.
    pose: Floats
    # Patch of the texture, [N, 5]: wavelength, point (y, x) of the tile at the image center as fractions of the tile,
    # cosine and sine of the clockwise rotation.
    patch: Floats
    colors: Integers  # ink, ground and background in RGB levels from 0 to 255, [N, 3, 3]
    noise: Words  # random word from which the noise is generated, [N]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.shape)

    def __getitem__(self, chosen: slice) -> Scenes:
        """Select scenes by a slice."""
        cues = self.shape[chosen], self.texture[chosen]
        return Scenes(*cues, self.pose[chosen], self.patch[chosen], self.colors[chosen], self.noise[chosen])

    @property
    def parts(self) -> tuple[Integers, Integers, Floats, Floats, Integers, Words]:
        """All arrays, in the order of the attributes."""
        return self.shape, self.texture, self.pose, self.patch, self.colors, self.noise


def random_scenes(shape: Integers, texture: Integers, seed: int, first: int) -> Scenes:
    """Independent scenes of an infinite sequence, starting at index ``first``, with given categories, ``[N]`` each."""
    words = random_words((seed, _TRAINING), first + np.arange(len(shape)), 10)
    chance = fractions(words)
    colors = palettes()[integers_below(len(palettes()), words[:, 8])]
    return Scenes(shape, texture, _poses(chance[:, :4]), _patches(chance[:, 4:8], texture), colors, words[:, 9])


def shapes_given(labels: Integers, validity: float, seed: int, first: int) -> Integers:
    """Shapes of the images from index ``first`` on: that of the label with this probability, otherwise any other."""
    words = random_words((seed, _CUES), first + np.arange(len(labels)), 2)
    other = (labels + 1 + integers_below(N_CLASSES - 1, words[:, 1])) % N_CLASSES
    return np.where(fractions(words[:, 0]) < validity, labels, other)


def crossed_scenes(seed: int) -> tuple[Scenes, Integers]:
    """Combine every shape with every texture five times, ordered by shape, exemplar and texture.

    Poses, patches and palettes are crossed as described in the package (the palettes form a Latin square). The five
    poses of a shape and the five patches of a texture are stratified: each quantity is drawn once from each fifth of
    its range, which minimizes chance differences between classes.

    Returns:
        1280 scenes, and the patch index of each, from 0 to 4; the pose index is that of the exemplar.
    """
    shape, exemplar, texture = (part.ravel() for part in np.mgrid[:N_CLASSES, :EXEMPLARS, :N_CLASSES].astype(np.int64))
    number = (exemplar + shape + texture) % EXEMPLARS
    square = exemplar * N_CLASSES + (shape + texture) % N_CLASSES
    lottery = random_words((seed, _COLORS), np.zeros(1, dtype=np.int64), len(palettes()))[0]
    drawn = np.argsort(lottery)[: N_CLASSES * EXEMPLARS]
    scenes = Scenes(
        shape,
        texture,
        _poses(_stratified(seed, _POSES))[shape * EXEMPLARS + exemplar],
        _patches(_stratified(seed, _PATCHES), np.arange(N_CLASSES).repeat(EXEMPLARS))[texture * EXEMPLARS + number],
        palettes()[drawn[square]],
        random_words((seed, _NOISE), np.arange(len(shape)), 1)[:, 0],
    )
    return scenes, number


@functools.cache
def palettes() -> Integers:
    """Colors of ink, ground and background, ``[P, 3, 3]``, with ink and ground in both orders.

    They are every triple of colors at about equal distances from each other, of which the third is then moved by a
    fifth of the way toward the mean of ink and ground, so that the outline has less contrast than the texture.
    """
    levels = np.array(LEVELS)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    square = ((colors[:, None] - colors) ** 2).sum(axis=2)
    # Brightness according to ITU-R BT.601, with weights in 256ths.
    brightness = colors @ np.array([77, 150, 29])
    step = np.abs(brightness[:, None] - brightness)
    near = (square >= CONTRASTS[0] ** 2) & (square <= CONTRASTS[1] ** 2) & (step >= 256 * LEAST_STEP)
    chosen = colors[np.argwhere(near[:, :, None] & near[:, None, :] & near)]
    ink, ground, third = np.moveaxis(chosen, 1, 0)
    chosen[:, 2] = (8 * third + ink + ground + 5) // 10
    return chosen


def _stratified(seed: int, stream: int) -> Floats:
    """Stratified uniform fractions: five draws per class, one from each fifth of the range, ``[80, 4]``."""
    rows = np.arange(N_CLASSES * EXEMPLARS)
    lottery = random_words((seed, stream, _STRATA), rows, 4).reshape(N_CLASSES, EXEMPLARS, 4)
    part = np.argsort(lottery, axis=1).reshape(-1, 4)
    return np.asarray((part + fractions(random_words((seed, stream), rows, 4))) / EXEMPLARS)


def _poses(chance: Floats) -> Floats:
    radius = RADII[0] + (RADII[1] - RADII[0]) * chance[:, 0]
    # The range of positions is that of the farthest-reaching shape of this radius, for every shape.
    reach = 0.5 - MARGIN - REACH * radius
    y, x = (reach * (2 * chance[:, column] - 1) for column in (1, 2))
    return np.stack([radius, y, x, *_directions(chance[:, 3])], axis=1)


def _patches(chance: Floats, texture: Integers) -> Floats:
    finest = WAVELENGTHS[0] + (WAVELENGTHS[1] - WAVELENGTHS[0]) * chance[:, 0]
    wavelength = finest * coarseness()[texture]
    return np.stack([wavelength, chance[:, 1], chance[:, 2], *_directions(chance[:, 3])], axis=1)


def _directions(chance: Floats) -> tuple[Floats, Floats]:
    """Cosine and sine of a nearly uniform random angle up to the largest one.

    Computed from the tangent of half the angle, because rounding of ``cos`` depends on the platform.
    """
    tangent = TILT * (2 * chance - 1)
    square = tangent * tangent
    return (1 - square) / (1 + square), 2 * tangent / (1 + square)
