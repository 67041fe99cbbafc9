"""The images of one measurement: selection, source and loading."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.paths import usable_path

from . import dead_leaves
from .decode import load_rgb
from .depth import DEPTH
from .folder import list_images, stratified_sample

Sampling: TypeAlias = Literal["stratified", "first"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
"""Names of the ways to choose images from a folder, which :func:`sample_images` describes."""

EMBEDDED_SOURCE = "embedded:dead-leaves"
# Small embedded images are kept, because a command that measures several models needs them for each: 13 MB at most.
_KEPT_PIXELS, _KEPT_IMAGES = 256 * 256, 64
_draw_once = lru_cache(_KEPT_IMAGES)(dead_leaves.draw)


@dataclass(frozen=True)
class ImageSet:
    """Images selected for a measurement, which :meth:`load` decodes.

    Attributes:
        source: ``"folder:NAME"`` or ``"embedded:dead-leaves"``.
        ids: Ids of the images, in the order of the measurement: paths relative to the folder, with forward slashes, or
            names of embedded images.
        requested: Number of images requested.
        available: Number of images in the source.
        sampling: Sampling method, one of :data:`SAMPLINGS`.
        seed: Random seed of the sample.
        root: The folder, or None for the embedded set.

    Examples:
        >>> from replk_probe.images import sample_images
        >>> images = sample_images(n=3)
        >>> images.source, len(images.ids)
        ('embedded:dead-leaves', 3)
        >>> images.load(images.ids[0], (48, 64)).shape
        (48, 64, 3)
    """

    source: str
    ids: tuple[str, ...]
    requested: int
    available: int
    sampling: str = "stratified"
    seed: int = 0
    root: Path | None = None
    _known: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Store the ids as a set for lookup."""
        object.__setattr__(self, "_known", frozenset(self.ids))

    def __len__(self) -> int:
        """Number of images selected."""
        return len(self.ids)

    @property
    def shortfall_note(self) -> str | None:
        """One sentence if there are fewer images than requested, else None."""
        if len(self.ids) >= self.requested:
            return None
        return f"{self.requested} images were requested, but {self.source} has only {self.available}."

    def stamps(self) -> tuple[str, ...] | None:
        """Size and modification time of every file, to detect files that were replaced.

        Returns:
            One string per image, ``"missing"`` for a missing file; None for the embedded set, which never changes.
        """
        return None if self.root is None else tuple(_stamp(self.root / image_id) for image_id in self.ids)

    def load(self, image_id: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Load one image as RGB bytes, warped to ``size`` with PIL's bicubic filter as in the paper.

        Camera orientation tags are not applied and alpha channels are dropped, as in the paper's script. Embedded
        images are drawn at ``size`` directly.

        Args:
            image_id: One of ``ids``.
            size: ``(H, W)`` in pixels.

        Returns:
            RGB image, ``[H, W, 3]`` uint8.

        Raises:
            UnreadableImageError: The file is missing, damaged or not an image.
            InvalidInputError: ``image_id`` is not in this set, or ``size`` is not two positive numbers.
        """
        return self.load_with_depth(image_id, size)[0]

    def load_with_depth(self, image_id: str, size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], int | None]:
        """:meth:`load`, and the depth in bits that was found if the file has more than eight bits per value."""
        height, width = size
        if height < 1 or width < 1:
            raise InvalidInputError(
                f"Images of {height} x {width} pixels are invalid. Both sides must be positive. Give another size."
            )
        if image_id not in self._known:
            raise InvalidInputError(f"No image {image_id!r} in {self.source}. Use an id from ImageSet.ids.")
        if self.root is None:
            draw = _draw_once if height * width <= _KEPT_PIXELS else dead_leaves.draw
            return draw(image_id, (height, width)).copy(), None
        image = load_rgb(self.root / image_id, image_id, size)
        return np.array(image), image.info.get(DEPTH)


def sample_images(
    root: str | Path | None = None, n: int = 50, seed: int = 0, sampling: Sampling = "stratified"
) -> ImageSet:
    """Sample ``n`` images of a folder, or of the embedded set.

    Args:
        root: Folder of images, flat or with class folders at any depth, or None for the embedded dead-leaves images.
        n: Number of images; all of them if there are fewer (see :attr:`ImageSet.shortfall_note`).
        seed: Random seed of the stratified sample.
        sampling: ``"stratified"`` distributes the sample evenly over the folders that contain images; ``"first"`` takes
            the first ones in the order of torchvision's ImageFolder, as in the published script.

    Returns:
        The sample; no image is decoded yet.

    Raises:
        InvalidInputError: ``n`` < 1, an unknown ``sampling``, or a folder that is missing or without images.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe.images import sample_images
        >>> for kind in ("cats", "dogs"):
        ...     Path("photos", kind).mkdir(parents=True)
        ...     for number in range(4):
        ...         Image.new("RGB", (64, 48)).save(f"photos/{kind}/{number}.png")
        >>> images = sample_images("photos", n=2, seed=0)
        >>> sorted(Path(name).parent.name for name in images.ids), images.available
        (['cats', 'dogs'], 8)
    """
    check_sample(n, sampling)
    folder = None if root is None else usable_path(root, "The image folder")
    candidates = dead_leaves.IDS if folder is None else list_images(folder)
    chosen = candidates[: int(n)] if sampling == "first" else stratified_sample(candidates, int(n), seed)
    return ImageSet(
        source=EMBEDDED_SOURCE if folder is None else f"folder:{folder.name or folder.resolve().name}",
        ids=chosen,
        requested=int(n),
        available=len(candidates),
        sampling=sampling,
        seed=int(seed),
        root=folder,
    )


def check_sample(n: Any, sampling: Any) -> None:
    """Raise InvalidInputError unless ``n`` is a number of images and ``sampling`` one of :data:`SAMPLINGS`."""
    if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
        given = repr(n) if n is None or isinstance(n, numbers.Number | str) else f"an object of type {type(n).__name__}"
        advice = "" if isinstance(n, numbers.Number | str) else " Pass the images themselves as data."
        raise InvalidInputError(f"The number of images cannot be {given}. It must be an integer of at least 1.{advice}")
    if sampling not in SAMPLINGS:
        raise InvalidInputError(f"Unknown sampling {sampling!r}. Choose from {', '.join(SAMPLINGS)}.")


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
