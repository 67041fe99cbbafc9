"""An unfinished run on disk: a small JSON state that names its arrays and is replaced atomically.

A process may be killed at any moment: :meth:`Checkpoint.load` returns the last state that was saved completely.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError, ResumeError

from .atomic_files import atomic_path, atomic_write_text
from .file_reading import decode, read_array, read_json, reading

SCHEMA_VERSION = 1
_STATE = "state.json"
_ADVICE = "Start again without resume."


@dataclass(frozen=True)
class _Record:
    """The content of the JSON file."""

    version: int
    config: dict[str, Any]
    state: dict[str, Any]
    arrays: dict[str, str]


@dataclass(frozen=True)
class SavedState:
    """The saved state of a run.

    Attributes:
        state: The state given to :meth:`Checkpoint.save`.
        arrays: Writable arrays by name.
    """

    state: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


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

    Args:
        folder: Folder for the state only; created by the first :meth:`save`.
        config: All options that affect the numbers, as JSON values by option name.
        options: Names in ``config`` of options that can be given to resume the run, such as ``"seed"``.
        resume: Whether to keep the state that is in the folder; otherwise it is discarded.
    """

    def __init__(  # noqa: D107
        self, folder: str | Path, config: Mapping[str, Any], options: Collection[str] = (), *, resume: bool = True
    ) -> None:
        self.folder = Path(folder)
        self._config: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self._options = options
        self._files: dict[str, str] = {}
        self._version = 0
        if not resume:
            discard(folder)

    def save(self, state: Mapping[str, Any], changed: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Save a state; arrays that are not in ``changed`` are kept as last saved."""
        self._version += 1
        for name, array in (changed or {}).items():
            # A new name, because the state on disk still refers to the previous array.
            file = f"{name}.{self._version}.npy"
            with atomic_path(self.folder / file) as path, path.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
            self._files[name] = file
        record = {
            "schema_version": SCHEMA_VERSION,
            "version": self._version,
            "config": self._config,
            "state": dict(state),
            "arrays": self._files,
        }
        atomic_write_text(self.folder / _STATE, json.dumps(record, indent=1, allow_nan=False) + "\n")
        self._sweep()

    def load(self, kinds: Mapping[str, Any]) -> SavedState | None:
        """The last saved state, whose entries have the types ``kinds``, or None if there is none.

        Raises:
            ResumeError: The state belongs to a run with a different configuration, or cannot be read.
        """
        if not exists(self.folder):
            return None
        path = self.folder / _STATE
        try:
            record = read_json(path, _ADVICE, (SCHEMA_VERSION,))
            with reading(path, "state of a run"):
                saved = decode(_Record, record)
                state = {name: decode(kind, saved.state[name], name) for name, kind in kinds.items()}
            self._compare(saved.config)
            arrays = {name: read_array(self.folder / file, _ADVICE) for name, file in saved.arrays.items()}
        except InvalidInputError as error:
            raise self.damaged(str(error)) from error
        self._files, self._version = dict(saved.arrays), saved.version
        return SavedState(state, arrays)

    def damaged(self, reason: str) -> ResumeError:
        """The error for a state that cannot be used; ``reason`` consists of sentences."""
        return ResumeError(f"Cannot resume {self.folder}. Its state is damaged. {reason}")

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


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
