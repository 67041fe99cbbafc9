"""Plots of a benchmark: time against kernel size or by layer, and the ratio to the fastest variant of torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import INK, MUTED, check_axes, figure_style, new_figure, save_figure, text_points

from .result import SpeedCase, SpeedResult

# replk-probe in the main color of all figures, torch in colors of Okabe and Ito, which color-blind readers can
# distinguish.
_VARIANTS = {
    "nchw": ("torch conv2d, NCHW", "#999999", "s"),
    "channels_last": ("torch conv2d, channels_last", "#0072b2", "^"),
    "fft": ("torch.fft, spectrum ready", "#009e73", "D"),
    "ours_channels_last": ("replk-probe, channels_last", "#e0a070", "^"),
    "functional": ("replk-probe, function", "#d98880", "o"),
    "module": ("replk-probe, module in eval mode", "#b03a00", "o"),
}
_PASSES = {"forward": "forward", "grad_input": "gradient of the input", "grad_weight": "gradient of the weight"}
_GRID = "#e4e4e4"
_LEGEND_SIZE, _VALUE_SIZE = 6.0, 5.5
_LEGEND: dict[str, Any] = {"handlelength": 1.2, "handletextpad": 0.3, "columnspacing": 1.2}
_FEWEST_KERNELS = 4  # on one plane, to draw time against the kernel's side
_MOST_PANELS = 6
_ROW = 0.19  # height of a row in inches


def draw_speed(result: SpeedResult) -> Figure:
    """Draw a benchmark.

    If a plane was timed with at least four square kernels, the figure shows time against the kernel's side, with one
    column per plane and pass (at most six). Otherwise it has one row per layer and pass.

    Args:
        result: Result to draw, with at least one case.

    Returns:
        A figure at most as wide as a page (7 inches).

    Raises:
        InvalidInputError: There is no case.
    """
    _check_cases(result)
    groups = _kernel_groups(result.cases)
    with figure_style():
        return _against_kernel(result, groups[:_MOST_PANELS]) if groups else _per_layer(result)


def plot_times(result: SpeedResult, ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Plot the shortest time of every variant, one row per layer and pass.

    Args:
        result: Result to plot, with at least one case.
        ax: Axes to draw on; by default those of a new figure.
        legend: Whether to draw the legend.

    Returns:
        The Axes. x, logarithmic, is the time of a call in milliseconds; y is the index of the case.

    Raises:
        InvalidInputError: There is no case.
    """
    _check_cases(result)
    check_axes(ax)
    with figure_style():
        if ax is None:
            ax = _rows_figure(result.cases)
        _add_times(ax, result.cases)
        _label_rows(ax, result.cases)
        if legend:
            handles = _legend_handles(ax, result.cases, _mark)
            ax.legend(
                handles=handles,
                loc="lower right",
                bbox_to_anchor=(1, 1),
                ncols=2,
                frameon=False,
                fontsize=_LEGEND_SIZE,
                **_LEGEND,
            )
    return ax


def plot_speedup(result: SpeedResult, ax: Axes | None = None) -> Axes:
    """Plot the speed-up over the fastest variant of torch for each layer and pass, as bars.

    Args:
        result: Result to plot, with at least one case.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The Axes. x is the ratio of the shortest times; y is the index of the case.

    Raises:
        InvalidInputError: There is no case.
    """
    _check_cases(result)
    check_axes(ax)
    with figure_style():
        if ax is None:
            ax = _rows_figure(result.cases)
        _add_speedups(ax, result.cases)
        _label_rows(ax, result.cases)
    return ax


def save_figures(result: SpeedResult, directory: str | Path) -> tuple[Path, ...]:
    """Write ``bench.png`` and ``bench.pdf``; returns the files."""
    # The figure has no pixel map that the resolution would have to match.
    return save_figure(draw_speed(result), Path(directory), "bench", width=1)


def _check_cases(result: SpeedResult) -> None:
    if not result.cases:
        raise InvalidInputError("There is nothing to draw. The benchmark has no cases. Time at least one layer first.")


def _kernel_groups(cases: Sequence[SpeedCase]) -> list[list[SpeedCase]]:
    """Groups of enough cases of one input and pass with square kernels, sorted by the side of the kernel."""
    groups: dict[tuple[object, ...], list[SpeedCase]] = {}
    for case in cases:
        if case.layer.kh == case.layer.kw:
            groups.setdefault((case.layer.shape, case.direction), []).append(case)
    return [
        sorted(group, key=lambda case: case.layer.kh)
        for group in groups.values()
        if len({case.layer.kh for case in group}) >= _FEWEST_KERNELS
    ]


