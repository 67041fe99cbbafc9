"""The published cue-conflict stimuli: fetched once into the cache, verified file by file.

Source: the release of bethgelab/model-vs-human; stimuli by Geirhos et al., ICLR 2019, arXiv:1811.12231 (CC-BY-4.0).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from pathlib import Path

from replk_probe.errors import InvalidInputError
from replk_probe.images import list_images
from replk_probe.runtime.archive import UnsafeArchiveError, unpacked
from replk_probe.runtime.download import UnreachableError, cache_dir, fetch

from .manifest import Comparison, Found, compare, read_folder
from .names import CATEGORIES

NAME = "cue-conflict"
URL = "https://github.com/bethgelab/model-vs-human/releases/download/v0.1/cue-conflict.tar.gz"
LICENCE = "CC-BY-4.0"
CITATION = "Geirhos et al., ICLR 2019, arXiv:1811.12231"

# The set that was there before, while another takes its place.
_OLD = f".{NAME}.old-"

# Nearly four times what the published archive holds: 1280 files of 133 MB.
_MAX_BYTES = 512_000_000
_MAX_FILES = 8192
# Seconds after which a temporary folder is nobody's: unpacking takes minutes.
_ABANDONED = 3600.0


class _WrongContentError(InvalidInputError):
    """An archive that can be unpacked and is not the one that was published."""


def cue_conflict_dir() -> Path:
    """Where the set lies in the cache, whether it is there or not."""
    return cache_dir() / "stimuli" / NAME


def cached_cue_conflict() -> Path | None:
    """The set's folder if it is in the cache; not verified."""
    folder = cue_conflict_dir()
    return folder if folder.is_dir() else None


def fetch_cue_conflict(
    url: str = URL, *, force: bool = False, connect_timeout: float = 15.0, show_progress: bool = True
) -> Path:
    """Bring the published set into the cache, unless it is there and complete.

    An interrupted download goes on where it stopped. Nothing takes the set's place before all of it is verified; the
    archive is deleted then.

    Args:
        url: Of the archive.
        force: Fetch it again, even if it is there.
        connect_timeout: Seconds to wait for the first answer.
        show_progress: Draw progress bars on stderr, if that is a terminal.

    Returns:
        The folder, which holds one folder per shape.

    Raises:
        InvalidInputError: The archive is damaged or unsafe, or what it holds is not the published set.
        WeightsError: No connection, an answer that is an error, or no space left.
    """
    folder = cue_conflict_dir()
    _tidy(folder)
    if not force and folder.is_dir() and _is_complete(folder, show_progress):
        return folder
    archive = folder.with_name(f"{NAME}.tar.gz")
    try:
        fetch(url, archive, progress=show_progress, connect_timeout=connect_timeout, force=force)
    except UnreachableError as error:
        raise InvalidInputError(
            f"Cannot fetch the cue-conflict stimuli from {error.host}. {error.reason}. "
            "Check the network, or pass a folder as --stimuli DIR, or --stimuli synthetic."
        ) from error
    try:
        with unpacked(archive, folder, _MAX_BYTES, _MAX_FILES, show_progress) as temporary:
            content = _content(temporary)
            _check_content(content, url, show_progress)
            _put(content, folder)
    except (UnsafeArchiveError, _WrongContentError):
        archive.unlink(missing_ok=True)  # or the next attempt would take it for good
        raise
    archive.unlink(missing_ok=True)
    return folder


def verify_cue_conflict(folder: Path, show_progress: bool = True) -> tuple[Comparison, dict[str, Found]]:
    """Compare a folder with the published set, file by file.

    Args:
        folder: Holds one folder per shape.
        show_progress: Draw a progress bar on stderr, if that is a terminal.

    Returns:
        What is there and what is not; and the files by their path in the set.

    Raises:
        InvalidInputError: The folder is missing or empty, or a file cannot be read.
    """
    found = read_folder(folder, list_images(folder, "DIR"), show_progress)
    return compare(found), found


def incomplete_error(folder: Path, comparison: Comparison) -> InvalidInputError:
    """What to raise where the published set is wanted and is not all there, or something else is."""
    fetched = folder.absolute() == cue_conflict_dir().absolute()
    partially = " evaluate what is intact with --allow-partial," if comparison.intact and fetched else ""
    return InvalidInputError(
        f"{folder} is not the published cue-conflict set. {comparison.problems}. "
        f"Fetch it with 'replk-probe data fetch {NAME}',{partially} or take the folder as it is with --stimuli DIR."
    )


def _is_complete(folder: Path, show_progress: bool) -> bool:
    try:
        return verify_cue_conflict(folder, show_progress)[0].complete
    except InvalidInputError:  # an empty folder
        return False


def _content(folder: Path) -> Path:
    """Where in an unpacked archive the folders of the shapes are."""
    found = sorted((path for path in folder.rglob(CATEGORIES[0]) if path.is_dir()), key=lambda path: len(path.parts))
    return found[0].parent if found else folder


def _check_content(content: Path, url: str, show_progress: bool) -> None:
    try:
        problems = verify_cue_conflict(content, show_progress)[0].problems
    except InvalidInputError:
        problems = "There is no image in it"
    if problems:
        raise _WrongContentError(
            f"{url} does not hold the published cue-conflict set. {problems}. Nothing of it was kept; try again later, "
            "or unpack it yourself and pass its folder as --stimuli DIR."
        )


def _put(content: Path, folder: Path) -> None:
    """Rename a verified folder into its place; what was there before goes, once that has succeeded."""
    old = folder.with_name(f"{_OLD}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        folder.rename(old)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _cannot_put(folder, error) from error
    try:
        content.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            with contextlib.suppress(OSError):
                old.rename(folder)
            raise _cannot_put(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)


def _cannot_put(folder: Path, error: OSError) -> InvalidInputError:
    return InvalidInputError(
        f"Cannot write {folder}. {error.strerror or error}. Point REPLK_PROBE_CACHE at another folder."
    )


def _tidy(folder: Path) -> None:
    """Put back what a process that was killed had moved away, and remove what it left behind."""
    for path in sorted(folder.parent.glob(f".{NAME}.*")):
        with contextlib.suppress(OSError):
            if path.name.startswith(_OLD) and not folder.exists():
                path.rename(folder)
            elif path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
