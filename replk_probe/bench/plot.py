"""Plots of a benchmark: time against kernel size or by layer, and the ratio to the fastest variant of torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    COLORS,
    GRAY,
    GRID,
    INK,
    MUTED,
    RANGE,
    SMALL_SIZE,
    Line,
    by_rows,
    check_axes,
    check_drawable,
    column_width,
    ensure_margins,
    figure_of,
    figure_style,
    inches_of,
    log_ticks,
    new_figure,
    page_width,
    prepared_axes,
    save_figure,
    text_points,
)
from replk_probe.runtime.formatting import counted

if TYPE_CHECKING:
    from .result import SpeedCase, SpeedResult

# replk-probe in warm colors, torch in cold ones and gray.
_CPU_VARIANTS = {
    "nchw": ("torch conv2d, NCHW", GRAY, "s"),
    "channels_last": ("torch conv2d, channels_last", COLORS[1], "^"),
    "fft": ("torch.fft, spectrum ready", COLORS[2], "D"),
    "ours_channels_last": ("replk-probe, channels_last", COLORS[4], "^"),
    "functional": ("replk-probe, function", COLORS[3], "o"),
    "module": ("replk-probe, module in eval mode", COLORS[0], "o"),
}
_GPU_VARIANTS = {
    "aten": ("torch conv2d", GRAY, "s"),
    "aten-nchw": ("torch conv2d, converted to NCHW", COLORS[2], "v"),
    "aten-channels-last": ("torch conv2d, converted to channels_last", COLORS[1], "^"),
    "torch-fft": ("replk-probe, torch-fft", COLORS[4], "D"),
    "triton-toeplitz": ("replk-probe, triton-toeplitz", COLORS[0], "o"),
}
_VARIANTS = _CPU_VARIANTS | _GPU_VARIANTS
_LEGEND: dict[str, Any] = {"handlelength": 1.2, "handletextpad": 0.3, "columnspacing": 1.2}
_LEGEND |= {"borderaxespad": 0.0, "frameon": False, "fontsize": SMALL_SIZE}
_FEWEST_KERNELS = 4  # on one plane, to draw time against the kernel's side
_MOST_PANELS = 6
_ROW, _ABOVE = 0.19, 0.06  # height of a row and of the space above the rows, in inches


def draw_speed(result: SpeedResult) -> Figure:
    """Draw a benchmark.

    If a plane was timed with at least four square kernels, the figure shows time against the kernel's side, with one
    column per plane and pass (at most six). Otherwise it has one row per layer and pass.

    Args:
        result: Result to draw, with at least one case.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: An argument has the wrong type, or there is no case.

    Examples:
        >>> from replk_probe.bench import Layer, draw_speed, measure_speed
        >>> result = measure_speed([Layer(1, 8, 16, 16, 5, 5)], repeats=2, budget=0.1)
        >>> figure = draw_speed(result)
        >>> figure.savefig("speed.png")
    """
    _check_cases(result)
    groups = _kernel_groups(result.cases)
    with figure_style():
        return _against_kernel(result, groups[:_MOST_PANELS]) if groups else _per_layer(result)


def plot_times(result: SpeedResult, ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Plot the shortest time of every variant, one row per layer and pass.

    Args:
        result: Result to plot, with at least one case.
        ax: Axes to draw on; by default those of a new figure. Given Axes are made smaller if the labels around them do
            not fit between them and their neighbors.
        legend: Whether to draw the legend.

    Returns:
        The Axes. x, logarithmic, is the time of a call in milliseconds; y is the index of the case.

    Raises:
        InvalidInputError: An argument has the wrong type, or there is no case.

    Examples:
        >>> from replk_probe.bench import Layer, measure_speed, plot_times
        >>> result = measure_speed([Layer(1, 8, 16, 16, 5, 5)], repeats=2, budget=0.1)
        >>> ax = plot_times(result)
        >>> ax.get_xscale()
        'log'
    """
    _check_cases(result)
    check_axes(ax)
    with figure_style():
        is_new = ax is None
        ax = _rows_axes(result.cases, ax)
        _add_times(ax, result.cases)
        _label_rows(ax, result.cases)
        if legend:
            handles = _legend_handles(ax, result.cases, _mark)
            entry = max(text_points(str(handle.get_label()), SMALL_SIZE) for handle in handles) + 3 * SMALL_SIZE
            columns = 2 if 2 * entry <= inches_of(ax)[0] * 72 + _label_points(result.cases) else 1
            above = 0.13 * math.ceil(len(handles) / columns)
            if is_new:
                figure_of(ax).set_figheight(figure_of(ax).get_figheight() + above)
            ensure_margins(ax, top=_ABOVE + above)
            ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, **_LEGEND)
    return ax


