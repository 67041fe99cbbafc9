"""Heatmaps of the kernels of several models and variants, each divided by its maximum, as in the RepLKNet paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.plot_style import (
    INK,
    SMALL_SIZE,
    SUFFIXES,
    Line,
    column_width,
    figure_of,
    figure_style,
    fitted_lines,
    heading_inches,
    page_width,
    save_figure,
    text_points,
    title_line,
)

from .kernel import COMPOSED, folding_text
from .plot_composed import draw_composed
from .plot_gallery import draw_gallery
from .plot_heatmaps import (
    MARGIN,
    NAME_LINE,
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
    variant_text,
)
from .plot_overview import draw_overview
from .plot_profiles import draw_profiles

if TYPE_CHECKING:
    from .result import KernelResult

_LARGEST, _LEAST = 3.0, 0.5  # largest map in inches, and the smallest factor by which it is reduced to fit a page
_GAP, _BELOW, _BAR = 0.16, 0.14, 0.72
_SPACE = 0.05  # below a heading
# Values are printed for kernels up to this size, which requires wider maps.
_PRINTED_SIDE, _ACROSS_PRINTED, _ACROSS = 15, 3, 4
# Cell size of a small branch, which is enlarged so that its values fit.
_SMALL_CELL = 0.15


def draw_kernels(results: Sequence[KernelResult]) -> Figure:
    """Draw the kernels of models as maps, with those of one layer in one row.

    Args:
        results: One result per model, in the order of the figure. Of more than six layers, the first of each stage are
            shown, or fewer, but at least two, if they do not fit on a page.

    Returns:
        A figure as wide as a page (7 inches), or as a column for one kernel. Maps are reduced, at most to half their
        size, to fit the height of a page. Maps in one row have equal cells, except small branches, which are enlarged
        and, if they do not fit into the row of their layer, below the large branch. Values are printed if they fit into
        their cells.

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
        lines = _lines([panel for panel in panels if panel.kernel.layer in layers], layers)
        columns = max(len(line) for line in lines)
        width = page_width() if columns > 1 else column_width()
        sides = [_side(line, columns, width) for line in lines]
        named = _named(lines)
        heights = [_height(line, side, named) for line, side in zip(lines, sides, strict=True)]
        if len(layers) < 3 or sum(heights) <= TALLEST:
            break
        layers = [layers[index] for index in np.linspace(0, len(layers) - 1, len(layers) - 1).round().astype(int)]
    for share in np.linspace(1, _LEAST, 26):
        sizes = [side * share for side in sides]
        heights = [_height(line, side, named) for line, side in zip(lines, sizes, strict=True)]
        if sum(heights) <= TALLEST:
            break
    sides = sizes
    reach = max(len(line) * (side + _GAP) - _GAP for line, side in zip(lines, sides, strict=True))
    caption = [
        Line(line)
        for text in _caption(panels, len(layers))
        for line in fitted_lines(text, (width - 2 * MARGIN) * 72, SMALL_SIZE)
    ]
    with figure_style():
        # The heading of a single model is above all maps.
        first = _panels(lines[0])[0]
        inside = width - 2 * MARGIN
        heading = [] if named else [title_line(first.model), source_line(first, inside)]
        head = heading_inches(heading) + bool(heading) * _SPACE
        ax = sheet(width, MARGIN + head + sum(heights) + len(caption) * SMALL_LINE + MARGIN)
        add_lines(ax, heading, MARGIN, MARGIN, inside)
        top = MARGIN + head
        for line, side, height in zip(lines, sides, heights, strict=True):
            for index, panel in enumerate(line):
                if panel is not None:
                    _draw_panel(ax, panel, line, MARGIN + index * (side + _GAP), top, side, named)
            top += height
        tall = max(_map_height(first, lines[0], sides[0]), 1.2)
        add_color_bar(ax, results, MARGIN + reach + 0.08, MARGIN + head + _heading_inches(lines[0], named), tall)
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
    for stem in {"gallery", "overview", "composed"} - set(figures):
        for suffix in SUFFIXES:
            (folder / f"{stem}.{suffix}").unlink(missing_ok=True)
    return tuple(path for stem, figure in figures.items() for path in save_figure(figure, folder, stem, width=1))


# A row of panels, with None where there is no map.
_Row = Sequence[Panel | None]


def _panels(line: _Row) -> list[Panel]:
    return [panel for panel in line if panel is not None]


def _named(lines: Sequence[_Row]) -> set[int]:
    """Identities of the panels whose heading names the weights: the first of each model, if there are several."""
    first: dict[str, Panel] = {}
    for line in lines:
        for panel in _panels(line):
            first.setdefault(panel.model, panel)
    return {id(panel) for panel in first.values()} if len(first) > 1 else set()


def _lines(panels: Sequence[Panel], layers: Sequence[str]) -> list[_Row]:
    """Rows of panels: those of one layer with small branches last, or the single panels of all layers."""
    groups = [[panel for panel in panels if panel.kernel.layer == layer] for layer in layers]
    if all(len(group) == 1 for group in groups):
        return [*_broken([panel for group in groups for panel in group])]
    lines: list[_Row] = []
    for group in groups:
        small = [panel for panel in group if _is_small(panel)]
        others = [panel for panel in group if not _is_small(panel)]
        models = [list(part) for _, part in groupby(others, key=lambda panel: panel.model)]
        # If they do not fit, each model has a separate row.
        together = len(_broken(others)) < 2 or all(len(part) == 1 for part in models)
        for part in [others] if together else models:
            theirs = [panel for panel in small if any(panel.model == other.model for other in part)]
            if len(_broken([*part, *theirs])) == len(_broken(part)):
                lines += _broken([*part, *theirs])
            else:
                lines += [*_broken(part), *_below(part, theirs)]
        # Models with no other panels.
        lines += _broken([panel for panel in small if all(panel.model != other.model for other in others)])
    return lines


