"""An unfinished run on disk: a small JSON state that names its arrays and is replaced atomically.

A process may be killed at any moment: :meth:`Checkpoint.load` returns the last state that was saved completely.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError, ReplkProbeError, ResumeError

from .atomic_files import atomic_path, atomic_write_text, cannot_write, is_same_file, sha256_of
from .file_reading import decode, read_array, read_json, reading, unreadable
from .paths import usable_path

SCHEMA_VERSION = 2
# Seconds between two saved states of a run: the most that a crash can cost.
SAVE_EVERY = 5.0

_STATE = "state.json"
_LOCK = "lock"
_ADVICE = "Start again without resume."


@dataclass(frozen=True)
class _Record:
    """The content of the JSON file."""

    version: int
    config: dict[str, Any]
    state: dict[str, Any]
    arrays: dict[str, str]
    sha256: dict[str, str]
    digest: str


@dataclass(frozen=True)
class SavedState:
    """The saved state of a run."""

    state: dict[str, Any]  # the state given to Checkpoint.save
    arrays: dict[str, npt.NDArray[Any]]  # writable arrays by name


def exists(folder: str | Path) -> bool:
    """Whether a folder contains a saved state of any run."""
    return (Path(folder) / _STATE).is_file()


def discard(folder: str | Path) -> None:
    """Remove a saved state and its folder, if there is one."""
    if exists(folder):
        # Remove the state first: without it the arrays are meaningless.
        (Path(folder) / _STATE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


class Checkpoint:
    """The saved state of one run.

    No other process can use the folder while this object exists and the folder has been read or written.

    Args:
        folder: Folder for the state only; created by the first :meth:`save`.
        config: All options that affect the numbers, as JSON values by option name.
        options: Names in ``config`` of options that can be given to resume the run, such as ``"seed"``.
        resume: Whether to keep the state that is in the folder; otherwise it is discarded.

    Raises:
        ResumeError: The state is to be discarded while another process is using it.
    """

    def __init__(  # noqa: D107
        self, folder: str | Path, config: Mapping[str, Any], options: Collection[str] = (), *, resume: bool = True
    ) -> None:
        self.folder = usable_path(folder, "The folder of the checkpoint")
        self._config: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self._options = options
        self._files: dict[str, str] = {}
        self._sha256: dict[str, str] = {}
        self._version = 0
        self._release: Callable[[], object] | None = None
        self._lock = -1
        if not resume and exists(folder):
            self._claim()
            discard(folder)

    def save(self, state: Mapping[str, Any], changed: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Save a state; arrays that are not in ``changed`` are kept as last saved.

        Raises:
            InvalidInputError: The folder cannot be written to, or the disk is full.
            ResumeError: Another process is using the folder.
        """
        self._claim()
        self._version += 1
        for name, array in (changed or {}).items():
            # A new name, because the state on disk still refers to the previous array.
            file = f"{name}.{self._version}.npy"
            with atomic_path(self.folder / file) as path, path.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
                stream.flush()
                self._sha256[name] = sha256_of(path)
            self._files[name] = file
        record = {
            "schema_version": SCHEMA_VERSION,
            "version": self._version,
            "config": self._config,
            "state": dict(state),
            "arrays": self._files,
            "sha256": self._sha256,
        }
        record["digest"] = _digest(record)
        atomic_write_text(self.folder / _STATE, json.dumps(record, indent=1, allow_nan=False) + "\n")
        self._sweep()

    def load(self, kinds: Mapping[str, Any]) -> SavedState | None:
        """The last saved state, whose entries have the types ``kinds``, or None if there is none."""
        if not exists(self.folder):
            return None
        self._claim()
        path = self.folder / _STATE
        try:
            record = read_json(path, _ADVICE, (SCHEMA_VERSION,))
            with reading(path, "state of a run"):
                saved = decode(_Record, record)
                state = {name: decode(kind, saved.state[name], name) for name, kind in kinds.items()}
                if record.pop("digest") != _digest(record):
                    raise ValueError("its digest does not match its content")
            self._compare(saved.config)
            arrays = {name: self._array(saved, name) for name in saved.arrays}
        except InvalidInputError as error:
            raise self.damaged(str(error)) from error
        self._files, self._sha256, self._version = dict(saved.arrays), dict(saved.sha256), saved.version
        return SavedState(state, arrays)

    def damaged(self, reason: str) -> ResumeError:
        """The error for a state that cannot be used; ``reason`` consists of sentences."""
        return ResumeError(f"Cannot resume {self.folder}. Its state is damaged. {reason}")

    def incomplete(self) -> ResumeError:
        """The error for the state of a part that is needed but missing or not complete."""
        return ResumeError(f"Cannot use {self.folder}. It does not have a complete part. Run the part again.")

    def _array(self, saved: _Record, name: str) -> npt.NDArray[Any]:
        path = self.folder / saved.arrays[name]
        array = read_array(path, _ADVICE)
        if sha256_of(path) != saved.sha256.get(name):
            raise unreadable(path, "its digest does not match its content", _ADVICE)
        return array

    def _claim(self) -> None:
        """Lock the folder for this process, where the system has locks; it is created."""
        path = self.folder / _LOCK
        if self._release is not None:
            if is_same_file(path, self._lock):
                return
            self._release()
        try:
            import fcntl
        except ImportError:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from error
        self._release = weakref.finalize(self, os.close, self._lock)
        try:
            # Not flock, which the workers that load data would inherit.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self._release()
            self._release = None
            raise ResumeError(
                f"Cannot use {self.folder}. Another process is measuring into it. Wait until it has finished, or "
                "choose another folder."
            ) from error
        except OSError:  # a file system without locks
            pass

    def _sweep(self) -> None:
        """Remove arrays and temporary files that the state does not refer to."""
        keep = {_STATE, *self._files.values()}
        for path in self.folder.iterdir():
            if path.name not in keep and path.suffix in (".npy", ".json"):
                path.unlink(missing_ok=True)

    def _compare(self, saved: Mapping[str, Any]) -> None:
        for name in [*self._config, *saved]:
            old, new = saved.get(name), self._config.get(name)
            if old != new:
                given = name in self._options and old is not None
                way = f"Give {name} {_brief(old)}, or start again" if given else "Start again"
                raise ResumeError(
                    f"Cannot resume {self.folder}. It was created with {name} {_brief(old)}, but this run has {name} "
                    f"{_brief(new)}. {way} without resume or in another folder."
                )


