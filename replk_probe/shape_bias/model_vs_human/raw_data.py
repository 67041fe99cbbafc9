"""Read and write the raw-data CSV files of model-vs-human.

Format: https://github.com/bethgelab/model-vs-human, ``raw-data/<dataset>/``.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_write_bytes
from replk_probe.runtime.file_reading import read_csv
from replk_probe.runtime.paths import usable_path

from ..decisions import NO_ANSWER, Decisions
from ..stimuli.names import CATEGORIES, StimulusNameError, parse_stimulus_name

COLUMNS = ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
# Tables in the result folders of this package that are not raw data.
SUMMARY_NAME = "shape_bias.csv"
COMPARISON_NAME = "comparison.csv"
SCORES_NAME = "cue_scores.csv"
DECISIONS_NAME = "decisions.csv"
_TABLES = (SUMMARY_NAME, COMPARISON_NAME, SCORES_NAME)

_NEEDED = ("subj", "object_response", "category", "imagename")
_NO_ANSWER = frozenset({"", "na", "nan"})


def subject_of(model: str) -> str:
    """Name of a model in the column ``subj``: without ``torchvision:``, ``timm:`` or the module of a factory."""
    return model.rpartition(":")[2]


def csv_name(observer: str, dataset: str = "cue-conflict") -> str:
    """File name that model-vs-human uses for the decisions of a model."""
    return f"{dataset}_{observer.replace('_', '-')}_session-1.csv"


def write_decisions(decisions: Decisions, path: str | Path) -> None:
    """Write :func:`decisions_csv` to a file.

    Args:
        decisions: Decisions of one observer.
        path: Path of the file, which is overwritten if it exists; model-vs-human names it by :func:`csv_name`.

    Raises:
        InvalidInputError: The file cannot be written.
    """
    atomic_write_bytes(path, decisions_csv(decisions))


def decisions_csv(decisions: Decisions) -> bytes:
    """Convert decisions to the bytes that model-vs-human writes for a model; rows are numbered in their order."""
    return raw_csv(
        decisions.observer,
        zip(decisions.response, decisions.shape, itertools.repeat("NaN"), decisions.names),
    )


def raw_csv(observer: str, rows: Iterable[tuple[str, str, str, str]]) -> bytes:
    """The bytes that model-vs-human writes for a model.

    Args:
        observer: Name of the model.
        rows: Response, category, condition and name of the image of each trial; trials are numbered in this order.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)  # its default line end is the format's
    writer.writerow(COLUMNS)
    for trial, (response, category, condition, name) in enumerate(rows, 1):
        writer.writerow([observer, 1, trial, "NaN", response, category, condition, name])
    return buffer.getvalue().encode("utf-8")


def read_decisions(path: str | Path, categories: Sequence[str] = CATEGORIES) -> tuple[Decisions, ...]:
    """Read the file of a human or a model, with new or old image names and either line ending.

    Args:
        path: Path of the file.
        categories: Possible categories.

    Returns:
        Decisions of each ``subj``, in order of appearance; usually one.

    Raises:
        InvalidInputError: The file cannot be read, lacks a column, or has an invalid row.
    """
    by_observer: dict[str, list[tuple[str, str]]] = {}
    path = usable_path(path, "The raw data file")
    for line, cells in raw_rows(path, _NEEDED):
        try:
            stimulus = parse_stimulus_name(cells["imagename"], categories)
        except StimulusNameError as error:
            raise InvalidInputError(
                f"Cannot read {path}, line {line}: image {cells['imagename']!r}. {error.reason} The file was truncated "
                "or edited, or has other categories. Download it again, or give mapping, with the class indices of "
                "each category."
            ) from error
        if stimulus.shape != cells["category"]:
            raise InvalidInputError(
                f"Cannot read {path}. Line {line} has the category {cells['category']!r} and the image "
                f"{cells['imagename']!r}. The category of a cue-conflict image is the category of its shape. Correct "
                "one of them."
            )
        by_observer.setdefault(cells["subj"], []).append((cells["imagename"], answer_of(cells["object_response"])))
    try:
        return tuple(
            Decisions.from_names(observer, [name for name, _ in pairs], [answer for _, answer in pairs], categories)
            for observer, pairs in by_observer.items()
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"Cannot read {path}. {error}") from error


