"""Search in nested containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

Found = TypeVar("Found")


def instances_in(kind: type[Found], value: Any) -> Iterator[Found]:
    """Every object of type ``kind`` in nested tuples, lists and dictionaries, in order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from instances_in(kind, item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from instances_in(kind, item)
