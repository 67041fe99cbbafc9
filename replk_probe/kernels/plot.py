"""Heatmaps of the kernels of several models and variants, each divided by its maximum, as in the RepLKNet paper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.plot_style import (
    INK,
    SMALL_SIZE,
    Line,
    column_width,
    figure_of,
    figure_style,
    fitted_lines,
    heading_inches,
    page_width,
    remove_figures,
    save_figure,
    text_points,
    title_line,
)

from .kernel import COMPOSED, folding_text
from .plot_composed import draw_composed
from .plot_gallery import draw_gallery
from .plot_heatmaps import (
    MARGIN,
    SMALL_LINE,
    TALLEST,
    Panel,
    add_color_bar,
    add_lines,
    add_map,
    add_outline,
    add_values,
    cell_side,
    numbers_lines,
    panels_of,
    sheet,
    shown_layers,
    source_line,
    values_fit,
    variant_text,
)
from .plot_overview import draw_overview
from .plot_profiles import draw_profiles

if TYPE_CHECKING:
    from .result import KernelResult

_LARGEST, _LEAST = 3.0, 0.5  # largest map in inches, and the smallest factor by which it is reduced to fit a page
_GAP, _BELOW, _BAR = 0.16, 0.14, 0.72
_BESIDE = 0.1  # by which text may be wider than its map, into the gap
_SPACE = 0.05  # below a heading
_ACROSS = 4  # maximum number of maps in a row


def draw_kernels(results: Sequence[KernelResult]) -> Figure:
    """Draw the kernels of models as maps, with those of one layer in one row.

    Args:
        results: One result per model, in the order of the figure. Of more than six layers, the first of each stage are
            shown, or fewer, but at least two, if they do not fit on a page.

    Returns:
        A figure as wide as a page (7 inches), or as a column for one kernel. Maps are reduced, at most to half their
        size, to fit the height of a page. Maps in one row have equal cells, except small branches, which are enlarged
        to the size of the other maps. Values are printed if they fit into the cells of all maps of a row.

    Raises:
        InvalidInputError: There is no kernel.

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import draw_kernels
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> figure = draw_kernels([measure_kernels(network)])
        >>> figure.savefig("kernels.png")
    """
    panels = panels_of(results)
    # Composed kernels have a figure of their own, next to those that they are composed of.
    panels = [panel for panel in panels if panel.kernel.variant != COMPOSED] or panels
    layers = shown_layers(panels)
    while True:
        rows = _arranged([panel for panel in panels if panel.kernel.layer in layers], layers)
        columns = max(map(len, rows))
        width = page_width() if columns > 1 else column_width()
        widest = min(_LARGEST, (width - 2 * MARGIN - _BAR - (columns - 1) * _GAP) / columns)
        named = _named(rows)
        heights = [_height(row, widest, named) for row in rows]
        if len(layers) < 3 or sum(heights) <= TALLEST:
            break
        layers = [layers[index] for index in np.linspace(0, len(layers) - 1, len(layers) - 1).round().astype(int)]
    for share in np.linspace(1, _LEAST, 26):
        side = widest * share
        heights = [_height(row, side, named) for row in rows]
        if sum(heights) <= TALLEST:
            break
    reach = columns * (side + _GAP) - _GAP
    caption = [
        Line(line)
        for text in _caption(panels, len(layers))
        for line in fitted_lines(text, (width - 2 * MARGIN) * 72, SMALL_SIZE)
    ]
    with figure_style():
        # The heading of a single model is above all maps.
        first = rows[0][0]
        inside = width - 2 * MARGIN
        heading = [] if named else [title_line(first.model), source_line(first, inside)]
        head = heading_inches(heading) + bool(heading) * _SPACE
        ax = sheet(width, MARGIN + head + sum(heights) + len(caption) * SMALL_LINE + MARGIN)
        add_lines(ax, heading, MARGIN, MARGIN, inside)
        top = MARGIN + head
        for row, height in zip(rows, heights, strict=True):
            _draw_row(ax, row, MARGIN, top, side, named)
            top += height
        tall = max(_map_height(first, rows[0], side), 1.2)
        below = MARGIN + head + _heading_inches(rows[0], side, named)
        add_color_bar(ax, results, MARGIN + reach + 0.08, below, tall)
        add_lines(ax, caption, MARGIN, top, inside)
    return figure_of(ax)


def save_figures(results: Sequence[KernelResult], directory: str | Path) -> tuple[Path, ...]:
    """Write ``kernels``, ``profiles``, ``gallery``, for several layers ``overview``, and ``composed``, as PNG and PDF.

    A gallery, overview or ``composed`` of an earlier result is removed if this result has none. Returns the files.
    """
    panels = panels_of(results)
    figures = {"kernels": draw_kernels(results), "profiles": draw_profiles(results)}
    if any(len(panel.kernel.strongest) for panel in panels):
        figures["gallery"] = draw_gallery(results)
    if len({panel.kernel.layer for panel in panels}) > 1:
        figures["overview"] = draw_overview(results)
    if any(panel.kernel.variant == COMPOSED for panel in panels):
        figures["composed"] = draw_composed(results)
    folder = Path(directory)
    remove_figures(folder, *{"gallery", "overview", "composed"} - set(figures))
    return tuple(path for stem, figure in figures.items() for path in save_figure(figure, folder, stem, width=1))


def _named(rows: Sequence[Sequence[Panel]]) -> set[int]:
    """Identities of the panels whose heading names the weights: the first of each model, if there are several."""
    first: dict[str, Panel] = {}
    for panel in chain.from_iterable(rows):
        first.setdefault(panel.model, panel)
    return {id(panel) for panel in first.values()} if len(first) > 1 else set()


def _arranged(panels: Sequence[Panel], layers: Sequence[str]) -> list[list[Panel]]:
    """Rows of panels: those of each layer, or the single panels of all layers."""
    groups = [[panel for panel in panels if panel.kernel.layer == layer] for layer in layers]
    if all(len(group) == 1 for group in groups):
        return _balanced([panel for group in groups for panel in group])
    return [row for group in groups for row in _rows_of_layer(group)]


def _rows_of_layer(group: Sequence[Panel]) -> list[list[Panel]]:
    """Rows in which the panels of a model are next to each other, the merged one last, and no panel is alone."""
    rows: list[list[Panel]] = [[]]
    for _, members in groupby(group, key=lambda panel: panel.model):
        for part in _balanced(sorted(members, key=lambda panel: panel.kernel.variant == "merged")):
            if len(rows[-1]) + len(part) > _ACROSS:
                rows.append([])
            rows[-1] += part
    rows = [row for row in rows if row]
    return rows if min(map(len, rows)) > 1 else _balanced([panel for row in rows for panel in row])


def _balanced(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Distribute panels over as few rows as possible, whose lengths differ by at most one."""
    count = math.ceil(len(panels) / _ACROSS)
    edges = [math.ceil(index * len(panels) / count) for index in range(count + 1)]
    return [list(panels[start:stop]) for start, stop in pairwise(edges)]