def _against_kernel(result: SpeedResult, groups: Sequence[Sequence[SpeedCase]]) -> Figure:
    columns = len(groups)
    width = min(4.6 if columns == 1 else 0.9 + 2.6 * columns, 7.0)
    legend_columns = 3 if width > 4.7 else 2
    legend = 0.06 + 0.125 * math.ceil(len(_VARIANTS) / legend_columns)
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
        what = f", {_PASSES[group[0].direction]}" if columns < 4 else ""
        times.set_title(f"Input [{layer.n}, {layer.c}, {layer.h}, {layer.w}]{what}", fontsize=6.5, pad=4.0)
    _draw_legend(figure, cases, left / width, 1 - 0.03 / height, legend_columns)
    _draw_caption(figure, result, left / width)
    return figure


def _draw_times(ax: Axes, group: Sequence[SpeedCase], limits: tuple[float, float], *, first: bool) -> None:
    sides = sorted({case.layer.kh for case in group})
    for name, (_, colour, marker) in _VARIANTS.items():
        points = [
            (case.layer.kh, 1e3 * timing.minimum)
            for case in group
            if (timing := case.timing(name)) is not None and timing.minimum
        ]
        if points:
            ours = name == "module" or (name == "functional" and group[0].direction == "grad_weight")
            ax.plot(
                *zip(*points, strict=True),
                color=colour,
                marker=marker,
                markersize=3.0 if ours else 2.2,
                linewidth=1.6 if ours else 0.9,
                zorder=3 if ours else 2,
            )
    ax.set_yscale("log")
    ax.set(xlim=(sides[0] - 1.5, sides[-1] + 1.5), ylim=limits)
    _milliseconds(ax, first)
    ax.xaxis.set_major_locator(FixedLocator(_labelled(sides)))
    ax.tick_params(labelbottom=False)
    ax.grid(axis="y", color=_GRID, linewidth=0.5)
    _bare(ax)


def _milliseconds(ax: Axes, labelled: bool) -> None:
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if labelled:
        ax.set_ylabel("Time, ms")
    else:
        ax.tick_params(labelleft=False)


def _draw_ratios(ax: Axes, group: Sequence[SpeedCase], tallest: float, *, first: bool) -> None:
    """Draw bars of the ratio."""
    sides = [case.layer.kh for case in group]
    step = min((later - earlier for earlier, later in itertools.pairwise(sides)), default=2)
    ratios = [case.ratio or math.nan for case in group]
    colour = _VARIANTS["module"][1]
    ax.bar(sides, ratios, width=0.75 * step, color=colour, zorder=2)
    ax.axhline(1.0, color=INK, linewidth=0.7, zorder=3)
    ax.set(xlim=(sides[0] - 1.5, sides[-1] + 1.5), ylim=(0, 1.12 * tallest))
    ax.xaxis.set_major_locator(FixedLocator(_labelled(sides)))
    ax.set_xlabel("Side of the kernel")
    if first:
        ax.set_ylabel("Times faster than\nthe best of torch")
    else:
        ax.tick_params(labelleft=False)
    ax.grid(axis="y", color=_GRID, linewidth=0.5)
    _bare(ax)


def _labelled(sides: Sequence[int]) -> list[int]:
    """Sides to label on the axis: the first, the last, and others at least 4 apart."""
    kept = [sides[0]]
    for side in sides[1:-1]:
        if side - kept[-1] >= 4 and sides[-1] - side >= 4:
            kept.append(side)
    return [*kept, sides[-1]] if len(sides) > 1 else kept


def _per_layer(result: SpeedResult) -> Figure:
    cases = result.cases
    labels = _row_labels(cases)
    width, top, bottom = 7.0, 0.62, 0.62
    height = top + bottom + _ROW * len(cases)
    left = (0.16 + max(text_points(label, 6.5) for label in labels) / 72) / width
    figure = new_figure(width, height)
    times = figure.add_axes((left, bottom / height, 0.58 - left, _ROW * len(cases) / height))
    ratios = figure.add_axes((0.62, bottom / height, 0.31, _ROW * len(cases) / height))
    _add_times(times, cases)
    _add_speedups(ratios, cases)
    _label_rows(times, cases)
    _label_rows(ratios, cases, labelled=False)
    what = "N, C, plane, kernel" + ("" if _has_several_passes(cases) else f"; {_PASSES[cases[0].direction]}")
    figure.text(0.16 / width, 1 - 0.5 / height, what, fontsize=_LEGEND_SIZE, color=MUTED)
    _draw_legend(figure, cases, 0.16 / width, 1 - 0.04 / height, 3, _mark)
    _draw_caption(figure, result, 0.16 / width)
    return figure


def _rows_figure(cases: Sequence[SpeedCase]) -> Axes:
    """The Axes of a new figure with a row for each case."""
    width, top, bottom, right = 4.6, 0.5, 0.42, 0.3
    height = top + bottom + _ROW * len(cases)
    left = 0.16 + max(text_points(label, 6.5) for label in _row_labels(cases)) / 72
    place = (left / width, bottom / height, (width - left - right) / width, _ROW * len(cases) / height)
    return new_figure(width, height).add_axes(place)


