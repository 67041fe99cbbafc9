"""The images of the sets in folders: their names, conditions and categories, and comparison with the published sets."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replk_probe.errors import InvalidInputError
from replk_probe.images import check_image, list_images
from replk_probe.runtime.formatting import counted
from replk_probe.runtime.paths import usable_path
from replk_probe.shape_bias.stimuli.archive_set import set_dir
from replk_probe.shape_bias.stimuli.manifest import read_folder, shown
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.stimulus_source import ImageFiles, open_stimuli

from .benchmark_sets import BENCHMARK_SETS, CUE_CONFLICT, SIDE, choose_sets
from .people import digest_of_images, published_people
from .trials import Trials

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class SetImages:
    """The images of one set, in the order of :class:`~replk_probe.behaviour.Trials`.

    Attributes:
        dataset: Name of the set.
        names: Base names, ``[N]``.
        category: Correct category, ``[N]``.
        condition: Level of the set, ``[N]``.
        files: Paths of the files, ``[N]``.
        sizes: Number of images of each size ``(H, W)`` in pixels.
        digest: SHA-256 over names and contents.
        notes: Notes for the reader of a result.
    """

    dataset: str
    names: tuple[str, ...]
    category: tuple[str, ...]
    condition: tuple[str, ...]
    files: tuple[Path, ...]
    sizes: Mapping[tuple[int, int], int]
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    @property
    def differences(self) -> str:
        """Differences from the published set in number, as a sentence without a period; empty if there are none."""
        known = BENCHMARK_SETS[self.dataset]
        counts = Counter(zip(self.condition, self.category, strict=True))
        wrong = [
            f"{counted(counts[level, category], 'image')} of {category}"
            + (f" in condition {level}" if known.has_conditions else "")
            for level in known.levels
            for category in CATEGORIES
            if counts[level, category] != known.n_per_cell
        ]
        if not wrong:
            return ""
        more = f" and {len(wrong) - 2} more differences" if len(wrong) > 2 else ""
        return (
            f"It has {len(self)} of {known.n_images} images: {', '.join(wrong[:2])} instead of {known.n_per_cell}{more}"
        )

    def trials(self, observer: str, responses: Sequence[str]) -> Trials:
        """The decisions of an observer on these images, in the same order."""
        return Trials(observer, self.dataset, self.names, self.category, self.condition, tuple(responses))


@dataclass(frozen=True)
class BenchmarkImages:
    """The images of several sets, one after the other.

    Attributes:
        sets: The sets.
    """

    sets: tuple[SetImages, ...]

    def __len__(self) -> int:
        """Number of images."""
        return self._starts[-1]

    @property
    def source(self) -> str:
        """Names of the sets."""
        return ", ".join(one.dataset for one in self.sets)

    @property
    def categories(self) -> tuple[str, ...]:
        """The 16 categories."""
        return CATEGORIES

    @property
    def size(self) -> tuple[int, int] | None:
        """``(H, W)`` of every image in pixels; None if they differ."""
        sizes = {size for one in self.sets for size in one.sizes}
        return next(iter(sizes)) if len(sizes) == 1 else None

    @property
    def digest(self) -> str:
        """SHA-256 over the names and the digests of the sets."""
        lines = (f"{one.digest}  {one.dataset}\n" for one in self.sets)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the reader of a result."""
        return tuple(note for one in self.sets for note in one.notes)

    @property
    def record(self) -> Mapping[str, Any]:
        """Entries for the configuration in the result."""
        return {one.dataset: {"images": len(one), "digest": one.digest} for one in self.sets}

    def load(self, index: int) -> Image:
        """Load the RGB image of an index, from 0.

        Raises:
            UnreadableImageError: The file is missing or damaged.
        """
        return self._loader(index)

    def rows(self) -> list[tuple[SetImages, slice]]:
        """The sets, and the indices of their images."""
        return [(one, slice(end - len(one), end)) for one, end in zip(self.sets, self._starts[1:], strict=True)]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(map(len, self.sets))]

    @cached_property
    def _loader(self) -> ImageFiles:
        return ImageFiles(tuple(path for one in self.sets for path in one.files))


def open_sets(
    sets: str | Sequence[str] | None = None,
    data: str | Path | None = None,
    *,
    allow_partial: bool = False,
    progress: bool = True,
) -> BenchmarkImages:
    """Open the images of sets.

    Args:
        sets: Names of sets as in :func:`~replk_probe.behaviour.choose_sets`. Defaults to all that are there.
        data: Folder with one folder per set, or the folder of one set, with its name. Defaults to the cache, to which
            ``replk-probe data fetch`` downloads the sets.
        allow_partial: Whether to accept sets from which images are missing.
        progress: Whether to draw progress bars on stderr if that is a terminal.

    Returns:
        The images; none of them is decoded yet.

    Raises:
        InvalidInputError: A set is missing or incomplete, a name does not parse, or a file is not an image.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from replk_probe.behaviour import open_sets
        >>> for category in ("cat", "dog"):
        ...     Path("images/edge", category).mkdir(parents=True)
        ...     Image.new("RGB", (224, 224)).save(f"images/edge/{category}/{category}1.png")
        >>> images = open_sets("edge", "images", allow_partial=True)
        >>> images.sets[0].names, images.size
        (('cat1.png', 'dog1.png'), (224, 224))
    """
    folders = _folders(None if sets is None else choose_sets(sets), data)
    opened = []
    for name, folder in folders.items():
        found = read_set(name, folder, progress)
        if found.differences and not allow_partial:
            raise InvalidInputError(
                f"{folder} is not the complete set {name}. {found.differences}. Fetch it with 'replk-probe data fetch "
                f"{name}', or set allow_partial."
            )
        opened.append(found)
    return BenchmarkImages(tuple(opened))


