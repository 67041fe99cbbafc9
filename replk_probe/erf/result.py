"""What one ERF measurement found: frozen, saved as JSON + arrays + CSV, read back the same. Free of torch."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_path, atomic_write_text
from replk_probe.runtime.json_io import read_json, strict_json, unreadable
from replk_probe.runtime.provenance import RunInfo

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "erf.json"
ARRAYS_NAME = "erf.npz"
CSV_NAME = "erf.csv"

CentreSource: TypeAlias = Literal["receptive field", "stride rule"]

# Of the command line, that writes these.
_COMMAND = "erf"

_CSV_COLUMNS = (
    "model",
    "weights",
    "images",
    "seed",
    "precision",
    "n_images",
    "input_height",
    "input_width",
    "layer",
    "protocol",
    "threshold",
    "side",
    "ratio",
    "ci95_low",
    "ci95_high",
)


@dataclass(frozen=True)
class RatioRow:
    """One answer: how large a window, or set of pixels, holds a share of the contribution.

    Attributes:
        protocol: ``"paper"``, ``"linear"``, ``"centred"`` or ``"pixels"``.
        threshold: Share of the total contribution, in (0, 1).
        side: Input pixels.
        ratio: Area as a fraction of the input, in (0, 1].
        ci95: 95 % interval of ``ratio``, or None where it cannot be told (fewer than two images).
    """

    protocol: str
    threshold: float
    side: float
    ratio: float
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class ErfResult:
    """The effective receptive field of one model over some images.

    Attributes:
        contribution: Contribution scores, mean over images, ``[H, W]`` float64, >= 0, read-only.
        run: Circumstances of the measurement.
        n_images: Images in the mean.
        n_skipped: Images left out (``run.skipped`` names them and says why).
        input_size: ``(H, W)`` in pixels.
        layer: Path of the layer, with ``(input)`` where its input was taken.
        feature_size: ``(h, w)`` of that map.
        centre: (y, x) in input pixels of the receptive field of the output that was differentiated.
        centre_source: ``"receptive field"`` where it was followed through the layers, else ``"stride rule"``.
        theoretical_rf: Side of the theoretical receptive field in input pixels, or None where it cannot be followed.
        ratios: One row per protocol and threshold.
        notes: Sentences the reader of the numbers must see.
    """

    contribution: npt.NDArray[np.float64]
    run: RunInfo
    n_images: int
    n_skipped: int
    input_size: tuple[int, int]
    layer: str
    feature_size: tuple[int, int]
    centre: tuple[float, float]
    centre_source: CentreSource
    theoretical_rf: int | None
    ratios: tuple[RatioRow, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Own the map, so that nobody else can change it."""
        contribution = np.array(self.contribution, dtype=np.float64)
        if contribution.shape != tuple(self.input_size):
            raise InvalidInputError(
                f"Contribution map has shape {list(contribution.shape)} but the input size is "
                f"{list(self.input_size)}. They describe the same pixels. Give one score per input pixel."
            )
        contribution.setflags(write=False)
        object.__setattr__(self, "contribution", contribution)

    @property
    def protocols(self) -> tuple[str, ...]:
        """Protocols of the rows, in their order."""
        return tuple(dict.fromkeys(row.protocol for row in self.ratios))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Thresholds of the rows, in their order."""
        return tuple(dict.fromkeys(row.threshold for row in self.ratios))

    def row(self, protocol: str, threshold: float) -> RatioRow:
        """The answer of one protocol at one threshold.

        Raises:
            InvalidInputError: It was not measured.
        """
        for row in self.ratios:
            if row.protocol == protocol and row.threshold == threshold:
                return row
        raise InvalidInputError(
            f"No ratio of protocol {protocol!r} at threshold {threshold}. This result has "
            f"{', '.join(self.protocols)} at {', '.join(f'{value:g}' for value in self.thresholds)}. "
            "Take one of those, or measure again with --thresholds."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain dictionaries, lists and numbers."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": self.run.to_json(),
            "erf": {
                "n_images": self.n_images,
                "n_skipped": self.n_skipped,
                "input_size": list(self.input_size),
                "layer": self.layer,
                "feature_size": list(self.feature_size),
                "centre": list(self.centre),
                "centre_source": self.centre_source,
                "theoretical_rf": self.theoretical_rf,
                "ratios": [
                    {
                        "protocol": row.protocol,
                        "threshold": row.threshold,
                        "side": row.side,
                        "ratio": row.ratio,
                        "ci95": None if row.ci95 is None else list(row.ci95),
                    }
                    for row in self.ratios
                ],
                "notes": list(self.notes),
            },
        }

    def save(self, directory: str | Path) -> None:
        """Write ``erf.npz``, ``erf.csv`` and, last, ``erf.json``, each whole or not at all.

        The bytes depend on the result alone: no clock, no compression library.

        Args:
            directory: Created if it is not there.

        Raises:
            InvalidInputError: The folder cannot be written to, or a number of the record is not finite.
        """
        folder = Path(directory)
        text = strict_json(self.to_json())
        with atomic_path(folder / ARRAYS_NAME) as path, path.open("wb") as stream:
            np.savez(stream, contribution=self.contribution)
        write_csv([self], folder / CSV_NAME)
        atomic_write_text(folder / JSON_NAME, text)

    @classmethod
    def load(cls, directory: str | Path) -> ErfResult:
        """Read back what :meth:`save` wrote.

        Args:
            directory: Folder with ``erf.json`` and ``erf.npz``.

        Raises:
            InvalidInputError: A file is missing or damaged, or of a schema version that this program cannot read.
        """
        folder = Path(directory)
        record = read_json(folder / JSON_NAME, _COMMAND, READABLE_VERSIONS)
        contribution = _read_contribution(folder / ARRAYS_NAME)
        try:
            erf: Mapping[str, Any] = record["erf"]
            return cls(
                contribution=contribution,
                run=RunInfo.from_json(record["run"]),
                n_images=erf["n_images"],
                n_skipped=erf["n_skipped"],
                input_size=_pair(erf["input_size"]),
                layer=erf["layer"],
                feature_size=_pair(erf["feature_size"]),
                centre=_pair(erf["centre"]),
                centre_source=erf["centre_source"],
                theoretical_rf=erf["theoretical_rf"],
                ratios=tuple(_ratio_row(row) for row in erf["ratios"]),
                notes=tuple(erf["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(
                f"{folder / JSON_NAME} is not a complete ERF record ({type(error).__name__}: {error}). It was changed "
                "by hand or cut short. Measure again."
            ) from error


def write_csv(results: Iterable[ErfResult], path: str | Path) -> None:
    """Write one row per model, protocol and threshold.

    Args:
        results: One result, or those of a comparison.
        path: File to write, replaced if it exists.

    Raises:
        InvalidInputError: The file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for result in results:
        for row in result.ratios:
            writer.writerow(
                [
                    result.run.model,
                    result.run.weights.label,
                    result.run.image_source,
                    result.run.seed,
                    result.run.precision,
                    result.n_images,
                    *result.input_size,
                    result.layer,
                    row.protocol,
                    row.threshold,
                    row.side,
                    row.ratio,
                    *(row.ci95 or ("", "")),
                ]
            )
    atomic_write_text(path, buffer.getvalue())


def _read_contribution(path: Path) -> npt.NDArray[np.float64]:
    try:
        # Opened here, because numpy leaves a damaged archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            contribution = arrays["contribution"]
    except FileNotFoundError as error:
        raise unreadable(path, "no such file", _COMMAND) from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise unreadable(path, str(error), _COMMAND) from error
    if contribution.dtype != np.float64 or contribution.ndim != 2:
        raise unreadable(
            path, f"contribution is {contribution.dtype}{list(contribution.shape)}, not float64 [H, W]", _COMMAND
        )
    return np.asarray(contribution, dtype=np.float64)


def _ratio_row(data: Mapping[str, Any]) -> RatioRow:
    fields = dict(data)
    return RatioRow(**{**fields, "ci95": None if fields["ci95"] is None else _pair(fields["ci95"])})


def _pair(values: Iterable[Any]) -> tuple[Any, Any]:
    first, second = values
    return first, second
