"""The base of all results: saving, loading, comparing and displaying them.

Files are strict: JSON has no NaN, and equal results give equal bytes. Files are checked when they are read, and any
damage raises an :class:`~replk_probe.errors.InvalidInputError` that names the file.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import dataclasses
import html
import io
import json
import math
import types
import typing
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, Union

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.runtime.atomic_files import atomic_write_bytes
from replk_probe.runtime.escaping import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Row: TypeAlias = dict[str, Any]
_T = TypeVar("_T")

_LARGEST_ARRAY = 1 << 31  # bytes, for a map of 16384 x 16384 pixels
_DEEPEST = 50  # levels of nested lists and dictionaries in a free-form field
_MOST_HTML_ROWS = 20
_NPY_HEADERS: dict[tuple[int, int], Callable[[io.BytesIO], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ByValue:
    """Equality by value: ``==`` compares every field and returns a bool, arrays and NaN included."""

    __hash__ = None  # type: ignore[assignment]  # the fields include arrays and dictionaries

    def __eq__(self, other: object) -> bool:
        """Whether both are of one type and all fields are equal."""
        return type(self) is type(other) and same_value(self, other)


class Result(ByValue, ABC):
    """Base class of results. Subclasses are frozen dataclasses in the module ``result`` of an analyzer."""

    # Name of the function in the analyzer's package that draws a result, and names of the columns shown in a notebook.
    _PLOT: ClassVar[str]
    _HTML_COLUMNS: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _files(self) -> Mapping[str, bytes]:
        """Names and contents of the files of this result, in the order of writing."""

    @abstractmethod
    def _rows(self) -> list[Row]:
        """The rows of the table, which all have the same columns; undefined numbers are NaN."""

    @abstractmethod
    def _summary(self) -> Mapping[str, object]:
        """A few properties that identify this result."""

    def save(self, directory: str | Path) -> None:
        """Write the files of this result, each completely or not at all, the JSON file last.

        The bytes depend only on the result.

        Args:
            directory: Folder to write to; created if it does not exist.

        Raises:
            InvalidInputError: The folder cannot be written to, or a number in the record is not finite.
        """
        write_files(self._files(), directory)

    def to_dataframe(self) -> pd.DataFrame:
        """The table of this result."""
        return dataframe(self._rows())

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw this result with the plot function of its analyzer.

        Args:
            ax: Axes to draw on; by default those of a new figure.
            **kwargs: Further arguments of the plot function.

        Returns:
            The Axes.

        Raises:
            InvalidInputError: There is nothing to draw, or an argument is invalid.
        """
        package = import_module(type(self).__module__.rpartition(".")[0])
        axes: Axes = getattr(package, self._PLOT)(self, ax, **kwargs)
        return axes

    def __repr__(self) -> str:
        """One line with the name of the class and a few properties."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._summary().items())})"

    def _repr_html_(self) -> str:
        """A table and the figure, for a notebook."""
        rows = self._rows()
        facts = "".join(f"<li>{_text(name)}: {_text(value)}</li>" for name, value in self._summary().items())
        head = "".join(f"<th>{_text(name)}</th>" for name in self._HTML_COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(row[name])}</td>" for name in self._HTML_COLUMNS) + "</tr>"
            for row in rows[:_MOST_HTML_ROWS]
        )
        more = f"<p>{len(rows) - _MOST_HTML_ROWS} more rows.</p>" if len(rows) > _MOST_HTML_ROWS else ""
        return (
            f"<div><b>{_text(type(self).__name__)}</b><ul>{facts}</ul><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{more}{self._html_figure()}</div>"
        )

    def _html_figure(self) -> str:
        from replk_probe.plot_style import figure_of, png_bytes

        try:
            content = png_bytes(figure_of(self.plot()))
        except ReplkProbeError:  # nothing in this result can be drawn
            return ""
        return f'<img alt="Figure" src="data:image/png;base64,{base64.b64encode(content).decode("ascii")}"/>'


def same_value(left: object, right: object) -> bool:
    """Whether two values are equal; lists and tuples are not distinguished, as in JSON."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        if not (isinstance(left, np.ndarray) and isinstance(right, np.ndarray)):
            return False
        return np.array_equal(left, right, equal_nan=left.dtype.kind == right.dtype.kind == "f")
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_value(left[name], right[name]) for name in left)
    if dataclasses.is_dataclass(left) and dataclasses.is_dataclass(right):
        return type(left) is type(right) and all(
            same_value(getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left)
        )
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)


def as_plain(value: Any) -> Any:
    """Convert a dataclass to dictionaries, lists and scalars."""
    if dataclasses.is_dataclass(value):
        return {field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: as_plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(one) for one in value]
    return value


