"""The figure that compares effective receptive fields of several models. Free of torch and of pyplot's state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from replk_probe.errors import InvalidInputError

from .plot import caption_of, colour_floor, draw_colour_bar, plot_erf
from .plot_style import BAR_ROOM, MAP_INCHES, MUTED, house_style, new_figure, percent, save_figure, shortened
from .result import ErfResult

_CELL_INCHES = 1.96  # three maps to a page


def plot_comparison(results: Sequence[ErfResult], *, protocol: str = "paper") -> Figure:
    """Draw several models side by side, on one colour scale, above their area ratios.

    Args:
        results: One per model, in the order to show them.
        protocol: Whose squares and, beside those of ``"centred"``, whose area ratios.

    Returns:
        A figure at most as wide as a page (7 inches).

    Raises:
        InvalidInputError: No result at all, or as :func:`plot_erf`.
    """
    if not results:
        raise InvalidInputError(
            "No result to compare. A comparison figure shows at least one model. Give some results."
        )
    columns = min(len(results), 3)
    rows = math.ceil(len(results) / columns)
    left, top, gap_x, gap_y = 0.08, 0.5, 0.16, 0.54
    cell = _CELL_INCHES if columns == 3 else MAP_INCHES
    page = max(left + columns * cell + (columns - 1) * gap_x + BAR_ROOM, 5.5)
    tallest = cell * max(min(result.input_size[0] / result.input_size[1], 1.6) for result in results)
    maps = rows * tallest + (rows - 1) * gap_y
    lines = 0.19 * len(results)
    total = top + maps + 0.5 + lines + 0.42
    vmin = colour_floor(results)
    with house_style():
        figure = new_figure(page, total)
        for index, result in enumerate(results):
            row, column = divmod(index, columns)
            x = left + column * (cell + gap_x)
            y = total - top - row * (tallest + gap_y) - tallest
            ax = figure.add_axes((x / page, y / total, cell / page, tallest / total))
            ax.set_anchor("NW")
            plot_erf(result, ax, protocol=protocol, vmin=vmin, colorbar=False, caption=False)
        edge = left + columns * cell + (columns - 1) * gap_x
        bar_height = min(tallest, 2.6)
        colour_axes = figure.add_axes(
            ((edge + 0.07) / page, (total - top - bar_height) / total, 0.1 / page, bar_height / total)
        )
        draw_colour_bar(figure.axes[0], figure.axes[0].collections[0], colour_axes)
        figure.text(left / page, (total - top - maps - 0.14) / total, caption_of(protocol), fontsize=5.8, color=MUTED)
        panels = [name for name in dict.fromkeys((protocol, "centred")) if all(name in r.protocols for r in results)]
        label_room = 1.55
        panel = (page - label_room - 0.1 - 0.15 * (len(panels) - 1)) / len(panels)
        for index, name in enumerate(panels):
            x = label_room + index * (panel + 0.15)
            ax = figure.add_axes((x / page, 0.42 / total, panel / page, lines / total))
            _draw_ratios(ax, results, name, named=index == 0)
    return figure


def _draw_ratios(ax: Axes, results: Sequence[ErfResult], protocol: str, *, named: bool) -> None:
    """Area ratio of every model and threshold with its 95 % interval, one line per model."""
    thresholds = sorted({threshold for result in results for threshold in result.thresholds})
    colours = list(sns.color_palette("crest", len(thresholds)))  # type: ignore[no-untyped-call]
    for y, result in enumerate(results):
        rows = [row for row in result.ratios if row.protocol == protocol]
        ax.plot([row.ratio for row in rows], [y] * len(rows), color="#c8c8c8", linewidth=0.6, zorder=1)
        for row in rows:
            colour = colours[thresholds.index(row.threshold)]
            if row.ci95 is not None:
                low, high = max(row.ci95[0], 1e-6), row.ci95[1]
                ax.plot([low, high], [y, y], color=colour, linewidth=2.4, alpha=0.45, solid_capstyle="butt", zorder=2)
            hollow = result.run.weights.is_random
            ax.plot(
                row.ratio, y, "o", markersize=3.6, color=colour, markerfacecolor="white" if hollow else colour, zorder=3
            )
    smallest = min(row.ratio for result in results for row in result.ratios if row.protocol == protocol)
    ax.set_xscale("log")
    ax.set(xlim=(smallest / 1.7, 1.25), ylim=(len(results) - 0.4, -0.6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(results)))
    names = [shortened(result.run.model, 17 if result.run.weights.is_random else 26) for result in results]
    names = [name + " (random)" * result.run.weights.is_random for name, result in zip(names, results, strict=True)]
    ax.set_yticklabels(names if named else [], parse_math=False)
    ax.tick_params(left=False)
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    ax.set_axisbelow(True)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel(f"Area ratio, % ('{protocol}')")
    if named:
        handles = [
            ax.plot([], [], "o", markersize=3.6, color=colour, label=percent(threshold))[0]
            for threshold, colour in zip(thresholds, colours, strict=True)
        ]
        if any(result.run.weights.is_random for result in results):
            handles += ax.plot(
                [], [], "o", markersize=3.6, color=MUTED, markerfacecolor="white", label="random weights"
            )
        ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(handles),
            frameon=False,
            fontsize=6.0,
            handletextpad=0.1,
            columnspacing=0.9,
            borderaxespad=0.1,
        )


def save_comparison(
    results: Sequence[ErfResult], directory: str | Path, *, protocol: str = "paper"
) -> tuple[Path, ...]:
    """Write ``comparison.png`` and ``comparison.pdf``: :func:`plot_comparison` as files, which are returned."""
    return save_figure(
        plot_comparison(results, protocol=protocol), Path(directory), "comparison", results[0].input_size[1]
    )
