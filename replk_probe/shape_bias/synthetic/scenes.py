"""What is to be seen in an image: which shape and texture, how large, where, how turned, in which colours.

Every quantity has one distribution for all classes. Lengths are in units of the image's side, so a scene has no size in
pixels yet.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .random_numbers import Floats, Integers, Words, fractions, integers_below, random_words
from .silhouettes import OUTLINES, REACH

N_CLASSES = len(OUTLINES)
EXEMPLARS = 5  # images per pair of a shape and a texture

RADII = (0.205, 0.29)  # of the disc of a shape's area: 13 to 26 % of the image
MARGIN = 0.025  # between the frame and the farthest that a shape can reach
WAVELENGTHS = (0.07, 0.1)  # of stripes with as much edge as the texture: 4.5 to 6.4 px of 64

CONTRASTS = (105, 130)  # between any two of an image's three colours, as a distance of RGB levels (of 255)
LEAST_STEP = 30  # levels between the brightness of any two of them
LEVELS = (24, 56, 88, 120, 152, 184, 216)  # of red, green and blue

_TAN_EIGHTH = 0.41421356237309503  # of 45 degrees / 2

# Streams of random numbers.
_TRAINING, _POSES, _PATCHES, _STRATA, _COLOURS, _NOISE = range(6)


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images to be drawn.

    Attributes:
        shape: Index of the shape among those of the categories, ``[N]``.
        texture: Index of the texture among those of the categories, ``[N]``.
        pose: Of the silhouette: radius of the disc of its area, its centroid (y, x) from the middle of the image,
            cosine and sine of the angle by which it is turned clockwise; ``[N, 5]``.
        patch: Of the texture: wavelength, the point (y, x) of its tile in the middle of the image as fractions of the
            tile, cosine and sine of the angle by which it is turned clockwise; ``[N, 5]``.
        colours: Ink, ground and background, RGB levels of 255, ``[N, 3, 3]``.
        noise: Where the noise starts, ``[N]``.
    """

    shape: Integers
    texture: Integers
    pose: Floats
    patch: Floats
    colours: Integers
    noise: Words

    def __len__(self) -> int:
        """Number of images."""
        return len(self.shape)

    def __getitem__(self, chosen: slice) -> Scenes:
        """Some of them."""
        cues = self.shape[chosen], self.texture[chosen]
        return Scenes(*cues, self.pose[chosen], self.patch[chosen], self.colours[chosen], self.noise[chosen])

    @property
    def parts(self) -> tuple[Integers, Integers, Floats, Floats, Integers, Words]:
        """All that there is, in order."""
        return self.shape, self.texture, self.pose, self.patch, self.colours, self.noise


def random_scenes(shape: Integers, texture: Integers, seed: int, first: int) -> Scenes:
    """Scenes ``first`` and following of an endless row, every one drawn by itself.

    Args:
        shape: Index of the shape of each, ``[N]``.
        texture: Index of the texture of each, ``[N]``.
        seed: Of the row.
        first: Number of the first scene, from 0.
    """
    words = random_words((seed, _TRAINING), first + np.arange(len(shape)), 10)
    chance = fractions(words)
    colours = palettes()[integers_below(len(palettes()), words[:, 8])]
    return Scenes(shape, texture, _poses(chance[:, :4]), _patches(chance[:, 4:8]), colours, words[:, 9])


