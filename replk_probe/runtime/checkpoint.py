"""An unfinished run on disk: a small JSON state that names its arrays and is replaced atomically.

A process may be killed at any moment: :meth:`Checkpoint.load` returns the last state that was saved completely. The
state before it is kept as well, and used if the last one is damaged. Arrays that both refer to are stored once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import typing
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError, ReplkProbeError, ResumeError

from .atomic_files import atomic_path, atomic_write_text, cannot_write, sha256_of
from .file_reading import decode, read_array, read_json, reading, unreadable
from .locks import FolderLock, InUseError
from .paths import usable_path

SCHEMA_VERSION = 3
# Seconds between two saved states of a run: the most that a crash can cost.
SAVE_EVERY = 5.0

_STATE, _PREVIOUS = "state.json", "previous.json"
_SET_ASIDE = ".damaged"  # added to the names of damaged files
_ADVICE = "Start again without resume."
_MORE = "..."  # at the end of a value that is not shown as a whole
_THREADS = "threads"
# The entry of the environment for the methods of convolutions that were chosen for the run; a resumed run has the same.
METHODS = "chosen methods"
# Its entry for how they were chosen, which is for the record only and not compared.
TUNING = "tuning"
_CHANGES = "changes"  # the entry of the environment for what other devices the run had before


class ResumeWarning(UserWarning):
    """A run that is resumed in another way than it was interrupted, for instance from an older state."""


@dataclass(frozen=True)
class _Record:
    """The content of the JSON file."""

    version: int
    config: dict[str, Any]
    environment: dict[str, Any]
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
    return any((Path(folder) / name).is_file() for name in (_STATE, _PREVIOUS))


def discard(folder: str | Path) -> None:
    """Remove a saved state and its folder, if there is one."""
    if exists(folder):
        # Remove the states first: without them the arrays are meaningless.
        for name in (_PREVIOUS, _STATE):
            (Path(folder) / name).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def difference(
    names: Iterable[str],
    saved: Mapping[str, Any],
    config: Mapping[str, Any],
    options: Collection[str],
    *,
    allow_other_device: bool,
) -> str | None:
    """The first difference between the options of what is saved and of a run that is to continue it, with advice.

    Args:
        names: Names of the options to compare.
        saved: Options of what is saved.
        config: Options of the run.
        options: Names of the options that can be given.
        allow_other_device: Whether the device may differ.
    """
    for name in names:
        old, new = saved.get(name), config.get(name)
        # On a GPU, an automatic batch size is found from its memory.
        follows_device = name == "device" or (name == "batch_size" and "auto" in (old, new))
        if old != new and not (follows_device and allow_other_device):
            given = name in options and old is not None
            way = f"Give {_argument(name, old)}, or start again" if given else "Start again"
            return (
                f"It was created with {name} {_brief(old)}, but this run has {name} {_brief(new)}. {way} without "
                "resume or in another folder."
            )
    return None


class Checkpoint:
    """The saved state of one run.

    No other process can use the folder while this object exists and the folder has been read or written.

    Args:
        folder: Folder for the state only; created by the first :meth:`save`.
        config: All options that affect the numbers, as JSON values by option name.
        options: Names in ``config`` of options that can be given to resume the run, such as ``"seed"``.
        resume: Whether to keep the state that is in the folder; otherwise it is discarded.
        environment: What affects the rounding without being an option, as JSON values by name: the device and its
            software, and the number of ``threads``.
        allow_other_device: Whether a run of another device can be resumed.

    Attributes:
        environment: The argument, with the number of threads of the run that is resumed.

    Raises:
        ResumeError: The state is to be discarded while another process is using it.
    """

    def __init__(  # noqa: D107
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        options: Collection[str] = (),
        *,
        resume: bool = True,
        environment: Mapping[str, Any] | None = None,
        allow_other_device: bool = False,
    ) -> None:
        self.folder = usable_path(folder, "The folder of the checkpoint")
        self.environment: dict[str, Any] = json.loads(json.dumps(dict(environment or {})))
        self._config: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self._options = options
        self._allow_other_device = allow_other_device
        self._files: dict[str, str] = {}
        self._sha256: dict[str, str] = {}
        self._version = 0
        self._text: str | None = None  # content of the last state
        self._files_before: Collection[str] = ()  # arrays of the state before it
        self._lock: FolderLock | None = None
        if not resume and exists(folder):
            self._claim()
            discard(folder)

    def save(self, state: Mapping[str, Any], changed: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Save a state; arrays that are not in ``changed`` are kept as last saved.

        If it cannot be saved, the last one stays.

        Raises:
            InvalidInputError: The folder cannot be written to, or the disk is full.
            ResumeError: Another process is using the folder.
        """
        self._claim()
        version, files, digests = self._version + 1, dict(self._files), dict(self._sha256)
        try:
            for name, array in (changed or {}).items():
                # A new name, because the states on disk still refer to the previous arrays.
                files[name] = f"{name}.{version}.npy"
                with atomic_path(self.folder / files[name]) as path, path.open("wb") as stream:
                    np.save(stream, array, allow_pickle=False)
                    stream.flush()
                    digests[name] = sha256_of(path)
            record = {
                "schema_version": SCHEMA_VERSION,
                "version": version,
                "config": self._config,
                "environment": self.environment,
                "state": dict(state),
                "arrays": files,
                "sha256": digests,
            }
            record["digest"] = _digest(record)
            text = json.dumps(record, indent=1, allow_nan=False) + "\n"
            if self._text is None:
                (self.folder / _PREVIOUS).unlink(missing_ok=True)
            else:
                atomic_write_text(self.folder / _PREVIOUS, self._text)
                self._files_before = self._files.values()
            atomic_write_text(self.folder / _STATE, text)
            self._text, self._version, self._files, self._sha256 = text, version, files, digests
        finally:
            self._sweep()

    def load(
        self, kinds: Mapping[str, Any], fault: Callable[[SavedState], str | None] = lambda saved: None
    ) -> SavedState | None:
        """The last saved state that is not damaged, or None if there is none.

        Damaged files of a state after it are renamed, which is a :class:`ResumeWarning`.

        Args:
            kinds: Types of the entries of the state; one that may be None may be missing.
            fault: Function that returns a sentence if the content of a state cannot be that of this run.

        Raises:
            ResumeError: The states are damaged, belong to another run or another device, or another process is using
                the folder.
        """
        if not exists(self.folder):
            return None
        self._claim()
        reasons: list[str] = []
        for path in (self.folder / _STATE, self.folder / _PREVIOUS):
            if not path.is_file():  # set aside by an earlier run
                continue
            try:
                record, saved = self._read(path, kinds)
                reason = fault(saved)
            except InvalidInputError as error:
                reason = str(error)
            else:
                if reason is None:
                    break
                reason = f"{reason} {_ADVICE}"
            reasons.append(reason)
        else:
            raise ResumeError(f"Cannot resume {self.folder}. Its state is damaged. {reasons[0]}")
        self._take_environment(record.environment)
        self._files, self._sha256, self._version = dict(record.arrays), dict(record.sha256), record.version
        self._text = path.read_text(encoding="utf-8")
        self._files_before = self._arrays_of(_PREVIOUS)
        if reasons:
            self._set_aside()
            _warn(
                f"The last state in {self.folder} is damaged, and the one before it is used. "
                f"{reasons[0].rpartition('. ')[0]}. The damaged files were renamed to end in {_SET_ASIDE}."
            )
        return saved

    def _read(self, path: Path, kinds: Mapping[str, Any]) -> tuple[_Record, SavedState]:
        """The content of a state and its arrays; InvalidInputError if anything is damaged."""
        record = read_json(path, _ADVICE, (SCHEMA_VERSION,))
        with reading(path, "state of a run"):
            saved = decode(_Record, record)
            state = {name: decode(kind, _entry(saved.state, name, kind), name) for name, kind in kinds.items()}
            if record.pop("digest") != _digest(record):
                raise ValueError("its digest does not match its content")
        self._compare(saved.config)
        arrays = {}
        for name, file in saved.arrays.items():
            arrays[name] = read_array(self.folder / file, _ADVICE)
            if sha256_of(self.folder / file) != saved.sha256.get(name):
                raise unreadable(self.folder / file, "its digest does not match its content", _ADVICE)
        return saved, SavedState(state, arrays)

    def _set_aside(self) -> None:
        """Rename the files that belong to a damaged state only."""
        try:
            for path in [self.folder / _STATE, *self.folder.glob("*.npy")]:
                if path.name not in self._files.values() and path.exists():
                    path.replace(path.with_name(path.name + _SET_ASIDE))
        except OSError as error:
            raise cannot_write(self.folder / _STATE, error) from error

    def incomplete(self) -> ResumeError:
        """The error for the state of a part that is needed but missing or not complete."""
        return ResumeError(f"Cannot use {self.folder}. It does not have a complete part. Run the part again.")

    def _arrays_of(self, name: str) -> Collection[str]:
        """The arrays that a state names, as far as it can be read."""
        try:
            found: Collection[str] = read_json(self.folder / name, _ADVICE, (SCHEMA_VERSION,))["arrays"].values()
        except (InvalidInputError, LookupError, AttributeError):
            return ()
        return found

    def _claim(self) -> None:
        """Lock the folder for this process; it is created."""
        if self._lock is not None:
            if self._lock.is_held:
                return
            self._lock.release()
        try:
            self._lock = FolderLock(self.folder, again=True)
        except InUseError as error:
            raise ResumeError(str(error)) from error
        weakref.finalize(self, self._lock.release)

    def _sweep(self) -> None:
        """Remove the arrays that neither of the two states refers to."""
        keep = {*self._files.values(), *self._files_before}
        for path in self.folder.glob("*.npy"):
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def _compare(self, saved: Mapping[str, Any]) -> None:
        found = difference(
            [*self._config, *saved], saved, self._config, self._options, allow_other_device=self._allow_other_device
        )
        if found is not None:
            raise ResumeError(f"Cannot resume {self.folder}. {found}")

    def _take_environment(self, saved: Mapping[str, Any]) -> None:
        """Compare the environment with that of the run that is resumed, and take over its number of threads."""
        changes = dict.fromkeys(saved.get(_CHANGES, ()))
        for name in dict.fromkeys([*self.environment, *saved]):
            old, new = saved.get(name), self.environment.get(name)
            if old == new or name == _CHANGES:
                continue
            if name in (METHODS, TUNING):
                self.environment[name] = old
                continue
            if name == _THREADS and old is not None and new is not None:
                _warn(
                    f"The run in {self.folder} was started with {old} threads, but this process has {new}. Results "
                    f"depend on this number. The run is resumed with {old}."
                )
                self.environment[_THREADS] = old
                continue
            difference = f"It was created with {name} {_brief(old)}, but this run has {name} {_brief(new)}."
            if not self._allow_other_device:
                raise ResumeError(
                    f"Cannot resume {self.folder}. {difference} Resume it where it was started, give "
                    "allow-other-device, or start again without resume or in another folder."
                )
            _warn(
                f"The run in {self.folder} is resumed on another device. {difference} The result can differ in its "
                "last digits from that of one device."
            )
            changes[f"{name} {_brief(old)}, then {_brief(new)}"] = None
        if changes:
            self.environment[_CHANGES] = [*changes]

    @property
    def methods(self) -> dict[str, str]:
        """The methods of convolutions that were chosen for the run, by problem; empty if the usual ones are used."""
        return dict(self.environment.get(METHODS, {}))

    @property
    def tuning(self) -> list[dict[str, Any]]:
        """How these methods, and those that were kept, were chosen; empty if nothing was measured."""
        return list(self.environment.get(TUNING, []))

    def set_methods(self, methods: Mapping[str, str], tuning: Sequence[dict[str, Any]]) -> None:
        """Save the methods of a run, and how they were chosen, with its state."""
        for name, value in ((METHODS, dict(methods)), (TUNING, list(tuning))):
            self.environment.pop(name, None)
            if value:
                self.environment[name] = value

    @property
    def device_note(self) -> str | None:
        """A note for the result if the run was resumed on another device; None if it was not."""
        changes = self.environment.get(_CHANGES)
        if not changes:
            return None
        return (
            f"The measurement was continued on another device ({'; '.join(changes)}). The result can differ in its "
            "last digits from that of one device."
        )


def _warn(text: str) -> None:
    warnings.warn(text, ResumeWarning, stacklevel=2)


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


def _entry(state: Mapping[str, Any], name: str, kind: Any) -> Any:
    """An entry of a state, or None if its type permits that and the state does not have it."""
    return state.get(name) if type(None) in typing.get_args(kind) else state[name]


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _argument(name: str, value: Any) -> str:
    """An option with a value that can be typed, or its name only if the value is not typed or is too long."""
    if value is True:
        return name
    if name == "layer":  # without what was found there
        value = str(value).removesuffix(" (input)")
    text = _brief(value)
    if isinstance(value, dict) or text.endswith(_MORE) or text.startswith("folder:"):
        return f"the same {name}"
    return f"{name} {text if re.fullmatch(r'[0-9.,x]+', text) else repr(text)}"


def _brief(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return str(value["name"])
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value):  # (H, W)
        return str(value[0]) if value[0] == value[1] else f"{value[0]}x{value[1]}"
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        text = ",".join(map(_brief, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[: 60 - len(_MORE)] + _MORE
