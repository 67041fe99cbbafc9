"""Images with the names of their classes: a folder, or generated images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from replk_probe.errors import InvalidInputError
from replk_probe.images import list_images
from replk_probe.images.decode import load_rgb
from replk_probe.images.folder import stratified_sample
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.runtime.paths import usable_path
from replk_probe.shape_bias.stimuli.stimulus_set import SYNTHETIC
from replk_probe.shape_bias.synthetic import SYNTHETIC_CATEGORIES, synthetic_training

if TYPE_CHECKING:
    from PIL.Image import Image

# Twenty images of each class. No model of this package was trained on images of this seed.
SYNTHETIC_IMAGES, _SYNTHETIC_SEED = 320, 1_000_000
_WORDNET_ID = re.compile(r"(?:^|_)(n\d{8})(?=_|$)")


@dataclass(frozen=True)
class LabeledImages:
    """Images in the order of the measurement; nothing is decoded before it is loaded.

    Attributes:
        source: ``"synthetic"`` or ``"folder:NAME"``.
        ids: Names of the images.
        labels: Name of the class of each image.
        digest: SHA-256 in hex over names and contents.
        loader: Function that returns an image by its index, as RGB and warped to ``(H, W)``, from any thread.
    """

    source: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    digest: str
    loader: Callable[[int, tuple[int, int]], Image] = field(repr=False)


def folder_images(data: str | os.PathLike[str], images: int | None = None, seed: int = 0) -> LabeledImages:
    """The images of a folder with one subfolder for each class.

    Args:
        data: The folder. Images at any depth below a subfolder belong to its class; images that are not in a subfolder
            have the WordNet id of their class in their name, as in ``n01440764_tench.JPEG`` and
            ``ILSVRC2012_val_00000293_n01440764.JPEG``.
        images: Number of images, which are sampled evenly from the classes; None for all.
        seed: Random seed of the sample.

    Raises:
        InvalidInputError: There are no images in the folder, the class of an image is unknown, or a file cannot be
            read.
    """
    root = usable_path(data, "The folder of images")
    ids = list_images(root)
    if images is not None and images < len(ids):
        if images < 1:
            raise InvalidInputError(f"Cannot measure {images} images. At least one is required. Give a larger number.")
        chosen = {*stratified_sample(ids, images, seed)}
        ids = tuple(one for one in ids if one in chosen)
    labels = tuple(_label_of(root, one) for one in ids)
    digest = hashlib.sha256()
    for one in ids:
        try:
            content = sha256_of(root / one)
        except OSError as error:
            raise InvalidInputError(
                f"Cannot read {root / one}. {error.strerror or error}. Make the file readable or remove it."
            ) from error
        digest.update(os.fsencode(f"{content}  {one}\n"))
    return LabeledImages(
        source=f"folder:{root.name or root.resolve().name}",
        ids=ids,
        labels=labels,
        digest=digest.hexdigest(),
        loader=lambda index, size: load_rgb(root / ids[index], ids[index], size),
    )


def generated_images(side: int, images: int | None = None) -> LabeledImages:
    """Generated images in which both the shape and the texture belong to the class.

    Args:
        side: Side in pixels.
        images: Number of images, whose classes alternate; None for 320.
    """
    count = SYNTHETIC_IMAGES if images is None else images

    def draw(index: int, size: tuple[int, int]) -> Image:
        from PIL import Image

        picture = Image.fromarray(synthetic_training(1, side, _SYNTHETIC_SEED, index)[0][0])
        fits = picture.size == (size[1], size[0])
        return picture if fits else picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)

    labels = tuple(SYNTHETIC_CATEGORIES[index % len(SYNTHETIC_CATEGORIES)] for index in range(count))
    # The images are the same to the byte on every machine, and the version of this package is part of the record.
    content = f"synthetic_training, {side} px, seed {_SYNTHETIC_SEED}, {count} images"
    return LabeledImages(
        source=SYNTHETIC,
        ids=tuple(f"{index:05d}-{label}" for index, label in enumerate(labels)),
        labels=labels,
        digest=hashlib.sha256(content.encode()).hexdigest(),
        loader=draw,
    )


def _label_of(root: Path, image_id: str) -> str:
    """The name of the class of an image in a folder."""
    path = PurePosixPath(image_id)
    if len(path.parts) > 1:
        return path.parts[0]
    found = _WORDNET_ID.search(path.stem)
    if found is None:
        raise InvalidInputError(
            f"The class of image {image_id!r} in {root} is unknown. It is neither in the folder of a class, nor does "
            "its name contain a WordNet id, as n01440764_tench.JPEG does. Give a folder with one subfolder for each "
            "class."
        )
    return found[1]
