"""The result of one shape-bias run, saved as JSON, arrays and CSV."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
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
    html_table,
    interval_cells,
    npz_bytes,
    null_if_nan,
    strict_json,
    write_files,
)
from replk_probe.runtime.file_reading import decode, folder_of, read_arrays, read_json, reading, unreadable
from replk_probe.runtime.provenance import RunInfo, software_versions

from .cue_scores import CSV_COLUMNS as SCORE_COLUMNS
from .cue_scores import CueScores
from .decisions import Decisions as Decisions
from .model_vs_human.raw_data import (
    COMPARISON_NAME,
    DECISIONS_NAME,
    SCORES_NAME,
    SUMMARY_NAME,
    decisions_csv,
    read_decisions,
)
from .observers import Observer, analyze, check_decisions, compare_pairs, consistency_with
from .statistics import few_note

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "shape_bias.json"
ARRAYS_NAME = "decisions.npz"
CSV_NAME = SUMMARY_NAME
SCORES_ARRAYS_NAME = "cue_scores.npz"
SCORES_CSV_NAME = SCORES_NAME
PAIRS_NAME = "comparison.json"
# Files that only results with scores, and only those without, have.
_SCORES_FILES = (SCORES_ARRAYS_NAME, SCORES_CSV_NAME)
_DECISIONS_FILES = (ARRAYS_NAME, DECISIONS_NAME, CSV_NAME)

_ADVICE = folder_of("shape-bias")

_COUNT_COLUMNS = ("category", "n_conflict", "shape", "texture", "other", "shape_bias")
_RATIO_COLUMNS = ("macro", "median", "cue_accuracy", "congruent_accuracy", "mean_human_kappa")
_CSV_COLUMNS = ("observer", "kind", "source", *_COUNT_COLUMNS, "ci95_low", "ci95_high", *_RATIO_COLUMNS)


@dataclass(frozen=True)
class GivenDecisions:
    """The provenance of imported decisions, instead of a :class:`RunInfo`.

    Equality ignores the versions of software.

    Attributes:
        source: Source of the decisions, such as ``"import:cue-conflict"``.
        files: SHA-256 of each file that was read, by base name.
        versions: Versions of replk-probe and of the packages it depends on.
    """

    source: str
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=software_versions, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; ``model`` is None."""
        return {"model": None, **as_plain(self)}


