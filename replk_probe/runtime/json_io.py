"""The JSON of a result: strict when written, explained when it cannot be read. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replk_probe.errors import InvalidInputError


def strict_json(record: Mapping[str, Any]) -> str:
    """A record as text that every JSON parser reads.

    Raises:
        InvalidInputError: A number is not finite, or an entry is nothing that JSON has.
    """
    try:
        return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=True) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"The record cannot be written as JSON ({error}). Every entry must be a finite number, a text or a list of "
            "them. Look at the configuration of the run."
        ) from error


def read_json(path: Path, command: str, versions: Sequence[int]) -> dict[str, Any]:
    """The record in a JSON file.

    Args:
        path: The file.
        command: Of replk-probe, that writes such files.
        versions: Values of its ``schema_version`` that can be read.

    Raises:
        InvalidInputError: It cannot be read, holds something else, or has another schema version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), command) from error
    except ValueError as error:  # JSON and UTF-8 errors both
        raise unreadable(path, f"it is not JSON: {error}", command) from error
    if not isinstance(record, dict):
        raise unreadable(path, "it is not a JSON object", command)
    version = record.get("schema_version")
    if version not in versions:
        raise InvalidInputError(
            f"{path} has schema version {version}. This replk-probe reads {', '.join(map(str, versions))}. Read it "
            "with the version of replk-probe that wrote it, or measure again."
        )
    return record


def unreadable(path: Path, reason: str, command: str) -> InvalidInputError:
    """The error for a file of a result that cannot be used; ``reason`` is a clause."""
    return InvalidInputError(
        f"Cannot read {path}. {reason[:1].upper()}{reason[1:]}. "
        f"Give the folder that 'replk-probe {command} --output' wrote."
    )
