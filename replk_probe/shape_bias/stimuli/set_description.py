"""Descriptions of stimulus sets: a TOML file with the cues, the labels and the layout of the files."""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replk_probe.errors import InvalidInputError, close_hint
from replk_probe.runtime.checks import check_size, whole
from replk_probe.runtime.paths import text_of

from .names import Stimulus, StimulusNameError, check_categories, parse_stimulus_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DESCRIPTION_NAME = "set.toml"  # a folder with this file is a set with a description
SCHEMA_VERSION = 1
IMAGENET = "imagenet-1k"

_SHIPPED = Path(__file__).with_name("sets")
_REQUIRED = ("schema_version", "name", "cues", "layout", "labels")
_OPTIONAL = ("citation", "license", "sources", "images", "image_size", "label_space", "digest")
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class SetDescription:
    """A stimulus set: what its cues and labels are, and where in the names of its files they are.

    Attributes:
        name: Name of the set.
        cues: Names of the cues. In a conflict set, the first takes the place of the shape, the second of the texture.
        layouts: Paths with ``{FIELD}``: a field with the name of a cue is the label of that cue, any other field is
            text without a slash. All have both cues, or each has one of them.
        labels: Names of the labels, which in paths may have underscores for spaces.
        classes: Class indices of each label in the label space, or empty if labels are the categories of the decision.
        label_space: ``"imagenet-1k"``, or None.
        images: Number of images, if it is known.
        image_size: ``(H, W)`` of all images in pixels, if it is known.
        digest: SHA-256 over names and contents as in :class:`StimulusSet`, if it is known.
        citation: Where the set was published.
        license: License of the images.
        sources: Where the files can be downloaded: URLs, and the SHA-256 of the archive if it is known.
    """

    name: str
    cues: tuple[str, ...]
    layouts: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...] = ()
    label_space: str | None = None
    images: int | None = None
    image_size: tuple[int, int] | None = None
    digest: str | None = None
    citation: str | None = None
    license: str | None = None
    sources: tuple[Mapping[str, str], ...] = ()

    @property
    def is_separate(self) -> bool:
        """Whether each image has one cue only."""
        return len(self._cues_of(self.layouts[0])) == 1

    def _cues_of(self, layout: str) -> list[str]:
        return [cue for cue in self.cues if cue in _FIELD.findall(layout)]

    def match(self, path: str) -> dict[str, str] | None:
        """The label of each cue in the path of a file, or None if the path has none of the layouts."""
        for layout in self.layouts:
            found = re.fullmatch(self._pattern(layout), path)
            if found is not None:
                cues = self._cues_of(layout)
                return {cue: found[f"cue{index}"].replace("_", " ") for index, cue in enumerate(cues)}
        return None

    def _pattern(self, layout: str) -> str:
        """Regular expression of a layout, in which the first occurrence of each cue is the group ``cueI``."""
        cues, seen, pattern = self._cues_of(layout), set[str](), ""
        labels = "|".join(re.escape(label).replace(r"\ ", "[ _]") for label in sorted(self.labels, key=len)[::-1])
        for index, part in enumerate(_FIELD.split(layout)):  # text and fields alternate
            if index % 2 == 0:
                pattern += re.escape(part)
            elif part not in cues:
                pattern += "[^/]*"
            elif part in seen:
                pattern += f"(?P=cue{cues.index(part)})"
            else:
                pattern += f"(?P<cue{cues.index(part)}>{labels})"
                seen.add(part)
        return pattern

    def stimuli(self, paths: Sequence[str]) -> list[tuple[str, Stimulus, str]]:
        """The images of a conflict set or of separate cues: path, stimulus and, if it has one cue only, that cue.

        The stimuli of a conflict set have names with shape and texture (``cat1-dog1.png``), as results require: those
        of the files if all have them, otherwise numbered ones in the order of paths. An image with one cue has its path
        as its name, and its label as both shape and texture.
        """
        matched = [(path, labels) for path in paths if (labels := self.match(path)) is not None]
        if self.is_separate:
            return [
                (path, Stimulus(path, label, label), cue) for path, labels in matched for cue, label in labels.items()
            ]
        given = [_named_like(path.rpartition("/")[2], (*labels.values(),), self.labels) for path, labels in matched]
        if None in given or len({one.image_id for one in given if one is not None}) < len(given):
            numbers = Counter[tuple[str, ...]]()
            given = []
            for path, labels in matched:
                shape, texture = labels.values()
                numbers[shape, texture] += 1
                number = numbers[shape, texture]
                given.append(Stimulus(f"{shape}{number}-{texture}{number}{Path(path).suffix}", shape, texture))
        return [(path, one, "") for (path, _), one in zip(matched, given, strict=True) if one is not None]


