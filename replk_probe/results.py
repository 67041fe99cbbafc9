"""The base of all results: saving, loading, comparing and displaying them.

Files are strict: JSON has no NaN, and equal results give equal bytes.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_write_bytes
from replk_probe.runtime.escaping import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Row: TypeAlias = dict[str, Any]
_MOST_HTML_ROWS = 20


class ByValue:
    """Equality by value: ``==`` compares the fields and returns a bool, arrays and NaN included.

    Fields declared with ``compare=False``, which record when and where something was computed, are ignored.
    """

    __hash__ = None  # type: ignore[assignment]  # the fields include arrays and dictionaries

    def __eq__(self, other: object) -> bool:
        """Whether both are of one type and all compared fields are equal."""
        return type(self) is type(other) and same_value(self, other)


class Result(ByValue, ABC):
    """Base class of results. Subclasses are frozen dataclasses in the module ``result`` of an analyzer.

    Two results are equal if their numbers, models, weights and options are. The time that a measurement took, its
    device and the versions of software are not compared, so that a repeated measurement with the same numbers is equal.
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]]  # names of the columns shown in a notebook

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

    @abstractmethod
    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw this result with a plot function of its analyzer.

        Args:
            ax: Axes to draw on; by default those of a new figure.
            **kwargs: Further arguments of the plot function.

        Returns:
            The Axes.

        Raises:
            InvalidInputError: There is nothing to draw, or an argument is invalid.
        """

    def __repr__(self) -> str:
        """One line with the name of the class and a few properties."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._summary().items())})"

    def _repr_html_(self) -> str:
        """A table and the figure, which is drawn when a notebook shows the result."""
        return html_table(
            type(self).__name__, self._summary(), self._HTML_COLUMNS, self._rows(), below=self._html_figure()
        )

    def _html_figure(self) -> str:
        try:
            from replk_probe.plot_style import figure_of, png_bytes

            content = png_bytes(figure_of(self.plot()))
        except Exception:  # Whatever prevents the figure, the table is shown.
            return ""
        facts = ", ".join(str(value) for value in (type(self).__name__, *self._summary().values()))
        return (
            f'<img alt="Figure of {_text(facts)}" style="max-width: 100%" '
            f'src="data:image/png;base64,{base64.b64encode(content).decode("ascii")}"/>'
        )


def html_table(
    title: str, facts: Mapping[str, object], columns: Sequence[str], rows: Sequence[Row], *, below: str = ""
) -> str:
    """A list of facts and the first rows of a table as HTML, with every text escaped.

    Args:
        title: Heading.
        facts: Entries of the list by name.
        columns: Columns of the table.
        rows: Rows of the table; how many were left out is stated.
        below: HTML after the table.
    """
    entries = "".join(f"<li>{_text(name)}: {_text(value)}</li>" for name, value in facts.items())
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(row[name])}</td>" for name in columns) + "</tr>" for row in rows[:_MOST_HTML_ROWS]
    )
    more = f"<p>{len(rows) - _MOST_HTML_ROWS} more rows.</p>" if len(rows) > _MOST_HTML_ROWS else ""
    return (
        f"<div><b>{_text(title)}</b><ul>{entries}</ul><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{more}{below}</div>"
    )


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
            same_value(getattr(left, field.name), getattr(right, field.name))
            for field in dataclasses.fields(left)
            if field.compare
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
    """Write files to a folder, which is created if it does not exist, each completely or not at all, in this order."""
    for name, content in files.items():
        atomic_write_bytes(Path(directory) / name, content)


def _is_undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    """A cell of an HTML table."""
    if _is_undefined(value):
        return ""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else printable(value))
