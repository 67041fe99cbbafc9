"""The result of one benchmark, saved as JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from replk_probe.errors import InvalidInputError
from replk_probe.results import Result, Row, as_plain, csv_text, nan_if_null, strict_json
from replk_probe.runtime.checks import whole
from replk_probe.runtime.file_reading import decode, folder_of, read_json, reading
from replk_probe.runtime.formatting import counted
from replk_probe.runtime.provenance import software_versions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Of results of a CPU, and of a GPU.
SCHEMA_VERSION, SCHEMA_VERSION_OF_GPU = 1, 2
READABLE_VERSIONS = (1, 2)

JSON_NAME = "bench.json"
CSV_NAME = "bench.csv"

_CSV_COLUMNS = (
    "n", "c", "h", "w", "kh", "kw", "pass", "variant", "ms_min", "ms_median", "calls", "relative_l2", "method", "isa",
    "tile_h", "tile_w", "note",
)  # fmt: skip
_GPU_COLUMNS = ("layout", "share_of_bound", "chosen")
_CSV_DIGITS = {"ms_min": 6, "ms_median": 6, "relative_l2": 3, "share_of_bound": 3}

PASSES = ("forward", "grad_input", "grad_weight")
PASS_LABELS = {"forward": "forward", "grad_input": "input gradient", "grad_weight": "weight gradient"}
OURS = ("module", "functional", "ours_channels_last")
TORCH = ("nchw", "channels_last", "fft")
# Methods on a GPU: torch's convolution without and with a conversion of the memory format, and those of this package.
GPU_TORCH = ("aten", "aten-nchw", "aten-channels-last")
GPU_OURS = ("torch-fft", "triton-toeplitz")
LAYOUTS = {False: "nchw", True: "channels_last"}

# Types of the tensors by name, on a CPU and on a GPU.
CPU_DTYPES = {name: name for name in ("float32", "bfloat16")}
GPU_DTYPES = {"float32": "float32", "tf32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


@dataclass(frozen=True)
class Layer:
    """One depthwise convolution: input ``[n, c, h, w]``, kernel ``[kh, kw]``, stride 1, 'same' padding.

    Attributes:
        n: Number of images.
        c: Number of channels.
        h: Number of rows.
        w: Number of columns.
        kh: Number of rows of the kernel, odd.
        kw: Number of columns of the kernel, odd.
        count: Number of such layers in a model.

    Examples:
        >>> from replk_probe.bench import Layer
        >>> layer = Layer(n=1, c=256, h=64, w=64, kh=31, kw=31)
        >>> layer.label, layer.flops == 2 * 256 * 64**2 * 31**2
        ('1,256,64,31', True)
    """

    n: int
    c: int
    h: int
    w: int
    kh: int
    kw: int
    count: int = 1

    def __post_init__(self) -> None:
        """Check the sizes."""
        sizes = [whole(size) or 0 for size in (*self.shape, *self.kernel, self.count)]
        if min(sizes) < 1 or not (self.kh % 2 and self.kw % 2):
            raise InvalidInputError(
                f"Layer {','.join(map(str, (*self.shape, *self.kernel)))} cannot be timed. Sizes must be positive "
                "integers and kernels odd. Give N,C,H,W,KH,KW, for instance 1,256,64,64,31,31."
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(n, c, h, w)``."""
        return self.n, self.c, self.h, self.w

    @property
    def kernel(self) -> tuple[int, int]:
        """``(kh, kw)``."""
        return self.kh, self.kw

    @property
    def flops(self) -> int:
        """Floating-point operations of a direct convolution, including those on padding; the same for all passes."""
        return 2 * self.n * self.c * self.h * self.w * self.kh * self.kw

    @property
    def label(self) -> str:
        """Label such as ``"1,256,64,31"`` if planes and kernels are square, else ``"1,124,56,51x5"``."""
        plane = f"{self.h}" if self.h == self.w else f"{self.h}x{self.w}"
        kernel = f"{self.kh}" if self.kh == self.kw else f"{self.kh}x{self.kw}"
        return f"{self.n},{self.c},{plane},{kernel}"


