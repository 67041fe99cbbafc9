"""Sets of stimuli in the cache: download of an archive, verification, and its place.

Source: the release of bethgelab/model-vs-human.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.archive import UnsafeArchiveError, unpacked
from replk_probe.runtime.atomic_files import atomic_write_text, sha256_of
from replk_probe.runtime.download import UnreachableError, cache_dir, fetch

# Ending of the temporary name of the previous set while another replaces it.
_OLD_SUFFIX = ".old-"

# Nearly four times the size of the largest published archive: 1280 files, 133 MB.
_MAX_BYTES = 512_000_000
_MAX_FILES = 8192
# Seconds after which a temporary folder is considered abandoned: unpacking takes minutes.
_ABANDONED = 3600.0


class _WrongContentError(InvalidInputError):
    """An archive that can be unpacked but does not contain the published set."""


def set_dir(name: str) -> Path:
    """Path of a set in the cache, whether it exists or not."""
    return cache_dir() / "stimuli" / name


def fetch_set(
    name: str,
    url: str,
    problems: Callable[[Path], str],
    *,
    marker: str,
    record: bool = False,
    force: bool = False,
    connect_timeout: float = 15.0,
    show_progress: bool = True,
) -> Path:
    """Download a published set into the cache, unless it is there and complete.

    An interrupted download is resumed. The set is moved to its place once all of it is verified; then the archive is
    deleted.

    Args:
        name: Name of the set.
        url: URL of its archive.
        problems: Function that returns the differences of a folder from the published set; empty if there are none.
        marker: Name of a folder that the top folder of the set contains.
        record: Whether to record the SHA-256 of the first archive that was verified, and to refuse any other later.
            Use it for a set of which no digests are published.
        force: Whether to download it again even if it is in the cache.
        connect_timeout: Seconds to wait for the first response.
        show_progress: Whether to draw progress bars on stderr if that is a terminal.

    Returns:
        The folder.

    Raises:
        InvalidInputError: The archive is damaged or unsafe, or does not contain the published set.
        WeightsError: The connection fails, the server responds with an error, the archive is not the known one, or
            there is no space left.
    """
    folder = set_dir(name)
    _tidy(folder)
    if not force and folder.is_dir() and not problems(folder):
        return folder
    archive, digest_file = folder.with_name(f"{name}.tar.gz"), folder.with_name(f"{name}.sha256")
    recorded = digest_file.read_text(encoding="ascii").strip() if record and digest_file.is_file() else None
    try:
        fetch(
            url,
            archive,
            recorded,
            progress=show_progress,
            connect_timeout=connect_timeout,
            force=force,
            max_size=_MAX_BYTES,
        )
    except UnreachableError as error:
        raise InvalidInputError(
            f"Cannot fetch the {name} stimuli from {error.host}. {error.reason}. "
            f"Check the network, or copy the set to {folder} from another computer."
        ) from error
    try:
        with unpacked(archive, folder, _MAX_BYTES, _MAX_FILES, show_progress) as temporary:
            content = _content(temporary, marker)
            if found := problems(content):
                raise _WrongContentError(
                    f"{url} does not contain the published {name} set. {found}. The archive was deleted; try "
                    f"again later, or copy the set to {folder} from another computer."
                )
            if record:
                atomic_write_text(digest_file, f"{sha256_of(archive)}\n")
            _put(content, folder)
    except (UnsafeArchiveError, _WrongContentError):
        archive.unlink(missing_ok=True)  # otherwise the next attempt would use it
        raise
    archive.unlink(missing_ok=True)
    return folder


def _content(folder: Path, marker: str) -> Path:
    """The parent of the folder called ``marker`` in an unpacked archive."""
    found = sorted((path for path in folder.rglob(marker) if path.is_dir()), key=lambda path: len(path.parts))
    return found[0].parent if found else folder


def _put(content: Path, folder: Path) -> None:
    """Rename a verified folder to its final path; the previous one is removed once that has succeeded."""
    old = folder.with_name(f".{folder.name}{_OLD_SUFFIX}{os.getpid()}-{secrets.token_hex(4)}")
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
    for path in sorted(folder.parent.glob(f".{folder.name}.*")):
        with contextlib.suppress(OSError):
            if path.name.startswith(f".{folder.name}{_OLD_SUFFIX}") and not folder.exists():
                path.rename(folder)
            elif path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
