"""Open a stimulus set: the published set, a folder, a set with a description, or the synthetic set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replk_probe.errors import InvalidInputError
from replk_probe.images import check_image, decode_rgb, list_images
from replk_probe.runtime.formatting import dimensions
from replk_probe.runtime.paths import usable_path

from .decision_mapping import LabelMapping
from .stimuli.cue_conflict import cached_cue_conflict, fetch_cue_conflict, incomplete_error, verify_cue_conflict
from .stimuli.manifest import Found, compare, read_folder, shown, some
from .stimuli.names import CATEGORIES, Stimulus, check_categories, parse_stimulus_name
from .stimuli.set_description import (
    DESCRIPTION_NAME,
    SetDescription,
    read_description,
    shipped_description,
    shipped_sets,
)
from .stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC, StimulusSet
from .synthetic import synthetic_stimuli

if TYPE_CHECKING:
    from PIL.Image import Image


def open_stimuli(
    stimuli: str | os.PathLike[str],
    *,
    categories: Sequence[str] | None = None,
    size: int = 224,
    seed: int = 0,
    allow_partial: bool = False,
    progress: bool = True,
) -> StimulusSet:
    """Open a stimulus set.

    Args:
        stimuli: ``"cue-conflict"`` for the published set, which is fetched if it is not in the cache and verified file
            by file; ``"synthetic"`` for the set that this package draws; a TOML file that describes a set, or a folder
            with one named ``set.toml``; ``"refined-bias=FOLDER"`` or ``"frequency-conflict=FOLDER"`` for a set that
            this package describes; otherwise a folder of stimuli.
        categories: Possible categories; defaults to :data:`CATEGORIES`. The synthetic set and sets with a description
            have their own.
        size: Side of the synthetic stimuli in pixels.
        seed: Random seed of the synthetic stimuli.
        allow_partial: Whether to use the intact part of an incomplete published set; this is recorded.
        progress: Whether to draw progress bars on stderr if that is a terminal.

    Returns:
        The stimuli; none of them is decoded yet.

    Raises:
        InvalidInputError: The folder is missing or empty, a name does not parse, a category is unknown, a file is not
            an image or truncated, two files have one name, a description cannot be used or does not match the files,
            the published set is not complete, or ``allow_partial`` was given for another set.
        WeightsError: The published set cannot be fetched.

    Examples:
        >>> from replk_probe.shape_bias import open_stimuli
        >>> stimuli = open_stimuli("synthetic", size=32)
        >>> stimuli.source, stimuli.size, stimuli.load(0).mode
        ('synthetic', (32, 32), 'RGB')
    """
    check_partial(stimuli, allow_partial)
    if stimuli == SYNTHETIC:
        return synthetic_stimuli(size=size, seed=seed)
    known = check_categories(CATEGORIES if categories is None else categories)
    if stimuli == CUE_CONFLICT:
        folder = cached_cue_conflict() or fetch_cue_conflict(show_progress=progress)
        return _open_published(folder, known, allow_partial, progress)
    name, separator, place = str(stimuli).partition("=")
    if separator and name in shipped_sets():
        return open_described(shipped_description(name), usable_path(place, "The folder of stimuli"), progress=progress)
    folder = usable_path(stimuli, "The folder of stimuli")
    description = folder if folder.suffix == ".toml" and not folder.is_dir() else folder / DESCRIPTION_NAME
    if description.is_file():
        return open_described(read_description(description), description.parent, progress=progress)
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise InvalidInputError(
            f"Cannot find stimuli at {str(stimuli)!r}. It {kind}. "
            f"Give a folder of stimuli, {CUE_CONFLICT}, {SYNTHETIC}, or a described set with its folder, such as "
            f"'{next(iter(shipped_sets()))}=FOLDER'."
        )
    if folder.resolve().name in shipped_sets():
        raise InvalidInputError(
            f"The folder {str(stimuli)!r} has no {DESCRIPTION_NAME}. It has the name of a set that this package "
            f"describes. Give the stimuli '{folder.resolve().name}={stimuli}'."
        )
    return scan(folder, known, progress=progress)


def check_partial(where: object, allow_partial: bool) -> None:
    """Raise InvalidInputError if ``allow_partial`` is given for another set than the published one."""
    if allow_partial and where != CUE_CONFLICT:
        raise InvalidInputError(
            f"An incomplete set was allowed for stimuli other than {CUE_CONFLICT!r}. Only the published set is "
            f"checked for completeness. Leave allow_partial out, or give the stimuli {CUE_CONFLICT!r}."
        )


def scan(
    folder: str | os.PathLike[str], categories: Sequence[str] = CATEGORIES, *, progress: bool = True
) -> StimulusSet:
    """Read a folder of stimuli, ``<shape>/<shape><i>-<texture><j>.png``, and compare it with the published set.

    Shape and texture are parsed from the name. Files may be at any depth, but not in a folder of another category.
    Hidden files are ignored.

    Raises:
        InvalidInputError: No image in the folder, a name that does not parse, an unknown category, a file in the
            folder of another category, two files of one name, a file that is not an image or truncated.
    """
    root = usable_path(folder, "The folder of stimuli")
    paths = list_images(root, "stimuli")
    stimuli = _parse(root, paths, tuple(categories))
    in_order = sorted(paths, key=lambda path: (stimuli[path].shape, stimuli[path].name))
    found = {
        f"{stimuli[path].shape}/{stimuli[path].image_id}": file
        for path, file in zip(in_order, read_folder(root, in_order, progress).values(), strict=True)
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


def open_described(description: SetDescription, folder: Path, *, progress: bool = True) -> StimulusSet:
    """Open a set with a description, whose files are in ``folder``.

    Raises:
        InvalidInputError: The folder is missing, no image has a layout of the description, or the digest differs.
    """
    paths = list_images(folder, "stimuli")
    matched = description.stimuli(paths)
    if not matched:
        raise InvalidInputError(
            f"No image in {str(folder)!r} belongs to the set {description.name}. Its layout is "
            f"{' or '.join(description.layouts)}, but the first image is {paths[0]!r}. Give the folder in which these "
            "paths begin."
        )
    order = {cue: index for index, cue in enumerate(description.cues)}
    matched.sort(key=lambda one: (order.get(one[2], 0), one[1].shape, one[1].name))
    found = read_folder(folder, [path for path, _, _ in matched], progress)
    others = sorted({*paths} - found.keys())
    notes = [_description_note(description)]
    if others:
        notes.append(f"Files that have no layout of {description.name} are left out: {len(others)} ({some(others)}).")
    if description.images not in (None, len(matched)):
        notes.append(f"The set {description.name} has {description.images} images, but {len(matched)} were found.")
    opened = _from_files(
        f"set:{description.name}",
        tuple(sorted(description.labels)),
        tuple(stimulus for _, stimulus, _ in matched),
        tuple(found.values()),
        notes=tuple(notes),
        record={"set": asdict(description)},
    )
    if description.digest not in (None, opened.digest):
        raise InvalidInputError(
            f"The images in {str(folder)!r} are not those of the set {description.name}. Their digest is "
            f"{opened.digest}, not {description.digest}. Download them again, or remove the digest."
        )
    size, classes = description.image_size, description.classes
    other_size: tuple[str, ...] = ()
    if size is not None and opened.size is not None and opened.size != size:
        other_size = (
            f"The images of {description.name} are {dimensions(size)} px, but these are {dimensions(opened.size)} px.",
        )
    return replace(
        opened,
        notes=opened.notes + other_size,
        mapping=LabelMapping(f"set:{description.name}", description.labels, classes, 1000) if classes else None,
        cues=tuple(cue for _, _, cue in matched) if description.is_separate else (),
    )


def _description_note(description: SetDescription) -> str:
    first, second = description.cues
    if description.is_separate:
        return f"Each image of {description.name} has one cue: {first} or {second}."
    if (first, second) == ("shape", "texture"):
        return f"The stimuli are those of {description.name}."
    return (
        f"The cues of {description.name} are {first} and {second}: in this result, {first} is called shape, and "
        f"{second} texture."
    )


def _open_published(folder: Path, categories: tuple[str, ...], allow_partial: bool, progress: bool) -> StimulusSet:
    comparison, found = verify_cue_conflict(folder, progress)
    if not comparison.complete and not (allow_partial and comparison.intact):
        raise incomplete_error(folder, comparison)
    names = comparison.intact
    notes: tuple[str, ...] = (comparison.note,)
    if not comparison.complete:
        notes += (f"Only the {len(names)} intact stimuli are evaluated (allow_partial).",)
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
                f"Cannot use stimulus {path!r}. Its name contains the shape {stimulus.shape!r} and its "
                f"folder is {parent!r}. Rename it or move it to the other folder."
            )
        stimuli[path] = stimulus
    counts = Counter(stimulus.image_id for stimulus in stimuli.values())
    twice = sorted(path for path, stimulus in stimuli.items() if counts[stimulus.image_id] > 1)
    if twice:
        raise InvalidInputError(
            f"Several files have the same name: {some(twice)}. Decisions of different observers are paired by name. "
            "Keep one of each."
        )
    return stimuli


@dataclass(frozen=True)
class ImageFiles:
    """Loader of stimuli that are files."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> Image:
        """The RGB image of an index."""
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
        loader=ImageFiles(tuple(file.path for file in files)),
        notes=notes,
        record=record,
    )
