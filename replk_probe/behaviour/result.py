"""The result of a run on the sets of model-vs-human, saved as JSON, arrays, CSV and raw data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.results import (
    Result,
    Row,
    as_plain,
    csv_text,
    interval_cells,
    nan_if_null,
    npz_bytes,
    null_if_nan,
    strict_json,
)
from replk_probe.runtime.file_reading import decode, folder_of, read_arrays, read_json, reading, unreadable
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias.model_vs_human.raw_data import subject_of
from replk_probe.shape_bias.result import GivenDecisions

from .benchmark_sets import BENCHMARK_SETS, BenchmarkSet
from .consistency import NUMBERS
from .raw_data import RAW_FOLDER, raw_path, read_raw_data, trials_csv
from .result_notes import notes_of
from .scores import Bootstrap, Kind, ObserverScores, OverallScores, Scores, SetScores, analyze
from .trials import Trials

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "behaviour.json"
ARRAYS_NAME = "behaviour.npz"
CSV_NAME = "behaviour.csv"

_ADVICE = folder_of("behaviour")
_CSV_COLUMNS = (
    *("observer", "kind", "source", "set", "condition", "n_trials", "n_correct", "accuracy", "ci95_low", "ci95_high"),
    *("accuracy_difference", "observed_consistency", "error_consistency", "mean_rank"),
)
# In the columns set and condition, of averages.
ALL_SETS, BENCHMARK = "all", "benchmark"


@dataclass(frozen=True, eq=False, repr=False)
class BehaviourResult(Result):
    """Decisions of networks and people on the sets of model-vs-human, and their consistency.

    Attributes:
        run: Provenance of the measurement or of the imported decisions.
        sets: Scores of all observers on each set.
        overall: Scores of all observers over the sets.
        trials: Trials of the measured model, one entry per set; empty if no model was measured.
        probabilities: Probability of each category for each image of a set, ``[N, 16]`` float32 in the order of the
            names in ``trials``, by set; empty if they are unknown.
        notes: Caveats, each at least one sentence.

    Examples:
        >>> from replk_probe import BehaviourResult
        >>> from replk_probe.behaviour import Trials
        >>> names, answers = ["oven1.png", "cat1.png"], ["oven", "cat"]
        >>> networks = [
        ...     Trials.from_names(name, "edge", names, response, answers)
        ...     for name, response in {"first": ["oven", "dog"], "second": ["oven", "cat"]}.items()
        ... ]
        >>> result = BehaviourResult.from_trials(networks)
        >>> result.scores("first").accuracy, result.scores("second").accuracy
        (0.5, 1.0)
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]] = (
        "observer", "set", "condition", "accuracy", "accuracy_difference", "observed_consistency", "error_consistency",
    )  # fmt: skip

    run: RunInfo | GivenDecisions
    sets: tuple[SetScores, ...]
    overall: tuple[OverallScores, ...]
    trials: tuple[Trials, ...] = ()
    probabilities: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the probabilities, and make them read-only."""
        rows = {one.dataset: len(one.names) for one in self.trials}
        for name, values in self.probabilities.items():
            if name not in rows or values.ndim != 2 or len(values) != rows[name]:
                raise InvalidInputError(
                    f"The probabilities of the set {name} have shape {list(values.shape)}, and there are "
                    f"{rows.get(name, 0)} trials. Each trial has one row. Give them as [trials, categories]."
                )
            values.setflags(write=False)

    @classmethod
    def from_trials(
        cls,
        trials: Sequence[Trials],
        *,
        measured: Sequence[Trials] = (),
        run: RunInfo | GivenDecisions | None = None,
        probabilities: Mapping[str, npt.NDArray[np.float32]] | None = None,
        source: str = "given",
        notes: Sequence[str] = (),
    ) -> BehaviourResult:
        """Analyze trials of any observers.

        Args:
            trials: Trials of networks and people on any sets. In a set without people, the published numbers of people
                are used.
            measured: Trials of the measured model, one entry per set.
            run: Provenance; by default, the trials are recorded as given.
            probabilities: Category probabilities of the measured model by set.
            source: Source of ``trials``.
            notes: Notes for the reader.

        Returns:
            The scores of all observers, with 95 % intervals.

        Raises:
            InvalidInputError: There are no trials, an observer has two records for one set, or the arguments do not
                match.
        """
        wrong = [one for one in (*measured, *trials) if not isinstance(one, Trials)]
        if wrong or not (measured or trials):
            what = f"an object of type {type(wrong[0]).__name__}" if wrong else "none"
            raise InvalidInputError(
                f"Expected the trials of at least one observer, but got {what}. Read them with read_raw_data, or make "
                "them with Trials.from_names."
            )
        own = {one.observer for one in measured}
        sources = {one.observer: source for one in trials} | dict.fromkeys(own, "measured")
        sets, overall = analyze([*measured, *trials], sources)
        kept = [*notes, *notes_of(sets)]
        return cls(
            run or GivenDecisions(source),
            tuple(sets),
            tuple(overall),
            tuple(measured),
            probabilities or {},
            tuple(dict.fromkeys(kept)),
        )

    def with_observers(
        self, trials: Sequence[Trials], models: Sequence[Trials] = (), *, source: str = "given"
    ) -> BehaviourResult:
        """Copy of the result with other observers beside the measured model.

        Args:
            trials: Trials of the observers; those on sets that were not measured are left out.
            models: Trials of other models of the same run. A name that an observer already has is extended by
                `` (this run)``.
            source: Source of ``trials``.

        Returns:
            The result.

        Raises:
            InvalidInputError: There is no measured model, or an observer has two records for one set.
        """
        sets, own = {one.dataset for one in self.trials}, {one.observer for one in self.trials}
        others = [
            replace(one, observer=f"{one.observer} (imported)") if one.observer in own else one
            for one in trials
            if one.dataset in sets
        ]
        taken = own.union(one.observer for one in others)
        others += [
            replace(one, observer=f"{one.observer} (this run)") if one.observer in taken else one for one in models
        ]
        outdated = {*notes_of(self.sets)}
        notes = [note for note in self.notes if note not in outdated]
        return BehaviourResult.from_trials(
            others, measured=self.trials, run=self.run, probabilities=self.probabilities, source=source, notes=notes
        )

    @property
    def model(self) -> str | None:
        """Name of the measured model as an observer; None if no model was measured."""
        return self.trials[0].observer if self.trials else None

    @property
    def networks(self) -> tuple[OverallScores, ...]:
        """Scores of the networks over the sets."""
        return tuple(one for one in self.overall if one.kind == "model")

    @property
    def people(self) -> Scores:
        """Mean of the numbers of people, each compared with the others, over the sets; NaN if a set has none."""
        return Scores(*(math.fsum(getattr(one.people, name) for one in self.sets) / len(self.sets) for name in NUMBERS))

    def scores(self, observer: str | None = None, dataset: str | None = None) -> Scores:
        """The four numbers of one observer.

        Args:
            observer: Name of the observer; defaults to the measured model.
            dataset: Name of a set; defaults to the average over all sets of the observer.

        Returns:
            The numbers, NaN where undefined.

        Raises:
            InvalidInputError: The result has no such observer or set.
        """
        name = self.model if observer is None else observer
        found: Sequence[ObserverScores | OverallScores] = self.overall
        if dataset is not None:
            found = next((one.observers for one in self.sets if one.name == dataset), ())
        for one in found:
            if one.name == name:
                return one.scores
        raise InvalidInputError(
            f"This result has no scores of {name!r}{f' on {dataset!r}' if dataset else ''}. It has the observers "
            f"{', '.join(one.name for one in self.overall)} and the sets {', '.join(one.name for one in self.sets)}. "
            "Choose from these."
        )

    def to_json(self) -> dict[str, Any]:
        """Convert everything except trials, probabilities and the numbers of pairs to JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": self.run.to_json(),
            "sets": {
                one.name: {
                    "conditions": list(_set(one).conditions),
                    "left_out": list(_set(one).left_out),
                    "people": one.people.to_json(),
                    "observers": {observer.name: observer.to_json() for observer in one.observers},
                }
                for one in self.sets
            },
            "overall": {
                one.name: {
                    "kind": one.kind,
                    **one.scores.to_json(),
                    "mean_rank": null_if_nan(one.mean_rank),
                    "n_sets": one.n_sets,
                    "intervals": as_plain(one.intervals),
                }
                for one in self.overall
            },
            "people": self.people.to_json(),
            "notes": list(self.notes),
        }

    def to_dataframe(self) -> pd.DataFrame:
        """The scores as a table with one row per observer, set and condition.

        The condition ``benchmark`` denotes the average over the conditions that count, and the set ``all`` that over
        the sets.

        Returns:
            A data frame with the columns of ``behaviour.csv``: ``observer``, ``kind``, ``source``, ``set``,
            ``condition``, ``n_trials``, ``n_correct``, ``accuracy`` (a fraction) with ``ci95_low`` and ``ci95_high``,
            ``accuracy_difference``, ``observed_consistency``, ``error_consistency`` and ``mean_rank``. Undefined
            numbers are NaN.
        """
        return super().to_dataframe()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw this result; arguments and errors are those of :func:`~replk_probe.behaviour.plot_benchmark`."""
        from .plot import plot_benchmark

        return plot_benchmark(self, ax=ax, **kwargs)

    def _files(self) -> Mapping[str, bytes]:
        files = {raw_path(one.observer, one.dataset): trials_csv(one) for one in self.trials}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for one in self.sets:
            arrays |= {f"{one.name}.{name}": getattr(one, name) for name in _MATRICES}
        arrays |= {f"{name}.probabilities": values for name, values in self.probabilities.items()}
        files[ARRAYS_NAME] = npz_bytes(arrays)
        files[CSV_NAME] = csv_text(self._rows(), _CSV_COLUMNS).encode("utf-8")
        files[JSON_NAME] = strict_json(self.to_json()).encode("utf-8")
        return files

    def _summary(self) -> Mapping[str, object]:
        facts: dict[str, object] = {"sets": len(self.sets), "observers": len(self.overall)}
        if self.model is not None and isinstance(self.run, RunInfo):
            numbers = {name: round(value, 4) for name, value in vars(self.scores()).items()}
            facts = {"model": self.run.model, "weights": self.run.weights.label, **numbers, **facts}
        return facts

    def _rows(self) -> list[Row]:
        return [*self._overall_rows(), *self._set_rows()]

    def _overall_rows(self) -> Iterator[Row]:
        for one in self.overall:
            yield {
                **{"observer": one.name, "kind": one.kind, "source": "", "set": ALL_SETS, "condition": BENCHMARK},
                **{"n_trials": math.nan, "n_correct": math.nan},
                **_cells(one.scores, one.intervals["accuracy"].images),
                "mean_rank": one.mean_rank,
            }

    def _set_rows(self) -> Iterator[Row]:
        for each in self.sets:
            for one in each.observers:
                common = {"observer": one.name, "kind": one.kind, "source": one.source, "set": each.name}
                of_conditions = [one.by_condition.get(level) for level in _set(each).conditions]
                counted = [found for found in of_conditions if found is not None]
                yield {
                    **common,
                    "condition": BENCHMARK,
                    "n_trials": sum(found.n for found in counted),
                    "n_correct": sum(found.correct for found in counted),
                    **_cells(one.scores, one.intervals["accuracy"].images),
                    "mean_rank": math.nan,
                }
                if _set(each).has_conditions:
                    for level, found in one.by_condition.items():
                        numbers = {"n_trials": found.n, "n_correct": found.correct, **_cells(found.scores, found.ci95)}
                        yield {**common, "condition": level, **numbers, "mean_rank": math.nan}

    def save(self, directory: str | Path) -> None:
        """Write the files of this result, and remove the raw data of earlier runs of its model; see the base class."""
        super().save(directory)
        if isinstance(self.run, RunInfo):
            names = (subject_of(self.run.model), self.run.model)
            possible = {raw_path(name, dataset) for name in names for dataset in BENCHMARK_SETS}
            for path in possible - {raw_path(one.observer, one.dataset) for one in self.trials}:
                (Path(directory) / path).unlink(missing_ok=True)

    @classmethod
    def load(cls, directory: str | Path) -> BehaviourResult:
        """Load a result that :meth:`save` wrote.

        Args:
            directory: Folder with ``behaviour.json``, ``behaviour.npz`` and, if a model was measured, ``raw-data``.

        Returns:
            The result, equal to the one that was saved.

        Raises:
            InvalidInputError: A file is missing or damaged, or has a schema version that cannot be read.
        """
        folder = Path(directory)
        path, arrays_path = folder / JSON_NAME, folder / ARRAYS_NAME
        record = read_json(path, _ADVICE, READABLE_VERSIONS)
        with reading(path, "behaviour record"):
            given, names = record["run"], list(decode(dict[str, Any], record["sets"], "sets"))
            unknown = {*names} - {*BENCHMARK_SETS}
            if unknown or not names:
                raise ValueError(f"its sets {sorted(unknown) or names} are not those of the benchmark")
            run = decode(GivenDecisions, given, "run") if given["model"] is None else decode(RunInfo, given, "run")
            notes = decode(tuple[str, ...], record["notes"], "notes")
            overall = tuple(
                OverallScores(
                    name,
                    decode(Kind, one["kind"], "kind"),  # type: ignore[arg-type]
                    Scores.from_json(one),
                    decode(dict[str, Bootstrap], one["intervals"], "intervals"),
                    decode(int, one["n_sets"], "n_sets"),
                    decode(float, nan_if_null(one["mean_rank"]), "mean_rank"),
                )
                for name, one in decode(dict[str, Any], record["overall"], "overall").items()
            )
        kinds = {f"{name}.{matrix}": (np.float64, 2) for name in names for matrix in _MATRICES}
        of_model = {f"{name}.probabilities": (np.float32, 2) for name in names}
        arrays = read_arrays(arrays_path, _ADVICE, kinds | of_model, optional=[*of_model])
        with reading(path, "behaviour record"):
            sets = tuple(
                SetScores(
                    name,
                    tuple(ObserverScores.from_json(*item) for item in record["sets"][name]["observers"].items()),
                    Scores.from_json(record["sets"][name]["people"]),
                    *(arrays[f"{name}.{matrix}"] for matrix in _MATRICES),
                )
                for name in names
            )
        if not isinstance(run, RunInfo):
            return cls(run, sets, overall, notes=notes)
        names_of_model = (subject_of(run.model), run.model)  # the latter where two models share the short one
        # Earlier runs may have left files of other sets, or of the other name.
        found_trials = [one for one in read_raw_data(folder) if one.observer in names_of_model]
        counts = {(each.name, one.name): one for each in sets for one in each.observers}
        trials = tuple(one for one in found_trials if (one.dataset, one.observer) in counts)
        for one in trials:
            scores = counts[one.dataset, one.observer]
            if sum(found.correct for found in scores.by_condition.values()) != one.correct.sum():
                raise unreadable(folder / RAW_FOLDER, f"it does not contain the trials counted in {JSON_NAME}", _ADVICE)
        probabilities = {name: arrays[key] for name in names if (key := f"{name}.probabilities") in arrays}
        with reading(arrays_path, "behaviour record"):
            return cls(run, sets, overall, trials, probabilities, notes)


_MATRICES = ("observed_consistency", "error_consistency")


def _set(one: SetScores) -> BenchmarkSet:
    return BENCHMARK_SETS[one.name]


def _cells(scores: Scores, accuracy: tuple[float, float] | None) -> Row:
    """The cells of the four numbers, with the interval of the accuracy."""
    paired = dict(zip(NUMBERS[1:], scores.paired, strict=True))
    return {"accuracy": scores.accuracy, **interval_cells(accuracy), **paired}
