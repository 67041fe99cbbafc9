"""What the kernels of models look like: frozen, saved as JSON + arrays + CSV, read back the same. Free of torch."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_path, atomic_write_text
from replk_probe.runtime.json_io import read_json, strict_json, unreadable
from replk_probe.runtime.provenance import WeightsInfo, software_versions

from .kernel import Kernel
from .statistics import EFFECTIVE_SHARES, FloatArray

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "kernels.json"
ARRAYS_NAME = "kernels.npz"
STRONGEST_NAME = "strongest.npz"
CSV_NAME = "kernels.csv"

# Of the command line, that writes these.
_COMMAND = "kernels"


@dataclass(frozen=True)
class KernelRun:
    """The circumstances of one measurement of one model.

    Attributes:
        model: Name as given on the command line, or the class name of the caller's module.
        weights: See :class:`~replk_probe.runtime.provenance.WeightsInfo`.
        layers: As they were asked for.
        variant: As it was asked for.
        aggregate: ``"sum"`` or ``"mean"`` over channels.
        seconds: Wall-clock time of the measurement.
        versions: Of replk-probe and the packages below it.
    """

    model: str
    weights: WeightsInfo
    layers: tuple[str, ...]
    variant: str
    aggregate: str
    seconds: float
    versions: dict[str, str] = field(default_factory=software_versions)


@dataclass(frozen=True, eq=False)
class KernelResult:
    """The kernels of one model.

    Attributes:
        kernels: One per layer and variant, in the order of the network.
        run: Circumstances of the measurement.
    """

    kernels: tuple[Kernel, ...]
    run: KernelRun

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader must see about any of the kernels, each once."""
        return tuple(dict.fromkeys(note for kernel in self.kernels for note in kernel.notes))

    def kernel(self, layer: str, variant: str = "merged") -> Kernel:
        """One kernel by its layer (``stage4.0``, or the module path) and variant.

        Raises:
            InvalidInputError: It was not measured.
        """
        for kernel in self.kernels:
            if layer in (kernel.layer, kernel.path) and kernel.variant == variant:
                return kernel
        known = ", ".join(f"{kernel.layer} {kernel.variant}" for kernel in self.kernels[:6])
        more = ", ..." if len(self.kernels) > 6 else ""
        raise InvalidInputError(
            f"There is no kernel {layer!r}, {variant!r}. This result has {known}{more}. Take one of those, or measure "
            "again with --layer and --variant."
        )

    def save(self, directory: str | Path) -> None:
        """Write the files of :func:`save_results` for this model alone."""
        save_results([self], directory)

    @classmethod
    def load(cls, directory: str | Path) -> KernelResult:
        """Read back what :meth:`save` wrote.

        Raises:
            InvalidInputError: As :func:`load_results`, and where there are several models.
        """
        results = load_results(directory)
        if len(results) != 1:
            raise InvalidInputError(
                f"{Path(directory) / JSON_NAME} holds {len(results)} models. One is asked for. "
                "Read them all with replk_probe.kernels.load_results."
            )
        return results[0]