def plot_speedup(result: SpeedResult, ax: Axes | None = None) -> Axes:
    """Plot the speed-up over the fastest variant of torch for each layer and pass, as bars.

    Args:
        result: Result to plot, with at least one case.
        ax: Axes to draw on; by default those of a new figure. Given Axes are made smaller if the labels around them do
            not fit between them and their neighbors.

    Returns:
        The Axes. x is the ratio of the shortest times; y is the index of the case.

    Raises:
        InvalidInputError: An argument has the wrong type, or there is no case.

    Examples:
        >>> from replk_probe.bench import Layer, measure_speed, plot_speedup
        >>> result = measure_speed([Layer(1, 8, 16, 16, 5, 5)], repeats=2, budget=0.1)
        >>> ax = plot_speedup(result)
        >>> ax.get_xscale()
        'linear'
    """
    _check_cases(result)
    check_axes(ax)
    with figure_style():
        ax = _rows_axes(result.cases, ax)
        _add_speedups(ax, result.cases)
        _label_rows(ax, result.cases)
    return ax


def save_figures(result: SpeedResult, directory: str | Path) -> tuple[Path, ...]:
    """Write ``bench.png`` and ``bench.pdf``; returns the files."""
    # The figure has no pixel map that the resolution would have to match.
    return save_figure(draw_speed(result), Path(directory), "bench", width=1)


def _check_cases(result: SpeedResult) -> None:
    check_drawable(result, "SpeedResult")
    if not result.cases:
        raise InvalidInputError("There is nothing to draw. The benchmark has no cases. Time at least one layer first.")


def _kernel_groups(cases: Sequence[SpeedCase]) -> list[list[SpeedCase]]:
    """Groups of enough cases of one input and pass with square kernels, sorted by the side of the kernel."""
    groups: dict[tuple[object, ...], list[SpeedCase]] = {}
    for case in cases:
        if case.layer.kh == case.layer.kw:
            groups.setdefault((case.layer.shape, _layout(case), case.direction), []).append(case)
    return [
        sorted(group, key=lambda case: case.layer.kh)
        for group in groups.values()
        if len({case.layer.kh for case in group}) >= _FEWEST_KERNELS
    ]


def _against_kernel(result: SpeedResult, groups: Sequence[Sequence[SpeedCase]]) -> Figure:
    columns = len(groups)
    width, legend_columns = page_width(), 3
    legend = 0.06 + 0.125 * math.ceil(len(_variants_of(result)) / legend_columns)
    # From the bottom, in inches: caption, axis, ratios, gap, times, title, legend.
    below, low, gap, high, title = 0.62, 1.0, 0.16, 1.75, 0.24
    height = below + low + gap + high + title + legend
    figure = new_figure(width, height)
    left, right, between = 0.58, 0.08, 0.12
    panel = (width - left - right - between * (columns - 1)) / columns
    cases = [case for group in groups for case in group]
    limits = _time_limits(cases)
    tallest = max(case.ratio or 1.0 for case in cases)
    for index, group in enumerate(groups):
        x = (left + index * (panel + between)) / width
        times = figure.add_axes((x, (below + low + gap) / height, panel / width, high / height))
        ratios = figure.add_axes((x, below / height, panel / width, low / height))
        _draw_times(times, group, limits, first=index == 0)
        _draw_ratios(ratios, group, tallest, first=index == 0)
        layer = group[0].layer
        what = _layout(group[0]) + (f", {group[0].pass_label}" if columns < 4 else "")
        times.set_title(f"Input [{layer.n}, {layer.c}, {layer.h}, {layer.w}]{what}", pad=4.0, fontsize=SMALL_SIZE)
    _draw_legend(figure, cases, left / width, 1 - 0.03 / height, legend_columns)
    _draw_caption(figure, result, left / width)
    return figure


def _variants_of(result: SpeedResult) -> dict[str, tuple[str, str, str]]:
    return _CPU_VARIANTS if result.machine.gpu is None else _GPU_VARIANTS


def _layout(case: SpeedCase) -> str:
    """The memory format of the operands on a GPU, for a title."""
    if case.choice is None:
        return ""
    return ", channels_last" if case.choice.channels_last else ", NCHW"