def _is_small(panel: Panel) -> bool:
    return panel.kernel.variant == "small"


def _longest(row: Sequence[Panel]) -> int:
    return max(max(panel.kernel.kernel_size) for panel in row)


def _cells(panel: Panel, row: Sequence[Panel], side: float) -> tuple[int, float]:
    """Number of cells along the square of a map, and the side of a cell in inches.

    The number is the maximum of the row, or the size of a small branch itself, which is enlarged to the same square.
    """
    others = [one for one in row if not _is_small(one)]
    if not others:
        return _longest([panel]), cell_side(side, _longest([panel]))
    longest = _longest(others)
    cell = cell_side(side, longest)
    return (_longest([panel]), cell_side(cell * longest, _longest([panel]))) if _is_small(panel) else (longest, cell)


def _map_height(panel: Panel, row: Sequence[Panel], side: float) -> float:
    return math.prod(_cells(panel, row, side))


def _height(row: Sequence[Panel], side: float, named: set[int]) -> float:
    """Height of a row with headings and numbers, in inches."""
    below = (_map_height(one, row, side) + len(numbers_lines(one.kernel, side + _BESIDE)) * SMALL_LINE for one in row)
    return _heading_inches(row, side, named) + max(below) + 0.04 + _BELOW


def _heading_inches(row: Sequence[Panel], side: float, named: set[int]) -> float:
    """Height of the headings of a row: names of models, if there are several, and of layers."""
    layers = max(len(_layer_lines(panel, side)) for panel in row) * SMALL_LINE + _SPACE
    if not named:
        return layers
    return max(heading_inches(lines) for _, _, lines in _model_headings(row, side, named)) + _SPACE + layers


