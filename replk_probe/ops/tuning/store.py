"""Choices on disk: one JSON file for each problem and environment, in the cache folder of this package."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_write_text

from ..methods.interface import ConvProblem
from .choosing import Choice

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StoredChoice:
    """A choice, and what it is valid for.

    Attributes:
        environment: See :attr:`Device.environment`.
        problem: The problem, which is its own bucket.
        choice: The choice.
        time: When it was measured, in ISO format with seconds, in UTC.
    """

    environment: dict[str, str]
    problem: ConvProblem
    choice: Choice
    time: str

    def to_json(self) -> dict[str, Any]:
        """The choice as plain dictionaries, lists and numbers."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def default_folder() -> Path:
    """Folder of the choices: ``tuning`` in the cache folder."""
    from replk_probe.runtime.download import cache_dir

    return cache_dir() / "tuning"


def read_choice(folder: Path, environment: Mapping[str, str], problem: ConvProblem) -> StoredChoice | None:
    """The stored choice for a problem, or None if there is none or the file is damaged."""
    found = _read(_path(folder, environment, problem))
    # Two environments could have the same digest.
    is_same = found is not None and found.environment == environment and found.problem == problem
    return found if is_same else None


def write_choice(folder: Path, environment: Mapping[str, str], problem: ConvProblem, choice: Choice) -> None:
    """Store a choice; nothing happens if the folder cannot be written to."""
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    stored = StoredChoice(dict(environment), problem, choice, time)
    try:
        atomic_write_text(_path(folder, environment, problem), json.dumps(stored.to_json(), indent=1) + "\n")
    except (InvalidInputError, OSError):  # it is measured again next time
        pass


def stored_choices(folder: Path) -> list[StoredChoice]:
    """All choices in a folder, those of one device together; files that cannot be read are left out."""
    return read_folder(folder)[0]


def read_folder(folder: Path) -> tuple[list[StoredChoice], int]:
    """:func:`stored_choices`, and the number of files that are damaged or were written by another version."""
    found = [_read(path) for path in _files(folder)]
    sound = [stored for stored in found if stored is not None]
    sound.sort(key=lambda one: (one.environment.get("device", ""), str(one.problem), one.time))
    return sound, len(found) - len(sound)


def clear_choices(folder: Path) -> int:
    """Remove all choices in a folder.

    Returns:
        Number of files that were removed.

    Raises:
        InvalidInputError: A file cannot be removed.
    """
    paths = _files(folder)
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InvalidInputError(
                f"Cannot remove {path}. {error.strerror or error}. Change the permissions of the folder, or set "
                "REPLK_PROBE_CACHE to another one."
            ) from error
    return len(paths)


_DIGITS = 32


def _files(folder: Path) -> list[Path]:
    """The files of choices in a folder, sorted."""
    try:
        return [path for path in sorted(folder.glob("*.json")) if len(path.stem) == _DIGITS]
    except OSError:
        return []


def _path(folder: Path, environment: Mapping[str, str], problem: ConvProblem) -> Path:
    text = json.dumps([sorted(environment.items()), asdict(problem)])
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}.json"


def _read(path: Path) -> StoredChoice | None:
    """The choice in a file, or None if it cannot be read or was written by another version."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("schema_version") != SCHEMA_VERSION:
            return None
        problem, choice = ConvProblem(**record.pop("problem")), Choice(**record.pop("choice"))
        stored = StoredChoice(problem=problem, choice=choice, **record)
        is_sound = all(isinstance(value, float) and 0 < value < math.inf for value in choice.seconds.values())
        texts = [choice.method, choice.reason, choice.default, choice.warning or "", stored.time]
        texts += [*choice.refused.values(), *stored.environment.values()]
        is_sound = is_sound and all(isinstance(text, str) for text in texts) and bool(str(problem.bucket))
    # Deeply nested brackets exceed the limit of recursion.
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return stored if is_sound else None
