"""Unpacking archives that nobody has vouched for: all of it or nothing, and nothing outside. Free of torch."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import DISK_FULL
from replk_probe.runtime.progress import progress

_CHUNK = 1 << 20
# Headers, and the padding of members to blocks of 512 bytes.
_HEADERS_PER_FILE = 4096


class UnsafeArchiveError(InvalidInputError):
    """An archive that is damaged, too large, or would write where it must not."""


@contextlib.contextmanager
def unpacked(archive: Path, beside: Path, max_bytes: int, max_files: int, show_progress: bool = True) -> Iterator[Path]:
    """Hand out a temporary folder with the content of a ``.tar.gz``; it vanishes when the block ends.

    What is to be kept has to be moved away; the folder lies in that of ``beside``, so that renaming is enough. Owners,
    modes and times of the archive are ignored.

    Args:
        archive: The file.
        beside: Where the content will go in the end; the folder it is in is created.
        max_bytes: Largest sum of the files' sizes.
        max_files: Largest number of members.
        show_progress: Draw a progress bar on stderr, if that is a terminal.

    Yields:
        The temporary folder.

    Raises:
        UnsafeArchiveError: A member with an absolute path or ``..`` in it, one that is neither file nor folder (links
            and devices among them), two of one name, more or larger ones than allowed, or an archive that is damaged.
        InvalidInputError: The folder cannot be written to, or the disk is full.
    """
    folder = beside.parent / f".{beside.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        try:
            folder.mkdir(parents=True)
            _unpack(archive, folder, max_bytes, max_files, show_progress)
        except UnsafeArchiveError:
            raise
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise UnsafeArchiveError(
                f"Cannot unpack {archive.name}. It is damaged or no .tar.gz ({str(error) or type(error).__name__}). "
                "Fetch it again."
            ) from error
        except OSError as error:
            free = "Free some space" if error.errno in DISK_FULL else "Choose a folder that can be written to"
            raise InvalidInputError(
                f"Cannot unpack {archive.name} in {beside.parent}. {error.strerror or error}. {free}."
            ) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path, max_bytes: int, max_files: int, show_progress: bool) -> None:
    # A stream: headers that claim to be huge are read as well, so the bound is on all that is decompressed.
    with gzip.open(archive) as raw:
        stream = _Bounded(raw, max_bytes + max_files * _HEADERS_PER_FILE, archive.name)
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as tar:
            total = 0
            bar = progress(tar, desc=f"Unpacking {archive.name}", unit="file", disable=not show_progress)
            for number, member in enumerate(bar, 1):
                total += member.size
                if number > max_files or total > max_bytes:
                    raise _too_large(archive.name)
                _write(tar, member, folder, archive.name)
        while stream.read(_CHUNK):  # the checksum is at the very end
            pass


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: str) -> None:
    parts = _parts(member.name)
    if parts is None:
        raise _refused(archive, member.name, "leads out of the folder, or is no name that every system has")
    target = folder.joinpath(*parts)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    source = tar.extractfile(member) if member.isreg() else None
    if source is None:
        raise _refused(archive, member.name, "is neither a file nor a folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
    except (FileExistsError, NotADirectoryError):
        raise _refused(archive, member.name, "is there twice") from None


def _parts(name: str) -> list[str] | None:
    """The path's parts; None for one that is not simply further down on every system."""
    if name.startswith("/") or any(character in name for character in "\\:\0"):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else parts


class _Bounded(io.RawIOBase):
    """A stream that ends in an error rather than giving more than ``limit`` bytes."""

    def __init__(self, raw: gzip.GzipFile, limit: int, name: str) -> None:
        self._raw, self._left, self._name = raw, limit, name

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes."""
        data = self._raw.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._name)
        return data


def _too_large(archive: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(
        f"Refused to unpack {archive}. It holds more than what was published. Fetch it again, or unpack it yourself."
    )


def _refused(archive: str, member: str, reason: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(
        f"Refused to unpack {archive}. Its member {member!r} {reason}. Fetch it again; nothing of it was kept."
    )