def null_if_nan(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def nan_if_null(value: Any) -> Any:
    """The inverse of :func:`null_if_nan`."""
    return math.nan if value is None else value


def interval_cells(interval: tuple[float, float] | None) -> Row:
    """The two cells of a 95 % confidence interval."""
    low, high = (math.nan, math.nan) if interval is None else interval
    return {"ci95_low": low, "ci95_high": high}


def dataframe(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a pandas data frame; pandas is imported when this function is called."""
    import pandas as pd

    return pd.DataFrame.from_records(list(rows))


def csv_text(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Rows as CSV; None and NaN are empty cells."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if _is_undefined(row[name]) else row[name] for name in columns] for row in rows])
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as an uncompressed ``.npz`` file without a time stamp, so that equal arrays give equal bytes."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def strict_json(record: Mapping[str, Any], indent: int = 2) -> str:
    """A record as JSON text that every parser reads.

    Raises:
        InvalidInputError: A number is not finite, or an entry has a type that JSON does not support.
    """
    try:
        return json.dumps(record, indent=indent, allow_nan=False, ensure_ascii=True) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"The record cannot be written as JSON ({error}). Every entry must be a finite number, a string or a list "
            "of them. Check the configuration of the run."
        ) from error


def write_files(files: Mapping[str, bytes], directory: str | Path) -> None:
    """Write files in the order given, each completely or not at all.

    Args:
        files: Contents by name.
        directory: Folder to write to; created if it does not exist.

    Raises:
        InvalidInputError: The folder cannot be written to.
    """
    for name, content in files.items():
        atomic_write_bytes(Path(directory) / name, content)


def read_json(path: Path, command: str, versions: Sequence[int]) -> dict[str, Any]:
    """The record in a JSON file.

    Args:
        path: The file.
        command: Command of replk-probe that writes such files.
        versions: Values of ``schema_version`` that can be read.

    Raises:
        InvalidInputError: The file cannot be read, does not contain a record, or has another schema version.
    """
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), folder_of(command)) from error
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8, deeply nested lists
        raise unreadable(path, f"it is not JSON: {error}", folder_of(command)) from error
    if not isinstance(record, dict):
        raise unreadable(path, "it is not a JSON object", folder_of(command))
    version = record.get("schema_version")
    if type(version) is not int or version not in versions:
        raise InvalidInputError(
            f"{path} has schema version {_shown(version)}. This replk-probe reads {', '.join(map(str, versions))}. "
            "Read it with the version of replk-probe that wrote it, or measure again."
        )
    return record


def read_arrays(
    path: Path, command: str, wanted: Mapping[str, tuple[type[np.generic], int]], *, optional: Iterable[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an ``.npz`` file; nothing is unpickled, and memory is only allocated for data that exists.

    Args:
        path: The file.
        command: Command of replk-probe that writes such files.
        wanted: Scalar type and number of axes of each array, by name.
        optional: Names in ``wanted`` of arrays that may be missing.

    Raises:
        InvalidInputError: The file cannot be read, or an array is missing or has another type or number of axes.
    """
    arrays = {}
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name not in wanted or name in arrays:
                    raise ValueError(f"it has an unexpected array {name!a}")
                arrays[name] = _read_array(archive, info)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), folder_of(command)) from error
    except Exception as error:  # zipfile, its decompressors and numpy raise many different ones
        raise unreadable(path, str(error) or type(error).__name__, folder_of(command)) from error
    for name, (scalar, axes) in wanted.items():
        if name not in arrays:
            if name not in optional:
                raise unreadable(path, f"it has no array {name!r}", folder_of(command))
        elif not np.issubdtype(arrays[name].dtype, scalar) or arrays[name].ndim != axes:
            found = f"{arrays[name].dtype} of shape {list(arrays[name].shape)}"
            raise unreadable(path, f"{name} is {found}, not {scalar.__name__} with {axes} axes", folder_of(command))
    return arrays


def read_csv(path: Path, advice: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV file, and its other lines with their numbers; empty lines are left out.

    Args:
        path: The file, in UTF-8.
        advice: Sentence on what to do about a file that cannot be read.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        # utf-8-sig: spreadsheets write a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            return header, [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(path, getattr(error, "strerror", None) or str(error), advice) from error


def unreadable(path: Path, reason: str, advice: str) -> InvalidInputError:
    """The error for a file that cannot be used; ``reason`` is a clause, ``advice`` a sentence."""
    return InvalidInputError(f"Cannot read {path}. {reason[:1].upper()}{reason[1:]}. {advice}")


def folder_of(command: str) -> str:
    """Advice for errors: give the folder that a command wrote."""
    return f"Give the folder that 'replk-probe {command} --output' wrote."


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn every error raised by a record of the wrong form into an error about the file.

    Args:
        path: The file.
        what: Name of the kind of record, as in "not a complete ERF record".

    Raises:
        InvalidInputError: The block raised an error.
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
    entry, because :func:`as_plain` writes all of them.

    Args:
        kind: A dataclass, or a type that may annotate its fields.
        value: Parsed JSON; arrays are passed through.
        where: Path of the value in the record, for messages.

    Raises:
        ValueError: A value has another type, or a field is missing.
        InvalidInputError: The dataclass rejects its values.
    """
    return typing.cast(_T, _decoded(kind, value, where))


def _decoded(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        data = _of_type(dict, value, where)
        hints = typing.get_type_hints(kind)
        names = [field.name for field in dataclasses.fields(kind)]
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


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array, whose header is checked against the size of the content."""
    if info.file_size > _LARGEST_ARRAY:
        raise ValueError(f"{info.filename} declares {info.file_size} bytes, more than any result has")
    content = archive.read(info)  # reading all of it verifies the checksum
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"{info.filename} has version {version} of the .npy format")
    shape, _, dtype = _NPY_HEADERS[version](stream)
    there, claimed = len(content) - stream.tell(), math.prod(shape) * dtype.itemsize
    if dtype.hasobject or there != claimed:
        raise ValueError(f"{info.filename} declares {claimed} bytes of {dtype} but has {there}")
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


def _is_undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    """A cell of an HTML table."""
    if _is_undefined(value):
        return ""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else printable(value))
