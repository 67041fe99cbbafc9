"""The plain-text table of a benchmark, at most 100 columns wide. Free of torch and of anything that draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from replk_probe.bench.result import OURS, TORCH, SpeedCase, SpeedResult

from .text import WIDTH

_PASSES = {"forward": "forward", "grad_input": "input gradient", "grad_weight": "weight gradient"}
_HEADS = ("module", "func.", "ch_last", "nchw", "ch_last", "fft", "ratio", "GF/s", "x peak", "rel. L2")
_GROUPS = ("    ours", "", "", "   torch")
_WIDTHS = (8, 8, 8, 8, 8, 8, 8, 7, 8, 9)
_NAME = 18


def bench_table(result: SpeedResult, targets: Mapping[tuple[str, str], float] | None = None) -> str:
    """Times, ratios, rates and errors: for each layer a line of shortest calls and one of medians.

    Args:
        result: What was measured.
        targets: Ratio to the best of torch that a layer's label and a pass are to reach, printed beside it.

    Returns:
        Lines without a newline at the end.
    """
    lines = list(_head(result))
    for direction in dict.fromkeys(case.direction for case in result.cases):
        cases = [case for case in result.cases if case.direction == direction]
        lines += ["", _row(_PASSES[direction], _GROUPS), _row("", _HEADS), "-" * WIDTH]
        for case in cases:
            lines += _case_lines(case, result, (targets or {}).get((case.layer.label, direction)))
    lines += ["", *_notes(result)]
    return "\n".join(lines).rstrip()


def sweep_summary(result: SpeedResult, worst: int = 8) -> str:
    """The smallest ratios of a sweep, and every one below 1."""
    known = sorted(
        ((case.ratio, case) for case in result.cases if case.ratio is not None),
        key=lambda pair: pair[0],
    )
    if not known:
        return "No ratio was measured."
    slower = [pair for pair in known if pair[0] < 1]
    by_layout = [ratio for case in result.cases if (ratio := case.ratio_by_layout) is not None]
    lines = [
        f"{len(known)} cases: the best of torch is faster in {len(slower)}, torch in the same layout in "
        f"{sum(ratio < 1 for ratio in by_layout)} (the smallest ratio there {min(by_layout):.2f}x). Smallest ratios:"
    ]
    for ratio, case in known[: max(worst, len(slower))]:
        best = case.best_torch
        lines.append(
            f"  {ratio:6.2f}x  {case.layer.label:<18} {_PASSES[case.direction]:<15} {_method(case):<15} "
            f"{_ms(case.ours.minimum)} ms, torch {best.variant if best else '-'} "
            f"{_ms(best.minimum if best else None)} ms"
        )
    return "\n".join(lines)


def _head(result: SpeedResult) -> Iterator[str]:
    machine = result.machine
    peak = "unknown" if machine.fma_peak is None else f"{machine.fma_peak:.0f} GFLOP/s"
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    yield f"{machine.cpu}, {threads}, {result.dtype}; load {machine.load[0]:.1f} before, {machine.load[1]:.1f} after"
    yield (
        f"torch {machine.versions.get('torch', '?')} ({machine.torch_capability}); kernels {machine.isa or 'none'}"
        f" by {machine.compiler or 'no compiler'}; multiply-add peak {peak}"
    )


def _case_lines(case: SpeedCase, result: SpeedResult, target: float | None) -> Iterator[str]:
    shortest = [case.timing(name) for name in (*OURS, *TORCH)]
    peak = result.machine.fma_peak
    error = case.ours.error
    yield _row(
        case.layer.label + (f" (x{case.layer.count})" if case.layer.count > 1 else ""),
        (
            *(_ms(timing.minimum if timing else None) for timing in shortest),
            _ratio(case.ratio),
            f"{case.gflops:.0f}",
            "-" if peak is None else f"{case.gflops / peak:.2f}",
            "-" if error is None else f"{error:.1e}",
        ),
    )
    yield _row(
        "  median",
        (
            *(_ms(timing.median if timing else None) for timing in shortest),
            _ratio(case.ratio_of_medians),
            f"  {_method(case)}" + ("" if target is None else f", target {target:g}x"),
        ),
    )


def _notes(result: SpeedResult) -> Iterator[str]:
    yield "ms, shortest call, medians below; ratio: best of torch over ours; GF/s of the plain sum."
    yield "module: the kernel's spectrum is ready, as torch's fft has it; func.: made in each call."
    if any(case.method_channels_last == "aten" != case.method for case in result.cases):
        yield "Ours in channels_last is torch's own convolution where the kernel is small."
    largest = max(case.workspace_bytes for case in result.cases)
    yield f"Scratch memory of a call: at most {largest / 2**20:.1f} MB."
    for case in result.cases:
        for timing in case.timings:
            if timing.minimum is None and timing.note:
                yield f"{case.layer.label}, {_PASSES[case.direction]}, {timing.variant}: {timing.note}"


def _row(name: str, cells: Sequence[str]) -> str:
    """``name`` and what follows it; the last of fewer cells may run over what is left of the line."""
    numbers = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=False))
    return f"{name:<{_NAME}}{numbers}".rstrip()


def _ms(seconds: float | None) -> str:
    """Three digits that count."""
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _method(case: SpeedCase) -> str:
    tile = "" if not any(case.tile) else f" {case.tile[0]}x{case.tile[1]}"
    return case.method + tile
