"""Unpack untrusted archives completely or not at all, and never outside their folder."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import DISK_FULL, temporary_path
from replk_probe.runtime.progress import progress

_CHUNK = 1 << 20
# Headers, and the padding of members to blocks of 512 bytes.
_HEADERS_PER_FILE = 4096


class UnsafeArchiveError(InvalidInputError):
    """An archive that is damaged, too large, or would write outside its folder."""


@contextlib.contextmanager
def unpacked(archive: Path, target: Path, max_bytes: int, max_files: int, show_progress: bool = True) -> Iterator[Path]:
    """Unpack a ``.tar.gz`` to a temporary folder, which is yielded, and removed when the block ends.

    Rename the files to keep: the folder is in the parent folder of ``target``, on the same file system. Owners, modes
    and times of the archive are ignored. An archive that is damaged, has more than ``max_files`` members or
    ``max_bytes`` bytes, or has a member that leads out of the folder, that is neither a file nor a folder (such as a
    link or a device), or whose name occurs twice is an :class:`UnsafeArchiveError`.
    """
    if not hasattr(tarfile, "data_filter"):
        raise InvalidInputError(
            f"Cannot unpack {archive.name}. Python {sys.version.split()[0]} cannot filter the members of an archive. "
            "Use Python 3.10.12, 3.11.4, or a later release."
        )
    folder = None
    try:
        try:
            folder = temporary_path(target)
            folder.mkdir()
            _unpack(archive, folder, max_bytes, max_files, show_progress)
        except UnsafeArchiveError:
            raise
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise UnsafeArchiveError(
                f"Cannot unpack {archive.name}. It is damaged or not a .tar.gz ({str(error) or type(error).__name__}). "
                "Fetch it again."
            ) from error
        except OSError as error:
            free = "Free some space" if error.errno in DISK_FULL else "Choose a writable folder"
            raise InvalidInputError(
                f"Cannot unpack {archive.name} in {target.parent}. {error.strerror or error}. {free}."
            ) from error
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path, max_bytes: int, max_files: int, show_progress: bool) -> None:
    # Headers that claim to be huge are read as well, so the maximum applies to everything that is decompressed.
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
    # Links are refused even where the data filter accepts them, since no published archive has any.
    if not (member.isreg() or member.isdir()):
        raise _refused(archive, member.name, "is neither a file nor a folder")
    # The filter strips a leading slash, resolves "..", and accepts names that are paths on Windows only.
    leads_out = ".." in member.name.split("/") or any(character in member.name for character in "\\:\0")
    try:
        leads_out = leads_out or tarfile.data_filter(member, str(folder)).name != member.name
    except tarfile.FilterError:
        leads_out = True
    if leads_out:
        raise _refused(archive, member.name, "is outside of the folder, or has a name that is not portable")
    path = folder / member.name
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    source = tar.extractfile(member)
    assert source is not None  # as for every regular file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
    except (FileExistsError, NotADirectoryError):
        raise _refused(archive, member.name, "occurs twice") from None


class _Bounded(io.RawIOBase):
    """A stream that raises an error instead of returning more than ``limit`` bytes in total."""

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
        f"Refused to unpack {archive}. It is larger than the published content. Fetch it again, or unpack it yourself."
    )


def _refused(archive: str, member: str, reason: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(
        f"Refused to unpack {archive}. Its member {member!r} {reason}. Fetch it again; no files were kept."
    )
