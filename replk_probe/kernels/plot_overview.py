"""Overview of all layers of a network, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

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
    page_width,
    text_points,
    title_line,
)
from replk_probe.runtime.formatting import counted, percent

from .kernel import Kernel
from .plot_heatmaps import (
    MARGIN,
    NAME_LINE,
    SMALL_LINE,
    Panel,
    add_color_bar,
    add_lines,
    add_map,
    cell_side,
    common_path,
    one_variant,
    panels_of,
    sheet,
    short_names,
    source_line,
    stage_of,
    variant_text,
)

if TYPE_CHECKING:
    from .result import KernelResult

_MOST_ACROSS, _IN_COLUMN = 9, 3  # maps in a row, at most and of a figure of one column
_GAP, _BAR = 0.06, 0.62
_LABEL = SMALL_LINE + 0.015
_HEADING = NAME_LINE + 2 * SMALL_LINE + 0.05


def draw_overview(results: Sequence[KernelResult]) -> Figure:
    """Draw every layer of every model, stage by stage.

    Args:
        results: One result per model, in the order of the figure.

    Returns:
        A figure as wide as a page, or as a column if no row has more than three maps. Maps have about the same size,
        each is divided by its maximum, and its kernel size and central 3 x 3 share are printed below.

    Raises:
        InvalidInputError: There is no kernel.

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import draw_overview
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> figure = draw_overview([measure_kernels(network)])
        >>> figure.savefig("overview.png")
    """
    panels = one_variant(panels_of(results))
    blocks = [list(group) for _, group in groupby(panels, key=lambda panel: panel.model)]
    across = _across(panels)
    columns = max(len(row) for block in blocks for row in _rows(block, across))
    page = column_width() if columns <= _IN_COLUMN else page_width()
    side = (page - 2 * MARGIN - _BAR - (columns - 1) * _GAP) / columns
    row_height = side + 2 * _LABEL + 0.05
    heights = [_HEADING + len(_rows(block, across)) * row_height + 0.1 for block in blocks]
    text = (
        "Each map is divided by its maximum. The line above a map names its layer (without the common parts of module "
        "paths); the line below gives the size of the kernel and the share of its mass in the central 3\u00d73 entries."
    )
    if any(_is_empty(panel.kernel) for panel in panels):
        text += ' "No mass" means that every weight is zero after folding batch norms.'
    caption = fitted_lines(text, (page - 2 * MARGIN) * 72, SMALL_SIZE)
    with figure_style():
        ax = sheet(page, MARGIN + sum(heights) + len(caption) * SMALL_LINE + MARGIN)
        top = MARGIN
        for block, height in zip(blocks, heights, strict=True):
            _draw_block(ax, _rows(block, across), top, side, page)
            top += height
        tall = min(max(len(_rows(blocks[0], across)) * row_height - 2 * _LABEL, 1.2), 2.2)
        add_color_bar(ax, results, MARGIN + columns * (side + _GAP) + 0.02, MARGIN + _HEADING + _LABEL, tall)
        add_lines(ax, map(Line, caption), MARGIN, top, page)
    return figure_of(ax)


def _across(panels: Sequence[Panel]) -> int:
    """Number of maps in a row of a page, at most, such that the lines below them fit."""
    widest = max(text_points(_size_and_share(panel.kernel), SMALL_SIZE) for panel in panels) / 72
    return min(_MOST_ACROSS, int((page_width() - 2 * MARGIN - _BAR + _GAP) / (widest + _GAP)))


def _rows(block: Sequence[Panel], across: int) -> list[list[Panel]]:
    """Rows of maps; a stage that does not fit into the rest of a row starts a new one."""
    rows: list[list[Panel]] = [[]]
    for _, group in groupby(block, key=lambda panel: stage_of(panel.kernel.layer)):
        stage = list(group)
        if len(rows[-1]) + len(stage) > across:
            rows += [stage[start : start + across] for start in range(0, len(stage), across)]
        else:
            rows[-1] += stage
    return [row for row in rows if row]


def _draw_block(ax: Axes, rows: Sequence[Sequence[Panel]], top: float, side: float, page: float) -> None:
    block = [panel for row in rows for panel in row]
    first = block[0]
    heading = [title_line(first.model), source_line(first, page - 2 * MARGIN), Line(_which(block), color=INK)]
    add_lines(ax, heading, MARGIN, top, page - 2 * MARGIN)
    top += _HEADING
    layers = [panel.kernel.layer for panel in block]
    names = dict(zip(layers, short_names(layers), strict=True))
    for row in rows:
        for index, panel in enumerate(row):
            _draw_stamp(ax, panel.kernel, names[panel.kernel.layer], MARGIN + index * (side + _GAP), top, side)
        top += side + 2 * _LABEL + 0.05


def _which(block: Sequence[Panel]) -> str:
    """Number of layers and the variants of the kernels shown."""
    counts = Counter(variant_text(panel.kernel) for panel in block)
    layers = f"{counted(len(block), 'layer')} {common_path([panel.kernel.layer for panel in block])}".rstrip()
    if len(counts) == 1:
        return f"{layers}, {next(iter(counts))}"
    return f"{layers}: " + "; ".join(f"{count} {variant}" for variant, count in counts.items())


def _is_empty(kernel: Kernel) -> bool:
    return not kernel.magnitude.any()


def _size_and_share(kernel: Kernel) -> str:
    height, width = kernel.kernel_size
    share = "no mass" if _is_empty(kernel) else percent(kernel.center3x3_share, 1)
    return f"{height}\u00d7{width}, {share}"


def _draw_stamp(ax: Axes, kernel: Kernel, name: str, left: float, top: float, side: float) -> None:
    height, width = kernel.kernel_size
    cell = cell_side(side, max(height, width))
    add_lines(ax, [Line(name, color=INK)], left, top, side)
    add_map(ax, kernel.normalized, left, top + _LABEL, cell)
    below = top + _LABEL + cell * height + 0.02
    add_lines(ax, [Line(_size_and_share(kernel))], left, below, side)
