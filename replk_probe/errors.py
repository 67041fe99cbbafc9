"""The errors that replk-probe raises, and the names suggested in their messages.

The command line prints these errors and exits with status 1. Any other exception is a bug in replk-probe.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["BackendError", "InvalidInputError", "ReplkProbeError", "ResumeError", "UnknownModelError", "WeightsError"]


class ReplkProbeError(Exception):
    """Base class: what went wrong, why, and what to do about it, in one sentence each.

    Examples:
        >>> from replk_probe import create_model
        >>> from replk_probe.errors import ReplkProbeError
        >>> try:
        ...     create_model("resnet9000")
        ... except ReplkProbeError as error:
        ...     print(type(error).__name__)
        UnknownModelError
    """


class InvalidInputError(ReplkProbeError, ValueError):
    """An argument, an image folder or an array that cannot be used as given."""


class UnknownModelError(ReplkProbeError, LookupError):
    """A name (or the path of a factory) that does not identify a model."""


class WeightsError(ReplkProbeError):
    """A checkpoint that cannot be found, fetched, verified, read or matched to a model."""


class BackendError(ReplkProbeError):
    """A device, precision or compiled kernel that is not available on this machine."""


class ResumeError(ReplkProbeError):
    """An unfinished run that cannot be resumed with the given options."""


def close_names(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Known names with a spelling similar to ``name``, the most similar first; case and punctuation are ignored.

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
    """``" (similar: a, b)"`` for an error message, or ``""`` if no known name is similar; see :func:`close_names`."""
    close = close_names(name, known, cutoff=cutoff)
    return f" (similar: {', '.join(close)})" if close else ""


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def __dir__() -> list[str]:
    return sorted(__all__)