def _below(row: Sequence[Panel], small: Sequence[Panel]) -> list[_Row]:
    """Small branches in a row, each below the large branch of its model, or in rows of their own."""
    places = {panel.model: place for place, panel in enumerate(row) if panel.kernel.variant == "large"}
    columns = [places.get(panel.model) for panel in small]
    if len(_broken(row)) > 1 or None in columns or len({*columns}) < len(columns):
        return [*_broken(small)]
    return [[dict(zip(columns, small, strict=True)).get(place) for place in range(len(row))]]


def _broken(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Distribute panels over as few rows as possible, of about equal length."""
    if not panels:
        return []
    rows = math.ceil(len(panels) / (_ACROSS_PRINTED if _longest(panels) <= _PRINTED_SIDE else _ACROSS))
    across = math.ceil(len(panels) / rows)
    return [panels[start : start + across] for start in range(0, len(panels), across)]


def _side(line: _Row, columns: int, width: float) -> float:
    """Side of a map in inches, equal in all rows unless a larger one allows values to be printed."""

    def shared(count: int) -> float:
        return min(_LARGEST, (width - 2 * MARGIN - _BAR - (count - 1) * _GAP) / count)

    has_values = _longest(line) <= _PRINTED_SIDE and not all(map(_is_small, _panels(line)))
    return shared(max(len(line), _ACROSS_PRINTED) if has_values and columns > _ACROSS_PRINTED else columns)


def _is_small(panel: Panel) -> bool:
    return panel.kernel.variant == "small"


def _longest(line: _Row) -> int:
    return max(max(panel.kernel.kernel_size) for panel in _panels(line))


def _extent(panel: Panel, line: _Row) -> int:
    """Number of cells along the square of a map: the maximum of the row, or the size of a small branch itself."""
    return _longest([panel]) if _is_small(panel) else _longest([one for one in _panels(line) if not _is_small(one)])


def _cell(panel: Panel, line: _Row, side: float) -> float:
    """Side of the cells of a map in inches."""
    cell = cell_side(side, _extent(panel, line))
    return min(cell, _SMALL_CELL) if _is_small(panel) else cell


def _map_height(panel: Panel, line: _Row, side: float) -> float:
    return _cell(panel, line, side) * _extent(panel, line)


def _height(line: _Row, side: float, named: set[int]) -> float:
    """Height of a row with headings and numbers, in inches."""
    below = (_map_height(one, line, side) + len(numbers_lines(one.kernel, side)) * SMALL_LINE for one in _panels(line))
    return _heading_inches(line, named) + max(below) + 0.04 + _BELOW


def _heading_inches(line: _Row, named: set[int]) -> float:
    """Height of the headings of a row: layer and, for several models, the model and possibly the weights."""
    if not named:
        return SMALL_LINE + _SPACE
    return NAME_LINE + (1 + any(id(panel) in named for panel in line)) * SMALL_LINE + _SPACE


def _draw_panel(ax: Axes, panel: Panel, line: _Row, left: float, top: float, side: float, named: set[int]) -> None:
    """Draw the heading, the centered map, and the numbers below."""
    kernel = panel.kernel
    words = variant_text(kernel)
    if text_points(f"{kernel.layer}, {words}", SMALL_SIZE) > side * 72:
        words = kernel.variant
    heading = [Line(f"{kernel.layer}, {words}", color=INK)]
    if named:
        heading.insert(0, title_line(panel.model))
    if id(panel) in named:
        heading.append(source_line(panel, side))
    add_lines(ax, heading, left, top, side)
    cell, longest = _cell(panel, line, side), _extent(panel, line)
    height, width = kernel.kernel_size
    top += _heading_inches(line, named)
    if (height, width) != (longest, longest):
        add_outline(ax, left, top, cell * longest)
    x, y = left + (longest - width) / 2 * cell, top + (longest - height) / 2 * cell
    add_map(ax, kernel.normalized, x, y, cell)
    add_values(ax, kernel.normalized, x, y, cell)
    add_lines(ax, map(Line, numbers_lines(kernel, side)), left, top + cell * longest + 0.04, side)


def _caption(panels: Sequence[Panel], shown: int) -> list[str]:
    layers = len({panel.kernel.layer for panel in panels})
    ways = {panel.result.run.aggregate for panel in panels}
    how = "summed" if ways == {"sum"} else "averaged" if ways == {"mean"} else "aggregated"
    folding = folding_text([panel.kernel for panel in panels])
    lines = [f"The maps show absolute weights, {folding}{how} over channels, each divided by its maximum."]
    if {"small"} < {panel.kernel.variant for panel in panels}:
        lines.append("Small branches are enlarged.")
    if shown < layers:
        lines.append(f"This figure shows {shown} of {layers} layers; the overview shows all of them.")
    return lines
