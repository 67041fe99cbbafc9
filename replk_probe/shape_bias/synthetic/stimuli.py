"""The sixteen classes, their conflict set and their training split."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError

from ..stimuli.names import Stimulus
from ..stimuli.stimulus_set import SYNTHETIC, StimulusSet
from .draw import Pixels, draw
from .scenes import EXEMPLARS, N_CLASSES, Scenes, crossed_scenes, random_scenes, shapes_given
from .silhouettes import OUTLINES, shape_fields
from .textures import TILES, texture_fields

if TYPE_CHECKING:
    from PIL.Image import Image

# A class has the name of its shape: stimulus names and tables need one word that is the same for both cues.
SYNTHETIC_CATEGORIES = tuple(OUTLINES)
# Shape and texture of each category.
CUES = MappingProxyType(dict(zip(SYNTHETIC_CATEGORIES, zip(OUTLINES, TILES, strict=True), strict=True)))

SIZES = (16, 2048)
_WORD = 1 << 63


def synthetic_stimuli(size: int = 224, seed: int = 0) -> StimulusSet:
    """The conflict set: five images of each of 256 pairs of a shape and a texture, drawn when they are loaded.

    Names have the form of the published set: ``heart1-zed4.png`` has the shape of the class ``heart`` in its first
    pose, filled with the fourth patch of the texture of the class ``zed``, which is scales.

    Args:
        size: Side in pixels.
        seed: Random seed of poses, patches, colors and noise.

    Raises:
        InvalidInputError: ``size`` is not an integer from 16 to 2048, or ``seed`` is not a non-negative integer.
    """
    side, start = _size(size), _non_negative("seed", seed)
    scenes, patch = _conflict_set(start)
    pose = np.arange(len(scenes)) // N_CLASSES % EXEMPLARS
    stimuli = []
    for index in range(len(scenes)):
        shape, texture = (SYNTHETIC_CATEGORIES[cue[index]] for cue in (scenes.shape, scenes.texture))
        stimuli.append(Stimulus(f"{shape}{pose[index] + 1}-{texture}{patch[index] + 1}.png", shape, texture))
    return StimulusSet(
        source=SYNTHETIC,
        categories=SYNTHETIC_CATEGORIES,
        stimuli=tuple(stimuli),
        size=(side, side),
        digest=_digest(stimuli, scenes, side),
        loader=_Drawn(side, start),
        notes=("Synthetic stimuli: abstract drawings. The result does not apply to photos.",),
        record={"synthetic": {"size": side, "seed": start, "cues": {name: list(cues) for name, cues in CUES.items()}}},
    )


def synthetic_training(
    n: int, size: int = 64, seed: int = 0, first: int = 0, shape_validity: float = 1.0
) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Draw images of the infinite training split, in which the texture always belongs to the label.

    The shape belongs to it with probability ``shape_validity``, and is otherwise one of the 15 others at random. With
    1, both cues agree, and either suffices.

    The classes alternate. An image depends only on ``seed``, ``size``, ``shape_validity`` and its index, so images may
    be drawn in any order and by any number of processes. Indices that were not trained on, or another seed, form a
    held-out set; none of them is in the conflict set. Two values of ``shape_validity`` differ only in shapes: pose,
    patch, colors and noise of an image are the same.

    Args:
        n: Number of images.
        size: Side in pixels.
        seed: Random seed of the split.
        first: Index of the first image, from 0.
        shape_validity: Probability that the shape belongs to the label, from 0 to 1.

    Returns:
        RGB images ``[n, size, size, 3]`` and their category indices ``[n]``.

    Raises:
        InvalidInputError: ``size`` is not an integer from 16 to 2048, ``shape_validity`` is not a number from 0 to 1,
            or another argument is not a non-negative integer.
    """
    count, start = _non_negative("n", n), _non_negative("first", first)
    validity = _probability("shape_validity", shape_validity)
    labels = (start + np.arange(count)) % N_CLASSES
    shapes = shapes_given(labels, validity, _non_negative("seed", seed), start)
    return synthetic_images(shapes, labels, size, seed, start), labels


def synthetic_images(
    shape: npt.ArrayLike, texture: npt.ArrayLike, size: int = 64, seed: int = 0, first: int = 0
) -> Pixels:
    """Draw images with the poses, patches and colors of the training split, but with given shapes and textures.

    Random textures, for example, show whether shape can be learned by itself.

    Args:
        shape: Category index of each shape, ``[n]``.
        texture: Category index of each texture, ``[n]``.
        size: Side in pixels.
        seed: Random seed of the split.
        first: Index of the first image, from 0.

    Returns:
        RGB, ``[n, size, size, 3]``.

    Raises:
        InvalidInputError: As in :func:`synthetic_training`, or the indices are not two equally long lists of integers
            from 0 to 15.
    """
    cues = [np.asarray(cue) for cue in (shape, texture)]
    for cue in cues:
        if cue.ndim != 1 or len(cue) != len(cues[0]) or (len(cue) and not np.isin(cue, np.arange(N_CLASSES)).all()):
            raise InvalidInputError(
                "Cannot draw these shapes and textures. Each image requires a category index for its shape and one "
                f"for its texture. Give two equally long lists of integers from 0 to {N_CLASSES - 1}."
            )
    side = _size(size)
    of_shape, of_texture = (cue.astype(np.int64) for cue in cues)
    made = random_scenes(of_shape, of_texture, _non_negative("seed", seed), _non_negative("first", first))
    return draw(made, side)


@dataclass(frozen=True)
class _Drawn:
    """Loader of the conflict set, which draws one image per call."""

    size: int
    seed: int

    def __call__(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(draw(_conflict_set(self.seed)[0][index : index + 1], self.size)[0])


_conflict_set = functools.lru_cache(maxsize=4)(crossed_scenes)


def _digest(stimuli: list[Stimulus], scenes: Scenes, size: int) -> str:
    """Digest of the names and scenes, which determine the pixels; faster than a digest of the pixels."""
    digest = hashlib.sha256(f"{size}\n".encode())
    digest.update("".join(f"{stimulus.name}\n" for stimulus in stimuli).encode())
    for part in (shape_fields(), texture_fields(), *scenes.parts):
        digest.update(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _size(size: int) -> int:
    low, high = SIZES
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not low <= size <= high:
        raise InvalidInputError(
            f"Cannot draw synthetic stimuli of {size} pixels. The size must be an integer from {low} to {high}. "
            "Give another size."
        )
    return int(size)


def _probability(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise InvalidInputError(
            f"Cannot draw synthetic images with {name}={value!r}. It must be a number from 0 to 1. Give such a number."
        )
    return float(value)


def _non_negative(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < _WORD:
        raise InvalidInputError(
            f"Cannot draw synthetic images with {name}={value!r}. It must be a non-negative integer. Give 0 or more."
        )
    return int(value)