def crossed_scenes(seed: int) -> tuple[Scenes, Integers]:
    """Every shape with every texture, five times: shape by shape, exemplar by exemplar, texture by texture.

    - A shape has five poses, and each of them is seen once with every texture: silhouettes tell nothing of textures.
    - A texture has five patches, and each is seen once with every shape.
    - There are eighty palettes, and each is seen once with every shape and once with every texture (a Latin square).
    - The five poses of a shape lie in five equal parts of the range of each quantity, and so do the patches of a
      texture, so that classes differ in pose by chance as little as five draws can.

    Args:
        seed: Of poses, patches, colours and noise.

    Returns:
        1280 scenes, and the number of the patch of each, from 0 to 4; the number of the pose is that of the exemplar.
    """
    shape, exemplar, texture = (part.ravel() for part in np.mgrid[:N_CLASSES, :EXEMPLARS, :N_CLASSES].astype(np.int64))
    number = (exemplar + shape + texture) % EXEMPLARS
    square = exemplar * N_CLASSES + (shape + texture) % N_CLASSES
    lottery = random_words((seed, _COLOURS), np.zeros(1, dtype=np.int64), len(palettes()))[0]
    drawn = np.argsort(lottery)[: N_CLASSES * EXEMPLARS]
    scenes = Scenes(
        shape,
        texture,
        _poses(_stratified(seed, _POSES))[shape * EXEMPLARS + exemplar],
        _patches(_stratified(seed, _PATCHES))[texture * EXEMPLARS + number],
        palettes()[drawn[square]],
        random_words((seed, _NOISE), np.arange(len(shape)), 1)[:, 0],
    )
    return scenes, number


@functools.cache
def palettes() -> Integers:
    """Every triple of colours at about equal distances from each other, in every order, ``[P, 3, 3]``.

    So the edge between figure and background is as strong as the edges within the texture, and none of the three has a
    colour of its own.
    """
    levels = np.array(LEVELS)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    square = ((colours[:, None] - colours) ** 2).sum(axis=2)
    # The weights of red, green and blue in brightness are those of ITU-R BT.601, in 256ths.
    brightness = colours @ np.array([77, 150, 29])
    step = np.abs(brightness[:, None] - brightness)
    near = (square >= CONTRASTS[0] ** 2) & (square <= CONTRASTS[1] ** 2) & (step >= 256 * LEAST_STEP)
    return colours[np.argwhere(near[:, :, None] & near[:, None, :] & near)]


def _stratified(seed: int, stream: int) -> Floats:
    """Four fractions for each of five draws per class, one draw in each fifth of the range, ``[80, 4]``."""
    rows = np.arange(N_CLASSES * EXEMPLARS)
    lottery = random_words((seed, stream, _STRATA), rows, 4).reshape(N_CLASSES, EXEMPLARS, 4)
    part = np.argsort(lottery, axis=1).reshape(-1, 4)
    return np.asarray((part + fractions(random_words((seed, stream), rows, 4))) / EXEMPLARS)


def _poses(chance: Floats) -> Floats:
    radius = RADII[0] + (RADII[1] - RADII[0]) * chance[:, 0]
    # As far off the middle as the farthest-reaching shape of that radius can be, whatever the shape.
    room = 0.5 - MARGIN - REACH * radius
    y, x = (room * (2 * chance[:, column] - 1) for column in (1, 2))
    return np.stack([radius, y, x, *_directions(chance[:, 3])], axis=1)


def _patches(chance: Floats) -> Floats:
    wavelength = WAVELENGTHS[0] + (WAVELENGTHS[1] - WAVELENGTHS[0]) * chance[:, 0]
    return np.stack([wavelength, chance[:, 1], chance[:, 2], *_directions(chance[:, 3])], axis=1)


def _directions(chance: Floats) -> tuple[Floats, Floats]:
    """Cosine and sine of any angle, nearly uniform.

    Within a quarter by the tangent of half the angle, because a cosine may be rounded in more than one way.
    """
    quarter = np.floor(4 * chance).astype(np.intp)
    tangent = _TAN_EIGHTH * (2 * (4 * chance - quarter) - 1)
    square = tangent * tangent
    cosine, sine = (1 - square) / (1 + square), 2 * tangent / (1 + square)
    return (
        np.choose(quarter, [cosine, -sine, -cosine, sine]),
        np.choose(quarter, [sine, cosine, -sine, -cosine]),
    )