def _has_several_passes(cases: Sequence[SpeedCase]) -> bool:
    return len({case.direction for case in cases}) > 1


def _row_labels(cases: Sequence[SpeedCase]) -> list[str]:
    several = _has_several_passes(cases)
    return [case.layer.label + (f"  {_short(case.direction)}" if several else "") for case in cases]


def _label_rows(ax: Axes, cases: Sequence[SpeedCase], *, labelled: bool = True) -> None:
    ax.set_ylim(len(cases) - 0.4, -0.6)
    ax.set_yticks(range(len(cases)))
    ax.set_yticklabels(_row_labels(cases) if labelled else [], fontsize=6.5)
    ax.tick_params(left=False)
    ax.grid(axis="x", color=_GRID, linewidth=0.5)
    _bare(ax)
    ax.spines["left"].set_visible(False)


def _add_times(ax: Axes, cases: Sequence[SpeedCase]) -> None:
    for y, case in enumerate(cases):
        known = [1e3 * t.minimum for name in _VARIANTS if (t := case.timing(name)) is not None and t.minimum]
        ax.plot([min(known), max(known)], [y, y], color="#c8c8c8", linewidth=0.6, zorder=1)
        for name, (_, colour, marker) in _VARIANTS.items():
            timing = case.timing(name)
            if timing is not None and timing.minimum:
                ax.plot(1e3 * timing.minimum, y, marker, color=colour, zorder=3, **_mark(name))
    ax.set_xscale("log")
    ax.set_xlim(_time_limits(cases))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("Time, ms")


def _add_speedups(ax: Axes, cases: Sequence[SpeedCase]) -> None:
    for y, case in enumerate(cases):
        ratio = case.ratio
        if ratio is not None:
            ax.barh(y, ratio, height=0.62, color=_VARIANTS["module"][1], zorder=2)
            # To the right of the line at 1, which would cross the text.
            at = (max(ratio, 1.0), y)
            ax.annotate(
                f"{ratio:.1f}", at, xytext=(2, 0), textcoords="offset points", va="center", fontsize=_VALUE_SIZE
            )
    ax.set_xlabel("Times faster than the best of torch")
    ax.set_xlim(0, 1.12 * max(max((case.ratio or 0.0) for case in cases), 1.2))
    ax.axvline(1.0, color=INK, linewidth=0.7, zorder=3)


def _mark(variant: str) -> dict[str, Any]:
    """Marker of a variant among others on one line.

    The marker of the function is hollow and larger, so that it stays visible behind that of the module.
    """
    return {"markersize": 4.4, "markerfacecolor": "white"} if variant == "functional" else {"markersize": 3.6}


def _short(direction: str) -> str:
    return {"forward": "forward", "grad_input": "grad input", "grad_weight": "grad weight"}[direction]


def _time_limits(cases: Sequence[SpeedCase]) -> tuple[float, float]:
    known = [1e3 * timing.minimum for case in cases for timing in case.timings if timing.minimum]
    return min(known) / 1.5, max(known) * 1.5


def _bare(ax: Axes) -> None:
    ax.set_axisbelow(True)
    for side in ("right", "top"):
        ax.spines[side].set_visible(False)
    if ax.get_yscale() == "log":
        ax.yaxis.set_minor_locator(NullLocator())
    if ax.get_xscale() == "log":
        ax.xaxis.set_minor_locator(NullLocator())


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
        handles=[handle for first in range(columns) for handle in handles[first::columns]],
        loc="upper left",
        bbox_to_anchor=(x, y),
        ncols=columns,
        frameon=False,
        fontsize=_LEGEND_SIZE,
        borderaxespad=0.0,
        borderpad=0.2,
        **_LEGEND,
    )


def _legend_handles(ax: Axes, cases: Sequence[SpeedCase], mark: Callable[[str], dict[str, Any]]) -> list[Line2D]:
    """Legend handles of the measured variants, with those of replk-probe first."""
    handles = []
    for name in reversed(_VARIANTS):
        label, colour, marker = _VARIANTS[name]
        if any(case.timing(name) is not None for case in cases):
            handles += ax.plot([], [], marker, linestyle="none", color=colour, label=label, **mark(name))
    return handles


def _draw_caption(figure: Figure, result: SpeedResult, x: float) -> None:
    machine = result.machine
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    text = (
        f"{machine.cpu}, {threads}; {result.dtype}, shortest of the calls; "
        f"torch {machine.versions.get('torch', '?')} ({machine.torch_capability}), kernels {machine.isa or 'aten'}"
    )
    figure.text(x, 0.05 / figure.get_figheight(), text, fontsize=5.5, color=MUTED)
