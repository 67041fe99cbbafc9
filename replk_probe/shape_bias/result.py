"""What one shape-bias run found: frozen, saved as JSON + arrays + CSV, read back the same. Free of torch."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_write_bytes, atomic_write_text
from replk_probe.runtime.json_io import read_json, strict_json, unreadable
from replk_probe.runtime.provenance import RunInfo, software_versions

from .decisions import Decisions as Decisions
from .model_vs_human.raw_data import COMPARISON_NAME, DECISIONS_NAME, SUMMARY_NAME, decisions_csv, read_decisions
from .observers import Observer, analyse, check_decisions, compare_pairs, consistency_with

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "shape_bias.json"
ARRAYS_NAME = "decisions.npz"
CSV_NAME = SUMMARY_NAME
PAIRS_NAME = "comparison.json"

# Of the command line, that writes these.
_COMMAND = "shape-bias"

_CSV_COLUMNS = (
    "observer",
    "kind",
    "source",
    "category",
    "n_conflict",
    "shape",
    "texture",
    "other",
    "shape_bias",
    "ci95_low",
    "ci95_high",
    "macro",
    "median",
    "cue_accuracy",
    "congruent_accuracy",
    "mean_human_kappa",
)


@dataclass(frozen=True)
class GivenDecisions:
    """What takes the place of a :class:`RunInfo` where no model ran: decisions came from elsewhere.

    Attributes:
        source: Where from, such as ``"import:cue-conflict"``.
        files: SHA-256 of each file that was read, by its base name.
        versions: Of replk-probe and the packages below it.
    """

    source: str
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=software_versions)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and texts; ``model`` is None."""
        return {"model": None, "source": self.source, "files": dict(self.files), "versions": dict(self.versions)}