def _draw_times(ax: Axes, group: Sequence[SpeedCase], limits: tuple[float, float], *, first: bool) -> None:
    sides = sorted({case.layer.kh for case in group})
    for name, (_, color, marker) in _VARIANTS.items():
        points = [
            (case.layer.kh, 1e3 * timing.minimum)
            for case in group
            if (timing := case.timing(name)) is not None and timing.minimum
        ]
        if points:
            ours = name == "module" or (name == "functional" and group[0].direction == "grad_weight")
            ax.plot(
                *zip(*points, strict=True),
                color=color,
                marker=marker,
                markersize=3.0 if ours else 2.2,
                linewidth=1.6 if ours else 0.9,
                zorder=3 if ours else 2,
            )
    ax.set_yscale("log")
    log_ticks(ax.yaxis, *limits)
    ax.set_ylim(limits)
    ax.tick_params(labelbottom=False)
    _against_sides(ax, sides, "Time, ms" if first else None)


def _against_sides(ax: Axes, sides: Sequence[int], label: str | None) -> None:
    """Axes of a panel against the side of the kernel; only the first panel has a label and tick labels."""
    ax.set_xlim(sides[0] - 1.5, sides[-1] + 1.5)
    ax.xaxis.set_major_locator(FixedLocator(_labeled(sides)))
    ax.grid(axis="y", color=GRID, linewidth=0.5)
    ax.tick_params(labelleft=label is not None)
    ax.set_ylabel(label or "")
    _bare(ax)


def _draw_ratios(ax: Axes, group: Sequence[SpeedCase], tallest: float, *, first: bool) -> None:
    """Draw bars of the ratio."""
    sides = [case.layer.kh for case in group]
    step = min((later - earlier for earlier, later in itertools.pairwise(sides)), default=2)
    ratios = [case.ratio or math.nan for case in group]
    ax.bar(sides, ratios, width=0.75 * step, color=_VARIANTS["module"][1], zorder=2)
    ax.axhline(1.0, color=INK, linewidth=0.7, zorder=3)
    ax.set_ylim(0, 1.12 * tallest)
    ax.set_xlabel("Side of the kernel")
    _against_sides(ax, sides, "Times faster than\nthe best of torch" if first else None)


def _labeled(sides: Sequence[int]) -> list[int]:
    """Sides to label on the axis: the first, the last, and others at least 4 apart."""
    kept = [sides[0]]
    for side in sides[1:-1]:
        if side - kept[-1] >= 4 and sides[-1] - side >= 4:
            kept.append(side)
    return [*kept, sides[-1]] if len(sides) > 1 else kept


def _per_layer(result: SpeedResult) -> Figure:
    cases = result.cases
    width, top, bottom = page_width(), 0.62, 0.62
    height = top + bottom + _ROW * len(cases)
    left = (0.16 + _label_points(cases) / 72) / width
    figure = new_figure(width, height)
    times = figure.add_axes((left, bottom / height, 0.58 - left, _ROW * len(cases) / height))
    ratios = figure.add_axes((0.62, bottom / height, 0.31, _ROW * len(cases) / height))
    _add_times(times, cases)
    _add_speedups(ratios, cases)
    _label_rows(times, cases)
    _label_rows(ratios, cases, labeled=False)
    what = "N, C, plane, kernel" + ("" if _has_several_passes(cases) else f"; {cases[0].pass_label}")
    figure.text(0.16 / width, 1 - 0.5 / height, what, fontsize=SMALL_SIZE, color=MUTED)
    _draw_legend(figure, cases, 0.16 / width, 1 - 0.04 / height, 3, _mark)
    _draw_caption(figure, result, 0.16 / width)
    return figure


def _rows_axes(cases: Sequence[SpeedCase], ax: Axes | None) -> Axes:
    """Prepare Axes for a row for each case, by default those of a new figure."""
    left, right, bottom = 0.16 + _label_points(cases) / 72, 0.3, 0.42
    inches = column_width(), _ABOVE + bottom + _ROW * len(cases)
    return prepared_axes(ax, inches, left=left, right=right, top=_ABOVE, bottom=bottom)


def _label_points(cases: Sequence[SpeedCase]) -> float:
    return max(text_points(label, SMALL_SIZE) for label in _row_labels(cases))


def _has_several_passes(cases: Sequence[SpeedCase]) -> bool:
    return len({case.direction for case in cases}) > 1


def _row_labels(cases: Sequence[SpeedCase]) -> list[str]:
    several = _has_several_passes(cases)
    return [case.label + (f"  {case.pass_label}" if several else "") for case in cases]