@dataclass(frozen=True)
class Timing:
    """Timing of one variant of one pass of one layer.

    Attributes:
        variant: Variant of this package: ``"module"`` (kernel prepared before the call), ``"functional"`` (kernel
            prepared in the call) or ``"ours_channels_last"`` (the first of these that exists, with channels-last
            operands); or of torch: ``"nchw"``, ``"channels_last"`` or ``"fft"`` (spectrum of the kernel precomputed).
            On a GPU the name of a method: ``"aten"``, ``"aten-nchw"`` or ``"aten-channels-last"`` (torch's convolution,
            in the last two after a conversion of the memory format), ``"torch-fft"`` or ``"triton-toeplitz"``.
        minimum: Time of the shortest call in seconds, or None if it was not measured.
        median: Median time of the calls in seconds, or None if it was not measured.
        calls: Number of timed calls.
        error: Relative L2 error against float64, or None if it was not computed, as on a GPU.
        note: Reason why the variant was not measured or was measured less often, or None.
        share: Largest error against float64 as a share of its bound, on a GPU; above 1 if the result is wrong.
        turns: Median time of the calls of each turn in seconds; turns of the same number were timed one after another.
            Empty if the variant was not measured, and in results of earlier versions.
    """

    variant: str
    minimum: float | None
    median: float | None
    calls: int
    error: float | None = None
    note: str | None = None
    share: float | None = None
    turns: tuple[float, ...] = field(default=(), metadata={"added_later": True})


@dataclass(frozen=True)
class MethodChoice:
    """What the tuner chooses for a convolution on a GPU.

    Attributes:
        method: Name of the method.
        reason: Why it was chosen, a clause without a period.
        channels_last: Whether the operands are channels-last.
    """

    method: str
    reason: str
    channels_last: bool


@dataclass(frozen=True)
class SpeedCase:
    """Timings of all variants of one pass of one layer.

    Attributes:
        layer: The convolution.
        direction: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        timings: One timing per variant, with those of this package first; on a GPU that of torch's convolution is.
        method: Method of this package for NCHW operands: ``"fft"``, ``"direct"``, ``"blocked"``, ``"blocked-pfa"``,
            ``"reference"``, ``"aten"`` or ``"torch-fft"``. On a GPU the method that the tuner chooses.
        method_channels_last: Method of this package for channels-last operands.
        isa: Instruction set of this package's kernel, or None for ``"aten"`` and ``"torch-fft"``.
        tile: Lengths of the transforms; (0, 0) for other methods.
        workspace_bytes: Scratch memory of one call of this package's kernel.
        choice: The choice of the tuner on a GPU, whose time is that of this package; None on a CPU.
    """

    layer: Layer
    direction: str
    timings: tuple[Timing, ...]
    method: str
    isa: str | None
    tile: tuple[int, int]
    workspace_bytes: int
    method_channels_last: str = "aten"
    choice: MethodChoice | None = None

    def __post_init__(self) -> None:
        """Check that this package was measured.

        Raises:
            InvalidInputError: No variant of this package has a time; on a GPU, where the memory may not suffice, the
                method that was chosen was not even tried.
        """
        if self.choice is not None:
            if all(one.variant != self.choice.method for one in self.timings):
                raise InvalidInputError(
                    f"The case {self.layer} has no entry of {self.choice.method!r}, which was chosen for it. Add it."
                )
        elif all(self.timing(name) is None for name in OURS):
            raise InvalidInputError(
                f"The case {self.layer} has no time of this package, with which the others are compared. Add one of "
                f"{', '.join(OURS)}."
            )

    def timing(self, variant: str) -> Timing | None:
        """The timing of one variant, or None if it was not measured."""
        return next((one for one in self.timings if one.variant == variant and one.minimum is not None), None)

    @property
    def label(self) -> str:
        """Label of the layer, with the memory format on a GPU."""
        if self.choice is None:
            return self.layer.label
        return f"{self.layer.label} {'nhwc' if self.choice.channels_last else 'nchw'}"

    @property
    def pass_label(self) -> str:
        """Name of the pass for the reader, such as ``"input gradient"``."""
        return PASS_LABELS[self.direction]

    @property
    def ours(self) -> Timing:
        """Timing of this package for NCHW operands, with a prepared kernel if the pass has one; on a GPU of the choice.

        Its times are None if the memory of a GPU did not suffice.
        """
        if self.choice is not None:
            return next(timing for timing in self.timings if timing.variant == self.choice.method)
        return next(timing for name in OURS if (timing := self.timing(name)) is not None)

    @property
    def best_torch(self) -> Timing | None:
        """Timing of torch's fastest variant; on a GPU of its convolution, with or without a conversion."""
        measured = [timing for name in (*TORCH, *GPU_TORCH) if (timing := self.timing(name)) is not None]
        return min(measured, key=lambda timing: timing.minimum or 0.0, default=None)

    @property
    def ratio(self) -> float | None:
        """Speed-up over the fastest variant of torch in any layout, by the shortest calls."""
        return self.ratio_to(self.best_torch)

    def ratio_to(self, other: Timing | None) -> float | None:
        """Speed-up over ``other``, by the shortest calls."""
        ours = self.ours.minimum
        return None if other is None or other.minimum is None or not ours else other.minimum / ours

    @property
    def ratio_by_layout(self) -> float | None:
        """The smaller of the speed-ups for NCHW and channels-last operands, each over torch in the same layout."""
        planes = [timing.minimum for name in ("nchw", "fft") if (timing := self.timing(name)) is not None]
        ratios = [min(filter(None, planes)) / self.ours.minimum] if any(planes) and self.ours.minimum else []
        ours, theirs = self.timing("ours_channels_last"), self.timing("channels_last")
        if ours is not None and theirs is not None and ours.minimum and theirs.minimum:
            ratios.append(theirs.minimum / ours.minimum)
        return min(ratios, default=None)

    @property
    def ratio_of_medians(self) -> float | None:
        """Speed-up over the fastest variant of torch, by the medians."""
        measured = [timing for name in (*TORCH, *GPU_TORCH) if (timing := self.timing(name)) is not None]
        medians = [timing.median for timing in measured if timing.median]
        return min(medians) / self.ours.median if medians and self.ours.median else None

    @property
    def gflops(self) -> float:
        """Effective rate of this package, in 10^9 operations of a direct convolution per second."""
        return self.layer.flops / (self.ours.minimum or float("inf")) / 1e9


