"""The results of a sweep: the states of its jobs, and all numbers as one long table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replk_probe.errors import InvalidInputError
from replk_probe.results import Row, csv_text, dataframe, html_table
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.file_reading import read_csv, reading

from .folder import SUMMARY_NAME, SweepFolder, canonical, described_jobs
from .stored_folder import open_folder

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAME = "sweep.csv"


@dataclass(frozen=True)
class Table:
    """The table of an analyzer's result.

    Attributes:
        file: Name of the CSV file.
        items: Columns that identify a row.
        others: Columns that are neither numbers of the result nor identify a row.
        numbers: Columns of the numbers, in the order of the file.
        added: Those of them that results of earlier versions lack.
        repeated: Those of them that are the same in every row, and are taken from the first one.
    """

    file: str
    items: tuple[str, ...]
    others: tuple[str, ...]
    numbers: tuple[str, ...]
    added: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()


_KERNELS_ADDED = (
    *("low_frequency_share", "middle_frequency_share", "high_frequency_share", "orientation", "anisotropy"),
    *("channel_anisotropy", "distance_mean", "distance_median", "rank_mean", "rank_median"),
    *("change_relative_norm", "change_cosine"),
)
_ERF_ADDED = tuple(
    f"{name}{end}"
    for name in (
        *("threshold_radius", "center_of_mass_y", "center_of_mass_x", "center_offset_y", "center_offset_x"),
        *("standard_deviation_y", "standard_deviation_x", "standard_deviation_ratio", "effective_area"),
        *("peak_y", "peak_x", "radial_area", "border_share", "gaussian_amplitude", "gaussian_center_y"),
        *("gaussian_center_x", "gaussian_sigma_y", "gaussian_sigma_x", "gaussian_angle", "gaussian_r_squared"),
    )
    for end in ("", "_ci95_low", "_ci95_high")
)
TABLES = {
    "erf": Table(
        "erf.csv",
        ("layer", "protocol", "threshold"),
        ("model", "weights", "images", "seed", "precision", "input_height", "input_width"),
        ("n_images", "side", "ratio", "ci95_low", "ci95_high", *_ERF_ADDED),
        _ERF_ADDED,
        _ERF_ADDED[3:],  # a radius belongs to a threshold, but the others to the whole map
    ),
    "shape-bias": Table(
        "shape_bias.csv",
        ("observer", "category"),
        ("kind", "source"),
        (
            *("n_conflict", "shape", "texture", "other", "shape_bias", "ci95_low", "ci95_high"),
            *("macro", "median", "cue_accuracy", "congruent_accuracy", "mean_human_kappa"),
        ),
    ),
    "behaviour": Table(
        "behaviour.csv",
        ("observer", "set", "condition"),
        ("kind", "source"),
        (
            *("n_trials", "n_correct", "accuracy", "ci95_low", "ci95_high", "accuracy_difference"),
            *("observed_consistency", "error_consistency", "mean_rank"),
        ),
    ),
    "kernels": Table(
        "kernels.csv",
        ("layer", "variant"),
        ("model", "weights", "path", "operation", "aggregate"),
        (
            *("kernel_height", "kernel_width", "channels", "centre3x3_share", "skeleton_share"),
            *("effective_size_50", "effective_size_90", "effective_size_99", "entropy_bits", "relative_entropy"),
            *("symmetry_left_right", "symmetry_up_down", "symmetry_rotation", "symmetry_transpose", "zero_fraction"),
            *("small_branch_share", "centre3x3_mean", "outside3x3_mean", "relative_mass", "maximum"),
            *_KERNELS_ADDED,
        ),
        _KERNELS_ADDED,
    ),
    "attribute": Table(
        "attribution.csv",
        ("image", "threshold"),
        ("model", "weights", "method", "target_name", "predicted_name", "layer", "erf"),
        (
            *("target", "predicted", "score", "probability", "total", "entropy_bits", "effective_area", "peak_y"),
            *("peak_x", "position_y", "position_x", "window_height", "window_width", "window_area", "share"),
        ),
    ),
    "reliance": Table(
        "reliance.csv",
        ("suppression", "cues"),
        ("model", "weights", "image_source", "label_space", "method"),
        (
            *("n_images", "strength", "accuracy", "accuracy_ci95_low", "accuracy_ci95_high"),
            *("relative_accuracy", "relative_accuracy_ci95_low", "relative_accuracy_ci95_high"),
        ),
    ),
}
_ADVICE = "Remove its folder and run the sweep again."
_FIRST = ("key", "analyzer", "model", "weights")
_LAST = ("item", "metric", "value")


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep, which are read from its folder.

    Attributes:
        folder: Folder of the sweep; for a URL, a folder with copies, which is removed with this object.
        jobs: Record of each job as in ``sweep.json``: ``key``, ``label``, ``analyzer``, ``model``, ``settings``,
            ``folder``, ``state`` (``"done"``, ``"failed"``, ``"running"`` or ``"pending"``) and, depending on the
            state, ``seconds``, ``weights`` and ``reason``.
    """

    folder: Path
    jobs: tuple[Mapping[str, Any], ...]
    _place: SweepFolder = field(repr=False, compare=False)

    @classmethod
    def load(cls, folder: str | Path) -> SweepResult:
        """Read the folder of a sweep, which may be running.

        Args:
            folder: Path or URL of the folder.

        Returns:
            The states of the jobs at this moment.

        Raises:
            InvalidInputError: The folder is not that of a sweep.
        """
        return cls.read(open_folder(folder))

    @classmethod
    def read(cls, place: SweepFolder) -> SweepResult:
        """Read a folder that is open already; see :meth:`load`."""
        record = place.read_summary()
        with reading(place.root / SUMMARY_NAME, "record of a sweep"):
            # The file is a few seconds old while the sweep is running, and may be much older than its end.
            is_running = place.is_running
            seconds = {one["key"]: one["seconds"] for one in record["jobs"] if one["state"] == "running" and is_running}
            found = [
                description | place.progress(job, seconds.get(job.key)) for job, description in described_jobs(record)
            ]
        return cls(place.root, tuple(found), place)

    @property
    def failed(self) -> dict[str, str]:
        """Reason of each failure, by the label of the job."""
        return {job["label"]: job.get("reason", "") for job in self.jobs if job["state"] == "failed"}

    def location(self, name: str) -> Path | str:
        """Path or URL of a file of the sweep."""
        return self._place.location(name)

    def _repr_html_(self) -> str:
        """The states of the jobs as a table, for a notebook."""
        states = {state: self.count(state) for state in ("done", "failed", "running", "pending")}
        facts = {"folder": self.folder, **{state: count for state, count in states.items() if count}}
        columns = ("label", "analyzer", "model", "state", "reason")
        return html_table(
            type(self).__name__, facts, columns, [{name: job.get(name) for name in columns} for job in self.jobs]
        )

    def count(self, state: str) -> int:
        """Number of jobs in a state."""
        return sum(job["state"] == state for job in self.jobs)

    def to_dataframe(self) -> pd.DataFrame:
        """All numbers of the jobs that are done, one per row, as in ``sweep.csv``.

        Returns:
            A data frame with the columns ``key``, ``analyzer``, ``model``, ``weights``, one column for each setting
            that differs between jobs, ``item`` (the row of the result's own table, such as
            ``"layer=stage4 threshold=0.5"``), ``metric`` (its column) and ``value`` (NaN if it is undefined).
        """
        rows = [row | {"value": float(row["value"] or "nan")} for row in self._rows()]
        return dataframe(rows)

    def write_table(self) -> Path:
        """Write ``sweep.csv`` and return its path; equal results give equal bytes."""
        path = self.folder / TABLE_NAME
        atomic_write_text(path, csv_text(self._rows(), (*_FIRST, *self._varied(), *_LAST)))
        self._place.publish(TABLE_NAME)
        return path

    def _varied(self) -> tuple[str, ...]:
        """The settings that differ between jobs, which have columns of their own."""
        return tuple(dict.fromkeys(name for job in self.jobs for name in job["varied"]))

    def _rows(self) -> Iterator[Row]:
        settings = self._varied()
        done = [job for job in self.jobs if job["state"] == "done"]
        self._place.fetch([f"{job['folder']}/{TABLES[job['analyzer']].file}" for job in done])
        for job in done:
            shared = {name: job[name] for name in _FIRST}
            shared |= {name: canonical(job["varied"][name]) if name in job["varied"] else "" for name in settings}
            for item, metric, value in _numbers(self.folder / job["folder"], TABLES[job["analyzer"]]):
                yield shared | {"item": item, "metric": metric, "value": value}