class Keeper:
    """Context manager that saves the state of a run every few seconds and at its end, for instance by an interrupt.

    Args:
        store: Where the state is saved, or None if it is not.
        save: Function that saves the state.
        recurs: Function that tells whether a resumed run would fail with the same error; its state is discarded.
    """

    def __init__(  # noqa: D107
        self,
        store: Checkpoint | None,
        save: Callable[[Checkpoint], object],
        recurs: Callable[[BaseException], bool] = lambda error: False,
    ) -> None:
        self._store = store
        self._save = save
        self._recurs = recurs
        self._saved_at = time.monotonic()
        self._has_changed = False
        self._is_changing = False

    def __enter__(self) -> Keeper:
        """Return the keeper."""
        return self

    @contextmanager
    def change(self) -> Iterator[None]:
        """Context of each change of the state. A state whose change was interrupted is not saved."""
        self._is_changing = True
        yield
        self._is_changing, self._has_changed = False, True
        if time.monotonic() - self._saved_at >= SAVE_EVERY:
            self._write()
            self._saved_at, self._has_changed = time.monotonic(), False

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Save what has changed since the last time."""
        if self._store is not None and error is not None and self._recurs(error):
            discard(self._store.folder)
        elif self._has_changed and not self._is_changing:
            self._write()

    def _write(self) -> None:
        if self._store is None:
            return
        try:
            self._save(self._store)
        except ReplkProbeError:
            self._store = None  # the state that was saved before is kept
            raise


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _brief(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value):  # (H, W)
        return str(value[0]) if value[0] == value[1] else f"{value[0]}x{value[1]}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
