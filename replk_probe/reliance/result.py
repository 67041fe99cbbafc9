"""The accuracy of one model under suppressions, saved as JSON, arrays and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.results import Result, Row, as_plain, csv_text, nan_if_null, npz_bytes, null_if_nan, strict_json
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.file_reading import decode, folder_of, read_arrays, read_json, reading
from replk_probe.runtime.formatting import counted
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias.statistics import few_note

from .statistics import DRAWS, Floats, Interval, interval, mean_by_method, ratios, resampled_correct
from .suppressions import CUES, Suppression

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "reliance.json"
ARRAYS_NAME = "reliance.npz"
CSV_NAME = "reliance.csv"

NONE = "none"  # the row without a suppression
_ADVICE = folder_of("reliance")
_ENDS = ("ci95_low", "ci95_high")
_COLUMNS = (
    *("model", "weights", "image_source", "n_images", "label_space", "suppression", "cues", "method", "strength"),
    *("accuracy", *(f"accuracy_{end}" for end in _ENDS)),
    *("relative_accuracy", *(f"relative_accuracy_{end}" for end in _ENDS)),
)


@dataclass(frozen=True, kw_only=True)
class SuppressedAccuracy:
    """The accuracy under one suppression.

    Attributes:
        suppression: Its name, such as ``"patch-shuffle:4"``.
        cues: The suppressed cues, such as ``"shape"`` or ``"shape+texture"``.
        method: The methods without their strengths, such as ``"patch-shuffle"``.
        strength: The strength of a single method, or None if it has none or several are combined.
        accuracy: Share of the images that are classified correctly, in [0, 1].
        accuracy_interval: Its 95 % interval.
        relative_accuracy: The accuracy divided by that without a suppression; None if the latter is zero.
        relative_interval: Its 95 % interval; None if the accuracy without a suppression is zero, or is zero in more
            than 2.5 % of the samples.
    """

    suppression: str
    cues: str
    method: str
    strength: float | None
    accuracy: float
    accuracy_interval: Interval
    relative_accuracy: float | None
    relative_interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class CueAccuracy:
    """The mean relative accuracy under the suppressions of one cue, or of several at once.

    Attributes:
        cues: The suppressed cues, such as ``"shape"`` or ``"shape+texture"``.
        relative_accuracy: Mean over the methods of the mean over their strengths; the lower it is, the more the model
            relies on the cue. None if the accuracy without a suppression is zero.
        interval: Its 95 % interval; None if the accuracy without a suppression is zero, or is zero in more than 2.5 %
            of the samples.
    """

    cues: str
    relative_accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True, eq=False, repr=False)
class RelianceResult(Result):
    """How much the accuracy of one model depends on shape, texture and color.

    All intervals are those of 95 % by the bootstrap over images: percentiles over 2000 samples of the images, which are
    drawn with replacement and are the same with and without a suppression. Samples without a correct decision without a
    suppression do not count for the intervals of relative accuracies, which are undefined in them.

    Attributes:
        decisions: Index of the decided class without a suppression and with each of them, ``[1 + suppressions, N]``
            int32, read-only.
        targets: Index of the class of each image, ``[N]`` int32, read-only.
        pictures: The first image without a suppression and under each suppression of :attr:`single`,
            ``[1 + single, H, W, 3]`` uint8 RGB, read-only.
        run: Provenance of the measurement.
        label_space: Where the classes come from, such as ``"imagenet"``.
        classes: Names of the classes.
        accuracy: Share of the images that are classified correctly without a suppression, in [0, 1].
        accuracy_interval: Its 95 % interval.
        suppressions: The accuracy under each suppression.
        profile: The mean relative accuracy for each cue and each combination of cues that was suppressed.
        notes: Caveats of one or more sentences each.

    Examples:
        >>> from replk_probe import RelianceResult, measure_reliance
        >>> result = measure_reliance("replknet_micro_k3", suppressions="grayscale,patch-shuffle:4", images=32)
        >>> [one.suppression for one in result.suppressions], result.decisions.shape
        (['grayscale', 'patch-shuffle:4'], (3, 32))
        >>> result.save("reliance")
        >>> RelianceResult.load("reliance") == result
        True
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]] = (
        "suppression", "cues", "accuracy", "relative_accuracy", "relative_accuracy_ci95_low",
        "relative_accuracy_ci95_high",
    )  # fmt: skip

    decisions: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    pictures: npt.NDArray[np.uint8]
    run: RunInfo
    label_space: str
    classes: tuple[str, ...]
    accuracy: float
    accuracy_interval: Interval
    suppressions: tuple[SuppressedAccuracy, ...]
    profile: tuple[CueAccuracy, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Copy and check the arrays, so that they cannot change."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "decisions": np.array(self.decisions, dtype=np.int32),
            "targets": np.array(self.targets, dtype=np.int32),
            "pictures": np.array(self.pictures, dtype=np.uint8),
        }
        decisions, targets, pictures = arrays.values()
        count = 1 + len(self.suppressions)
        if not len(targets) or targets.ndim != 1 or decisions.shape != (count, len(targets)):
            raise InvalidInputError(
                f"The decisions have shape {list(decisions.shape)}, but there are {count - 1} suppressions and "
                f"{targets.size} images. There is one decision for each image without and with each suppression. Give "
                "them as [1 + suppressions, N]."
            )
        for name, values in (("decisions", decisions), ("targets", targets)):
            if values.min() < 0 or values.max() >= len(self.classes):
                raise InvalidInputError(
                    f"The {name} have indices from {values.min()} to {values.max()}, but there are "
                    f"{len(self.classes)} classes. Indices count from 0. Give indices of the classes."
                )
        drawn = 1 + len(self.single)
        if pictures.shape != (drawn, *self.run.input_size, 3):
            raise InvalidInputError(
                f"The pictures have shape {list(pictures.shape)}, but {drawn} images of size "
                f"{list(self.run.input_size)} were expected. There is one without a suppression and one for each "
                "single method. Give them as [1 + methods, H, W, 3]."
            )
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def from_decisions(
        cls,
        decisions: npt.NDArray[np.int32],
        targets: npt.NDArray[np.int32],
        suppressions: Sequence[Suppression],
        *,
        pictures: npt.NDArray[np.uint8],
        run: RunInfo,
        label_space: str,
        classes: Sequence[str],
        notes: Sequence[str] = (),
    ) -> RelianceResult:
        """Compute accuracies and intervals from decisions.

        Args:
            decisions: As the attribute.
            targets: As the attribute.
            suppressions: The suppressions, in the order of the decisions.
            pictures: As the attribute.
            run: As the attribute.
            label_space: As the attribute.
            classes: As the attribute.
            notes: As the attribute.

        Raises:
            InvalidInputError: The arrays do not fit together.
        """
        correct = decisions == targets
        counts, drawn = correct.sum(axis=1).astype(np.float64), resampled_correct(correct)
        size = len(targets)
        relative, drawn_relative = ratios(counts), ratios(drawn)
        rows = tuple(
            SuppressedAccuracy(
                suppression=one.name,
                cues=one.cues,
                method=one.method,
                strength=one.steps[0].strength if len(one.steps) == 1 else None,
                accuracy=float(counts[1 + index]) / size,
                accuracy_interval=_defined(drawn[:, 1 + index] / size),
                relative_accuracy=null_if_nan(float(relative[index])),
                relative_interval=interval(drawn_relative[:, index]),
            )
            for index, one in enumerate(suppressions)
        )
        if not counts[0]:
            notes = (
                *notes,
                "No image is classified correctly without a suppression: relative numbers are undefined.",
            )
        elif rows and rows[0].relative_interval is None:
            undefined = (drawn[:, 0] == 0).mean()
            notes = (
                *notes,
                f"Relative accuracies have no intervals: {100 * undefined:.1f} % of the {DRAWS} samples of the "
                "bootstrap have no image that is classified correctly without a suppression.",
            )
        few = few_note([size], "images")
        return cls(
            decisions=decisions,
            targets=targets,
            pictures=pictures,
            run=run,
            label_space=label_space,
            classes=tuple(classes),
            accuracy=float(counts[0]) / size,
            accuracy_interval=_defined(drawn[:, 0] / size),
            suppressions=rows,
            profile=_profile(suppressions, relative, drawn_relative),
            notes=(*notes, few) if few else tuple(notes),
        )

    @property
    def single(self) -> tuple[SuppressedAccuracy, ...]:
        """The accuracies under suppressions of one cue, in the order of :attr:`pictures`."""
        return tuple(one for one in self.suppressions if "+" not in one.method)

    @property
    def chance(self) -> float:
        """The accuracy of guesses: 1 divided by the number of classes."""
        return 1 / len(self.classes)

    @property
    def images_text(self) -> str:
        """Number and source of the images."""
        count, source = len(self.targets), self.run.image_source
        if source.startswith("folder:"):
            return f"{counted(count, 'image')} in the folder {source.removeprefix('folder:')}"
        return counted(count, "generated image")

    def to_json(self) -> dict[str, Any]:
        """The result without its arrays, as plain dictionaries, lists and numbers."""
        arrays = ("decisions", "targets", "pictures")
        own = [field.name for field in fields(self) if field.name not in (*arrays, "run")]
        record = {name: as_plain(getattr(self, name)) for name in own}
        return {"schema_version": SCHEMA_VERSION, "run": self.run.to_json(), "reliance": record}

    def to_dataframe(self) -> pd.DataFrame:
        """The accuracies as a table.

        Returns:
            A data frame with one row for the accuracy without a suppression (``suppression`` is ``"none"``), one for
            each suppression, and one for each cue and combination of cues (``suppression`` is ``"mean"``). It has the
            columns of ``reliance.csv``: ``model``, ``weights``, ``image_source``, ``n_images``, ``label_space``,
            ``suppression``, ``cues``, ``method``, ``strength``, ``accuracy`` (fraction), ``relative_accuracy``
            (fraction of the accuracy without a suppression), and the ends of the 95 % intervals of the last two.
            Undefined numbers are NaN.
        """
        return super().to_dataframe()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the profile; arguments and errors are those of :func:`~replk_probe.reliance.plot_profile`."""
        from .plot import plot_profile

        return plot_profile([self], ax, **kwargs)

    def _files(self) -> Mapping[str, bytes]:
        arrays: dict[str, npt.NDArray[Any]] = {
            "decisions": self.decisions,
            "targets": self.targets,
            "pictures": self.pictures,
        }
        return {
            ARRAYS_NAME: npz_bytes(arrays),
            CSV_NAME: csv_text(self._rows(), _COLUMNS).encode("utf-8"),
            JSON_NAME: strict_json(self.to_json()).encode("utf-8"),
        }

    @classmethod
    def load(cls, directory: str | Path) -> RelianceResult:
        """Load a result written by :meth:`save`.

        Args:
            directory: Folder with ``reliance.json`` and ``reliance.npz``.

        Returns:
            The result, equal to the one that was saved.

        Raises:
            InvalidInputError: A file is missing or damaged, or has a schema version that cannot be read.
        """
        folder = Path(directory)
        record = read_json(folder / JSON_NAME, _ADVICE, READABLE_VERSIONS)
        wanted: dict[str, tuple[type[np.generic], int]] = {
            "decisions": (np.int32, 2),
            "targets": (np.int32, 1),
            "pictures": (np.uint8, 4),
        }
        arrays = read_arrays(folder / ARRAYS_NAME, _ADVICE, wanted)
        with reading(folder / JSON_NAME, "reliance record"):
            return decode(cls, {**record["reliance"], **arrays, "run": record["run"]})

    def _summary(self) -> Mapping[str, object]:
        summary = {"model": self.run.model, "weights": self.run.weights.label, "images": len(self.targets)}
        return summary | {"accuracy": self.accuracy}

    def _rows(self) -> list[Row]:
        shared: Row = dict.fromkeys(_COLUMNS, float("nan"))
        shared |= {"model": self.run.model, "weights": self.run.weights.label, "image_source": self.run.image_source}
        shared |= {"n_images": len(self.targets), "label_space": self.label_space, "cues": "", "method": ""}
        rows = [shared | {"suppression": NONE, "accuracy": self.accuracy}]
        rows[0] |= _ends("accuracy", self.accuracy_interval) | ({"relative_accuracy": 1.0} if self.accuracy else {})
        for one in self.suppressions:
            rows.append(shared | {"suppression": one.suppression, "cues": one.cues, "method": one.method})
            rows[-1] |= {"accuracy": one.accuracy} | _ends("accuracy", one.accuracy_interval)
            rows[-1] |= {"strength": nan_if_null(one.strength), "relative_accuracy": nan_if_null(one.relative_accuracy)}
            rows[-1] |= _ends("relative_accuracy", one.relative_interval)
        for cue in self.profile:
            rows.append(shared | {"suppression": "mean", "cues": cue.cues})
            rows[-1] |= {"relative_accuracy": nan_if_null(cue.relative_accuracy)}
            rows[-1] |= _ends("relative_accuracy", cue.interval)
        return rows


def write_csv(results: Sequence[RelianceResult], path: str | Path) -> None:
    """Write the rows of several results, with the columns of ``reliance.csv``, to one file.

    Args:
        results: Results in the order of the rows.
        path: File to write.

    Raises:
        InvalidInputError: The file cannot be written.
    """
    atomic_write_text(path, csv_text([row for result in results for row in result._rows()], _COLUMNS))


def _profile(suppressions: Sequence[Suppression], relative: Floats, drawn: Floats) -> tuple[CueAccuracy, ...]:
    """The means for each cue and combination of cues, single cues first."""
    methods = [one.method for one in suppressions]
    found = []
    for cues in sorted({one.cues for one in suppressions}, key=_rank):
        chosen = [index for index, one in enumerate(suppressions) if one.cues == cues]
        mean = float(mean_by_method(relative, methods, chosen))
        limits = interval(mean_by_method(drawn, methods, chosen))
        found.append(CueAccuracy(cues=cues, relative_accuracy=null_if_nan(mean), interval=limits))
    return tuple(found)


def _rank(cues: str) -> tuple[int, list[int]]:
    parts = cues.split("+")
    return len(parts), [CUES.index(part) for part in parts]


def _defined(values: Floats) -> Interval:
    found = interval(values)
    assert found is not None  # accuracies are always defined
    return found


def _ends(name: str, limits: Interval | None) -> Row:
    low, high = (float("nan"), float("nan")) if limits is None else limits
    return {f"{name}_ci95_low": low, f"{name}_ci95_high": high}
