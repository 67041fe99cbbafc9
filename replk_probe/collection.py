"""Saved results of all analyzers, found in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from replk_probe.attribution import result as attribution
from replk_probe.attribution.result import AttributionResult
from replk_probe.behaviour import result as behaviour
from replk_probe.behaviour.result import BehaviourResult
from replk_probe.bench import result as bench
from replk_probe.bench.result import SpeedResult
from replk_probe.erf import result as erf
from replk_probe.erf.result import ErfResult
from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.kernels import result as kernels
from replk_probe.kernels.result import KernelResult
from replk_probe.reliance import result as reliance
from replk_probe.reliance.result import RelianceResult
from replk_probe.results import Result
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.runtime.paths import usable_path
from replk_probe.shape_bias import result as shape_bias
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.sweeps.folder import SUMMARY_NAME, UNFINISHED
from replk_probe.sweeps.result import SweepResult

DEFAULT_FOLDER = Path("replk-probe-out")
_T_co = TypeVar("_T_co", covariant=True)


@dataclass(frozen=True)
class Saved(Generic[_T_co]):
    """A result and the file that it was read from.

    Attributes:
        result: The result.
        record: Path of its JSON file, from the name of the folder that was searched on; empty for a result in memory.
        sha256: SHA-256 of that file; empty for a result in memory.
    """

    result: _T_co
    record: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Collection:
    """Results of any analyzers.

    Attributes:
        erf: Effective receptive fields.
        shape_bias: Results of shape bias.
        behaviour: Results on the sets of model-vs-human.
        kernels: Kernels, one entry for each model of a file.
        attribution: Attributions.
        reliance: Accuracies under suppressions.
        bench: Benchmarks.
        sweeps: Sweeps; the results of their jobs are also in the other entries.
        unreadable: Record and reason of every result that could not be read.
    """

    erf: tuple[Saved[ErfResult], ...] = ()
    shape_bias: tuple[Saved[ShapeBiasResult], ...] = ()
    behaviour: tuple[Saved[BehaviourResult], ...] = ()
    kernels: tuple[Saved[KernelResult], ...] = ()
    attribution: tuple[Saved[AttributionResult], ...] = ()
    reliance: tuple[Saved[RelianceResult], ...] = ()
    bench: tuple[Saved[SpeedResult], ...] = ()
    sweeps: tuple[Saved[SweepResult], ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def _measured(self) -> tuple[tuple[Saved[Any], ...], ...]:
        return self.erf, self.shape_bias, self.behaviour, self.kernels, self.attribution, self.reliance, self.bench

    @property
    def n_results(self) -> int:
        """Number of results, sweeps not included."""
        return sum(map(len, self._measured))


def collected(results: Iterable[Result]) -> Collection:
    """A collection of results in memory.

    Args:
        results: Results of any analyzers.

    Returns:
        The collection, whose entries have no record.

    Raises:
        InvalidInputError: One of them is not a result of this package.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.collection import collected
        >>> from replk_probe.erf import import_erf
        >>> collected([import_erf(np.ones((32, 32)), name="uniform")]).n_results
        1
    """
    found: dict[str, list[Saved[Any]]] = {}
    for result in results:
        name = next((name for name, kind in _KINDS.items() if isinstance(result, kind)), None)
        if name is None:
            raise InvalidInputError(
                f"Expected results to collect, but got an object of type {type(result).__name__}. Others have no "
                f"numbers to show. Give objects of type {', '.join(kind.__name__ for kind in _KINDS.values())}."
            )
        found.setdefault(name, []).append(Saved(result))
    return _collection(found)


def find_results(folders: str | Path | Sequence[str | Path] = DEFAULT_FOLDER) -> Collection:
    """Read all results in folders and their subfolders, each file once.

    Results that cannot be read are not an error; they are listed in ``unreadable``. Folders of unfinished jobs of
    sweeps are skipped.

    Args:
        folders: One or several folders, which are searched in this order.

    Returns:
        The results, each analyzer's in the order of their paths.

    Raises:
        InvalidInputError: A folder does not exist, or there are no results in any of them.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.collection import find_results
        >>> from replk_probe.erf import import_erf
        >>> import_erf(np.ones((32, 32)), name="uniform").save("results/uniform")
        >>> [saved.record for saved in find_results("results").erf]
        ['results/uniform/erf.json']
    """
    given = [folders] if isinstance(folders, (str, Path)) else list(folders)
    found: dict[str, list[Saved[Any]]] = {}
    unreadable: list[tuple[str, str]] = []
    seen: set[Path] = set()
    for folder in given:
        root = usable_path(folder, "The folder of results")
        if not root.is_dir():
            raise InvalidInputError(
                f"Cannot collect results from {root}. It is not a folder. Give the output folder of a command such as "
                "'replk-probe erf'."
            )
        for path in _records(root):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            name, read = _READERS[path.name]
            record = (Path(root.resolve().name) / path.relative_to(root)).as_posix()
            try:
                digest = sha256_of(path)
                found.setdefault(name, []).extend(Saved(one, record, digest) for one in read(path.parent))
            except (ReplkProbeError, OSError) as error:
                unreadable.append((record, str(error)))
    collection = replace(_collection(found), unreadable=tuple(unreadable))
    if not collection.n_results:
        reason = f" {unreadable[0][1]}" if unreadable else ""
        raise InvalidInputError(
            f"There are no readable results in {', '.join(map(str, given))}.{reason} Measure something first, for "
            "instance with 'replk-probe erf', or give the folder of its results."
        )
    return collection


def _collection(found: Mapping[str, Sequence[Saved[Any]]]) -> Collection:
    """The collection with these entries."""
    entries: dict[str, Any] = {name: tuple(members) for name, members in found.items()}
    return Collection(**entries)


def _records(root: Path) -> Iterator[Path]:
    """The JSON files of results in a folder and its subfolders, in the order of their paths."""
    for folder, subfolders, files in os.walk(root):
        if SUMMARY_NAME in files and UNFINISHED in subfolders:
            subfolders.remove(UNFINISHED)
        subfolders.sort()
        yield from (Path(folder) / name for name in sorted(files) if name in _READERS)


_KINDS: dict[str, type[Result]] = {
    "erf": ErfResult,
    "shape_bias": ShapeBiasResult,
    "behaviour": BehaviourResult,
    "kernels": KernelResult,
    "attribution": AttributionResult,
    "reliance": RelianceResult,
    "bench": SpeedResult,
}
# Entry of the collection and function that reads the results of a folder, by the name of the JSON file.
_READERS: dict[str, tuple[str, Callable[[Path], Sequence[Any]]]] = {
    erf.JSON_NAME: ("erf", lambda folder: [ErfResult.load(folder)]),
    shape_bias.JSON_NAME: ("shape_bias", lambda folder: [ShapeBiasResult.load(folder)]),
    behaviour.JSON_NAME: ("behaviour", lambda folder: [BehaviourResult.load(folder)]),
    kernels.JSON_NAME: ("kernels", kernels.load_results),
    attribution.JSON_NAME: ("attribution", lambda folder: [AttributionResult.load(folder)]),
    reliance.JSON_NAME: ("reliance", lambda folder: [RelianceResult.load(folder)]),
    bench.JSON_NAME: ("bench", lambda folder: [SpeedResult.load(folder)]),
    SUMMARY_NAME: ("sweeps", lambda folder: [SweepResult.load(folder)]),
}
