"""Reading of JSON, array and CSV files, in which any damage is an error of this package that names the file."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import struct
import types
import typing
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, Union

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError, ReplkProbeError

from .paths import text_of

_T = TypeVar("_T")

_LARGEST_ARRAY = 1 << 31  # bytes, for a map of 16384 x 16384 pixels
_DEEPEST = 50  # levels of nested lists and dictionaries in a free-form field
_NPY_HEADERS: dict[tuple[int, int], Callable[[io.BytesIO], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_json(path: Path, advice: str, versions: Sequence[int]) -> dict[str, Any]:
    """The record in a JSON file, whose ``schema_version`` must be one of ``versions``.

    ``advice``, here and below, is the sentence on what to do about a file that cannot be read.
    """
    try:
        text = text_of(path)
        record = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), advice) from error
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8, deeply nested lists
        raise unreadable(path, f"it is not JSON: {error}", advice) from error
    if not isinstance(record, dict):
        raise unreadable(path, "it is not a JSON object", advice)
    version = record.get("schema_version")
    if type(version) is not int or version not in versions:
        raise InvalidInputError(
            f"{path} has schema version {_shown(version)}. This replk-probe reads {', '.join(map(str, versions))}. "
            "Read it with the version of replk-probe that wrote it, or measure again."
        )
    return record


def read_arrays(
    path: Path, advice: str, wanted: Mapping[str, tuple[type[np.generic], int]] | None, *, optional: Iterable[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an ``.npz`` file; nothing is unpickled, and memory is only allocated for data that exists.

    ``wanted`` gives the scalar type and the number of axes of each array by name, or is None if the names are not
    known; ``optional`` names may be missing.
    """
    arrays = {}
    with _readable(path, advice), path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        if _declared_entries(stream) != len(archive.infolist()):
            raise ValueError("its directory is damaged")
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if (wanted is not None and name not in wanted) or name in arrays:
                raise ValueError(f"it has an unexpected array {name!a}")
            if info.file_size > _LARGEST_ARRAY:
                raise ValueError(f"{info.filename} declares {info.file_size} bytes, more than any result has")
            arrays[name] = _array(archive.read(info), info.filename)  # reading all of it verifies the checksum
    for name, (scalar, axes) in (wanted or {}).items():
        if name not in arrays:
            if name not in optional:
                raise unreadable(path, f"it has no array {name!r}", advice)
        elif not np.issubdtype(arrays[name].dtype, scalar) or arrays[name].ndim != axes:
            found = f"{arrays[name].dtype} of shape {list(arrays[name].shape)}"
            raise unreadable(path, f"{name} is {found}, not {scalar.__name__} with {axes} axes", advice)
    return arrays


def _declared_entries(stream: BinaryIO) -> int:
    """The number of entries in the end record of a zip archive, which ``zipfile`` does not compare with those it finds.

    Archives with a comment, which :func:`numpy.savez` never writes, have another end.
    """
    stream.seek(-22, os.SEEK_END)
    signature, entries = struct.unpack("<4s6xH10x", stream.read(22))
    return entries if signature == b"PK\5\6" else -1


