"""The kernels of models, saved as JSON, arrays and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from replk_probe.errors import InvalidInputError
from replk_probe.results import (
    Result,
    Row,
    as_plain,
    csv_text,
    dataframe,
    nan_if_null,
    npz_bytes,
    strict_json,
    write_files,
)
from replk_probe.runtime.file_reading import decode, folder_of, read_arrays, read_json, reading
from replk_probe.runtime.provenance import WeightsInfo, software_versions

from .channel_statistics import ChannelStatistics, KernelChange
from .kernel import Kernel
from .kernel import distinct_names as distinct_names
from .statistics import EFFECTIVE_SHARES, FloatArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "kernels.json"
ARRAYS_NAME = "kernels.npz"
STRONGEST_NAME = "strongest.npz"
CSV_NAME = "kernels.csv"

# Entries that files of earlier versions lack.
_ADDED_TO_RUN: Row = {"compose": False, "against": None}
_ADDED_TO_KERNEL: Row = {"composed_of": [], "channel_statistics": None, "change": None, "dilation": [1, 1]}

_ADVICE = folder_of("kernels")
_COLUMNS = (
    *("model", "weights", "layer", "path", "variant", "kernel_height", "kernel_width", "channels", "operation"),
    *("aggregate", "centre3x3_share", "skeleton_share", *(f"effective_size_{share}" for share in EFFECTIVE_SHARES)),
    *("entropy_bits", "relative_entropy", "symmetry_left_right", "symmetry_up_down", "symmetry_rotation"),
    *("symmetry_transpose", "zero_fraction", "small_branch_share", "centre3x3_mean", "outside3x3_mean"),
    *("relative_mass", "maximum"),
    *(field.name for field in fields(ChannelStatistics)),
    *(f"change_{field.name}" for field in fields(KernelChange)),
)


@dataclass(frozen=True)
class KernelRun:
    """The provenance of one measurement of one model.

    Equality ignores when and where it was computed: ``seconds`` and ``versions``.

    Attributes:
        model: Name as given on the command line, or the class name of the caller's module.
        weights: See :class:`~replk_probe.runtime.provenance.WeightsInfo`.
        layers: Layers as requested.
        variant: Variant as requested.
        aggregate: ``"sum"`` or ``"mean"`` over channels.
        compose: Whether composed kernels were requested.
        against: Weights of the other checkpoint that the kernels are compared with, or None.
        seconds: Wall-clock time of the measurement.
        versions: Versions of replk-probe and of the packages it depends on.
    """

    model: str
    weights: WeightsInfo
    layers: tuple[str, ...]
    variant: str
    aggregate: str
    seconds: float = field(compare=False)
    versions: dict[str, str] = field(default_factory=software_versions, compare=False)
    compose: bool = False
    against: WeightsInfo | None = None


@dataclass(frozen=True, eq=False, repr=False)
class KernelResult(Result):
    """The kernels of one model.

    Attributes:
        kernels: One kernel per layer and variant, in the order of the network.
        run: Provenance of the measurement.

    Examples:
        >>> from replk_probe import KernelResult, measure_kernels
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> result = measure_kernels(network)
        >>> result.kernel("stage2.0").kernel_size
        (13, 13)
        >>> result.save("kernels")
        >>> KernelResult.load("kernels") == result
        True
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]] = (
        "layer", "variant", "kernel_height", "kernel_width", "centre3x3_share", "skeleton_share", "effective_size_90",
    )  # fmt: skip

    kernels: tuple[Kernel, ...]
    run: KernelRun

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all kernels, each of them once."""
        return tuple(dict.fromkeys(note for kernel in self.kernels for note in kernel.notes))

    def kernel(self, layer: str, variant: str = "merged") -> Kernel:
        """One kernel by its layer (``stage4.0``, or the module path) and variant.

        Args:
            layer: Name of the layer, such as ``"stage4.0"``, or module path.
            variant: Variant of the kernel, as in :class:`Kernel`.

        Returns:
            The kernel.

        Raises:
            InvalidInputError: The kernel was not measured.
        """
        for kernel in self.kernels:
            if layer in (kernel.layer, kernel.path) and kernel.variant == variant:
                return kernel
        known = ", ".join(f"{kernel.layer} {kernel.variant}" for kernel in self.kernels[:6])
        more = ", ..." if len(self.kernels) > 6 else ""
        raise InvalidInputError(
            f"There is no kernel {layer!r}, {variant!r}. This result has {known}{more}. Choose one of these, or "
            "measure again with another layer or variant."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """The statistics of the kernels as a table; see :func:`results_to_dataframe`."""
        return super().to_dataframe()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw this result; arguments and errors are those of :func:`~replk_probe.kernels.plot_kernel`."""
        from .plot_map import plot_kernel

        return plot_kernel(self, ax, **kwargs)

    def _files(self) -> Mapping[str, bytes]:
        return _files([self])

    def _summary(self) -> Mapping[str, object]:
        run = self.run
        summary = {"model": run.model, "weights": run.weights.label, "kernels": len(self.kernels)}
        return summary | {"aggregate": run.aggregate}

    def _rows(self) -> list[Row]:
        return _rows([self])

    @classmethod
    def load(cls, directory: str | Path) -> KernelResult:
        """Load a result that :meth:`save` wrote.

        Args:
            directory: Folder with ``kernels.json``, ``kernels.npz`` and ``strongest.npz``.

        Returns:
            The result, equal to the one that was saved.

        Raises:
            InvalidInputError: As in :func:`load_results`, or the folder contains several models.
        """
        results = load_results(directory)
        if len(results) != 1:
            raise InvalidInputError(
                f"{Path(directory) / JSON_NAME} contains {len(results)} models. KernelResult.load reads only one. "
                "Load all of them with replk_probe.kernels.load_results."
            )
        return results[0]


