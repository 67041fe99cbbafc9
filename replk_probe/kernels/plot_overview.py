"""Overview of all layers of a network, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.plot_style import INK, MUTED, figure_of, figure_style, fitted_lines, page_width
from replk_probe.runtime.formatting import counted, percent

from .kernel import Kernel
from .plot_heatmaps import (
    LINE,
    MARGIN,
    NAME_SIZE,
    SMALL_SIZE,
    TINY_SIZE,
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
    stage_of,
    variant_text,
    weights_line,
)

if TYPE_CHECKING:
    from .result import KernelResult

_ACROSS, _GAP, _BAR = 9, 0.06, 0.62
_LARGEST, _NARROWEST = 1.3, 4.0  # largest map and narrowest page, in inches
_LABEL = TINY_SIZE * LINE + 0.015
_HEADING = (NAME_SIZE + 2 * SMALL_SIZE) * LINE + 0.05


def draw_overview(results: Sequence[KernelResult]) -> Figure:
    """Draw every layer of every model, stage by stage.

    Args:
        results: One result per model, in the order of the figure.

    Returns:
        A figure at most as wide as a page. Maps have about the same size, each is divided by its maximum, and its
        kernel size and central 3 x 3 share are printed below.

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
    columns = max(len(row) for block in blocks for row in _rows(block))
    side = min(_LARGEST, (page_width() - 2 * MARGIN - _BAR - (columns - 1) * _GAP) / columns)
    row_height = side + 2 * _LABEL + 0.05
    heights = [_HEADING + len(_rows(block)) * row_height + 0.1 for block in blocks]
    text = (
        "Each map is divided by its maximum. The line above a map names its layer (without the common parts of module "
        "paths); the line below gives the size of the kernel and the share of its mass in the central 3\u00d73 entries."
    )
    if any(_is_empty(panel.kernel) for panel in panels):
        text += ' "No mass" means that every weight is zero after folding batch norms.'
    page = min(page_width(), max(_NARROWEST, 2 * MARGIN + columns * (side + _GAP) + _BAR))
    caption = fitted_lines(text, (page - 2 * MARGIN) * 72, SMALL_SIZE)
    with figure_style():
        ax = sheet(page, MARGIN + sum(heights) + len(caption) * SMALL_SIZE * LINE + MARGIN)
        top = MARGIN
        for block, height in zip(blocks, heights, strict=True):
            _draw_block(ax, block, top, side, page)
            top += height
        tall = min(max(len(_rows(blocks[0])) * row_height - 2 * _LABEL, 1.2), 2.2)
        add_color_bar(ax, results, MARGIN + columns * (side + _GAP) + 0.02, MARGIN + _HEADING + _LABEL, tall)
        add_lines(ax, [(text, SMALL_SIZE, MUTED, "normal") for text in caption], MARGIN, top, page)
    return figure_of(ax)


def _rows(block: Sequence[Panel]) -> list[list[Panel]]:
    """Rows of maps; a stage that does not fit into the rest of a row starts a new one."""
    rows: list[list[Panel]] = [[]]
    for _, group in groupby(block, key=lambda panel: stage_of(panel.kernel.layer)):
        stage = list(group)
        if len(rows[-1]) + len(stage) > _ACROSS:
            rows += [stage[start : start + _ACROSS] for start in range(0, len(stage), _ACROSS)]
        else:
            rows[-1] += stage
    return [row for row in rows if row]


def _draw_block(ax: Axes, block: Sequence[Panel], top: float, side: float, page: float) -> None:
    first = block[0]
    heading = [
        (first.model, NAME_SIZE, INK, "bold"),
        (_which(block), SMALL_SIZE, INK, "normal"),
        weights_line(first, page - 2 * MARGIN),
    ]
    add_lines(ax, heading, MARGIN, top, page - 2 * MARGIN)
    top += _HEADING
    layers = [panel.kernel.layer for panel in block]
    names = dict(zip(layers, short_names(layers), strict=True))
    for row in _rows(block):
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


def _draw_stamp(ax: Axes, kernel: Kernel, name: str, left: float, top: float, side: float) -> None:
    height, width = kernel.kernel_size
    cell = cell_side(side, max(height, width))
    add_lines(ax, [(name, TINY_SIZE, INK, "normal")], left, top, side)
    add_map(ax, kernel.normalized, left, top + _LABEL, cell)
    below = top + _LABEL + cell * height + 0.02
    share = "no mass" if _is_empty(kernel) else percent(kernel.center3x3_share, 1)
    add_lines(ax, [(f"{height}\u00d7{width}, {share}", TINY_SIZE, MUTED, "normal")], left, below, side)
