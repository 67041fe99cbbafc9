"""Read and write the raw data of model-vs-human, a folder of CSV files for each set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.paths import usable_path
from replk_probe.shape_bias.model_vs_human.raw_data import answer_of, csv_files, csv_name, raw_csv, raw_rows

from .benchmark_sets import BENCHMARK_SETS, BenchmarkSet, image_id_of
from .trials import Trials

RAW_FOLDER = "raw-data"  # in the folder of a result and in the repository of model-vs-human

_NEEDED = ("subj", "object_response", "category", "condition", "imagename")

_ADVICE = "Give the folder raw-data of model-vs-human, or one of its folders, such as raw-data/contrast."

_Image: TypeAlias = tuple[str, str]  # level and id


class _Labeled(NamedTuple):
    """The category of an image, and where it was read."""

    category: str
    path: Path
    line: int


def trials_csv(trials: Trials) -> bytes:
    """Convert trials to the bytes that model-vs-human writes for a model; rows are numbered in their order."""
    conditions = map(trials.benchmark_set.csv_condition, trials.names)
    return raw_csv(trials.observer, zip(trials.response, trials.category, conditions, trials.names, strict=True))


def raw_path(observer: str, dataset: str) -> str:
    """Path of the file of a network in a folder of results, as in the repository of model-vs-human."""
    return f"{RAW_FOLDER}/{dataset}/{csv_name(observer, dataset)}"


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
    return _read_file(usable_path(path, "The raw data file"), BENCHMARK_SETS[dataset], {})


def read_raw_data(folder: str | Path, sets: Sequence[str] | None = None) -> tuple[Trials, ...]:
    """Read the decisions of people and networks.

    Args:
        folder: The folder ``raw-data`` of model-vs-human, with one folder per set; a folder that contains it, such as
            the folder of a result; or the folder of one set, with its name.
        sets: Names of the sets to read; defaults to all that are there. Folders without a file are then skipped.

    Returns:
        The trials of each set and observer, in the order of the sets and of the files. Several files of one observer
        are joined, such as those of two sessions.

    Raises:
        InvalidInputError: There is no such folder, no file, or none of a set in ``sets``; a file cannot be read; a
            category or condition is not that in the name of its image; observers disagree on the category of an image;
            or two files have decisions of the same observer on the same image.

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
    """The files that :func:`read_raw_data` reads, by the name of their set; the arguments and errors are the same.

    The folder of a set that was not asked for by its name may have no files.
    """
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
    if not places:
        raise InvalidInputError(
            f"Cannot import {root}. It has no raw data: its name is not that of a set, and no folder in it has such a "
            f"name. {_ADVICE}"
        )
    found = {one: _files_of(place) for one, place in places.items()}
    there = [one for one, files in found.items() if files]
    if not there:
        which = "It has" if name in BENCHMARK_SETS else "The folders of sets in it have"
        raise InvalidInputError(f"Cannot import {root}. {which} no .csv file. {_ADVICE}")
    missing = [one for one in sets or () if one not in there]
    if missing:
        raise InvalidInputError(
            f"Cannot import {root}. It has no raw data for the set{'s' * (len(missing) > 1)} {', '.join(missing)}, but "
            f"for {', '.join(there)}. Choose sets that it has, or give another folder."
        )
    return {one: files for one, files in found.items() if sets is None or one in sets}


def _files_of(place: Path) -> tuple[Path, ...]:
    """The files in the folder of a set, which may have none."""
    try:
        return csv_files(place)
    except InvalidInputError:
        return ()


def _read_set(dataset: str, files: Sequence[Path]) -> list[Trials]:
    """Trials of each observer of a set, in the order of the files; the sessions of an observer are joined."""
    known = BENCHMARK_SETS[dataset]
    categories: dict[_Image, _Labeled] = {}
    read: dict[str, list[tuple[Path, Trials]]] = {}
    for path in files:
        for one in _read_file(path, known, categories):
            sessions = read.setdefault(one.observer, [])
            for other, before in sessions:
                common = {*before.keys.tolist()} & {*one.keys.tolist()}
                if common:
                    raise InvalidInputError(
                        f"Cannot import {path.parent}. {other.name} and {path.name} both contain observer "
                        f"{one.observer!r} and {len(common)} images in common. Sessions of one observer are joined if "
                        "they have no image in common: remove a file, or change the subj of another observer."
                    )
            sessions.append((path, one))
    return [_joined([one for _, one in sessions]) for sessions in read.values()]


def _joined(sessions: Sequence[Trials]) -> Trials:
    first = sessions[0]
    if len(sessions) == 1:
        return first
    columns = zip(*((one.names, one.category, one.condition, one.response) for one in sessions), strict=True)
    return Trials(first.observer, first.dataset, *(tuple(chain.from_iterable(column)) for column in columns))


def _read_file(path: Path, known: BenchmarkSet, categories: dict[_Image, _Labeled]) -> tuple[Trials, ...]:
    """Trials of each observer in a file.

    Args:
        path: Path of the file.
        known: The set.
        categories: Category of each image that other files contain, which is extended.
    """
    levels: dict[str, str] = {}
    by_observer: dict[str, list[tuple[str, str, str, str]]] = {}
    for line, cells in raw_rows(path, _NEEDED):
        name, category, condition = cells["imagename"], cells["category"], cells["condition"]
        named_condition, named_category = known.fields_of(name) or (condition, category)
        for spelled in (condition, named_condition):
            if spelled not in levels:
                levels[spelled] = _level(path, line, known, spelled)
        level = levels[condition]
        for what, given, named, same in (
            ("condition", condition, named_condition, level == levels[named_condition]),
            ("category", category, named_category, category == named_category),
        ):
            if not same:
                raise InvalidInputError(
                    f"Cannot read {path}, line {line}. The {what} is {given!r}, but {named!r} in the name of the image "
                    f"{name!r}. Both must be the same. Correct one of them, or download the file again."
                )
        other = categories.setdefault((level, image_id_of(name)), _Labeled(category, path, line))
        if other.category != category:
            raise InvalidInputError(
                f"Cannot read {path}, line {line}. The category of the image {name!r} is {category!r}, and "
                f"{other.category!r} in {other.path.name}, line {other.line}. An image has one category for all "
                "observers. Correct one of them."
            )
        by_observer.setdefault(cells["subj"], []).append((name, category, level, answer_of(cells["object_response"])))
    try:
        return tuple(Trials(observer, known.name, *zip(*rows, strict=True)) for observer, rows in by_observer.items())
    except InvalidInputError as error:
        raise InvalidInputError(f"Cannot read {path}. {error}") from error


def _level(path: Path, line: int, known: BenchmarkSet, condition: str) -> str:
    try:
        return known.level(condition)
    except InvalidInputError as error:
        raise InvalidInputError(f"Cannot read {path}, line {line}. {error}") from error