def _label_rows(ax: Axes, cases: Sequence[SpeedCase], *, labeled: bool = True) -> None:
    ax.set_ylim(len(cases) - 0.4, -0.6)
    ax.set_yticks(range(len(cases)))
    ax.set_yticklabels(_row_labels(cases) if labeled else [], fontsize=SMALL_SIZE)
    ax.tick_params(left=False)
    ax.grid(axis="x", color=GRID, linewidth=0.5)
    _bare(ax)
    ax.spines["left"].set_visible(False)


def _add_times(ax: Axes, cases: Sequence[SpeedCase]) -> None:
    for y, case in enumerate(cases):
        times = {name: 1e3 * t.minimum for name in _VARIANTS if (t := case.timing(name)) is not None and t.minimum}
        if not times:  # the memory of a GPU did not suffice
            continue
        ax.plot([min(times.values()), max(times.values())], [y, y], color=RANGE, linewidth=0.6, zorder=1)
        for name, time in times.items():
            _, color, marker = _VARIANTS[name]
            ax.plot(time, y, marker, color=color, zorder=3, **_mark(name))
    ax.set_xscale("log")
    ax.set_xlim(_time_limits(cases))
    log_ticks(ax.xaxis, *_time_limits(cases))
    ax.set_xlabel("Time, ms")


def _add_speedups(ax: Axes, cases: Sequence[SpeedCase]) -> None:
    for y, case in enumerate(cases):
        if (ratio := case.ratio) is not None:
            ax.barh(y, ratio, height=0.62, color=_VARIANTS["module"][1], zorder=2)
            # To the right of the line at 1, which would cross the text.
            at: dict[str, Any] = {"xytext": (2, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(f"{ratio:.1f}", (max(ratio, 1.0), y), fontsize=SMALL_SIZE, **at)
    ax.set_xlabel("Times faster than the best of torch")
    ax.set_xlim(0, 1.12 * max(max((case.ratio or 0.0) for case in cases), 1.2))
    ax.axvline(1.0, color=INK, linewidth=0.7, zorder=3)


def _mark(variant: str) -> dict[str, Any]:
    """Marker of a variant among others on one line; the larger, hollow one of the function stays visible behind."""
    return {"markersize": 4.4, "markerfacecolor": "white"} if variant == "functional" else {"markersize": 3.6}


def _time_limits(cases: Sequence[SpeedCase]) -> tuple[float, float]:
    known = [1e3 * timing.minimum for case in cases for timing in case.timings if timing.minimum] or [1.0]
    return min(known) / 1.5, max(known) * 1.5


def _bare(ax: Axes) -> None:
    ax.set_axisbelow(True)
    ax.spines[["right", "top"]].set_visible(False)


def _draw_legend(
    figure: Figure,
    cases: Sequence[SpeedCase],
    x: float,
    y: float,
    columns: int,
    mark: Callable[[str], dict[str, Any]] = lambda variant: {"markersize": 3.6},
) -> None:
    handles = _legend_handles(figure.axes[0], cases, mark)
    figure.legend(
        handles=by_rows(handles, columns),
        loc="upper left",
        bbox_to_anchor=(x, y),
        ncols=columns,
        borderpad=0.2,
        **_LEGEND,
    )


def _legend_handles(ax: Axes, cases: Sequence[SpeedCase], mark: Callable[[str], dict[str, Any]]) -> list[Line2D]:
    """Legend handles of the measured variants, with those of replk-probe first."""
    handles = []
    for name in _shown_variants(cases):
        label, color, marker = _VARIANTS[name]
        handles += ax.plot([], [], marker, linestyle="none", color=color, label=label, **mark(name))
    return handles


def _shown_variants(cases: Sequence[SpeedCase]) -> list[str]:
    """The measured variants, with those of replk-probe first."""
    return [name for name in reversed(_VARIANTS) if any(case.timing(name) is not None for case in cases)]


def _draw_caption(figure: Figure, result: SpeedResult, x: float) -> None:
    machine = result.machine
    if machine.gpu is None:
        text = (
            f"{machine.cpu}, {counted(machine.threads, 'thread')}; {result.dtype}, shortest of the calls; "
            f"torch {machine.versions.get('torch', '?')} ({machine.torch_capability}), kernels {machine.isa or 'aten'}"
        )
    else:
        names = ("torch", "cuDNN", "Triton", "driver")
        versions = ", ".join(f"{name} {machine.gpu.environment.get(name, '?')}" for name in names)
        text = f"{machine.gpu.name}; {result.dtype}, shortest of the calls; {versions}"
    width, height = figure.get_size_inches()
    line = Line(text)
    figure.text(x, 0.05 / height, line.fitted((0.98 - x) * width * 72), **line.style)