def _numbers(folder: Path, table: Table) -> Iterator[tuple[str, str, str]]:
    """Every number of a result: its row, its column and its text."""
    path = folder / table.file
    header, rows = read_csv(path, _ADVICE)
    numbers = [name for name in table.numbers if name in header or name not in table.added]
    missing = [name for name in (*table.items, *table.others, *numbers) if name not in header]
    if missing or not rows:
        lack = f"column {missing[0]!r}" if missing else "rows"
        raise InvalidInputError(f"{path} has no {lack}. It may have been edited or truncated. {_ADVICE}")
    for line, row in rows:
        cells = dict(zip(header, row, strict=False))
        if len(row) != len(header) or not all(_is_number(cells[name]) for name in numbers):
            raise InvalidInputError(
                f"Line {line} of {path} is not a row of the table. It may have been edited or truncated. {_ADVICE}"
            )
        item = " ".join(f"{name}={cells[name]}" for name in table.items)
        for name in numbers:
            if name not in table.repeated:
                yield item, name, cells[name]
    first = dict(zip(header, rows[0][1], strict=True))
    for name in numbers:
        if name in table.repeated:
            yield f"{table.items[0]}={first[table.items[0]]}", name, first[name]


def _is_number(text: str) -> bool:
    """Whether a cell is a number, or empty because it is undefined."""
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
