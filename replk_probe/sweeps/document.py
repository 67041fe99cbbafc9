"""The TOML file of a sweep, and errors that name its file, line and key."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.paths import text_of, usable_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A path to a value: names of tables and options, and indices of lists.
Keys: TypeAlias = tuple["str | int", ...]

_POSITION = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")

EXAMPLE = """\
# A sweep: every model below is measured by every analyzer below, with every combination of the settings in the matrix.
# Run it with:  replk-probe sweep THIS_FILE
# Paths are relative to the folder of this file.

# Names from 'replk-probe models' or from timm, patterns such as "convnext*.fb_in1k", "torchvision:NAME" or
# "path/to/file.py:factory". A table gives a model options of its own, which take precedence over all others.
models = [
    "resnet18",
    "replknet_micro_k13",
    # { model = "my_net.py:build", weights = "my_net.pth", name = "my net" },
]

# Options here apply to every analyzer that has them.
# auto: pretrained weights if any are published, otherwise random ones.
weights = "auto"

# Threads of each job. Results can depend on this number, but not on the number of workers.
threads = 1

# Whether to draw the figures of each result.
figures = true

# Options of the command 'replk-probe erf'.
[erf]
images = 12
size = 96
# data = "photos"
# layer = "stage4"
# thresholds = [0.2, 0.5]

# One job for each combination.
[erf.matrix]
seed = [0, 1]

# Options of the command 'replk-probe kernels'.
[kernels]
layer = "all"

# Options of the command 'replk-probe shape-bias'.
# [shape-bias]
# stimuli = "cue-conflict"

# Options of the command 'replk-probe behaviour'; import is the folder raw-data of model-vs-human.
# [behaviour]
# sets = "shape"
# import = "raw-data"

# Options of the command 'replk-probe attribute'; data is an image or a folder of images.
# [attribute]
# data = "photos"
# method = "integrated-gradients"

# Options of the command 'replk-probe reliance'.
# [reliance]
# data = "photos by class"
"""


@dataclass(frozen=True)
class Document:
    """What was asked for, and where it was written.

    Attributes:
        values: The content: tables as dictionaries.
        name: Name of the source for messages, such as ``"paper.toml"``.
        folder: Folder to which paths in it are relative.
        text: Text of the file, or None if the content was not read from a file.
    """

    values: Mapping[str, Any]
    name: str
    folder: Path
    text: str | None = None

    def value(self, keys: Keys) -> Any:
        """The value at ``keys`` as it was written."""
        found: Any = self.values
        for key in keys:
            found = found[key]
        return found

    def error(self, keys: Keys, reason: str) -> InvalidInputError:
        """An error about the value at ``keys``; ``reason`` consists of sentences."""
        line = None if self.text is None or not keys else _line_of(self.text, keys)
        parts = [self.name, *([] if line is None else [f"line {line}"]), *([_shown(keys)] if keys else [])]
        return InvalidInputError(f"{', '.join(parts)}: {reason}")


def read_document(config: str | os.PathLike[str] | Mapping[str, Any]) -> Document:
    """Read the description of a sweep.

    Args:
        config: Path of a TOML file, or its content as a dictionary, whose paths are relative to the current folder.

    Raises:
        InvalidInputError: The file cannot be read or is not valid TOML.
    """
    if isinstance(config, Mapping):
        return Document(config, "The sweep", Path.cwd())
    path = usable_path(config, "The sweep file")
    try:
        text = text_of(path, "utf-8-sig")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "It is not UTF-8 text"
        raise InvalidInputError(
            f"Cannot read {path}. {reason}. Give a TOML file. The help of 'replk-probe sweep' "
            "explains how to get an example."
        ) from error
    try:
        return Document(tomllib.loads(text), str(path), path.resolve().parent, text)
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        line = found[1] if found and found[1] else len(text.splitlines())
        reason = _POSITION.sub("", str(error)).rstrip(".")
        raise InvalidInputError(f"{path}, line {line}: The file is not valid TOML. {reason}. Correct this line.") from (
            error
        )


def _line_of(text: str, keys: Keys) -> int | None:
    """Number of the line on which the value at ``keys`` begins, or the innermost table or list around it.

    The parser does not report positions. The line is found by parsing the beginnings of the text that are valid, with
    the lists closed in which they end: the value begins after the last beginning that does not have it.
    """
    lines = text.splitlines(keepends=True)
    best: tuple[int, int] | None = None  # number of keys found, line
    before = 0  # number of lines in the last valid beginning
    depth_before = 0
    for count in range(len(lines) + 1):
        values = _parsed_beginning("".join(lines[:count]))
        if values is None:
            continue
        depth = _depth(values, keys)
        if depth > depth_before and (best is None or depth > best[0]):
            first = next((at for at in range(before, count) if _is_content(lines[at])), before)
            best = depth, first + 1
        before, depth_before = count, max(depth, depth_before)
    return None if best is None else best[1]


def _parsed_beginning(text: str) -> Mapping[str, Any] | None:
    """The values in the first lines of a file, which may end in a list of lists; None if they are not valid."""
    for closing in ("", "\n]", "\n]]"):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            values: Mapping[str, Any] = tomllib.loads(text + closing)
            return values
    return None


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _depth(values: Any, keys: Keys) -> int:
    """How many of the keys lead to a value."""
    for depth, key in enumerate(keys):
        try:
            values = values[key]
        except (LookupError, TypeError):
            return depth
    return len(keys)


def _shown(keys: Keys) -> str:
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f"{'.' if text else ''}{key}"
    return text