@dataclass(frozen=True, eq=False)
class ShapeBiasResult:
    """The shape bias of one model, or of none, beside other observers.

    Attributes:
        run: Circumstances of the measurement, or where the decisions came from.
        model: The observer that was measured, in numbers; None where no model ran.
        decisions: Its decisions.
        probabilities: Its probability of each category per stimulus, ``[N, categories]`` float32 in the order of
            ``decisions.names``, read-only; they need not sum to 1. None where they are not known.
        observers: Imported observers, in numbers; ``humans`` first, where people are among them.
        notes: Sentences the reader of the numbers must see.
    """

    run: RunInfo | GivenDecisions
    model: Observer | None
    decisions: Decisions | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    observers: tuple[Observer, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Own the probabilities, so that nobody else can change them."""
        if (self.model is None) != (self.decisions is None):
            raise InvalidInputError(
                "A model's numbers and its decisions belong together. One of them is missing. "
                "Make the result with ShapeBiasResult.from_decisions."
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
        """Analyse decisions, whoever made them.

        Args:
            decisions: Of the model, or None for a table of ``observers`` alone.
            observers: Of others, to stand beside it.
            models: Of other models of the same run: they count for the error consistency alone. A name that an observer
                has already is told apart by `` (this run)``.
            run: Circumstances; by default that the decisions were given.
            probabilities: Of the model, ``[N, categories]``, in the order of ``decisions.names``.
            source: Where the observers come from.
            notes: What the reader must see.

        Raises:
            InvalidInputError: Two observers share a name, or the arguments do not fit together.
        """
        origin = source or "given"
        if decisions is not None and not isinstance(decisions, Decisions):
            raise InvalidInputError(
                f"{type(decisions).__name__} is no Decisions. A result has those of one model at most. Give them, and "
                "those of others as observers."
            )
        measured = isinstance(run, RunInfo)
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
            notes=tuple(notes),
        )
        return result.beside(observers, models, source=origin)

    def beside(
        self, observers: Sequence[Decisions], models: Sequence[Decisions] = (), *, source: str = "given"
    ) -> ShapeBiasResult:
        """The same result beside other observers; the arguments are those of :meth:`from_decisions`."""
        model, observers, models = self.model, check_decisions(observers), check_decisions(models)
        if model is not None and self.decisions is not None:
            taken = {one.observer for one in observers}
            others = [one.renamed(_untaken(one.observer, taken)) for one in models]
            model = replace(model, consistency=consistency_with(self.decisions, [*observers, *others]))
        return replace(self, model=model, observers=analyse(observers, source))

    @property
    def shape_bias(self) -> float:
        """The model's S / (S + T) over all conflict stimuli, in [0, 1]; NaN where undefined or no model ran."""
        return math.nan if self.model is None else self.model.counts.overall

    @property
    def everyone(self) -> tuple[Observer, ...]:
        """The model, if one ran, and the imported observers."""
        return (() if self.model is None else (self.model,)) + self.observers

    def observer(self, name: str) -> Observer:
        """One of :attr:`everyone`, the model first.

        Raises:
            InvalidInputError: Nobody has that name.
        """
        for one in self.everyone:
            if one.name == name:
                return one
        raise InvalidInputError(
            f"No observer {name!r} in this result. It has {', '.join(one.name for one in self.everyone)}. "
            "Take one of those, or import more."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the decisions and probabilities, as plain values; an undefined ratio is None."""
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run.to_json(),
            "shape_bias": None if self.model is None else self.model.to_json(),
        }
        if self.observers:
            record["observers"] = {one.name: one.to_json() for one in self.observers}
        record["notes"] = list(self.notes)
        return record

    def save(self, directory: str | Path) -> None:
        """Write ``shape_bias.csv`` and, last, ``shape_bias.json``; for a model ``decisions.csv`` and ``.npz`` before.

        Each is written whole or not at all, and the bytes depend on the result alone.

        Args:
            directory: Created if it is not there.

        Raises:
            InvalidInputError: The folder cannot be written to, or a number of the record is not finite.
        """
        # All of it before the first file is written.
        files: dict[str, bytes] = {}
        if self.decisions is not None:
            files[ARRAYS_NAME] = self._arrays(self.decisions)
            files[DECISIONS_NAME] = decisions_csv(self.decisions)
        files[CSV_NAME] = _csv_text(self.everyone).encode("utf-8")
        files[JSON_NAME] = strict_json(self.to_json()).encode("utf-8")
        for name, content in files.items():
            atomic_write_bytes(Path(directory) / name, content)

    def _arrays(self, decisions: Decisions) -> bytes:
        arrays: dict[str, Any] = {"names": np.array(decisions.names), "categories": np.array(decisions.categories)}
        if self.probabilities is not None:
            arrays["probabilities"] = self.probabilities
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()

    @classmethod
    def load(cls, directory: str | Path) -> ShapeBiasResult:
        """Read back what :meth:`save` wrote.

        Args:
            directory: Folder with ``shape_bias.json`` and, where a model ran, ``decisions.csv`` and ``decisions.npz``.

        Raises:
            InvalidInputError: A file is missing or damaged, or of a schema version that this program cannot read.
        """
        folder = Path(directory)
        record = read_json(folder / JSON_NAME, _COMMAND, READABLE_VERSIONS)
        try:
            own, run = record["shape_bias"], record["run"]
            model = None if own is None else Observer.from_json(own)
            observers = tuple(Observer.from_json(one) for one in record.get("observers", {}).values())
            notes = tuple(record["notes"])
            circumstances = (
                RunInfo.from_json(run)
                if run["model"] is not None
                else GivenDecisions(run["source"], run["files"], run["versions"])
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InvalidInputError(
                f"{folder / JSON_NAME} is not a complete shape-bias record ({type(error).__name__}: {error}). It was "
                "changed by hand or cut short. Measure again."
            ) from error
        if model is None:
            return cls(circumstances, None, observers=observers, notes=notes)
        found = read_decisions(folder / DECISIONS_NAME, model.counts.categories)
        if len(found) != 1 or found[0].observer != model.name or found[0].counts() != model.counts:
            raise unreadable(
                folder / DECISIONS_NAME, f"it does not hold the decisions that {JSON_NAME} counts", _COMMAND
            )
        probabilities = _read_probabilities(folder / ARRAYS_NAME, found[0].names)
        return cls(circumstances, model, found[0], probabilities, observers, notes)


def told_apart(results: Sequence[ShapeBiasResult]) -> tuple[ShapeBiasResult, ...]:
    """The same results, with models that files call alike (``resnet50``, ``timm:resnet50``) under their whole names."""
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
    """Write ``comparison.csv``, the rows of every model and observer, and ``comparison.json``, models in pairs.

    Each pair has the difference of their shape biases with its interval, and McNemar's test; an undefined difference is
    null, and a pair without a conflict stimulus in common is left out.

    Args:
        results: One per model, :func:`told_apart`. Observers are taken of the first.
        directory: Created if it is not there.

    Raises:
        InvalidInputError: The folder cannot be written to.
    """
    models = [result.model for result in results if result.model is not None]
    decisions = [result.decisions for result in results if result.decisions is not None]
    pairs = [
        {
            "first": first,
            "second": second,
            "difference": None if math.isnan(pair.difference) else pair.difference,
            "ci95": None if pair.ci95 is None else list(pair.ci95),
            "n_pairs": pair.n_pairs,
            "first_only": pair.first_only,
            "second_only": pair.second_only,
            "p_value": pair.p_value,
        }
        for first, second, pair in compare_pairs(decisions)
    ]
    text = strict_json({"schema_version": SCHEMA_VERSION, "pairs": pairs})
    atomic_write_text(Path(directory) / COMPARISON_NAME, _csv_text([*models, *results[0].observers]))
    atomic_write_text(Path(directory) / PAIRS_NAME, text)


def _untaken(name: str, taken: set[str]) -> str:
    while name in taken:
        name += " (this run)"
    return name


def _csv_text(observers: Sequence[Observer]) -> str:
    """For each observer a row with all its numbers (category ``all``) and one for each category."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for one in observers:
        counts, who = one.counts, (one.name, one.kind, one.source)
        totals = (counts.n_conflict, counts.n_shape, counts.n_texture, counts.n_other, _cell(counts.overall))
        ratios = (counts.macro, counts.median, counts.cue_accuracy, counts.congruent_accuracy)
        writer.writerow(
            [*who, "all", *totals, *(one.ci95 or ("", "")), *map(_cell, (*ratios, one.consistency.mean_human))]
        )
        rows = zip(counts.categories, counts.shape, counts.texture, counts.other, counts.by_category, strict=True)
        for category, shape, texture, other, bias in rows:
            row = (category, shape + texture + other, shape, texture, other, _cell(bias))
            writer.writerow([*who, *row, *[""] * (len(_CSV_COLUMNS) - len(who) - len(row))])
    return buffer.getvalue()


def _cell(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _read_probabilities(path: Path, names: Sequence[str]) -> npt.NDArray[np.float32] | None:
    try:
        # Opened here, because numpy leaves a damaged archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if arrays["names"].tolist() != list(names):
                raise unreadable(path, "its stimuli are not those of the decisions", _COMMAND)
            if "probabilities" not in arrays:
                return None
            return np.asarray(arrays["probabilities"], dtype=np.float32)
    except FileNotFoundError as error:
        raise unreadable(path, "no such file", _COMMAND) from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise unreadable(path, str(error), _COMMAND) from error
