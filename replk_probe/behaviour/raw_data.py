"""Read and write the raw data of model-vs-human, a folder of CSV files for each set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.paths import usable_path
from replk_probe.shape_bias.model_vs_human.raw_data import answer_of, csv_files, csv_name, raw_csv, raw_rows

from .benchmark_sets import BENCHMARK_SETS, BenchmarkSet
from .trials import Trials

RAW_FOLDER = "raw-data"  # in the folder of a result and in the repository of model-vs-human

_NEEDED = ("subj", "object_response", "category", "condition", "imagename")


def trials_csv(trials: Trials) -> bytes:
    """Convert trials to the bytes that model-vs-human writes for a model; rows are numbered in their order."""
    conditions = map(trials.benchmark_set.csv_condition, trials.names)
    return raw_csv(trials.observer, zip(trials.response, trials.category, conditions, trials.names, strict=True))


def raw_path(trials: Trials) -> str:
    """Path of the file of a network in a folder of results, as in the repository of model-vs-human."""
    return f"{RAW_FOLDER}/{trials.dataset}/{csv_name(trials.observer, trials.dataset)}"


def read_trials(path: str | Path, dataset: str) -> tuple[Trials, ...]:
    """Read the file of a person or a model.

    Args:
        path: Path of the file.
        dataset: Name of the set.

    Returns:
        Trials of each ``subj``, in order of appearance; usually one.

    Raises:
        InvalidInputError: The file cannot be read, lacks a column, or has an invalid row.
    """
    path, known = usable_path(path, "The raw data file"), BENCHMARK_SETS[dataset]
    levels: dict[str, str] = {}
    by_observer: dict[str, list[tuple[str, str, str, str]]] = {}
    for line, cells in raw_rows(path, _NEEDED):
        condition = cells["condition"]
        if condition not in levels:
            levels[condition] = _level(path, line, known, condition)
        by_observer.setdefault(cells["subj"], []).append(
            (cells["imagename"], cells["category"], levels[condition], answer_of(cells["object_response"]))
        )
    try:
        return tuple(Trials(observer, dataset, *zip(*rows, strict=True)) for observer, rows in by_observer.items())
    except InvalidInputError as error:
        raise InvalidInputError(f"Cannot read {path}. {error}") from error


def read_raw_data(folder: str | Path, sets: Sequence[str] | None = None) -> tuple[Trials, ...]:
    """Read the decisions of people and networks.

    Args:
        folder: The folder ``raw-data`` of model-vs-human, with one folder per set; a folder that contains it, such as
            the folder of a result; or the folder of one set, with its name.
        sets: Names of the sets to read; defaults to all that are there.

    Returns:
        The trials of each set and observer, in the order of the sets and of the files.

    Raises:
        InvalidInputError: There is no such folder, no file, a file cannot be read, or two files of a set have the same
            observer.

    Examples:
        >>> from replk_probe import BehaviourResult
        >>> from replk_probe.behaviour import Trials, read_raw_data
        >>> names = ["0001_cop_dnn_c50_cat_10_n02123045_1.png", "0002_cop_dnn_c05_dog_10_n02085620_2.png"]
        >>> trials = Trials.from_names("network", "contrast", names, ["cat", "bear"])
        >>> BehaviourResult.from_trials([], measured=[trials]).save("result")
        >>> read_raw_data("result") == (trials,)
        True
    """
    return tuple(one for dataset, files in raw_files(folder, sets).items() for one in _read_set(dataset, files))


def raw_files(folder: str | Path, sets: Sequence[str] | None = None) -> dict[str, tuple[Path, ...]]:
    """The files that :func:`read_raw_data` reads, by the name of their set; the arguments and errors are the same."""
    root = usable_path(folder, "The folder of raw data")
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InvalidInputError(f"Cannot import {root}. It {what}. Give a folder of raw data of model-vs-human.")
    if (root / RAW_FOLDER).is_dir():
        root = root / RAW_FOLDER
    name = root.resolve().name
    if name in BENCHMARK_SETS:
        places = {name: root}
    else:
        places = {one: root / one for one in BENCHMARK_SETS if (root / one).is_dir()}
    found = {one: csv_files(place) for one, place in places.items() if sets is None or one in sets}
    if not found:
        wanted = "" if sets is None else f" for the sets {', '.join(sets)}"
        raise InvalidInputError(
            f"Cannot import {root}. It has no raw data{wanted}: its name is not that of a set, and no folder in it has "
            "such a name. Give the folder raw-data of model-vs-human, or one of its folders, such as raw-data/contrast."
        )
    return found


def _read_set(dataset: str, files: Sequence[Path]) -> list[Trials]:
    found: dict[str, Path] = {}
    trials = []
    for path in files:
        for one in read_trials(path, dataset):
            if one.observer in found:
                raise InvalidInputError(
                    f"Cannot import {path.parent}. {found[one.observer].name} and {path.name} both contain observer "
                    f"{one.observer!r}. Observers are identified by their names: remove a file, or change its subj."
                )
            found[one.observer] = path
            trials.append(one)
    return trials


def _level(path: Path, line: int, known: BenchmarkSet, condition: str) -> str:
    try:
        return known.level(condition)
    except InvalidInputError as error:
        raise InvalidInputError(f"Cannot read {path}, line {line}. {error}") from error