@dataclass(frozen=True, eq=False, repr=False)
class ShapeBiasResult(Result):
    """The shape bias of one model and of imported observers.

    Attributes:
        run: Provenance of the measurement or of the imported decisions.
        model: Statistics of the measured model; None if no model was measured.
        decisions: Decisions of the model.
        probabilities: Probability of each category for each stimulus, ``[N, categories]`` float32 in the order of
            ``decisions.names``, read-only; they need not sum to 1. None if they are unknown.
        observers: Statistics of the imported observers; ``humans`` (all human observers pooled) comes first, if any.
        notes: Caveats, each at least one sentence.
        scores: Scores of images with one cue each, which are measured instead of decisions; ``model`` is then None.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import Decisions
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> decisions = Decisions.from_names("network", names, ["cat", "dog", "cat", "truck"])
        >>> result = ShapeBiasResult.from_decisions(decisions)
        >>> round(result.shape_bias, 3)  # two decisions for the shape, one for the texture
        0.667
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]] = (
        "observer", "category", "n_conflict", "shape", "texture", "other", "shape_bias", "ci95_low", "ci95_high",
    )  # fmt: skip

    run: RunInfo | GivenDecisions
    model: Observer | None
    decisions: Decisions | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    observers: tuple[Observer, ...] = ()
    notes: tuple[str, ...] = ()
    scores: CueScores | None = None

    def __post_init__(self) -> None:
        """Copy and check the probabilities, and make them read-only."""
        if (self.model is None) != (self.decisions is None):
            raise InvalidInputError(
                "The model's statistics and its decisions must be given together. One of them is missing. "
                "Create the result with ShapeBiasResult.from_decisions."
            )
        if self.probabilities is None:
            return
        probabilities = np.array(self.probabilities, dtype=np.float32)
        expected = (0, 0) if self.decisions is None else (len(self.decisions.names), len(self.decisions.categories))
        if probabilities.shape != expected:
            raise InvalidInputError(
                f"The probabilities have shape {list(probabilities.shape)}, the decisions {list(expected)}. Each "
                "stimulus has one probability per category. Give them as [stimuli, categories]."
            )
        if not np.isfinite(probabilities).all():
            raise InvalidInputError(
                "The probabilities have non-finite entries. The logits of the model overflowed. "
                "Measure again with another precision."
            )
        probabilities.setflags(write=False)
        object.__setattr__(self, "probabilities", probabilities)

    @classmethod
    def from_decisions(
        cls,
        decisions: Decisions | None = None,
        *,
        observers: Sequence[Decisions] = (),
        models: Sequence[Decisions] = (),
        run: RunInfo | GivenDecisions | None = None,
        probabilities: npt.NDArray[np.float32] | None = None,
        source: str | None = None,
        notes: Sequence[str] = (),
    ) -> ShapeBiasResult:
        """Analyze decisions of any observers.

        Args:
            decisions: Decisions of the model, or None for a result with ``observers`` only.
            observers: Decisions of other observers.
            models: Decisions of other models of the same run, which are only used for the error consistency. A name
                that an observer already has is extended by `` (this run)``.
            run: Provenance; by default, the decisions are recorded as given.
            probabilities: Category probabilities of the model, ``[N, categories]``, in the order of
                ``decisions.names``.
            source: Source of the observers.
            notes: Notes for the reader.

        Returns:
            The statistics of all observers, with 95 % intervals.

        Raises:
            InvalidInputError: Two observers share a name, or the arguments do not match.
        """
        origin = source or "given"
        if decisions is not None and not isinstance(decisions, Decisions):
            raise InvalidInputError(
                f"decisions is of type {type(decisions).__name__}. Expected the Decisions of one model, or None. Pass "
                "the decisions of others as observers."
            )
        measured = isinstance(run, RunInfo)
        every = [*([] if decisions is None else [decisions]), *check_decisions(observers)]
        fewest = min((one.counts().n_by_category for one in every), key=sum, default=())
        few = few_note(fewest, f"stimuli in {sum(n > 0 for n in fewest)} shape categories")
        result = cls(
            run=run or GivenDecisions(origin),
            model=None
            if decisions is None
            else Observer.from_counts(
                decisions.observer,
                "human" if decisions.is_human and not measured else "model",
                decisions.counts(),
                source="measured" if measured else origin,
            ),
            decisions=decisions,
            probabilities=probabilities,
            notes=(*notes, few) if few else tuple(notes),
        )
        return result.with_observers(observers, models, source=origin)

    def with_observers(
        self, observers: Sequence[Decisions], models: Sequence[Decisions] = (), *, source: str = "given"
    ) -> ShapeBiasResult:
        """Copy of the result with other observers; the arguments are described in :meth:`from_decisions`."""
        model, observers, models = self.model, check_decisions(observers), check_decisions(models)
        if model is not None and self.decisions is not None:
            taken = {one.observer for one in observers}
            others = [one.renamed(_untaken(one.observer, taken)) for one in models]
            model = replace(model, consistency=consistency_with(self.decisions, [*observers, *others]))
        return replace(self, model=model, observers=analyze(observers, source))

    @property
    def shape_bias(self) -> float:
        """Shape bias S / (S + T) of the model over all conflict stimuli, in [0, 1]; NaN if undefined."""
        return math.nan if self.model is None else self.model.counts.overall

    @property
    def all_observers(self) -> tuple[Observer, ...]:
        """The model, if one was measured, and the imported observers."""
        return (() if self.model is None else (self.model,)) + self.observers

    def observer(self, name: str) -> Observer:
        """One of :attr:`all_observers`, the model first.

        Args:
            name: Name of the observer.

        Returns:
            The statistics of the observer.

        Raises:
            InvalidInputError: No observer has this name.
        """
        for one in self.all_observers:
            if one.name == name:
                return one
        raise InvalidInputError(
            f"This result has no observer {name!r}. It has {', '.join(one.name for one in self.all_observers)}. "
            "Choose one of these, or import more."
        )

    def to_json(self) -> dict[str, Any]:
        """Convert everything except the decisions and probabilities to JSON values; undefined ratios are None."""
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run.to_json(),
            "shape_bias": None if self.model is None else self.model.to_json(),
        }
        if self.observers:
            record["observers"] = {one.name: one.to_json() for one in self.observers}
        if self.scores is not None:
            record["scores"] = self.scores.to_json()
        record["notes"] = list(self.notes)
        return record

    def to_dataframe(self) -> pd.DataFrame:
        """The counts and ratios as a table with one row per observer and category of the shape.

        The category ``all`` denotes all stimuli; the columns after ``shape_bias`` are defined only for it.

        Returns:
            A data frame with the columns of ``shape_bias.csv``: ``observer``, ``kind``, ``source``, ``category``,
            ``n_conflict``, ``shape``, ``texture`` and ``other`` (numbers of decisions), ``shape_bias``, ``ci95_low``,
            ``ci95_high``, ``macro``, ``median``, ``cue_accuracy``, ``congruent_accuracy`` (fractions) and
            ``mean_human_kappa`` (error consistency). Undefined numbers are NaN. Of a result with scores, the columns
            are those of ``cue_scores.csv``.
        """
        return super().to_dataframe()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw this result; arguments and errors are those of :func:`~replk_probe.shape_bias.plot_shape_bias`.

        Of a result with scores, they are those of :func:`~replk_probe.shape_bias.plot_cue_scores`.
        """
        if self.scores is not None:
            from .plot_scores import plot_cue_scores

            return plot_cue_scores(self, ax, **kwargs)
        from .plot import plot_shape_bias

        return plot_shape_bias(self, ax, **kwargs)

    def _files(self) -> Mapping[str, bytes]:
        files: dict[str, bytes] = {}
        if self.decisions is not None:
            arrays: dict[str, npt.NDArray[Any]] = {
                "names": np.array(self.decisions.names),
                "categories": np.array(self.decisions.categories),
            }
            if self.probabilities is not None:
                arrays["probabilities"] = self.probabilities
            files[ARRAYS_NAME] = npz_bytes(arrays)
            files[DECISIONS_NAME] = decisions_csv(self.decisions)
        if self.scores is not None:
            kinds = {"names": np.str_, "cues": np.str_, "labels": np.str_, "reciprocal_ranks": np.float32}
            files[SCORES_ARRAYS_NAME] = npz_bytes(
                {name: np.array(getattr(self.scores, name), kind) for name, kind in kinds.items()}
            )
            files[SCORES_CSV_NAME] = csv_text(self._rows(), SCORE_COLUMNS).encode("utf-8")
        else:
            files[CSV_NAME] = csv_text(self._rows(), _CSV_COLUMNS).encode("utf-8")
        files[JSON_NAME] = strict_json(self.to_json()).encode("utf-8")
        return files

    def save(self, directory: str | Path) -> None:
        """Write the files of this result, and remove those of an earlier one with or without scores; see the base."""
        super().save(directory)
        for name in _SCORES_FILES if self.scores is None else _DECISIONS_FILES:
            (Path(directory) / name).unlink(missing_ok=True)

    def _summary(self) -> Mapping[str, object]:
        source = self.run.image_source if isinstance(self.run, RunInfo) else self.run.source
        facts: dict[str, object] = {"source": source, "observers": len(self.observers)}
        if self.model is not None:
            weights = {"weights": self.run.weights.label} if isinstance(self.run, RunInfo) else {}
            facts = {"model": self.model.name, **weights, "shape_bias": round(self.shape_bias, 4), **facts}
        if self.scores is not None and isinstance(self.run, RunInfo):
            means = {cue: round(score.mean_reciprocal_rank, 4) for cue, score in self.scores.by_cue.items()}
            facts = {"model": self.run.model, "weights": self.run.weights.label, **means, "source": source}
        return facts

    def _rows(self) -> list[Row]:
        return _rows(self.all_observers) if self.scores is None else self.scores.rows()

    def _repr_html_(self) -> str:
        if self.scores is None:
            return super()._repr_html_()
        rows = self._rows()
        return html_table(type(self).__name__, self._summary(), SCORE_COLUMNS, rows, below=self._html_figure())

    @classmethod
    def load(cls, directory: str | Path) -> ShapeBiasResult:
        """Load a result that :meth:`save` wrote.

        Args:
            directory: Folder with ``shape_bias.json`` and, if a model was measured, ``decisions.csv`` and
                ``decisions.npz``.

        Returns:
            The result, equal to the one that was saved.

        Raises:
            InvalidInputError: A file is missing or damaged, or has a schema version that cannot be read.
        """
        folder = Path(directory)
        record = read_json(folder / JSON_NAME, _ADVICE, READABLE_VERSIONS)
        with reading(folder / JSON_NAME, "shape-bias record"):
            own, given = record["shape_bias"], record["run"]
            model = None if own is None else Observer.from_json(own)
            others = decode(dict[str, Any], record.get("observers", {}), "observers")
            observers = tuple(map(Observer.from_json, others.values()))
            if list(others) != [one.name for one in observers]:
                raise ValueError("the names of its observers differ from those of their entries")
            notes = decode(tuple[str, ...], record["notes"], "notes")
            run = decode(GivenDecisions, given, "run") if given["model"] is None else decode(RunInfo, given, "run")
        if model is None:
            scores = _read_scores(folder, record["scores"]) if "scores" in record else None
            return cls(run, None, observers=observers, notes=notes, scores=scores)
        (path, arrays_path), categories = (folder / DECISIONS_NAME, folder / ARRAYS_NAME), model.counts.categories
        found = read_decisions(path, categories)
        if len(found) != 1 or found[0].observer != model.name or found[0].counts() != model.counts:
            raise unreadable(path, f"it does not contain the decisions counted in {JSON_NAME}", _ADVICE)
        wanted = {"names": (np.str_, 1), "categories": (np.str_, 1), "probabilities": (np.float32, 2)}
        arrays = read_arrays(arrays_path, _ADVICE, wanted, optional=["probabilities"])
        named = (*arrays["names"],) == found[0].names and (*arrays["categories"],) == categories
        if not named or not arrays.keys() <= wanted.keys():
            raise unreadable(arrays_path, f"its arrays are not those of {DECISIONS_NAME}", _ADVICE)
        with reading(arrays_path, "shape-bias record"):
            return cls(run, model, found[0], arrays.get("probabilities"), observers, notes)