def read_set(name: str, folder: Path, progress: bool = True) -> SetImages:
    """Read the images of a set in a folder and its subfolders, and compare them with the published set.

    Raises:
        InvalidInputError: There is no image, a name does not parse, or a file is not an image or truncated.
    """
    known = BENCHMARK_SETS[name]
    if name == CUE_CONFLICT:
        return _cue_conflict(folder, progress)
    paths = list_images(folder, "data")
    rows = []
    for path in paths:
        base = path.rpartition("/")[2]
        level, category = known.parse_name(base) if known.has_conditions else (known.levels[0], _parent(path, name))
        rows.append(((base,) if known.has_conditions else (category, base), base, category, level, path))
    rows.sort()
    names, categories, condition, ordered = (tuple(str(row[column]) for row in rows) for column in range(1, 5))
    found = read_folder(folder, ordered, progress)
    sizes = Counter(check_image(one.path, shown(one.path)) for one in found.values())
    lines = (f"{one.sha256}  {base}\n" for one, base in zip(found.values(), names, strict=True))
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    files = tuple(one.path for one in found.values())
    images = SetImages(name, names, categories, condition, files, sizes, digest)
    return replace(images, notes=tuple(_notes(images)))


def _cue_conflict(folder: Path, progress: bool) -> SetImages:
    stimuli = open_stimuli(folder, progress=progress)
    assert isinstance(stimuli.loader, ImageFiles)
    shapes = tuple(one.shape for one in stimuli.stimuli)
    files = stimuli.loader.paths
    sizes = Counter(check_image(path, shown(path)) for path in files)
    names = tuple(one.name for one in stimuli.stimuli)
    level = BENCHMARK_SETS[CUE_CONFLICT].levels * len(names)
    return SetImages(CUE_CONFLICT, names, shapes, level, files, sizes, stimuli.digest, stimuli.notes)


def _notes(images: SetImages) -> list[str]:
    """What differs from the published set."""
    notes = []
    if images.differences:
        notes.append(f"The set {images.dataset} is not complete. {images.differences}.")
    # Also finds two images of one name.
    elif digest_of_images(images.trials("names", images.category)) != published_people()[images.dataset].images_sha256:
        notes.append(
            f"By their names, the images of the set {images.dataset} are not exactly those that people saw. "
            "Consistency with people is computed on the common ones."
        )
    others = {size: count for size, count in images.sizes.items() if size != (SIDE, SIDE)}
    if others:
        (height, width), count = max(others.items(), key=lambda item: item[1])
        total = sum(others.values())
        verbs = ["is" if number == 1 else "are" for number in (total, count)]
        notes.append(
            f"{counted(total, 'image')} of the set {images.dataset} {verbs[0]} not {SIDE} x {SIDE} px, as the "
            f"published ones are ({count} {verbs[1]} {height} x {width} px)."
        )
    return notes


def _parent(path: str, name: str) -> str:
    """The category of an image of a set without conditions: the name of its folder."""
    parent = path.rpartition("/")[0].rpartition("/")[2]
    if parent not in CATEGORIES:
        raise InvalidInputError(
            f"Cannot use image {path!r} of the set {name}. Its folder is not one of the 16 categories "
            f"({', '.join(CATEGORIES)}). Fetch the set again, or remove the file."
        )
    return parent


def _folders(names: Sequence[str] | None, data: str | Path | None) -> dict[str, Path]:
    """The folder of each set."""
    if data is None:
        places, where = {name: set_dir(name) for name in BENCHMARK_SETS}, "the cache"
    else:
        root = usable_path(data, "The folder of sets")
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise InvalidInputError(f"Cannot find sets in {root}. It {what}. Give a folder with one folder per set.")
        own = root.resolve().name
        single = own in BENCHMARK_SETS and not (root / own).is_dir()
        places, where = {own: root} if single else {name: root / name for name in BENCHMARK_SETS}, str(root)
    found = {name: place for name, place in places.items() if place.is_dir()}
    lacking = [name for name in names or () if name not in found]
    if lacking or not found:
        which = f"the set{'s' * (len(lacking) > 1)} {', '.join(lacking)}" if lacking else "any of the 17 sets"
        raise InvalidInputError(
            f"Cannot find {which} in {where}. A folder has the name of its set. Download sets with 'replk-probe data "
            f"fetch {','.join(lacking) or 'all'}', or give a folder that contains them."
        )
    return {name: place for name, place in found.items() if names is None or name in names}
