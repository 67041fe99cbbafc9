"""Every error that replk-probe raises on purpose, and the names suggested in their messages.

The command line turns these errors into one line on the terminal and exit status 1. Any other exception that escapes is
a bug in replk-probe.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReplkProbeError(Exception):
    """Base class: what went wrong, why, and what to do about it, in one sentence each."""


class InvalidInputError(ReplkProbeError, ValueError):
    """An argument, an image folder or an array that cannot be used as given."""


class UnknownModelError(ReplkProbeError, LookupError):
    """A model name (or a factory path) that leads to no model."""


class WeightsError(ReplkProbeError):
    """A checkpoint that cannot be found, fetched, verified, read or matched to a model."""


class BackendError(ReplkProbeError):
    """A device, precision or compiled kernel that this machine does not offer."""


class ResumeError(ReplkProbeError):
    """An unfinished run that cannot be continued with the options given."""


def close_names(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Known names that are spelled like ``name``, the most similar first; case and punctuation are ignored.

    Args:
        name: Name that was not found.
        known: Names that exist.
        most: Maximum number of names returned.
        cutoff: Minimum similarity, in [0, 1], as in :func:`difflib.get_close_matches`.
    """
    spelled: dict[str, list[str]] = {}
    for candidate in known:
        spelled.setdefault(_letters(candidate), []).append(candidate)
    matches = difflib.get_close_matches(_letters(name), spelled, most, cutoff)
    return [candidate for match in matches for candidate in spelled[match]][:most]


def close_hint(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``" (similar: a, b)"`` for an error message, or ``""`` if no known name is close; see :func:`close_names`."""
    close = close_names(name, known, cutoff=cutoff)
    return f" (similar: {', '.join(close)})" if close else ""


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