def _model_headings(row: Sequence[Panel], side: float, named: set[int]) -> Iterator[tuple[float, float, list[Line]]]:
    """Left edge and width, in inches, and lines of the heading of each model in a row."""
    start = 0
    for model, members in groupby(row, key=lambda panel: panel.model):
        first, *others = members
        width = (1 + len(others)) * (side + _GAP) - _GAP
        size, weight = title_line(model).size, title_line(model).weight
        lines = [title_line(line) for line in fitted_lines(model, width * 72, size, weight)]
        if id(first) in named:
            source = source_line(first, width)
            broken = [source.text] if source.is_badge else fitted_lines(source.text, width * 72, source.size)
            lines += [replace(source, text=line) for line in broken]
        yield start * (side + _GAP), width, lines
        start += 1 + len(others)


def _layer_lines(panel: Panel, side: float) -> list[Line]:
    """Layer and variant of a panel."""
    text = f"{panel.kernel.layer}, {variant_text(panel.kernel)}"
    if text_points(text, SMALL_SIZE) > (side + _BESIDE) * 72:
        text = f"{panel.kernel.layer}, {panel.kernel.variant}"
    return [Line(line, color=INK) for line in fitted_lines(text, (side + _BESIDE) * 72, SMALL_SIZE)]


def _draw_row(ax: Axes, row: Sequence[Panel], left: float, top: float, side: float, named: set[int]) -> None:
    """Draw the headings of a row, its maps with the middles of their squares at one height, and the numbers below."""
    head = _heading_inches(row, side, named)
    layers = max(len(_layer_lines(panel, side)) for panel in row) * SMALL_LINE
    for start, width, lines in _model_headings(row, side, named) if named else ():
        add_lines(ax, lines, left + start, top, width)
    for index, panel in enumerate(row):
        x = left + index * (side + _GAP)
        add_lines(ax, _layer_lines(panel, side), x, top + head - _SPACE - layers, side + _BESIDE)
        _draw_panel(ax, panel, row, x, top + head, side)


def _draw_panel(ax: Axes, panel: Panel, row: Sequence[Panel], left: float, top: float, side: float) -> None:
    """Draw the map, centered in its square, and the numbers below."""
    kernel = panel.kernel
    longest, cell = _cells(panel, row, side)
    height, width = kernel.kernel_size
    if (height, width) != (longest, longest):
        add_outline(ax, left, top, cell * longest)
    x, y = left + (longest - width) / 2 * cell, top + (longest - height) / 2 * cell
    add_map(ax, kernel.normalized, x, y, cell)
    if all(values_fit(_cells(one, row, side)[1]) for one in row):
        add_values(ax, kernel.normalized, x, y, cell)
    add_lines(ax, map(Line, numbers_lines(kernel, side + _BESIDE)), left, top + cell * longest + 0.04, side + _BESIDE)


def _caption(panels: Sequence[Panel], shown: int) -> list[str]:
    layers = len({panel.kernel.layer for panel in panels})
    ways = {panel.result.run.aggregate for panel in panels}
    how = "summed" if ways == {"sum"} else "averaged" if ways == {"mean"} else "aggregated"
    folding = folding_text([panel.kernel for panel in panels])
    lines = [f"The maps show absolute weights, {folding}{how} over channels, each divided by its maximum."]
    if {"small"} < {panel.kernel.variant for panel in panels}:
        lines.append("Small branches are enlarged.")
    lines.append(
        "The shares of 50, 90 and 99 % are within the smallest centered squares; sizes are in entries of the kernel."
    )
    if shown < layers:
        lines.append(f"This figure shows {shown} of {layers} layers; the overview shows all of them.")
    return lines