def _read_scores(folder: Path, saved: Any) -> CueScores:
    path = folder / SCORES_ARRAYS_NAME
    kinds = {"names": (np.str_, 1), "cues": (np.str_, 1), "labels": (np.str_, 1), "reciprocal_ranks": (np.float32, 1)}
    arrays = read_arrays(path, _ADVICE, kinds)
    with reading(path, "shape-bias record"):
        names, cues, labels = (tuple(map(str, arrays[name])) for name in ("names", "cues", "labels"))
        scores = CueScores(names, cues, labels, arrays["reciprocal_ranks"])
        if scores.to_json() != saved:
            raise ValueError(f"its ranks are not those of {JSON_NAME}")
    return scores


def with_distinct_names(results: Sequence[ShapeBiasResult]) -> tuple[ShapeBiasResult, ...]:
    """The results, with full names of models that share a short one (``resnet50`` and ``timm:resnet50``)."""
    counted = Counter(result.model.name for result in results if result.model is not None)
    return tuple(
        replace(
            result,
            model=replace(result.model, name=result.run.model),
            decisions=result.decisions.renamed(result.run.model),
        )
        if result.model is not None
        and result.decisions is not None
        and isinstance(result.run, RunInfo)
        and counted[result.model.name] > 1
        else result
        for result in results
    )