def read_csv(path: Path, advice: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV file in UTF-8, and its other lines with their numbers; empty lines are left out."""
    # utf-8-sig: spreadsheets write a byte order mark.
    with _readable(path, advice), path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        header = next(reader, [])
        return header, [(reader.line_num, row) for row in reader if row]


def unreadable(path: Path, reason: str, advice: str) -> InvalidInputError:
    """The error for a file that cannot be used; ``reason`` is a clause, ``advice`` a sentence."""
    return InvalidInputError(f"Cannot read {path}. {reason[:1].upper()}{reason[1:]}. {advice}")


def folder_of(command: str) -> str:
    """Advice for errors: give the folder of a result of that command."""
    return f"Give a folder that 'replk-probe {command}' or the method save of its result wrote."


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn every error raised by a record of the wrong form into an InvalidInputError about the file.

    ``what`` is the name of the kind of record, as in "not a complete ERF record".
    """
    try:
        yield
    except (ReplkProbeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise InvalidInputError(
            f"{path} is not a complete {what} ({reason}). It was edited or truncated. Measure again."
        ) from error


def decode(kind: type[_T], value: Any, where: str = "") -> _T:
    """Convert parsed JSON to a dataclass or another type, checking every field.

    Lists become tuples where tuples are declared. Entries without a field are ignored, and every field must have an
    entry, because :func:`~replk_probe.results.as_plain` writes all of them, except those whose metadata has
    ``added_later``, which older results lack. Arrays are passed through. ``where`` is the
    path of the value in the record, for messages. A value of another type is a ValueError.
    """
    return typing.cast(_T, _decoded(kind, value, where))


def _decoded(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        data = _of_type(dict, value, where)
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        names = [field.name for field in fields if field.name in data or not field.metadata.get("added_later")]
        missing = [name for name in names if name not in data]
        if missing:
            raise ValueError(f"{where + ': ' if where else ''}it lacks {missing[0]!r}")
        return kind(**{name: _decoded(hints[name], data[name], f"{where}.{name}".lstrip(".")) for name in names})  # type: ignore[operator]
    if isinstance(value, np.ndarray) or kind is Any:
        return _free_form(value, where)
    if origin in (Union, types.UnionType):
        return (
            None if value is None else _decoded(next(one for one in arguments if one is not type(None)), value, where)
        )
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {_shown(value)}, not one of {', '.join(map(repr, arguments))}")
        return _of_type(str, value, where)
    if origin is tuple:
        values = _of_type(list, value, where)
        kinds = [arguments[0]] * len(values) if arguments[1:] == (...,) else arguments
        if len(values) != len(kinds):
            raise ValueError(f"{where} has {len(values)} entries, not {len(kinds)}")
        return tuple(
            _decoded(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(kinds, values, strict=True))
        )
    if origin is list:
        return [_decoded(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(_of_type(list, value, where))]
    if origin is not None and issubclass(origin, Mapping):
        return {
            name: _decoded(arguments[1], one, f"{where}.{name}") for name, one in _of_type(dict, value, where).items()
        }
    return _of_type(kind, value, where)


_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number", bool: "a bool"}


def _of_type(kind: Any, value: Any, where: str) -> Any:
    """``value``, if it has that type; integers are numbers too, and bools are neither."""
    accepted = {float: (float, int), list: (list, tuple)}.get(kind, kind)
    if (
        not isinstance(value, accepted)
        or (isinstance(value, bool) and kind is not bool)
        or (isinstance(value, int) and abs(value) >= 1 << 63)
    ):
        raise ValueError(f"{where or 'the record'} is {_shown(value)}, not {_NAMES[kind]}")
    if kind is str:
        value.encode("utf-8")  # lone surrogates could not be written again
    return float(value) if kind is float else value


def _free_form(value: Any, where: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"{where} is nested more than {_DEEPEST} levels deep")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _free_form(one, where, depth + 1)
    return value


def read_array(path: Path, advice: str) -> npt.NDArray[Any]:
    """The array of an ``.npy`` file; see :func:`read_arrays`."""
    with _readable(path, advice):
        return _array(path.read_bytes(), path.name)


@contextlib.contextmanager
def _readable(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), advice) from error
    except Exception as error:  # zipfile, its decompressors and numpy raise many different ones
        raise unreadable(path, str(error) or type(error).__name__, advice) from error


def _array(content: bytes, name: str) -> npt.NDArray[Any]:
    """The array of an ``.npy`` file, whose header is checked against the size of the content."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"{name} has version {version} of the .npy format")
    shape, _, dtype = _NPY_HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"the array {name} has Python objects, which are not read")
    there, claimed = len(content) - stream.tell(), math.prod(shape) * dtype.itemsize
    if there != claimed:
        raise ValueError(f"the array {name} declares {claimed} bytes of {dtype} but has {there}")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _shown(value: Any) -> str:
    """A value in a message, truncated if it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
