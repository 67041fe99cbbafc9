"""Figure of the effective receptive fields of several positions of one feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    BAR_INCHES,
    GRID,
    INK,
    SMALL_SIZE,
    Line,
    add_heading,
    check_drawable,
    figure_style,
    log_ticks,
    new_figure,
    page_width,
    save_figure,
    threshold_colors,
    title_line,
    weights_line,
)
from replk_probe.runtime.formatting import dimensions, percent

from .plot_labels import conditions
from .plot_map import add_color_bar, draw_map, draw_scale_bar, floor_of
from .position_rule import parse_position

if TYPE_CHECKING:
    from .result import ErfResult, MeasuredPosition

_MOST_PANELS = 36  # smaller panels would show nothing
_MOST_NAMES = 6  # of positions along an axis
_PANEL_PROTOCOLS = ("pixels", "centred")
_LEFT, _TOP, _BOTTOM, _GAP, _TITLE = 0.1, 0.5, 0.46, 0.07, 0.17  # inches
_RIGHT = 2.0  # width of the panels of ratios in inches
_PANEL_GAP = 0.62


def draw_positions(result: ErfResult) -> Figure:
    """Draw the map of every position, and the area ratios against the distance from the border of the feature map.

    Args:
        result: A result of several positions (``position="grid:3x3"`` or ``"random:16"``).

    Returns:
        A figure as wide as a page (7 inches). Each map is drawn relative to its own maximum, with a cross at the center
        of the receptive field. Of more than 36 positions, the maps of 36 are drawn; the ratios are those of all.

    Raises:
        InvalidInputError: The result has no maps of several positions, or is not one of images.

    Examples:
        >>> import torch
        >>> from replk_probe import measure_erf
        >>> from replk_probe.erf import draw_positions
        >>> network = torch.nn.Conv2d(3, 8, 5, padding=2)
        >>> result = measure_erf(network, torch.rand(2, 3, 32, 32), layer="forward", position="grid:2x2")
        >>> figure = draw_positions(result)
        >>> figure.savefig("positions.png")
    """
    check_drawable(result, "ErfResult")
    if len(result.input_size) != 2:
        raise InvalidInputError(
            f"There are no positions to draw for inputs of size {dimensions(result.input_size)}. This figure is for "
            "images only. Draw their mean with plot_erf, or use the maps in result.position_maps."
        )
    if result.position_maps is None:
        raise InvalidInputError(
            f"There are no positions to draw. This result is that of position {result.position!r}. Measure a position "
            "such as grid:3x3."
        )
    rows, columns, shown = _arrangement(result)
    height, width = result.input_size
    page = page_width()
    maps_width = page - _RIGHT - _PANEL_GAP - BAR_INCHES - _LEFT - 0.1
    cell = min((maps_width - (columns - 1) * _GAP) / columns, 1.6)
    tall = cell * min(max(height / width, 1 / 3), 2.0)
    maps_height = rows * (tall + _TITLE) + (rows - 1) * _GAP
    inner = max(maps_height, 2.5)
    total = _TOP + inner + _BOTTOM
    vmin = floor_of([result.position_maps[index] for index in shown])
    with figure_style():
        figure = new_figure(page, total)
        for number, index in enumerate(shown):
            row, column = divmod(number, columns)
            x = _LEFT + column * (cell + _GAP)
            y = total - _TOP - row * (tall + _TITLE + _GAP) - _TITLE - tall
            ax = figure.add_axes((x / page, y / total, cell / page, tall / total))
            draw_map(ax, result.position_maps[index], vmin)
            _draw_place(ax, result, index)
        draw_scale_bar(figure.axes[0], width)
        edge = _LEFT + columns * cell + (columns - 1) * _GAP
        bar = min(maps_height - _TITLE, 2.6)
        bar_axes = figure.add_axes(
            ((edge + 0.07) / page, (total - _TOP - _TITLE - bar) / total, 0.1 / page, bar / total)
        )
        add_color_bar(figure.axes[0], bar_axes)
        known = [name for name in _PANEL_PROTOCOLS if any(row.protocol == name for row in result.ratios)]
        gap = 0.38
        panel = (inner - _TITLE - gap * (len(known) - 1)) / max(len(known), 1)
        for number, protocol in enumerate(known):
            y = total - _TOP - _TITLE - (number + 1) * panel - number * gap
            ax = figure.add_axes(((page - _RIGHT - 0.1) / page, y / total, _RIGHT / page, panel / total))
            _draw_ratios(ax, result, protocol, is_last=number == len(known) - 1)
        _draw_heading(figure, result, len(shown), total)
    return figure


def _arrangement(result: ErfResult) -> tuple[int, int, Sequence[int]]:
    """Numbers of rows and columns of panels, and the indices of the positions that are drawn."""
    count = len(result.positions)
    rule = parse_position(result.position)
    if rule.kind == "grid" and count <= _MOST_PANELS:
        rows = len({one.place[0] for one in result.positions})
        return rows, count // rows, range(count)
    shown = range(count) if count <= _MOST_PANELS else np.linspace(0, count - 1, _MOST_PANELS).round().astype(int)
    columns = len(shown) if len(shown) <= 3 else math.ceil(math.sqrt(len(shown)))
    return math.ceil(len(shown) / columns), columns, [int(index) for index in shown]


def _draw_place(ax: Axes, result: ErfResult, index: int) -> None:
    """Mark the center of the receptive field of a position, and name the position."""
    one = result.positions[index]
    y, x = one.center
    ax.plot([x + 0.5], [y + 0.5], "+", color="white", markersize=5, markeredgewidth=1.6, gid="center halo")
    ax.plot([x + 0.5], [y + 0.5], "+", color=INK, markersize=4.5, markeredgewidth=0.7, gid="center")
    ax.set_title(f"position {_name(one)}", fontsize=SMALL_SIZE, color=INK, pad=2.0)


def _name(one: MeasuredPosition) -> str:
    return ",".join(map(str, one.place))


def _draw_ratios(ax: Axes, result: ErfResult, protocol: str, *, is_last: bool) -> None:
    """Draw the ratio of every position and threshold against the distance from the border, with means as lines.

    If all positions are equally far from the border, they are drawn in reading order instead.
    """
    has_distances = len({one.border_distance for one in result.positions}) > 1
    places = [one.border_distance if has_distances else number for number, one in enumerate(result.positions, 1)]
    values: list[float] = []
    for threshold, color in threshold_colors(result.thresholds).items():
        points = [
            (place, row.ratio)
            for place, one in zip(places, result.positions, strict=True)
            for row in one.ratios
            if row.protocol == protocol and row.threshold == threshold
        ]
        if not points:
            continue
        x, ratios = np.array(points).T
        values += ratios.tolist()
        ax.plot(x, ratios, "o", color=color, markersize=2.6, alpha=0.65, markeredgewidth=0, gid="position")
        steps = np.unique(x)
        means = [float(ratios[x == step].mean()) for step in steps]
        if has_distances:
            ax.plot(steps, means, color=color, linewidth=1.0, gid="mean")
        ax.annotate(
            percent(threshold), (steps[-1], means[-1]), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=SMALL_SIZE, color=INK, annotation_clip=False,
        )  # fmt: skip
    first, last = min(places), max(*places, min(places) + 1)
    ax.set(xlim=(first - 0.08 * (last - first), last + 0.24 * (last - first)), yscale="log")
    if values:
        low, high = min(values) / 1.3, min(max(values) * 1.3, 1.2)
        ax.set_ylim(low, high)
        log_ticks(ax.yaxis, low, high, 100)
    if has_distances or len(places) > _MOST_NAMES:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    else:
        ax.set_xticks(places, [_name(one) for one in result.positions])
    ax.set_ylabel("Area ratio, %")
    ax.set_title(f"'{protocol}' protocol", fontsize=SMALL_SIZE, color=INK, pad=2.5, loc="left")
    ax.grid(color=GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    if is_last:
        label = "Position" if len(places) <= _MOST_NAMES else "Position in reading order"
        ax.set_xlabel("Distance from the border (positions)" if has_distances else label)


def _draw_heading(figure: Figure, result: ErfResult, shown: int, total: float) -> None:
    of_all = "" if shown == len(result.positions) else f"; maps of {shown} drawn"
    run = result.run
    add_heading(
        figure, [title_line(run.model), weights_line(run.weights), Line(f"{conditions(result)}{of_all}")], _LEFT
    )
    caption = Line("Cross: center of the position's receptive field. Maps are not shifted.")
    figure.text(_LEFT / page_width(), 0.1 / total, caption.text, **caption.style)


def save_positions(result: ErfResult, directory: str | Path) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_positions` to ``erf_positions.png`` and ``erf_positions.pdf``."""
    return save_figure(draw_positions(result), Path(directory), "erf_positions", result.input_size[1])