@dataclass(frozen=True)
class Gpu:
    """GPU of a measurement.

    Attributes:
        name: Name, such as ``"NVIDIA H200"``.
        device: The device as torch names it, such as ``"cuda:0"``.
        environment: Everything that selects methods and algorithms, by name: compute capability, versions of the
            driver, CUDA, cuDNN, torch and Triton, whether TF32 is allowed, and restrictions of algorithms.
        multiprocessors: Number of multiprocessors.
        memory_bytes: Memory in bytes.
        clocks: Clock rates in MHz by name: of the multiprocessors (``sm``) and of the memory, before and after the
            measurement, and the largest ones; those that nvidia-smi does not report are left out.
    """

    name: str
    device: str
    environment: dict[str, str]
    multiprocessors: int
    memory_bytes: int
    clocks: dict[str, float]


@dataclass(frozen=True)
class Machine:
    """Machine and software of a measurement.

    Attributes:
        cpu: Name of the processor.
        threads: Number of threads available to every variant.
        load: Load averages over one minute, before and after.
        fma_peak: Peak rate of multiply-adds on registers, measured in the same run, in 10^9 operations per second; None
            without the native library. On a GPU that of float32 without tensor cores, computed from the number of
            multiprocessors and the largest clock rate, or None if one of them is not known.
        isa: Instruction set of the native kernels, or None without the library.
        compiler: Compiler of the library, or None.
        torch_capability: Instruction set that torch uses.
        versions: Versions of replk-probe, Python and its dependencies.
        gpu: The GPU on which everything was timed, or None.
    """

    cpu: str
    threads: int
    load: tuple[float, float]
    fma_peak: float | None
    isa: str | None
    compiler: str | None
    torch_capability: str
    versions: dict[str, str] = field(default_factory=software_versions)
    gpu: Gpu | None = None

    @property
    def label(self) -> str:
        """The GPU, or the processor and the number of threads."""
        return f"{self.cpu}, {counted(self.threads, 'thread')}" if self.gpu is None else self.gpu.name


