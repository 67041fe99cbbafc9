"""Paths given by the user, checked before they are used."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from replk_probe.errors import InvalidInputError

_NOT_IN_SLUGS = re.compile(r"[^A-Za-z0-9._-]")


def usable_path(path: str | os.PathLike[str], name: str) -> Path:
    """The path with a leading ``~`` expanded; the file or folder need not exist.

    Args:
        path: Path as given by the user.
        name: Name of the option or argument, for the message.

    Raises:
        InvalidInputError: The path is empty, contains a null character, has a name that is too long for the file
            system, or refers to the home folder of an unknown user.
    """
    text = os.fspath(path)
    try:
        if not text:
            raise ValueError("It is empty")
        found = Path(text).expanduser()
        os.lstat(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # reported by whoever opens the file
        pass
    except (OSError, ValueError, RuntimeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        raise InvalidInputError(
            f"{name} {_shortened(text)!r} is not a valid path. {reason[:1].upper()}{reason[1:]}. Give another path."
        ) from error
    return found


def text_of(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file.

    Raises:
        OSError: The file cannot be read, or is not a regular one: reading from a pipe or a device may never end.
        UnicodeDecodeError: It has another encoding.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "It is not a regular file", str(path))
    return path.read_text(encoding=encoding)


def slug(name: str) -> str:
    """A model's name as a folder name: every character outside ``[A-Za-z0-9._-]`` becomes ``-``."""
    return _NOT_IN_SLUGS.sub("-", name)


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