def save_comparison(results: Sequence[ShapeBiasResult], directory: str | Path) -> None:
    """Write ``comparison.csv`` (the rows of every model and observer) and ``comparison.json`` (all pairs of models).

    Each pair has the difference of the shape biases, its interval, and McNemar's test; an undefined difference is
    null, and pairs without a common conflict stimulus are omitted.

    Args:
        results: One result per model, from :func:`with_distinct_names`. Observers are taken from the first result.
        directory: Folder to write to; created if it does not exist.

    Raises:
        InvalidInputError: The folder cannot be written to.
    """
    models = [result.model for result in results if result.model is not None]
    decisions = [result.decisions for result in results if result.decisions is not None]
    pairs = [
        {
            "first": first,
            "second": second,
            "difference": null_if_nan(pair.difference),
            "ci95": pair.ci95,
            "n_pairs": pair.n_pairs,
            "first_only": pair.first_only,
            "second_only": pair.second_only,
            "p_value": pair.p_value,
        }
        for first, second, pair in compare_pairs(decisions)
    ]
    text = strict_json({"schema_version": SCHEMA_VERSION, "pairs": pairs})
    table = csv_text(_rows([*models, *results[0].observers]), _CSV_COLUMNS)
    write_files({COMPARISON_NAME: table.encode("utf-8"), PAIRS_NAME: text.encode("utf-8")}, directory)


def _untaken(name: str, taken: set[str]) -> str:
    while name in taken:
        name += " (this run)"
    return name


def _rows(observers: Sequence[Observer]) -> list[Row]:
    """For each observer, one row with all statistics (category ``all``) and one row per category."""
    rows: list[Row] = []
    for one in observers:
        counts = one.counts
        who = {"observer": one.name, "kind": one.kind, "source": one.source}
        totals = (counts.n_conflict, counts.n_shape, counts.n_texture, counts.n_other, counts.overall)
        ratios = (
            counts.macro,
            counts.median,
            counts.cue_accuracy,
            counts.congruent_accuracy,
            one.consistency.mean_human,
        )
        whole = dict(zip(_COUNT_COLUMNS, ("all", *totals), strict=True))
        rows.append(who | whole | interval_cells(one.ci95) | dict(zip(_RATIO_COLUMNS, ratios, strict=True)))
        undefined = interval_cells(None) | dict.fromkeys(_RATIO_COLUMNS, math.nan)
        columns = zip(counts.categories, counts.shape, counts.texture, counts.other, counts.by_category, strict=True)
        for category, shape, texture, other, bias in columns:
            cells = (category, shape + texture + other, shape, texture, other, bias)
            rows.append(who | dict(zip(_COUNT_COLUMNS, cells, strict=True)) | undefined)
    return rows
