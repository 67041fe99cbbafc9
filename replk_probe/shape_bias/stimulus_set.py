"""The stimuli of one measurement: which, from where, and how to get at their pixels."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replk_probe.errors import InvalidInputError
from replk_probe.images import check_image, decode_rgb, list_images

from .manifest import Found, compare, read_folder, shown, some
from .stimuli import CATEGORIES, Stimulus, check_categories, parse_stimulus_name

if TYPE_CHECKING:
    from PIL.Image import Image

CUE_CONFLICT = "cue-conflict"
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class StimulusSet:
    """Stimuli in the order to measure them; nothing is decoded before :meth:`load`. Can be sent to other processes.

    Attributes:
        source: ``"cue-conflict"``, ``"folder:NAME"``, or as the maker of a drawn set calls it.
        categories: What shapes and textures there are, and so what a model may answer.
        stimuli: In the order of torchvision's ImageFolder: by shape, then by name as a string.
        size: ``(H, W)`` of every stimulus in pixels; None where they differ.
        digest: SHA-256 in hex over names and contents, in order.
        loader: From the index of a stimulus to its picture (RGB).
        notes: What the reader of a result should know, a sentence or two each.
        record: The same for the result's configuration, ready for JSON.
    """

    source: str
    categories: tuple[str, ...]
    stimuli: tuple[Stimulus, ...]
    size: tuple[int, int] | None
    digest: str
    loader: Callable[[int], Image] = field(repr=False)
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of stimuli."""
        return len(self.stimuli)

    def load(self, index: int) -> Image:
        """The picture of ``stimuli[index]``, RGB, at its own size.

        Raises:
            UnreadableImageError: Its file is gone or damaged.
            IndexError: There are not so many.
        """
        if not 0 <= index < len(self.stimuli):
            raise IndexError(f"stimulus {index} of {len(self.stimuli)}")
        return self.loader(index)


def open_stimuli(
    where: str | os.PathLike[str],
    *,
    categories: Sequence[str] | None = None,
    size: int = 224,
    seed: int = 0,
    allow_partial: bool = False,
    show_progress: bool = True,
) -> StimulusSet:
    """Open a set of stimuli.

    Args:
        where: ``"cue-conflict"``: the published set, fetched into the cache where it is not there yet and verified
            file by file. ``"synthetic"``: the set that this package draws. Else a folder of stimuli.
        categories: What shapes and textures there are; default :data:`CATEGORIES`. The synthetic set has its own.
        size: Side of the synthetic stimuli, in pixels.
        seed: Of the synthetic stimuli.
        allow_partial: Take what is intact of a published set that is not complete; it is recorded.
        show_progress: Draw progress bars on stderr, if that is a terminal.

    Raises:
        InvalidInputError: The folder is missing or empty, a name does not parse, a category is unknown, a file is not
            an image or truncated, two files have one name, the published set is not complete, or a part was allowed
            of another set.
        WeightsError: The published set cannot be fetched.
    """
    check_partial(where, allow_partial)
    if where == SYNTHETIC:
        from .synthetic import synthetic_stimuli

        return synthetic_stimuli(size=size, seed=seed)
    known = check_categories(CATEGORIES if categories is None else categories)
    if where == CUE_CONFLICT:
        from .cue_conflict import cached_cue_conflict, fetch_cue_conflict

        folder = cached_cue_conflict() or fetch_cue_conflict(show_progress=show_progress)
        return _open_published(folder, known, allow_partial, show_progress)
    folder = Path(where)
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "is no folder"
        raise InvalidInputError(
            f"Cannot find stimuli at {str(where)!r}. It {kind}. "
            f"Give a folder of stimuli, or {CUE_CONFLICT} or {SYNTHETIC}."
        )
    return scan(folder, known, show_progress=show_progress)


def check_partial(where: object, allow_partial: bool) -> None:
    """InvalidInputError if a part is allowed of a set that is taken as it is."""
    if allow_partial and where != CUE_CONFLICT:
        raise InvalidInputError(
            f"A part was allowed of a set that is not {CUE_CONFLICT!r}. Any other is taken as it is, complete or not. "
            f"Leave --allow-partial out, or name --stimuli {CUE_CONFLICT}."
        )


