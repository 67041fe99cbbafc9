"""The table of a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from replk_probe.bench.result import GPU_OURS, GPU_TORCH, OURS, PASS_LABELS, TORCH, SpeedCase, SpeedResult, Timing
from replk_probe.runtime.formatting import counted, dimensions

from .text import PLAIN, Layout, table, wrapped

_HEAD = ("layer", "module", "func.", "ours cl", "torch", "torch cl", "fft", "ratio", "GF/s", "x peak", "rel. L2")
_GPU_HEAD = ("layer", "aten", "to nchw", "to nhwc", "fft", "triton", "ratio", "TF/s", "x peak", "bound")
_GPU_DTYPES = {
    "float32": "float32, TF32 not allowed",
    "tf32": "float32 tensors, TF32 allowed in torch's convolution",
}


def bench_table(
    result: SpeedResult, targets: Mapping[tuple[str, str], float] | None = None, layout: Layout = PLAIN
) -> str:
    """Times, ratios, rates and errors: for each layer a row of the shortest calls and a row of the medians.

    ``targets`` are ratios to the fastest torch variant that are required, by the layer's label and the pass.
    """
    head = [*(_HEAD if result.machine.gpu is None else _GPU_HEAD), *(["target"] if targets else [])]
    rows: list[Sequence[str] | str] = []
    for direction in dict.fromkeys(case.direction for case in result.cases):
        rows.append(PASS_LABELS[direction])
        for case in result.cases:
            if case.direction == direction:
                target = (targets or {}).get((case.layer.label, direction))
                cells = ["" if target is None else f"{target:g}x"] if targets else []
                rows += [[*_shortest(case, result), *cells], [*_medians(case), *[""] * len(cells)]]
    lines = [line for text in _machine(result) for line in wrapped(text, "", layout)]
    lines += ["", *table(head, rows, layout), ""]
    lines += [line for text in _notes(result) for line in wrapped(text, "", layout)]
    return "\n".join(lines)


def sweep_summary(result: SpeedResult, worst: int = 8, layout: Layout = PLAIN) -> str:
    """The smallest ratios of a sweep, and every one below 1."""
    known = sorted(((case.ratio, case) for case in result.cases if case.ratio is not None), key=lambda pair: pair[0])
    if not known:
        return "No ratio was measured."
    slower = [pair for pair in known if pair[0] < 1]
    by_layout = [ratio for case in result.cases if (ratio := case.ratio_by_layout) is not None]
    same = (
        f", torch in the same layout in {sum(ratio < 1 for ratio in by_layout)} (smallest ratio {min(by_layout):.2f}x)"
        if by_layout
        else ""
    )
    lines = wrapped(
        f"{len(known)} cases: the fastest torch variant is faster in {len(slower)}{same}. Smallest ratios:",
        "",
        layout,
    )
    rows = [
        [f"{ratio:.2f}x", case.label, PASS_LABELS[case.direction], _method(case), _ms(case.ours.minimum)]
        + ([best.variant, _ms(best.minimum)] if (best := case.best_torch) else ["-", "-"])
        for ratio, case in known[: max(worst, len(slower))]
    ]
    head = ("ratio", "layer", "pass", "method", "ms", "torch", "torch ms")
    return "\n".join([*lines, *table(head, rows, layout, left=("layer", "pass", "method", "torch"))])


def _machine(result: SpeedResult) -> Iterator[str]:
    machine, gpu = result.machine, result.machine.gpu
    if gpu is not None:
        peak = "unknown" if machine.fma_peak is None else f"{machine.fma_peak / 1e3:.1f} TFLOP/s"
        yield f"{gpu.name}, {_GPU_DTYPES.get(result.dtype, result.dtype)}; peak of float32 without tensor cores {peak}"
        yield "; ".join(f"{name} {value}" for name, value in gpu.environment.items() if name != "device")
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in gpu.clocks.items())
        yield f"Clock rates in MHz: {rates or 'unknown'}."
        return
    peak = "unknown" if machine.fma_peak is None else f"{machine.fma_peak:.0f} GFLOP/s"
    threads, load = counted(machine.threads, "thread"), machine.load
    yield f"{machine.cpu}, {threads}, {result.dtype}; load {load[0]:.1f} before, {load[1]:.1f} after"
    yield (
        f"torch {machine.versions.get('torch', '?')} ({machine.torch_capability}); kernels {machine.isa or 'none'}"
        f" by {machine.compiler or 'no compiler'}; multiply-add peak {peak}"
    )


def _shortest(case: SpeedCase, result: SpeedResult) -> list[str]:
    ours, peak = case.ours, result.machine.fma_peak
    if case.choice is None:
        rate, accuracy = f"{case.gflops:.0f}", "-" if ours.error is None else f"{ours.error:.1e}"
    else:
        rate = "-" if ours.minimum is None else f"{case.gflops / 1e3:.1f}"
        accuracy = "-" if ours.share is None else f"{ours.share:.2f}"
        if result.dtype != "float32":  # the peak of tensor cores is not known
            peak = None
    return [
        case.label + (f" (x{case.layer.count})" if case.layer.count > 1 else ""),
        *(_ms(timing.minimum if timing else None) for timing in _timings(case)),
        _ratio(case.ratio),
        rate,
        "-" if peak is None or ours.minimum is None else f"{case.gflops / peak:.2f}",
        accuracy,
    ]


def _timings(case: SpeedCase) -> list[Timing | None]:
    """Timings of the columns, None where a variant was not measured."""
    return [*map(case.timing, (*OURS, *TORCH) if case.choice is None else (*GPU_TORCH, *GPU_OURS))]


def _medians(case: SpeedCase) -> list[str]:
    medians = (_ms(timing.median if timing else None) for timing in _timings(case))
    return [f"  median, {_method(case)}", *medians, _ratio(case.ratio_of_medians), "", "", ""]


def _notes(result: SpeedResult) -> Iterator[str]:
    if result.machine.gpu is not None:
        yield "Times in ms, by events: shortest call, and below it the median, with the choice of the tuner."
        yield (
            "aten: torch's convolution; to nchw, to nhwc: after a conversion, which is included; fft: torch-fft; "
            "triton: triton-toeplitz. Operands are nchw or nhwc, as stated with the layer. ratio: shortest time of "
            "aten with or without a conversion / that of the choice."
        )
        yield (
            "TF/s: operations of the direct sum per second. x peak: that over the peak; -: unknown, as for tensor "
            "cores. bound: largest error of the choice against float64 as a share of its bound, checked before timing."
        )
        yield from _not_measured(result)
        return
    yield "Times in ms: shortest call, and below it the median. cl: channels_last. ratio: fastest torch time / ours."
    yield "GF/s: operations of the direct sum per second. module, fft: with a prepared spectrum; func.: without."
    if any(case.method_channels_last == "aten" != case.method for case in result.cases):
        yield "Small kernels in channels_last are computed by torch's own convolution."
    largest = max(case.workspace_bytes for case in result.cases)
    amount = f"{largest / 2**20:.1f} MB" if largest >= 2**20 else f"{largest / 2**10:.0f} kB"
    yield f"Scratch memory of a call: {f'at most {amount}' if largest else 'none'}."
    yield from _not_measured(result)


def _not_measured(result: SpeedResult) -> Iterator[str]:
    for case in result.cases:
        for timing in case.timings:
            if timing.minimum is None and timing.note:
                yield f"{case.label}, {PASS_LABELS[case.direction]}, {timing.variant}: {timing.note}"


def _ms(seconds: float | None) -> str:
    """Milliseconds with three significant digits."""
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _method(case: SpeedCase) -> str:
    return case.method + (f" {dimensions(case.tile)}" if any(case.tile) else "")
