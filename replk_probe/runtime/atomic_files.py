"""Files that are either complete or absent: written to a temporary file, which is then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from replk_probe.errors import InvalidInputError

from .paths import usable_path

_CHUNK = 1 << 20
# Errors for which no further write can succeed.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file that is renamed to ``path`` when the block succeeds, and removed when it fails.

    The temporary file is in the folder of ``path``, which is created if it does not exist, because a rename cannot
    cross file systems. It has the suffix of ``path``, by which writers such as matplotlib and numpy choose the format.

    Args:
        path: Path of the finished file; an existing file is replaced.

    Yields:
        The path of the temporary file, which exists and is empty.

    Raises:
        InvalidInputError: The folder cannot be written to, or the disk is full.
    """
    target = usable_path(path, "The output path")
    temporary = target.parent / f".{target.stem}.{os.getpid()}-{secrets.token_hex(4)}{target.suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile.mkstemp, whose mode 0600 would deny access that the umask grants.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno in DISK_FULL or error.filename == str(temporary):
            raise _cannot_write(target, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], data: str) -> None:
    """Write ``data`` to ``path`` as UTF-8 with unchanged line endings, completely or not at all."""
    atomic_write_bytes(path, data.encode("utf-8"))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as a hex digest."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _flush_to_disk(path: Path) -> None:
    """Flush the file to disk, so that a power failure after the rename cannot leave an empty file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(target: Path, error: OSError) -> InvalidInputError:
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL:
        return InvalidInputError(
            f"Cannot write {target}. The disk is full ({reason}). Free some space or choose another folder."
        )
    return InvalidInputError(f"Cannot write {target}. {reason}. Choose a writable folder.")
