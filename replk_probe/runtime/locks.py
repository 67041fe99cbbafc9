"""Folders that only one process writes to at a time."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from replk_probe.errors import InvalidInputError

from .atomic_files import cannot_write, is_same_file
from .processes import HOST, is_running

LOCK_NAME = ".replk-probe.lock"

# A process that checks whether a folder is in use locks it briefly.
_ATTEMPTS, _PAUSE = 4, 0.05
_LONGEST_OWNER = 400

_mutex = threading.RLock()
_held: list[FolderLock] = []


class InUseError(InvalidInputError):
    """A folder that another process is writing to."""


class FolderLock:
    """A lock on a folder, held by this process until :meth:`release` or the end of the process, in whatever way.

    The system releases the lock of a process that was killed. On file systems without locks, the process that is named
    in the file holds the lock as long as it is running. Windows has no locks.

    Args:
        folder: Folder; created if it does not exist, and removed by :meth:`release` if it is still empty.
        again: Whether this process may hold several locks on the folder.

    Raises:
        InUseError: Another process holds the lock, or this one and ``again`` is false.
        InvalidInputError: The folder cannot be written to, or the disk is full.
    """

    def __init__(self, folder: Path, *, again: bool = False) -> None:  # noqa: D107
        self._path = folder / LOCK_NAME
        self._created: list[Path] = []
        self._descriptor = -1
        with _mutex:
            try:
                self._created = [one for one in (folder, *folder.parents) if not one.exists()]
                own = next((other for other in _held if other._is_on(self._path)), None)
                if own is None:
                    self._acquire()
                elif again:
                    self._descriptor = os.dup(own._descriptor)  # the lock ends with its last descriptor
                else:
                    raise _in_use(self._path, f"process {os.getpid()}, which is this one")
            except OSError as error:
                self._end()
                raise cannot_write(self._path, error) from error
            _held.append(self)

    @property
    def is_held(self) -> bool:
        """Whether the lock is held, and its file was not removed together with the folder."""
        return self._is_on(self._path)

    def release(self) -> None:
        """Release the lock and remove its file; nothing happens if it was released before."""
        with _mutex:
            if self in _held:
                _held.remove(self)
                self._end()

    def _is_on(self, path: Path) -> bool:
        return self._descriptor >= 0 and is_same_file(path, self._descriptor)

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            if self.is_held and not any(other.is_held and other._is_on(self._path) for other in _held):
                # A process that has opened the file already notices that it was removed.
                self._path.unlink()
        self._close()
        with contextlib.suppress(OSError):
            for folder in self._created:
                folder.rmdir()

    def _acquire(self) -> None:
        """Lock the file and write the name of this process into it."""
        for attempt in range(_ATTEMPTS):
            self._path.parent.mkdir(parents=True, exist_ok=True)  # whoever held the lock may have removed it
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            free, by_pid = _lock(self._descriptor)
            if free and is_same_file(self._path, self._descriptor):
                os.ftruncate(self._descriptor, 0)
                os.write(self._descriptor, f"process {os.getpid()} on {platform.node()}\n{HOST}\n".encode())
                return
            owner = _owner(self._descriptor)
            self._close()
            if not free and attempt == _ATTEMPTS - 1:
                raise _in_use(self._path, owner, by_pid=by_pid)
            if not free:
                time.sleep(_PAUSE)
        raise _in_use(self._path, owner)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder; arguments and errors are those of :class:`FolderLock`."""
    lock = FolderLock(folder)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def file_locked(path: Path) -> Iterator[None]:
    """Wait for the lock on a file, where the system has locks; the file is created first and removed at the end.

    Raises:
        InvalidInputError: The file cannot be created.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the empty folder was removed in between
            continue
        except OSError as error:
            raise cannot_write(path, error) from error
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_same_file(path, descriptor):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink()
        os.close(descriptor)


def is_in_use(folder: Path) -> bool:
    """Whether a process holds the lock on a folder, as far as this machine knows."""
    path = folder / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        with _mutex:
            return any(lock._is_on(path) for lock in _held) or not _lock(descriptor)[0]
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> tuple[bool, bool]:
    """Lock an open file; whether it was free, and whether that is known only from the process named in it."""
    try:
        import fcntl
    except ImportError:
        return True, False
    try:
        # Unlike the locks of lockf, closing another descriptor of the file does not release it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False, False
    except OSError:  # a file system without locks
        process, _, host = _owner(descriptor, whole=True).partition("\n")
        number = re.match(r"process (\d+) ", process)
        if number is None:
            return True, True
        # Whether a process of another machine is running is not known. This one holds the locks in the list only.
        ended = int(number[1]) == os.getpid() or not is_running(int(number[1]))
        return host.strip() == HOST and ended, True
    return True, False


def _owner(descriptor: int, *, whole: bool = False) -> str:
    """The process named in the file of a lock."""
    text = os.pread(descriptor, _LONGEST_OWNER, 0).decode(errors="replace")
    return text if whole else text.partition("\n")[0] or "another process"


def _in_use(path: Path, owner: str, *, by_pid: bool = False) -> InUseError:
    way = f"remove {path} if it has ended" if by_pid else "choose another folder"
    return InUseError(f"Cannot use {path.parent}. It is in use by {owner}. Wait until it has finished, or {way}.")


def _forget() -> None:
    """Close the locks in a forked process, which does not hold them."""
    while _held:
        _held.pop()._close()
    _mutex.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_forget)
