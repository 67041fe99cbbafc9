"""Download and verification of the published cue-conflict stimuli.

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

# Temporary name of the previous set while another replaces it.
_OLD = f".{NAME}.old-"

# Nearly four times the size of the published archive: 1280 files, 133 MB.
_MAX_BYTES = 512_000_000
_MAX_FILES = 8192
# Seconds after which a temporary folder is considered abandoned: unpacking takes minutes.
_ABANDONED = 3600.0


class _WrongContentError(InvalidInputError):
    """An archive that can be unpacked but does not contain the published set."""


def cue_conflict_dir() -> Path:
    """Path of the set in the cache, whether it exists or not."""
    return cache_dir() / "stimuli" / NAME


def cached_cue_conflict() -> Path | None:
    """Folder of the set if it is in the cache, without verification."""
    folder = cue_conflict_dir()
    return folder if folder.is_dir() else None


def fetch_cue_conflict(
    url: str = URL, *, force: bool = False, connect_timeout: float = 15.0, show_progress: bool = True
) -> Path:
    """Download the published set into the cache, unless it is there and complete.

    An interrupted download is resumed. The set is moved to its place once all of it is verified; then the archive is
    deleted.

    Args:
        url: URL of the archive.
        force: Whether to download it again even if it is in the cache.
        connect_timeout: Seconds to wait for the first response.
        show_progress: Whether to draw progress bars on stderr if that is a terminal.

    Returns:
        The folder, which contains one folder per shape.

    Raises:
        InvalidInputError: The archive is damaged or unsafe, or does not contain the published set.
        WeightsError: The connection fails, the server responds with an error, or there is no space left.
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
            "Check the network, or give a folder or 'synthetic' as the stimuli."
        ) from error
    try:
        with unpacked(archive, folder, _MAX_BYTES, _MAX_FILES, show_progress) as temporary:
            content = _content(temporary)
            _check_content(content, url, show_progress)
            _put(content, folder)
    except (UnsafeArchiveError, _WrongContentError):
        archive.unlink(missing_ok=True)  # otherwise the next attempt would use it
        raise
    archive.unlink(missing_ok=True)
    return folder


def verify_cue_conflict(folder: Path, show_progress: bool = True) -> tuple[Comparison, dict[str, Found]]:
    """Compare a folder with the published set, file by file.

    Args:
        folder: Folder with one folder per shape.
        show_progress: Whether to draw a progress bar on stderr if that is a terminal.

    Returns:
        The comparison with the published set, and the files by their path in the set.

    Raises:
        InvalidInputError: The folder is missing or empty, or a file cannot be read.
    """
    found = read_folder(folder, list_images(folder, "stimuli"), show_progress)
    return compare(found), found


def incomplete_error(folder: Path, comparison: Comparison) -> InvalidInputError:
    """Error for a folder that is not exactly the published set."""
    fetched = folder.absolute() == cue_conflict_dir().absolute()
    partially = " evaluate the intact part with allow_partial," if comparison.intact and fetched else ""
    return InvalidInputError(
        f"{folder} is not the published cue-conflict set. {comparison.problems}. "
        f"Fetch it with 'replk-probe data fetch {NAME}',{partially} or give the folder itself as the stimuli."
    )


def _is_complete(folder: Path, show_progress: bool) -> bool:
    try:
        return verify_cue_conflict(folder, show_progress)[0].complete
    except InvalidInputError:  # an empty folder
        return False


def _content(folder: Path) -> Path:
    """The parent of the shape folders in an unpacked archive."""
    found = sorted((path for path in folder.rglob(CATEGORIES[0]) if path.is_dir()), key=lambda path: len(path.parts))
    return found[0].parent if found else folder


def _check_content(content: Path, url: str, show_progress: bool) -> None:
    try:
        problems = verify_cue_conflict(content, show_progress)[0].problems
    except InvalidInputError:
        problems = "It contains no image"
    if problems:
        raise _WrongContentError(
            f"{url} does not contain the published cue-conflict set. {problems}. The archive was deleted; try again "
            "later, or unpack it yourself and give its folder as the stimuli."
        )


def _put(content: Path, folder: Path) -> None:
    """Rename a verified folder to its final path; the previous one is removed once that has succeeded."""
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
    """Restore the set that a killed process had moved away, and remove its temporary folders."""
    for path in sorted(folder.parent.glob(f".{NAME}.*")):
        with contextlib.suppress(OSError):
            if path.name.startswith(_OLD) and not folder.exists():
                path.rename(folder)
            elif path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