def save_results(results: Sequence[KernelResult], directory: str | Path) -> None:
    """Write ``kernels.npz``, ``strongest.npz``, ``kernels.csv`` and, last, ``kernels.json``.

    Each file is written completely or not at all. The arrays are named ``MODEL/LAYER/VARIANT``, as the entry ``array``
    of each kernel in the JSON file.

    Args:
        results: One result per model.
        directory: Folder to write to; created if it does not exist.

    Raises:
        InvalidInputError: ``results`` is empty, or the folder cannot be written to.

    Examples:
        >>> from pathlib import Path
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import save_results
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> save_results([measure_kernels(network)], "kernels")
        >>> sorted(path.name for path in Path("kernels").iterdir())
        ['kernels.csv', 'kernels.json', 'kernels.npz', 'strongest.npz']
    """
    if not results:
        raise InvalidInputError(
            "The list of results is empty. A record requires at least one result. Pass a non-empty list."
        )
    write_files(_files(results), directory)


def load_results(directory: str | Path) -> tuple[KernelResult, ...]:
    """Load the results that :func:`save_results` wrote, one per model.

    Args:
        directory: Folder with ``kernels.json``, ``kernels.npz`` and ``strongest.npz``.

    Returns:
        One result per model, in the order in which they were saved.

    Raises:
        InvalidInputError: A file is missing or damaged, or has a schema version that cannot be read.

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import load_results, save_results
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> save_results([measure_kernels(network, name=name) for name in ("a", "b")], "kernels")
        >>> [result.run.model for result in load_results("kernels")]
        ['a', 'b']
    """
    folder = Path(directory)
    path = folder / JSON_NAME
    record = read_json(path, _ADVICE, READABLE_VERSIONS)
    with reading(path, "record of kernels"):
        models = decode(list[dict[str, Any]], record["run"]["models"], "run.models")
        kernels = decode(list[dict[str, Any]], record["kernels"], "kernels")
        keys = [decode(str, kernel["array"], "array") for kernel in kernels]
        names = [decode(str, model["name"], "name") for model in models]
        if any(kernel["model"] not in names for kernel in kernels) or len({*names}) < len(names):
            raise ValueError("its kernels and its models do not have the same names")
    arrays, strongest = (
        read_arrays(folder / file, _ADVICE, dict.fromkeys(keys, (np.float64, axes)), optional=keys)
        for file, axes in ((ARRAYS_NAME, 2), (STRONGEST_NAME, 3))
    )
    with reading(path, "record of kernels"):
        found: dict[str, list[Kernel]] = {name: [] for name in names}
        for entry, key in zip(kernels, keys, strict=True):
            found[entry["model"]].append(_kernel(entry, arrays[key], strongest[key]))
        return tuple(
            KernelResult(tuple(found[model["name"]]), decode(KernelRun, _ADDED_TO_RUN | model)) for model in models
        )