def shipped_sets() -> tuple[str, ...]:
    """Names of the sets whose descriptions are part of this package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def shipped_description(name: str) -> SetDescription:
    """The description of a set of :func:`shipped_sets`."""
    return read_description(_SHIPPED / f"{name}.toml")


def read_description(path: Path) -> SetDescription:
    """Read a description.

    Raises:
        InvalidInputError: The file cannot be read, or an entry is missing, unknown or cannot be used.
    """
    try:
        values = tomllib.loads(text_of(path))
    except (OSError, ValueError) as error:  # also errors of the syntax, and text that is not UTF-8
        reason = getattr(error, "strerror", None) or str(error)
        raise _unusable(path, reason[:200].rstrip(".")) from error
    if values.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:  # the entries of another version may differ
        raise _unusable(path, f"Its schema_version is {values['schema_version']!r}, not {SCHEMA_VERSION}")
    unknown = [key for key in values if key not in (*_REQUIRED, *_OPTIONAL)]
    missing = [key for key in _REQUIRED if key not in values]
    if unknown:
        raise _unusable(path, f"There is no entry {unknown[0]!r}{close_hint(unknown[0], (*_REQUIRED, *_OPTIONAL))}")
    if missing:
        raise _unusable(path, f"The entry {missing[0]!r} is missing")
    try:
        return _description(values)
    except InvalidInputError as error:
        raise InvalidInputError(f"Cannot use the stimulus set {path}. {error}") from error
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def _description(values: Mapping[str, Any]) -> SetDescription:
    cues, layouts = _texts(values, "cues"), _texts(values, "layout")
    labels, space = values["labels"], values.get("label_space")
    classes: tuple[tuple[int, ...], ...] = ()
    if isinstance(labels, dict):
        if space != IMAGENET:
            raise ValueError(f"Labels with class indices need label_space = {IMAGENET!r}, but it is {space!r}")
        given = [members if isinstance(members, list) else [members] for members in labels.values()]
        if not all(members and all(type(one) is int and 0 <= one < 1000 for one in members) for members in given):
            raise ValueError("The entry 'labels' has a label without class indices from 0 to 999")
        classes = tuple(map(tuple, given))
    elif space is not None:
        raise ValueError("The entry 'label_space' needs labels with class indices")
    names = check_categories(tuple(labels) if isinstance(labels, dict) else _texts(values, "labels"))
    used = [[cue for cue in cues if cue in _FIELD.findall(layout)] for layout in layouts]
    either_way = all(len(some) == 2 for some in used), all(len(some) == 1 for some in used)
    if len(cues) != 2 or not any(either_way) or {*itertools.chain(*used)} != {*cues}:
        raise ValueError("There must be two cues, and either both in each layout or one in each layout")
    size = values.get("image_size")
    count = values.get("images")
    if count is not None and (whole(count) is None or count < 1):
        raise ValueError(f"The entry 'images' is {count!r}, not a number of images")
    sources = values.get("sources", [])
    if not isinstance(sources, list) or not all(
        isinstance(source, dict) and "url" in source and {*source} <= {"url", "sha256"} for source in sources
    ):
        raise ValueError("The entry 'sources' is not a list of tables with url and optionally sha256")
    return SetDescription(
        name=_line(values, "name") or "",
        digest=_line(values, "digest"),
        citation=_line(values, "citation"),
        license=_line(values, "license"),
        cues=cues,
        layouts=layouts,
        labels=names,
        classes=classes,
        label_space=space,
        images=count,
        image_size=None if size is None else check_size(size),
        sources=tuple(sources),
    )


def _line(values: Mapping[str, Any], key: str) -> str | None:
    text = values.get(key)
    if text is not None and not (isinstance(text, str) and text.strip() and text.isprintable()):
        raise ValueError(f"The entry {key!r} is {text!r}, not a line of text")
    return text


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    given = values[key]
    texts = [given] if isinstance(given, str) and key == "layout" else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"The entry {key!r} is not a list of texts")
    return tuple(texts)


def _named_like(name: str, cues: tuple[str, ...], labels: Sequence[str]) -> Stimulus | None:
    """The stimulus of a file whose name has its shape and texture, or None."""
    try:
        stimulus = parse_stimulus_name(name, labels)
    except StimulusNameError:
        return None
    return stimulus if (stimulus.shape, stimulus.texture) == cues else None


def _unusable(path: Path, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"Cannot use the stimulus set {path}. {reason[:1].upper()}{reason[1:]}. Correct this file; the documentation "
        "page on conflict sets lists its entries."
    )