def scan(
    folder: str | os.PathLike[str], categories: Sequence[str] = CATEGORIES, *, show_progress: bool = True
) -> StimulusSet:
    """A folder of stimuli, ``<shape>/<shape><i>-<texture><j>.png``, compared with the published ones.

    The name tells shape and texture. Files may lie at any depth, but not in a folder of another category.

    Args:
        folder: Holds the stimuli, at any depth; hidden files are left out.
        categories: What shapes and textures there are.
        show_progress: Draw a progress bar on stderr, if that is a terminal.

    Raises:
        InvalidInputError: No image in the folder, a name that does not parse, an unknown category, a file in the
            folder of another category, two files of one name, a file that is not an image or truncated.
    """
    root = Path(folder)
    paths = list_images(root, "--stimuli")
    stimuli = _parse(root, paths, tuple(categories))
    in_order = sorted(paths, key=lambda path: (stimuli[path].shape, stimuli[path].name))
    found = {
        f"{stimuli[path].shape}/{stimuli[path].image_id}": file
        for path, file in zip(in_order, read_folder(root, in_order, show_progress).values(), strict=True)
    }
    comparison = compare(found)
    return _from_files(
        f"folder:{shown(root.name or root.resolve().name)}",
        tuple(categories),
        tuple(stimuli[path] for path in in_order),
        tuple(found.values()),
        notes=(comparison.note,),
        record={"manifest": comparison.record() if comparison.related else None},
    )


def _open_published(folder: Path, categories: tuple[str, ...], allow_partial: bool, show_progress: bool) -> StimulusSet:
    from .cue_conflict import incomplete_error, verify_cue_conflict

    comparison, found = verify_cue_conflict(folder, show_progress)
    if not comparison.complete and not (allow_partial and comparison.intact):
        raise incomplete_error(folder, comparison)
    names = comparison.intact
    notes: tuple[str, ...] = (comparison.note,)
    if not comparison.complete:
        notes += (f"Only the {len(names)} intact stimuli are evaluated, as --allow-partial asks.",)
    return _from_files(
        CUE_CONFLICT,
        categories,
        tuple(parse_stimulus_name(found[name].path.name, categories) for name in names),
        tuple(found[name] for name in names),
        notes=notes,
        record={"manifest": comparison.record(), "partial": not comparison.complete},
    )


def _parse(root: Path, paths: Sequence[str], categories: tuple[str, ...]) -> dict[str, Stimulus]:
    stimuli = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        try:
            stimulus = parse_stimulus_name(name, categories)
        except InvalidInputError as error:
            raise InvalidInputError(f"{shown(root / folder)}: {error}") from error
        parent = folder.rpartition("/")[2]
        if parent in categories and parent != stimulus.shape:
            raise InvalidInputError(
                f"Cannot use stimulus {path!r}. Its name tells the shape {stimulus.shape!r} and its folder "
                f"{parent!r}. Rename it or put it where it belongs."
            )
        stimuli[path] = stimulus
    counts = Counter(stimulus.image_id for stimulus in stimuli.values())
    twice = sorted(path for path, stimulus in stimuli.items() if counts[stimulus.image_id] > 1)
    if twice:
        raise InvalidInputError(
            f"Several files have one name: {some(twice)}. Decisions are paired between observers by name. "
            "Keep one of each."
        )
    return stimuli


@dataclass(frozen=True)
class _Files:
    """Loads stimuli that are files."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> Image:
        return decode_rgb(self.paths[index], shown(self.paths[index]))


def _from_files(
    source: str,
    categories: tuple[str, ...],
    stimuli: tuple[Stimulus, ...],
    files: tuple[Found, ...],
    notes: tuple[str, ...],
    record: Mapping[str, Any],
) -> StimulusSet:
    sizes = Counter(check_image(file.path, shown(file.path)) for file in files)
    if len(sizes) > 1:
        common = ", ".join(f"{height} x {width}" for (height, width), _ in sizes.most_common(3))
        notes += (f"The stimuli are of {len(sizes)} sizes ({common}{', ...' if len(sizes) > 3 else ''}).",)
    lines = (
        f"{file.sha256}  {stimulus.shape}/{stimulus.name}\n" for stimulus, file in zip(stimuli, files, strict=True)
    )
    return StimulusSet(
        source=source,
        categories=categories,
        stimuli=stimuli,
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        digest=hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest(),
        loader=_Files(tuple(file.path for file in files)),
        notes=notes,
        record=record,
    )
