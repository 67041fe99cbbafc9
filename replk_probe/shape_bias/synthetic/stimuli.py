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
from .random_numbers import Integers
from .scenes import EXEMPLARS, N_CLASSES, Scenes, crossed_scenes, random_scenes
from .silhouettes import OUTLINES, shape_fields
from .textures import TILES, texture_fields

if TYPE_CHECKING:
    from PIL.Image import Image

# Without a meaning, so that neither cue is the one that a name names.
SYNTHETIC_CATEGORIES = (
    "abim",
    "bemu",
    "cefa",
    "dimo",
    "erup",
    "fesk",
    "gano",
    "hilu",
    "iska",
    "jeno",
    "kelu",
    "lomi",
    "mavu",
    "neto",
    "orfi",
    "pazu",
)
# Shape and texture of each.
CUES = MappingProxyType(dict(zip(SYNTHETIC_CATEGORIES, zip(OUTLINES, TILES, strict=True), strict=True)))

SIZES = (16, 2048)
_WORD = 1 << 63


def synthetic_stimuli(size: int = 224, seed: int = 0) -> StimulusSet:
    """The conflict set: 256 pairs of a shape and a texture, five images of each, drawn when they are loaded.

    Names are made as in the published set: ``abim1-bemu4.png`` has the shape of ``abim`` in its first pose, filled with
    the fourth patch of the texture of ``bemu``.

    Args:
        size: Side in pixels.
        seed: Of poses, patches, colours and noise.

    Raises:
        InvalidInputError: ``size`` is not a whole number from 16 to 2048, or ``seed`` not one from 0.
    """
    side, start = _size(size), _whole_number("seed", seed)
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
        notes=("Synthetic stimuli: abstract shapes and textures. The result does not apply to photographs.",),
        record={"synthetic": {"size": side, "seed": start, "cues": {name: list(cues) for name, cues in CUES.items()}}},
    )


def synthetic_training(n: int, size: int = 64, seed: int = 0, first: int = 0) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """A piece of the endless training split, in which both cues agree.

    The classes take turns. An image depends on ``seed``, ``size`` and its own number alone: pieces may be drawn in any
    order, by any number of processes. Numbers that were not trained on, or another seed, are a held-out set; none of
    them is in the conflict set.

    Args:
        n: How many images.
        size: Side in pixels.
        seed: Of the split.
        first: Number of the first image, from 0.

    Returns:
        RGB images ``[n, size, size, 3]`` and the indices of their categories ``[n]``.

    Raises:
        InvalidInputError: ``size`` is not a whole number from 16 to 2048, or another argument not one from 0.
    """
    count, start = _whole_number("n", n), _whole_number("first", first)
    labels = (start + np.arange(count)) % N_CLASSES
    return synthetic_images(labels, labels, size, seed, start), labels


def synthetic_images(
    shape: npt.ArrayLike, texture: npt.ArrayLike, size: int = 64, seed: int = 0, first: int = 0
) -> Pixels:
    """Images with the poses, patches and colours of the training split, but with shapes and textures as asked for.

    With textures drawn at random, say, they show whether shape can be learned for itself.

    Args:
        shape: Index of the category whose shape is shown, ``[n]``.
        texture: Index of the category whose texture is shown, ``[n]``.
        size: Side in pixels.
        seed: Of the split.
        first: Number of the first image, from 0.

    Returns:
        RGB, ``[n, size, size, 3]``.

    Raises:
        InvalidInputError: As :func:`synthetic_training`, or the indices are not two equally long lists of numbers from
            0 to 15.
    """
    cues = [np.asarray(cue) for cue in (shape, texture)]
    for cue in cues:
        if cue.ndim != 1 or len(cue) != len(cues[0]) or (len(cue) and not np.isin(cue, np.arange(N_CLASSES)).all()):
            raise InvalidInputError(
                "Cannot draw these shapes and textures. Each image takes the index of a category for its shape and one "
                f"for its texture. Give two equally long lists of whole numbers from 0 to {N_CLASSES - 1}."
            )
    side = _size(size)
    of_shape, of_texture = (cue.astype(np.int64) for cue in cues)
    made = random_scenes(of_shape, of_texture, _whole_number("seed", seed), _whole_number("first", first))
    return draw(made, side)


@dataclass(frozen=True)
class _Drawn:
    """Draws the conflict set, one image at a time."""

    size: int
    seed: int

    def __call__(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(draw(_conflict_set(self.seed)[0][index : index + 1], self.size)[0])


@functools.lru_cache(maxsize=4)
def _conflict_set(seed: int) -> tuple[Scenes, Integers]:
    return crossed_scenes(seed)


def _digest(stimuli: list[Stimulus], scenes: Scenes, size: int) -> str:
    """Over the names and all that the pixels are drawn from, which takes a fraction of the time that drawing takes."""
    digest = hashlib.sha256(f"{size}\n".encode())
    digest.update("".join(f"{stimulus.name}\n" for stimulus in stimuli).encode())
    for part in (shape_fields(), texture_fields(), *scenes.parts):
        digest.update(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _size(size: int) -> int:
    low, high = SIZES
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not low <= size <= high:
        raise InvalidInputError(
            f"Cannot draw synthetic stimuli of {size} pixels. Their side is a whole number from {low} to {high}. "
            "Give another size."
        )
    return int(size)


def _whole_number(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < _WORD:
        raise InvalidInputError(
            f"Cannot draw synthetic images with {name}={value!r}. It is a whole number from 0 on. Give such a number."
        )
    return int(value)
