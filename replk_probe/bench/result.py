"""What one benchmark found: frozen, saved as JSON and CSV, read back the same. Free of torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.provenance import software_versions

SCHEMA_VERSION = 1

JSON_NAME = "bench.json"
CSV_NAME = "bench.csv"

PASSES = ("forward", "grad_input", "grad_weight")
OURS = ("module", "functional", "ours_channels_last")
TORCH = ("nchw", "channels_last", "fft")


@dataclass(frozen=True)
class Layer:
    """One depthwise convolution: input ``[n, c, h, w]``, kernel ``[kh, kw]``, stride 1, 'same' padding.

    Attributes:
        n: Images.
        c: Channels.
        h: Rows.
        w: Columns.
        kh: Rows of the kernel, odd.
        kw: Columns of the kernel, odd.
        count: How many such layers a model has.
    """

    n: int
    c: int
    h: int
    w: int
    kh: int
    kw: int
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no layer."""
        if min(self.shape) < 1 or min(self.kernel) < 1 or not (self.kh % 2 and self.kw % 2):
            raise InvalidInputError(
                f"Layer {','.join(map(str, (*self.shape, *self.kernel)))} cannot be timed. Sizes have to be positive "
                "and kernels odd. Give N,C,H,W,KH,KW, for instance 1,256,64,64,31,31."
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
        """Floating-point operations of the plain sum, those that meet the padding counted too; of any of the passes."""
        return 2 * self.n * self.c * self.h * self.w * self.kh * self.kw

    @property
    def label(self) -> str:
        """``"1,256,64,31"`` where planes and kernels are square, else ``"1,124,56,51x5"``."""
        plane = f"{self.h}" if self.h == self.w else f"{self.h}x{self.w}"
        kernel = f"{self.kh}" if self.kh == self.kw else f"{self.kh}x{self.kw}"
        return f"{self.n},{self.c},{plane},{kernel}"


@dataclass(frozen=True)
class Timing:
    """One way to compute one pass of one layer.

    Attributes:
        variant: ``"module"`` (kernel prepared), ``"functional"`` (kernel prepared in the call) or
            ``"ours_channels_last"`` (the first that there is of these, of operands in that layout), ours;
            ``"nchw"``, ``"channels_last"`` or ``"fft"`` (kernel's spectrum ready), torch's.
        minimum: Shortest call, seconds; None where it was not measured.
        median: Of the calls, seconds; None where it was not measured.
        calls: How many were timed.
        error: Relative L2 error against float64, or None where it was not computed.
        note: Why it was not measured, or that it was measured less often; else None.
    """

    variant: str
    minimum: float | None
    median: float | None
    calls: int
    error: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class SpeedCase:
    """All ways to compute one pass of one layer.

    Attributes:
        layer: The convolution.
        direction: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        timings: One per variant, ours first.
        method: Of ours on planes: ``"fft"``, ``"direct"``, ``"lanes"``, ``"lanes-fft"``, ``"reference"`` or ``"aten"``.
        method_channels_last: Of ours in that layout.
        isa: Instruction set of ours, or None for ``"aten"``.
        tile: Lengths of the transforms, (0, 0) for other methods.
        workspace_bytes: Scratch memory of one call of ours.
    """

    layer: Layer
    direction: str
    timings: tuple[Timing, ...]
    method: str
    isa: str | None
    tile: tuple[int, int]
    workspace_bytes: int
    method_channels_last: str = "aten"

    def timing(self, variant: str) -> Timing | None:
        """The timing of one variant, or None where there is none with a time."""
        return next((one for one in self.timings if one.variant == variant and one.minimum is not None), None)

    @property
    def ours(self) -> Timing:
        """On planes, with the kernel prepared where there is a kernel."""
        return next(timing for name in OURS if (timing := self.timing(name)) is not None)

    @property
    def best_torch(self) -> Timing | None:
        """The fastest of torch's variants."""
        measured = [timing for name in TORCH if (timing := self.timing(name)) is not None]
        return min(measured, key=lambda timing: timing.minimum or 0.0, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times faster than the best of torch, in whatever layout, by the shortest calls."""
        return self.ratio_to(self.best_torch)

    def ratio_to(self, other: Timing | None) -> float | None:
        """How many times faster than ``other``, by the shortest calls."""
        ours = self.ours.minimum
        return None if other is None or other.minimum is None or not ours else other.minimum / ours

    @property
    def ratio_by_layout(self) -> float | None:
        """The smaller of the ratios of operands in planes and in channels_last, each to torch in that layout."""
        planes = [timing.minimum for name in ("nchw", "fft") if (timing := self.timing(name)) is not None]
        ratios = [min(filter(None, planes)) / self.ours.minimum] if any(planes) and self.ours.minimum else []
        ours, theirs = self.timing("ours_channels_last"), self.timing("channels_last")
        if ours is not None and theirs is not None and ours.minimum and theirs.minimum:
            ratios.append(theirs.minimum / ours.minimum)
        return min(ratios, default=None)

    @property
    def ratio_of_medians(self) -> float | None:
        """How many times faster than torch, by the medians."""
        medians = [timing.median for name in TORCH if (timing := self.timing(name)) is not None and timing.median]
        return min(medians) / self.ours.median if medians and self.ours.median else None

    @property
    def gflops(self) -> float:
        """Effective rate of ours, 10^9 operations of the plain sum per second."""
        return self.layer.flops / (self.ours.minimum or float("inf")) / 1e9


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        cpu: Model name.
        threads: That every variant could use.
        load: Load averages of the last minute, before and after.
        fma_peak: Multiply-adds from registers, measured in the same run, 10^9 operations per second; None without the
            native library.
        isa: Instruction set of the native kernels, or None without the library.
        compiler: What built the library, or None.
        torch_capability: Instruction set that torch uses.
        versions: Of replk-probe, Python and the packages below it.
    """

    cpu: str
    threads: int
    load: tuple[float, float]
    fma_peak: float | None
    isa: str | None
    compiler: str | None
    torch_capability: str
    versions: dict[str, str] = field(default_factory=software_versions)


@dataclass(frozen=True)
class SpeedResult:
    """A benchmark of several layers.

    Attributes:
        cases: One per layer and pass.
        machine: Where it was measured.
        dtype: Of all tensors.
        repeats: Turns that every variant was to have.
    """

    cases: tuple[SpeedCase, ...]
    machine: Machine
    dtype: str
    repeats: int

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers; ratios and rates are there for the reader."""
        cases = [
            asdict(case)
            | {
                "ratio": case.ratio,
                "ratio_of_medians": case.ratio_of_medians,
                "ratio_by_layout": case.ratio_by_layout,
                "effective_gflops": case.gflops,
            }
            for case in self.cases
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "machine": asdict(self.machine),
            "dtype": self.dtype,
            "repeats": self.repeats,
            "cases": cases,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SpeedResult:
        """The inverse of :meth:`to_json`, from parsed JSON."""
        machine = dict(data["machine"])
        machine["load"] = tuple(machine["load"])
        cases = tuple(
            SpeedCase(
                layer=Layer(**case["layer"]),
                direction=case["direction"],
                timings=tuple(Timing(**timing) for timing in case["timings"]),
                method=case["method"],
                isa=case["isa"],
                tile=(case["tile"][0], case["tile"][1]),
                workspace_bytes=case["workspace_bytes"],
                method_channels_last=case["method_channels_last"],
            )
            for case in data["cases"]
        )
        return cls(cases, Machine(**machine), data["dtype"], data["repeats"])

    def save(self, directory: str | Path) -> None:
        """Write ``bench.csv`` and ``bench.json``, each whole or not at all.

        Args:
            directory: Created if it is not there.

        Raises:
            InvalidInputError: The folder cannot be written to.
        """
        folder = Path(directory)
        atomic_write_text(folder / CSV_NAME, csv_text(self.cases))
        atomic_write_text(folder / JSON_NAME, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> SpeedResult:
        """Read back what :meth:`save` wrote.

        Raises:
            InvalidInputError: The file is missing, damaged, or of a schema version that this program cannot read.
        """
        path = Path(directory) / JSON_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data["schema_version"]
            if version == SCHEMA_VERSION:
                return cls.from_json(data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"Cannot read {path} as a benchmark ({type(error).__name__}: {error}). It is not there, or was changed "
                "or cut short. Measure again."
            ) from error
        raise InvalidInputError(
            f"{path} has schema version {version}. This replk-probe reads {SCHEMA_VERSION}. Measure again."
        )


def csv_text(cases: Sequence[SpeedCase]) -> str:
    """One row per layer, pass and variant."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ("n", "c", "h", "w", "kh", "kw", "pass", "variant", "ms_min", "ms_median", "calls", "relative_l2")
    writer.writerow([*columns, "method", "isa", "tile_h", "tile_w", "note"])
    for case in cases:
        for timing in case.timings:
            methods: dict[str, tuple[object, ...]] = {
                name: (case.method, case.isa or "", *case.tile) for name in ("module", "functional")
            }
            methods["ours_channels_last"] = (case.method_channels_last, "", "", "")
            writer.writerow(
                [
                    *case.layer.shape,
                    *case.layer.kernel,
                    case.direction,
                    timing.variant,
                    *("" if value is None else f"{1e3 * value:.6g}" for value in (timing.minimum, timing.median)),
                    timing.calls,
                    "" if timing.error is None else f"{timing.error:.3g}",
                    *methods.get(timing.variant, ("torch", "", "", "")),
                    timing.note or "",
                ]
            )
    return buffer.getvalue()