def names_apart(results: Sequence[KernelResult]) -> list[str]:
    """Names of the models, with a number behind those that are not the only one of their name."""
    names = [result.run.model for result in results]
    return [
        f"{name} #{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def save_results(results: Sequence[KernelResult], directory: str | Path) -> None:
    """Write ``kernels.npz``, ``strongest.npz``, ``kernels.csv`` and, last, ``kernels.json``, each whole or not at all.

    The arrays are called ``MODEL/LAYER/VARIANT``, as the entry ``array`` of each kernel in the JSON says.

    Args:
        results: One per model.
        directory: Created if it is not there.

    Raises:
        InvalidInputError: There are none, or the folder cannot be written to.
    """
    if not results:
        raise InvalidInputError("There is no result to save. A record is of at least one model. Give some.")
    folder = Path(directory)
    models, kernels = [], []
    arrays: dict[str, FloatArray] = {}
    strongest: dict[str, FloatArray] = {}
    for name, result in zip(names_apart(results), results, strict=True):
        models.append({"name": name} | asdict(result.run))
        for kernel in result.kernels:
            key = f"{name}/{kernel.layer}/{kernel.variant}"
            arrays[key], strongest[key] = kernel.magnitude, kernel.strongest
            kernels.append({"model": name, "weights": result.run.weights.label} | kernel.to_json() | {"array": key})
    text = strict_json({"schema_version": SCHEMA_VERSION, "run": {"models": models}, "kernels": kernels})
    for file, content in ((ARRAYS_NAME, arrays), (STRONGEST_NAME, strongest)):
        with atomic_path(folder / file) as path, path.open("wb") as stream:
            np.savez(stream, **content)  # type: ignore[arg-type]
    atomic_write_text(folder / CSV_NAME, _csv(kernels, results))
    atomic_write_text(folder / JSON_NAME, text)


def load_results(directory: str | Path) -> tuple[KernelResult, ...]:
    """Read back what :func:`save_results` wrote, one result per model.

    Args:
        directory: Folder with ``kernels.json``, ``kernels.npz`` and ``strongest.npz``.

    Raises:
        InvalidInputError: A file is missing or damaged, or of a schema version that this program cannot read.
    """
    folder = Path(directory)
    record = read_json(folder / JSON_NAME, _COMMAND, READABLE_VERSIONS)
    arrays, strongest = _read_arrays(folder / ARRAYS_NAME), _read_arrays(folder / STRONGEST_NAME)
    try:
        return tuple(
            KernelResult(
                tuple(
                    _kernel(entry, arrays[entry["array"]], strongest[entry["array"]])
                    for entry in record["kernels"]
                    if entry["model"] == model["name"]
                ),
                _run(model),
            )
            for model in record["run"]["models"]
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"{folder / JSON_NAME} is not a complete record of kernels ({type(error).__name__}: {error}). It was "
            "changed by hand or cut short. Measure again."
        ) from error


def _kernel(entry: Mapping[str, Any], magnitude: FloatArray, strongest: FloatArray) -> Kernel:
    return Kernel(
        layer=entry["layer"],
        path=entry["path"],
        variant=entry["variant"],
        magnitude=magnitude,
        channels=entry["channels"],
        operation=entry["operation"],
        branches=tuple(entry["branches"]),
        zero_fraction=math.nan if entry["zero_fraction"] is None else entry["zero_fraction"],
        small_branch_share=entry["small_branch_share"],
        batch_norm=tuple(entry["batch_norm"]),
        strongest=strongest,
        strongest_channels=tuple(tuple(place) for place in entry["strongest_channels"]),
        notes=tuple(entry["notes"]),
    )


def _run(model: Mapping[str, Any]) -> KernelRun:
    fields = {name: value for name, value in model.items() if name != "name"}
    weights = dict(fields.pop("weights"))
    weights["dropped"] = tuple(weights["dropped"])
    return KernelRun(weights=WeightsInfo(**weights), **fields | {"layers": tuple(fields["layers"])})


def _read_arrays(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    try:
        # Opened here, because numpy leaves a damaged archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}
    except FileNotFoundError as error:
        raise unreadable(path, "no such file", _COMMAND) from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise unreadable(path, str(error), _COMMAND) from error


def _csv(kernels: Iterable[Mapping[str, Any]], results: Sequence[KernelResult]) -> str:
    """One row per kernel, of the numbers in the JSON."""
    aggregates = dict(zip(names_apart(results), (result.run.aggregate for result in results), strict=True))
    rows = [_csv_row(kernel, aggregates[kernel["model"]]) for kernel in kernels]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _csv_row(kernel: Mapping[str, Any], aggregate: str) -> dict[str, Any]:
    height, width = kernel["kernel_size"]
    row = {name: kernel[name] for name in ("model", "weights", "layer", "path", "variant")}
    row |= {"kernel_height": height, "kernel_width": width, "channels": kernel["channels"]}
    row |= {"operation": kernel["operation"], "aggregate": aggregate}
    row |= {name: kernel[name] for name in ("centre3x3_share", "skeleton_share")}
    row |= {f"effective_size_{percent}": kernel["effective_size"][str(percent)] for percent in EFFECTIVE_SHARES}
    row |= {name: kernel[name] for name in ("entropy_bits", "relative_entropy")}
    symmetry = kernel["symmetry"]
    row |= {f"symmetry_{name}": symmetry.get(name) for name in ("left_right", "up_down", "rotation", "transpose")}
    single = ("zero_fraction", "small_branch_share", "centre3x3_mean", "outside3x3_mean", "relative_mass", "maximum")
    return row | {name: kernel[name] for name in single}
