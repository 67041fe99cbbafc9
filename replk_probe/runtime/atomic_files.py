"""Files that are either complete or absent: written to a temporary file, which is then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from replk_probe.errors import InvalidInputError

from .paths import usable_path
from .processes import HOST, is_running

_CHUNK = 1 << 20
# Errors for which no further write can succeed.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_INCOMPLETE = re.compile(r"\d requested and \d+ written")
_TEMPORARY = re.compile(rf"\..{{0,32}}\.{HOST}-([0-9]{{1,10}})-[0-9a-f]{{8}}(\..*)?", re.DOTALL)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file that is renamed to ``path`` when the block succeeds, and removed when it fails.

    The temporary file is in the folder of ``path``, which is created if it does not exist, because a rename cannot
    cross file systems. It is empty and has the suffix of ``path``, by which matplotlib and numpy choose the format.
    Temporary files in this folder that killed processes left behind are removed.

    Raises:
        InvalidInputError: The folder cannot be written to, or the disk is full.
    """
    target = usable_path(path, "The output path")
    try:
        temporary = temporary_path(target)
        # Not tempfile.mkstemp, whose mode 0600 would deny access that the umask grants.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield temporary
        with temporary.open("r+b") as stream:  # a power failure after the rename cannot leave an empty file
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        # numpy reports an incomplete write without a number.
        if error.errno in DISK_FULL or error.filename == str(temporary) or _INCOMPLETE.search(str(error)):
            raise cannot_write(target, error) from error
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


def is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as a hex digest."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def temporary_path(target: Path) -> Path:
    """A new name in the folder of ``target``, which is created if it does not exist.

    The name has the suffix of ``target`` and tells which process writes the file. Temporary files and folders there
    whose process no longer exists on this machine are removed.

    Raises:
        OSError: The folder cannot be created or read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in target.parent.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or is_running(int(found[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    # Shortened, because a valid name could become too long.
    return target.parent / f".{target.stem[:32]}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}"


def cannot_write(target: Path, error: OSError) -> InvalidInputError:
    """The error for a file that cannot be written."""
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL or _INCOMPLETE.search(reason):
        return InvalidInputError(
            f"Cannot write {target}. The disk is full ({reason}). Free some space or choose another folder."
        )
    return InvalidInputError(f"Cannot write {target}. {reason}. Choose a writable folder.")
