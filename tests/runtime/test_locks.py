"""Locks on folders: one process at a time, whatever happened to the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.runtime import locks
from replk_probe.runtime.locks import LOCK_NAME, FolderLock, InUseError, is_in_use, locked
from replk_probe.runtime.processes import HOST

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")

HOLD = """
import sys
from pathlib import Path
from replk_probe.runtime import locks
if sys.argv[2] == "without":
    import fcntl
    def refuse(*_):
        raise OSError(95, "Operation not supported")
    fcntl.flock = refuse
with locks.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system have no locks."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.parametrize("kind", ["with", "without"])
@pytest.mark.parametrize("end", ["killed", "finished"])
def test_the_other_process_is_named_until_it_ends(
    tmp_path: Path, kind: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "without":
        without_locks(monkeypatch)
    folder = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(folder), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        way = "remove .* if it has ended" if kind == "without" else "choose another folder"
        with pytest.raises(InUseError, match=rf"Cannot use .*in use by process {other.pid} on .+\. Wait .*{way}"):
            FolderLock(folder)
        assert is_in_use(folder)
        if end == "killed":
            other.send_signal(signal.SIGKILL)
        else:
            other.communicate()
    assert not is_in_use(folder) and folder.exists() == (end == "killed")
    with locked(folder):
        assert (folder / LOCK_NAME).read_text().startswith(f"process {os.getpid()} on ")
    assert not (folder / LOCK_NAME).exists()


def test_a_process_may_hold_several_locks_if_it_asks(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, again=True)
    second = FolderLock(tmp_path, again=True)
    with pytest.raises(InUseError, match=f"in use by process {os.getpid()}, which is this one"):
        FolderLock(tmp_path)
    first.release()
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(tmp_path), "with"], capture_output=True, text=True, check=False, input=""
    )
    assert f"in use by process {os.getpid()} on" in done.stderr, "the second one still holds it"
    second.release()
    second.release()
    assert not is_in_use(tmp_path) and not [*tmp_path.iterdir()]


def test_a_removed_folder_is_locked_anew(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    assert not lock.is_held
    with locked(tmp_path):
        lock.release()
        assert (tmp_path / LOCK_NAME).exists(), "only its own file is removed"


def test_folders_that_were_created_and_stay_empty_are_removed(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        pass
    assert not [*tmp_path.iterdir()]
    with pytest.raises(InvalidInputError, match=r"Cannot write .*Not a directory"):
        (tmp_path / "file").write_text("")
        FolderLock(tmp_path / "file" / "c")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_holds_no_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:  # pragma: no cover  # in the other process
        signal.pause()
    try:
        lock.release()
        assert not is_in_use(tmp_path)
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        (f"process {2**31 - 1} on here\n{HOST}\n", True),
        (f"process {os.getpid()} on here\n{HOST}\n", True),  # the number was given to this process later
        (f"process {os.getppid()} on here\n{HOST}\n", False),
        (f"process {2**31 - 1} on there\nthere\n", False),
        ("", True),
        ("\0\xff", True),
    ],
    # Not with the numbers of processes, which differ between the workers of pytest-xdist.
    ids=["of a process that ended", "of this process", "of its parent", "elsewhere", "empty", "damaged"],
)
def test_without_locks_the_process_in_the_file_counts(
    tmp_path: Path, owner: str, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    monkeypatch.setattr(locks, "_PAUSE", 0.0)
    (tmp_path / LOCK_NAME).write_text(owner)
    assert is_in_use(tmp_path) is not free
    if free:
        with locked(tmp_path):
            assert is_in_use(tmp_path)
    else:
        with pytest.raises(InUseError):
            FolderLock(tmp_path)
