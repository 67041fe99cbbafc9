"""Files that are either complete or absent: written to a temporary file, which is then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from replk_probe.errors import InvalidInputError

from .paths import usable_path

_CHUNK = 1 << 20
# Errors for which no further write can succeed.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_INCOMPLETE = re.compile(r"\d requested and \d+ written")
# Several machines may write to one folder; the number of a process is known on its own machine only.
_HOST = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:24]
_PROCESS = re.compile(r"([0-9]{1,10})-[0-9a-f]{8}\b")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file that is renamed to ``path`` when the block succeeds, and removed when it fails.

    The temporary file is in the folder of ``path``, which is created if it does not exist, because a rename cannot
    cross file systems. It is empty and has the suffix of ``path``, by which matplotlib and numpy choose the format.
    Temporary files of ``path`` that killed processes left behind are removed.

    Raises:
        InvalidInputError: The folder cannot be written to, or the disk is full.
    """
    target = usable_path(path, "The output path")
    # Shortened, because a valid name could become too long.
    prefix = f".{target.stem[:32]}.{_HOST}-"
    temporary = target.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(target.parent, prefix)
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


def _remove_orphans(folder: Path, prefix: str) -> None:
    """Remove the temporary files with this prefix whose process, on this machine, no longer exists."""
    for path in folder.iterdir():
        found = _PROCESS.match(path.name.removeprefix(prefix)) if path.name.startswith(prefix) else None
        if found is not None and not _is_running(int(found[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is not a mere question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        pass
    return True


def cannot_write(target: Path, error: OSError) -> InvalidInputError:
    """The error for a file that cannot be written."""
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL or _INCOMPLETE.search(reason):
        return InvalidInputError(
            f"Cannot write {target}. The disk is full ({reason}). Free some space or choose another folder."
        )
    return InvalidInputError(f"Cannot write {target}. {reason}. Choose a writable folder.")
