"""Comparison figure of the effective receptive fields of several models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    BAR_INCHES,
    GRID,
    MUTED,
    RANGE,
    SMALL_SIZE,
    Line,
    by_rows,
    check_all_drawable,
    drawable,
    figure_style,
    log_ticks,
    new_figure,
    page_width,
    save_figure,
    text_points,
    threshold_colors,
)
from replk_probe.runtime.formatting import percent, shortened

from .labels import row_names
from .plot import add_square_labels, caption_of, color_floor, plot_erf
from .plot_labels import CAPTION_LINE, add_caption, layer_lines
from .plot_map import add_color_bar

if TYPE_CHECKING:
    from .result import ErfResult

_ACROSS, _LARGEST = 3, 3.1  # maps in a row, and the width of a map in inches
_LABEL_LETTERS = 34  # longer names of models take two lines
# In units of the font's size.
_LEGEND: dict[str, float] = {"handlelength": 1.2, "handletextpad": 0.1, "columnspacing": 0.9, "borderpad": 0.3}


def draw_comparison(results: Sequence[ErfResult], *, protocol: str = "paper") -> Figure:
    """Draw several models side by side, on one color scale, above their area ratios.

    Args:
        results: One result per model, in the order of the figure.
        protocol: Protocol of the squares and of the area ratios; ratios of ``"centred"`` are always shown as well,
            or those of ``"pixels"`` if all maps are imported.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: ``results`` is empty; also as for :func:`plot_erf`.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import draw_comparison, import_erf
        >>> results = [import_erf(np.pad(np.ones((n, n)), 16 - n // 2), name=f"{n}x{n}") for n in (8, 16)]
        >>> figure = draw_comparison(results, protocol="linear")
        >>> figure.savefig("comparison.png")
    """
    check_all_drawable(results, "ErfResult")
    if not results:
        raise InvalidInputError(
            "The list of results is empty. A comparison figure needs at least one result. Pass a non-empty list."
        )
    columns = min(len(results), _ACROSS)
    rows = math.ceil(len(results) / columns)
    caption = CAPTION_LINE * max(len(layer_lines(result)) for result in results)  # beyond the first line
    left, top, gap_x, gap_y = 0.08, 0.5, 0.16, 0.7 + caption
    page = page_width()
    cell = min((page - left - BAR_INCHES - (columns - 1) * gap_x) / columns, _LARGEST)
    tallest = cell * max(min(result.input_size[0] / result.input_size[1], 1.6) for result in results)
    maps = rows * tallest + (rows - 1) * gap_y
    labels = row_labels(results)
    label_room = left + max(text_points(line, SMALL_SIZE) for label in labels for line in label.split("\n")) / 72 + 0.1
    entries = [percent(threshold) for threshold in _colors(results)]
    entries += ["random weights"] * any(result.run.weights.is_random for result in results)
    legend_columns = _legend_columns(entries, page - label_room)
    legend_rows = math.ceil(len(entries) / legend_columns)
    lines = (0.28 if any("\n" in label for label in labels) else 0.19) * len(results)
    total = top + maps + caption + 0.48 + 0.14 * legend_rows + lines + 0.42
    vmin = color_floor(results)
    with figure_style():
        figure = new_figure(page, total)
        for index, result in enumerate(results):
            row, column = divmod(index, columns)
            x = left + column * (cell + gap_x)
            y = total - top - row * (tallest + gap_y) - tallest
            ax = figure.add_axes((x / page, y / total, cell / page, tallest / total))
            ax.set_anchor("NW")
            plot_erf(result, ax, protocol=protocol, vmin=vmin, cbar=False, caption=False)
            add_caption(ax, *layer_lines(result), *filter(None, [add_square_labels(ax, result, protocol)]))
        # Names in one size.
        titles = [text for ax in figure.axes for text in ax.texts if text.get_gid() == "name"]
        smallest = min(title.get_fontsize() for title in titles)
        for title in titles:
            title.set_fontsize(smallest)
        edge = left + columns * cell + (columns - 1) * gap_x
        bar_height = min(tallest, 2.6)
        bar_axes = figure.add_axes(
            ((edge + 0.07) / page, (total - top - bar_height) / total, 0.1 / page, bar_height / total)
        )
        add_color_bar(figure.axes[0], bar_axes)
        below = (total - top - maps - caption - 0.26) / total
        figure.text(left / page, below, caption_of(protocol), **Line("").style)
        # An imported map is centered at its middle pixel, where "centred" repeats the squares of the map.
        second = "pixels" if all(result.is_imported for result in results) else "centred"
        panels = [name for name in dict.fromkeys((protocol, second)) if all(name in r.protocols for r in results)]
        panel = (page - label_room - 0.1 - 0.15 * (len(panels) - 1)) / len(panels)
        for index, name in enumerate(panels):
            x = label_room + index * (panel + 0.15)
            ax = figure.add_axes((x / page, 0.42 / total, panel / page, lines / total))
            _draw_ratios(ax, results, name, labels if index == 0 else [])
            if index == 0:
                _draw_legend(ax, results, legend_columns)
    return figure


def row_labels(results: Sequence[ErfResult]) -> list[str]:
    """Unique row labels of the models in a panel, shortened if they do not fit on two lines."""
    names = list(map(drawable, row_names(results)))
    labels: list[str] = []
    middle = (_LABEL_LETTERS - 1) // 2
    # Two long names may differ only in the part that is left out; leave out another part then.
    for head in sorted(range(1, _LABEL_LETTERS - 1), key=lambda letters: abs(letters - middle)):
        labels = [_on_two_lines(name, head) for name in names]
        if len(set(labels)) == len(set(names)):
            break
    else:
        order = list(dict.fromkeys(names))
        labels = [
            label + f" #{order.index(name) + 1}" * (len(name) > 2 * _LABEL_LETTERS)
            for name, label in zip(names, labels, strict=True)
        ]
    return labels


def _on_two_lines(name: str, head: int) -> str:
    """``name`` on at most two lines, broken after an underscore, dot or dash; the second one is shortened to fit."""
    if len(name) <= _LABEL_LETTERS:
        return name
    breaks = [at for at in range(_LABEL_LETTERS // 3, _LABEL_LETTERS + 1) if name[at - 1] in "_.-"]
    at = breaks[-1] if breaks else _LABEL_LETTERS
    if len(name) - at > _LABEL_LETTERS >= len(name) - _LABEL_LETTERS:
        at = _LABEL_LETTERS  # a break within a word is better than an omitted part
    return name[:at] + "\n" + shortened(name[at:], _LABEL_LETTERS, head)


def _colors(results: Sequence[ErfResult]) -> dict[float, tuple[float, ...]]:
    return threshold_colors(threshold for result in results for threshold in result.thresholds)


def _legend_columns(entries: Sequence[str], inches: float) -> int:
    """Number of columns of a legend at most ``inches`` wide: as few rows as possible, of about equal length."""

    def fits(columns: int) -> bool:
        texts = sum(
            max(text_points(entry, SMALL_SIZE) for entry in entries[first::columns]) for first in range(columns)
        )
        handles = columns * (_LEGEND["handlelength"] + _LEGEND["handletextpad"])
        around = (columns - 1) * _LEGEND["columnspacing"] + 2 * _LEGEND["borderpad"] + 0.2
        return texts + SMALL_SIZE * (handles + around) <= 72 * inches

    most = next((columns for columns in range(len(entries), 1, -1) if fits(columns)), 1)
    even = math.ceil(len(entries) / math.ceil(len(entries) / most))
    return even if fits(even) else most


def _draw_ratios(ax: Axes, results: Sequence[ErfResult], protocol: str, labels: Sequence[str]) -> None:
    """Draw the area ratio of every model and threshold with its 95 % interval, one row per model."""
    colors = _colors(results)
    for y, result in enumerate(results):
        rows = [row for row in result.ratios if row.protocol == protocol]
        ax.plot([row.ratio for row in rows], [y] * len(rows), color=RANGE, linewidth=0.6, zorder=1)
        for row in rows:
            color = colors[row.threshold]
            if row.ci95 is not None:
                low, high = max(row.ci95[0], 1e-6), row.ci95[1]
                ax.plot([low, high], [y, y], color=color, linewidth=2.4, alpha=0.45, solid_capstyle="butt", zorder=2)
            face = "white" if result.run.weights.is_random else color
            ax.plot(row.ratio, y, "o", markersize=3.6, color=color, markerfacecolor=face, zorder=3)
    smallest = min(row.ratio for result in results for row in result.ratios if row.protocol == protocol)
    ax.set_xscale("log")
    ax.set(xlim=(smallest / 1.7, 1.25), ylim=(len(results) - 0.4, -0.6))
    log_ticks(ax.xaxis, *ax.get_xlim(), scale=100)
    ax.set_yticks(range(len(results)))
    ax.set_yticklabels(labels, parse_math=False, fontsize=SMALL_SIZE)
    ax.tick_params(left=False)
    ax.grid(axis="x", color=GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    sns.despine(ax=ax, left=True)  # type: ignore[no-untyped-call]
    ax.set_xlabel(f"Area ratio, % ('{protocol}')")


def _draw_legend(ax: Axes, results: Sequence[ErfResult], columns: int) -> None:
    """Draw the legend of the threshold colors above the first panel."""
    handles = [
        ax.plot([], [], "o", markersize=3.6, color=color, label=percent(threshold))[0]
        for threshold, color in _colors(results).items()
    ]
    if any(result.run.weights.is_random for result in results):
        handles += ax.plot([], [], "o", markersize=3.6, color=MUTED, markerfacecolor="white", label="random weights")
    ax.legend(
        handles=by_rows(handles, columns),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=SMALL_SIZE,
        borderaxespad=0.1,
        **_LEGEND,
    )


def save_comparison(
    results: Sequence[ErfResult], directory: str | Path, *, protocol: str = "paper"
) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_comparison` to ``comparison.png`` and ``comparison.pdf``; returns the files."""
    return save_figure(
        draw_comparison(results, protocol=protocol), Path(directory), "comparison", results[0].input_size[1]
    )
