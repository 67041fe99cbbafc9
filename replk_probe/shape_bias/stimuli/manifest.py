"""Manifest of the published cue-conflict stimuli, and comparison of a folder with it.

The list is package data, made by ``scripts/make_manifest.py``: one line per file with the SHA-256 of the file, that of
its decoded pixels (RGB bytes, row by row) and its path. The stimuli themselves are not part of the package (CC-BY-4.0,
Geirhos et al., https://github.com/rgeirhos/texture-vs-shape).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from replk_probe.images import UnreadableImageError, check_image, decode_rgb
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.runtime.progress import progress

MANIFEST_FILE = "cue_conflict_manifest.txt.gz"
# Sides of every published stimulus, (H, W) in pixels.
PUBLISHED_SIZE = (224, 224)

_NAMED = 3


class Digests(NamedTuple):
    """SHA-256 of a file and of its decoded RGB pixels, in hex."""

    file: str
    pixels: str


class Found(NamedTuple):
    """An existing file and its SHA-256 in hex."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Comparison:
    """Comparison of a folder with the manifest; every name is one such as ``airplane/airplane1-bicycle2.png``."""

    same: tuple[str, ...]  # files that are identical to the published ones, byte for byte
    reencoded: tuple[str, ...]  # other files with the same pixels
    altered: tuple[str, ...]  # files with a published name and other content, or that cannot be decoded
    missing: tuple[str, ...]  # published names that do not exist, not even under another name
    renamed: Mapping[str, str]  # published names whose content exists under another name, with that name
    extra: tuple[str, ...]  # names that are not among the published ones, except those of renamed

    @property
    def intact(self) -> tuple[str, ...]:
        """Names whose pixels are the published ones."""
        return tuple(sorted(self.same + self.reencoded))

    @property
    def complete(self) -> bool:
        """Whether the folder contains exactly the published set; re-encoded files count as published."""
        return not (self.altered or self.missing or self.renamed or self.extra)

    @property
    def related(self) -> bool:
        """Whether the folder contains any content or name of the published set."""
        return bool(self.intact or self.altered or self.renamed)

    @property
    def problems(self) -> str:
        """Differences from the published set, as a sentence without a period; empty if there are none."""
        moved = [f"{found} for {name}" for name, found in self.renamed.items()]
        kinds = (("missing", self.missing), ("renamed", moved), ("altered", self.altered), ("extra", self.extra))
        return "; ".join(f"{len(names)} {kind} ({some(names)})" for kind, names in kinds if names)

    @property
    def note(self) -> str:
        """Note for the reader of a result."""
        total = len(cue_conflict_manifest())
        if not self.related:
            return "None of the stimuli is one of the published cue-conflict set."
        if self.complete:
            text = f"The stimuli are the {total} of the published cue-conflict set."
        else:
            known = len(self.intact) + len(self.renamed)
            text = f"{known} of the {total} stimuli of the published cue-conflict set; {self.problems}."
        if self.reencoded:
            text += f" {len(self.reencoded)} of them are re-encoded, with the same pixels ({some(self.reencoded)})."
        return text

    def record(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "published": len(cue_conflict_manifest()),
            "same": len(self.same),
            "reencoded": list(self.reencoded),
            "altered": list(self.altered),
            "missing": list(self.missing),
            "renamed": dict(self.renamed),
            "extra": list(self.extra),
        }


@functools.cache
def cue_conflict_manifest() -> Mapping[str, Digests]:
    """Digests of the 1280 published files by their path in the set."""
    packed = resources.files(__package__).joinpath(MANIFEST_FILE).read_bytes()
    rows = (line.split("  ") for line in gzip.decompress(packed).decode("ascii").splitlines())
    return MappingProxyType({name: Digests(file, pixels) for file, pixels, name in rows})


def read_folder(root: Path, paths: Sequence[str], show_progress: bool = True) -> dict[str, Found]:
    """Compute the digest of every file, by its path below ``root``.

    Raises:
        UnreadableImageError: A file is missing or cannot be read.
    """
    bar = progress(paths, desc="Reading stimuli", disable=not show_progress)
    return {path: Found(root / path, _digest(root / path, path)) for path in bar}


def compare(found: Mapping[str, Found]) -> Comparison:
    """Compare files, by their path in the set, with the published set; only files that differ from it are decoded."""
    manifest = cue_conflict_manifest()
    same, reencoded, altered = list[str](), list[str](), list[str]()
    for name in sorted(manifest.keys() & found.keys()):
        if found[name].sha256 == manifest[name].file:
            same.append(name)
        else:
            (reencoded if _pixels(found[name].path) == manifest[name].pixels else altered).append(name)

    missing = set(manifest) - set(found)
    extra = set(found) - set(manifest)
    by_file = {manifest[name].file: name for name in missing}
    by_stem = {_stem(name): name for name in missing}
    renamed = dict[str, str]()
    for other in sorted(extra):
        name = by_file.get(found[other].sha256) or by_stem.get(_stem(other), "")
        if name not in missing:
            continue
        # The same name with another suffix is another encoding if the pixels are equal.
        if found[other].sha256 == manifest[name].file or _pixels(found[other].path) == manifest[name].pixels:
            renamed[name] = other
            missing.discard(name)
            extra.discard(other)
    return Comparison(
        tuple(same),
        tuple(reencoded),
        tuple(altered),
        tuple(sorted(missing)),
        dict(sorted(renamed.items())),
        tuple(sorted(extra)),
    )


def some(names: tuple[str, ...] | list[str]) -> str:
    """The first few of many names, and the number of the others."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def shown(path: Path | str) -> str:
    """A path as printable text, also if it is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def pixel_digest(path: Path) -> tuple[str, tuple[int, int]]:
    """SHA-256 of the decoded RGB bytes, row by row, in hex; and ``(H, W)``.

    Raises:
        UnreadableImageError: The file cannot be decoded.
    """
    image = decode_rgb(path, path.name)
    return hashlib.sha256(image.tobytes()).hexdigest(), (image.height, image.width)


def _digest(path: Path, name: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UnreadableImageError(name, (error.strerror or str(error)).lower()) from error


def _pixels(path: Path) -> str | None:
    """Pixel digest as in the manifest; None for a file that cannot be in the set."""
    try:
        return pixel_digest(path)[0] if check_image(path, path.name) == PUBLISHED_SIZE else None
    except UnreadableImageError:
        return None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
