"""The part of the page on benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.bench.result import GPU_OURS, GPU_TORCH, OURS, TORCH, SpeedCase, SpeedResult
from replk_probe.collection import Saved

from .charts import Chart, Dots, dot_chart
from .number_texts import NO_CELL, Cell, number

_VARIANTS = {
    "module": "this package, module",
    "functional": "this package, function",
    "ours_channels_last": "this package, channels last",
    "nchw": "torch",
    "channels_last": "torch, channels last",
    "fft": "torch.fft",
    "aten": "torch",
    "aten-nchw": "torch after conversion to NCHW",
    "aten-channels-last": "torch after conversion to channels last",
    "torch-fft": "this package, torch-fft",
    "triton-toeplitz": "this package, triton-toeplitz",
}
_MOST_ROWS = 40  # rows of the chart; the table has all


@dataclass(frozen=True)
class BenchPart:
    """One benchmark.

    Attributes:
        machine: Processor, threads and type of the tensors.
        chart: Shortest time of every variant.
        shown: Name and style of the variants.
        head: Names of the columns of the table after the first one.
        rows: Name of the case, and its cells.
        left_out: Number of cases that the chart does not show.
    """

    machine: str
    chart: Chart
    shown: list[tuple[str, int]]
    head: tuple[str, ...]
    rows: list[tuple[str, tuple[Cell, ...]]]
    left_out: int


def bench_section(saved: Sequence[Saved[SpeedResult]]) -> list[BenchPart]:
    """A part for each benchmark with times."""
    return [_part(one.result) for one in saved if any(case.ours.minimum for case in one.result.cases)]


def _part(result: SpeedResult) -> BenchPart:
    every = (*OURS, *TORCH, *GPU_OURS, *GPU_TORCH)
    variants = [name for name in every if any(case.timing(name) for case in result.cases)]
    shown = result.cases[:_MOST_ROWS]
    names = [_name(case, result) for case in shown]
    series = []
    for style, variant in enumerate(variants):
        points = []
        for row, case in enumerate(shown):
            timing = case.timing(variant)
            if timing is not None and timing.minimum:
                milliseconds = 1e3 * timing.minimum
                points.append((row, milliseconds, None, f"{_VARIANTS[variant]}, {names[row]}: {milliseconds:.3g} ms"))
        series.append(Dots(style, variant in (*TORCH, *GPU_TORCH), points))
    machine = result.machine
    return BenchPart(
        machine=f"{machine.label}, {result.dtype}",
        chart=dot_chart("Shortest time of a call", names, series, "Milliseconds per call (logarithmic)"),
        shown=[(_VARIANTS[variant], style) for style, variant in enumerate(variants)],
        head=(*(f"{_VARIANTS[variant]}, ms" for variant in variants), "speed-up"),
        rows=[(_name(case, result), _cells(case, variants)) for case in result.cases],
        left_out=len(result.cases) - len(shown),
    )


def _cells(case: SpeedCase, variants: Sequence[str]) -> tuple[Cell, ...]:
    times = [case.timing(variant) for variant in variants]
    cells = [NO_CELL if one is None or one.minimum is None else number(1e3 * one.minimum, 3) for one in times]
    return (*cells, number(case.ratio, 3))


def _name(case: SpeedCase, result: SpeedResult) -> str:
    several = len({one.direction for one in result.cases}) > 1
    layer = case.layer
    batch = "" if layer.n == 1 else f"{layer.n}\u00d7"
    memory_format = case.label.removeprefix(layer.label)  # on a GPU
    label = f"{batch}{layer.c}\u00d7{layer.h}\u00d7{layer.w}, {layer.kh}\u00d7{layer.kw}{memory_format}"
    return f"{label} {case.pass_label}" if several else label