def raw_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a raw-data file by their columns, with the numbers of their lines.

    Args:
        path: Path of the file.
        needed: Columns that it must have, in lower case.

    Raises:
        InvalidInputError: The file cannot be read, lacks a column or has no rows, or a row has another length.
    """
    header, rows = read_csv(path, "Give raw data of model-vs-human: a CSV file in UTF-8.")
    header = [name.lower() for name in header]  # some files have Session
    missing = [name for name in needed if name not in header]
    if missing:
        raise InvalidInputError(
            f"Cannot read {path}. It lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}. "
            f"The columns of model-vs-human are {', '.join(COLUMNS)}: give a folder of such files."
        )
    if not rows:
        raise InvalidInputError(
            f"Cannot read {path}. It has a header but no decisions. Remove it, or write it again with its rows."
        )
    for line, row in rows:
        if len(row) != len(header):
            raise InvalidInputError(
                f"Cannot read {path}. Line {line} has {len(row)} of {len(header)} columns. The file was truncated "
                "or edited: download it again."
            )
        yield line, dict(zip(header, row, strict=True))


def answer_of(response: str) -> str:
    """The category in the column ``object_response``, or ``"na"``."""
    return NO_ANSWER if response.lower() in _NO_ANSWER else response


def read_folder(folder: str | Path, categories: Sequence[str] = CATEGORIES) -> tuple[Decisions, ...]:
    """Read every ``*.csv`` file of a folder, sorted by name, as model-vs-human does.

    Hidden files and the summary tables of this package are ignored, so a result folder is a folder of raw data as well.

    Args:
        folder: Folder of raw data.
        categories: Possible categories.

    Returns:
        The decisions of each observer, in the order of the files.

    Raises:
        InvalidInputError: There is no such folder or no file, a file cannot be read, or two observers share a name.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import Decisions, read_folder
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> decisions = Decisions.from_names("network", names, ["cat", "dog", "cat", "truck"])
        >>> ShapeBiasResult.from_decisions(decisions).save("raw-data")
        >>> read_folder("raw-data") == (decisions,)
        True
    """
    folder = usable_path(folder, "The folder of raw data")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InvalidInputError(
            f"Cannot import {folder}. It {what}. Give the folder that contains the raw data (*.csv) of one data set."
        )
    found: dict[str, Path] = {}
    decisions: list[Decisions] = []
    for path in csv_files(folder):
        for one in read_decisions(path, categories):
            if one.observer in found:
                raise InvalidInputError(
                    f"Cannot import {folder}. {found[one.observer].name} and {path.name} both contain observer "
                    f"{one.observer!r}. Observers are identified by their names: remove a file, or change its subj."
                )
            found[one.observer] = path
            decisions.append(one)
    return tuple(decisions)


def csv_files(folder: Path) -> tuple[Path, ...]:
    """The raw-data files of a folder, sorted by name.

    Raises:
        InvalidInputError: There are none.
    """
    files = sorted(
        path
        for path in folder.glob("*.csv")
        if path.is_file() and not path.name.startswith(".") and path.name not in _TABLES
    )
    inside = sorted(str(path.parent) for path in folder.glob(f"*/{DECISIONS_NAME}"))
    if not files and inside:
        raise InvalidInputError(
            f"Cannot import {folder}. It contains no raw data itself, but folders of several models. "
            f"Give one of them: {', '.join(inside)}."
        )
    if not files:
        raise InvalidInputError(
            f"Cannot import {folder}. It contains no .csv file. Give the folder that contains the raw data of "
            "one data set, such as raw-data/cue-conflict."
        )
    return tuple(files)