@dataclass(frozen=True, eq=False, repr=False)
class SpeedResult(Result):
    """A benchmark of several layers.

    Its numbers are the times of one machine; equality compares them as well as the machine.

    Attributes:
        cases: One case per layer and pass.
        machine: Machine and software of the measurement.
        dtype: Type of all tensors; ``"tf32"`` stands for float32 tensors whose values torch's convolution may round to
            TF32.
        repeats: Number of timed calls requested for each variant.

    Examples:
        >>> from replk_probe.bench import Layer, SpeedResult, measure_speed
        >>> result = measure_speed([Layer(1, 8, 16, 16, 5, 5)], repeats=2, budget=0.1)
        >>> result.save("bench")
        >>> SpeedResult.load("bench") == result
        True
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]] = (
        "n", "c", "h", "w", "kh", "kw", "pass", "variant", "ms_min", "ms_median", "method",
    )  # fmt: skip

    cases: tuple[SpeedCase, ...]
    machine: Machine
    dtype: str
    repeats: int

    def to_json(self) -> dict[str, Any]:
        """The result as plain dictionaries, lists and numbers, with the ratios and rates computed from the times."""
        ratios = ("ratio", "ratio_of_medians", "ratio_by_layout")
        cases = [
            as_plain(case) | {name: getattr(case, name) for name in ratios} | {"effective_gflops": case.gflops}
            for case in self.cases
        ]
        record = {name: as_plain(getattr(self, name)) for name in ("machine", "dtype", "repeats")} | {"cases": cases}
        version = SCHEMA_VERSION if self.machine.gpu is None else SCHEMA_VERSION_OF_GPU
        if self.machine.gpu is None:
            for entry, name in _entries_of_gpu(record):
                del entry[name]
        return {"schema_version": version, **record}

    def to_dataframe(self) -> pd.DataFrame:
        """The times as a table with one row per layer, pass and variant.

        Returns:
            A data frame with the columns of ``bench.csv``: ``n``, ``c``, ``h``, ``w``, ``kh``, ``kw``, ``pass``,
            ``variant``, ``ms_min`` and ``ms_median`` (milliseconds per call, NaN where not measured), ``calls``,
            ``relative_l2`` (error against float64, NaN where not computed), ``method``, ``isa``, ``tile_h``,
            ``tile_w`` and ``note`` (texts, and None where they do not apply). Results of a GPU also have ``layout``,
            ``share_of_bound`` (largest error against float64 as a share of its bound, NaN where not computed) and
            ``chosen`` (whether the tuner chooses the method).
        """
        return super().to_dataframe()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw this result; arguments and errors are those of :func:`~replk_probe.bench.plot_times`."""
        from .plot import plot_times

        return plot_times(self, ax, **kwargs)

    @classmethod
    def load(cls, directory: str | Path) -> SpeedResult:
        """Load a result written by :meth:`save`.

        Args:
            directory: Folder with ``bench.json``.

        Returns:
            The result, equal to the one that was saved.

        Raises:
            InvalidInputError: The file is missing or damaged, or has a schema version that cannot be read.
        """
        path = Path(directory) / JSON_NAME
        record = read_json(path, folder_of("bench"), READABLE_VERSIONS)
        with reading(path, "benchmark record"):
            if record["schema_version"] == SCHEMA_VERSION:
                for entry, name in _entries_of_gpu(record):
                    entry[name] = None
            return decode(cls, record)

    def _files(self) -> Mapping[str, bytes]:
        rows = [
            row | {name: _rounded(row[name], digits) for name, digits in _CSV_DIGITS.items() if name in row}
            for row in self._rows()
        ]
        text = strict_json(self.to_json(), indent=1)
        columns = (*_CSV_COLUMNS, *(_GPU_COLUMNS if self.machine.gpu else ()))
        return {CSV_NAME: csv_text(rows, columns).encode("utf-8"), JSON_NAME: text.encode("utf-8")}

    def _summary(self) -> Mapping[str, object]:
        machine = self.machine
        place = {"cpu": machine.cpu, "threads": machine.threads} if machine.gpu is None else {"gpu": machine.gpu.name}
        return {**place, "dtype": self.dtype, "cases": len(self.cases)}

    def _rows(self) -> list[Row]:
        return [_row(case, timing) for case in self.cases for timing in case.timings]


def _row(case: SpeedCase, timing: Timing) -> Row:
    ours = (case.method, case.isa, *case.tile)
    last = (case.method_channels_last, None, None, None)
    methods = {"module": ours, "functional": ours, "ours_channels_last": last}
    if case.choice is not None:
        methods[timing.variant] = (timing.variant, None, None, None)
    cells = (
        *case.layer.shape,
        *case.layer.kernel,
        case.direction,
        timing.variant,
        *(1e3 * nan_if_null(value) for value in (timing.minimum, timing.median)),
        timing.calls,
        nan_if_null(timing.error),
        *methods.get(timing.variant, ("torch", None, None, None)),
        timing.note,
    )
    row: Row = dict(zip(_CSV_COLUMNS, cells, strict=True))
    if case.choice is not None:
        more = LAYOUTS[case.choice.channels_last], nan_if_null(timing.share), timing.variant == case.choice.method
        row |= dict(zip(_GPU_COLUMNS, more, strict=True))
    return row


def _entries_of_gpu(record: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The entries that records of a CPU do not have: a dictionary and a name in it."""
    yield record["machine"], "gpu"
    for case in record["cases"]:
        yield case, "choice"
        for timing in case["timings"]:
            yield timing, "share"


def _rounded(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}g}"