def results_to_dataframe(results: Iterable[KernelResult]) -> pd.DataFrame:
    """The statistics of the kernels of several models as a table with one row per kernel.

    Args:
        results: One result per model.

    Returns:
        A data frame with the columns of ``kernels.csv``: ``model``, ``weights``, ``layer``, ``path``, ``variant``,
        ``kernel_height``, ``kernel_width``, ``channels``, ``operation``, ``aggregate``, ``centre3x3_share``,
        ``skeleton_share`` (share of the central row and column), ``effective_size_50``, ``_90`` and ``_99``,
        ``entropy_bits``, ``relative_entropy``, ``symmetry_left_right``, ``_up_down``, ``_rotation`` and ``_transpose``,
        ``zero_fraction``, ``small_branch_share``, ``centre3x3_mean``, ``outside3x3_mean``, ``relative_mass``,
        ``maximum``; ``low_frequency_share``, ``middle_frequency_share``, ``high_frequency_share``, ``orientation``,
        ``anisotropy``, ``channel_anisotropy``, ``distance_mean``, ``distance_median``, ``rank_mean`` and
        ``rank_median`` (see :class:`~replk_probe.kernels.ChannelStatistics`); ``change_relative_norm`` and
        ``change_cosine`` (see :class:`~replk_probe.kernels.KernelChange`). Shares are fractions in [0, 1];
        undefined numbers are NaN.

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import results_to_dataframe
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> table = results_to_dataframe([measure_kernels(network)])
        >>> table[["layer", "kernel_height", "channels"]].values.tolist()
        [['stage1.0', 13, 8], ['stage2.0', 13, 16]]
    """
    return dataframe(_rows(list(results)))


def _files(results: Sequence[KernelResult]) -> dict[str, bytes]:
    names, entries, rows = distinct_names(results), _entries(results), _rows(results)
    models = [{"name": name} | as_plain(result.run) for name, result in zip(names, results, strict=True)]
    record = {"schema_version": SCHEMA_VERSION, "run": {"models": models}, "kernels": entries}
    kernels = [kernel for result in results for kernel in result.kernels]
    keyed = {entry["array"]: kernel for entry, kernel in zip(entries, kernels, strict=True)}
    return {
        ARRAYS_NAME: npz_bytes({key: kernel.magnitude for key, kernel in keyed.items()}),
        STRONGEST_NAME: npz_bytes({key: kernel.strongest for key, kernel in keyed.items()}),
        CSV_NAME: csv_text(rows, list(rows[0]) if rows else ["model"]).encode("utf-8"),
        JSON_NAME: strict_json(record).encode("utf-8"),
    }


def _entries(results: Sequence[KernelResult]) -> list[Row]:
    """Every kernel as in the JSON file."""
    return [
        {"model": name, "weights": result.run.weights.label}
        | kernel.to_json()
        | {"array": f"{name}/{kernel.layer}/{kernel.variant}"}
        for name, result in zip(distinct_names(results), results, strict=True)
        for kernel in result.kernels
    ]


def _kernel(entry: Row, magnitude: FloatArray, strongest: FloatArray) -> Kernel:
    values = {"magnitude": magnitude, "strongest": strongest, "zero_fraction": nan_if_null(entry["zero_fraction"])}
    kernel = decode(Kernel, _ADDED_TO_KERNEL | entry | values, entry["array"])
    if list(kernel.kernel_size) != entry["kernel_size"] or len(strongest) != len(kernel.strongest_channels):
        raise ValueError(f"{entry['array']} does not have the size of its arrays")
    return kernel


def _rows(results: Sequence[KernelResult]) -> list[Row]:
    """One row per kernel, with the numbers in the JSON file."""
    aggregates = dict(zip(distinct_names(results), (result.run.aggregate for result in results), strict=True))
    rows = []
    for kernel in _entries(results):
        height, width = kernel["kernel_size"]
        cells = kernel | {"kernel_height": height, "kernel_width": width, "aggregate": aggregates[kernel["model"]]}
        cells |= {f"effective_size_{share}": kernel["effective_size"][str(share)] for share in EFFECTIVE_SHARES}
        cells |= {f"symmetry_{name}": value for name, value in kernel["symmetry"].items()}
        cells |= kernel["channel_statistics"] or {}
        cells |= {f"change_{name}": value for name, value in (kernel["change"] or {}).items()}
        rows.append({name: nan_if_null(cells.get(name)) for name in _COLUMNS})
    return rows
