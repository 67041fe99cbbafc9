"""Composed kernels next to the kernels that they are composed of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    INK,
    SMALL_SIZE,
    Line,
    figure_of,
    figure_style,
    fitted_lines,
    page_width,
    text_points,
    title_line,
)
from replk_probe.runtime.formatting import percent

from .kernel import COMPOSED, Kernel, folding_text
from .plot_heatmaps import (
    MARGIN,
    MOST_LAYERS,
    NAME_LINE,
    SMALL_LINE,
    TALLEST,
    Panel,
    add_color_bar,
    add_lines,
    add_map,
    add_outline,
    cell_side,
    panels_of,
    sheet,
    source_line,
)

if TYPE_CHECKING:
    from .result import KernelResult

_LARGEST = 2.0  # inches
_GAP, _BELOW, _BAR = 0.16, 0.14, 0.72
_SPACE = 0.05
_HEADING = NAME_LINE + 2 * SMALL_LINE + _SPACE + 0.03


def draw_composed(results: Sequence[KernelResult]) -> Figure:
    """Draw each composed kernel as a map, and to the left of it the kernels that it is composed of.

    Args:
        results: One result per model, measured with ``compose``. Of the composed kernels, at most six, evenly spaced,
            are shown, or fewer if they do not fit on a page.

    Returns:
        A figure as wide as a page (7 inches). All maps of one row have cells of the same size. Dilated
        kernels are drawn with the gaps between their entries.

    Raises:
        InvalidInputError: There is no composed kernel.

    Examples:
        A 5x5 convolution followed by a 7x7 convolution with dilation 3 has a kernel of 23x23:

        >>> import torch
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import draw_composed
        >>> first = torch.nn.Conv2d(8, 8, 5, padding=2, groups=8)
        >>> second = torch.nn.Conv2d(8, 8, 7, padding=9, groups=8, dilation=3)
        >>> result = measure_kernels(torch.nn.Sequential(first, second), compose=True)
        >>> result.kernels[-1].variant, result.kernels[-1].kernel_size
        ('composed', (23, 23))
        >>> draw_composed([result]).savefig("composed.png")
    """
    lines = _lines(panels_of(results))
    if not lines:
        raise InvalidInputError(
            "There are no composed kernels to draw. The results contain none. Measure with compose=True a network that "
            "has some."
        )
    columns = max(map(len, lines))
    side = min(_LARGEST, (page_width() - 2 * MARGIN - _BAR - (columns - 1) * _GAP) / columns)
    fitting = max(1, min(MOST_LAYERS, int(TALLEST / max(_height(line, side) for line in lines))))
    shown = lines
    if len(lines) > fitting:
        places = np.linspace(0, len(lines) - 1, fitting).round().astype(int)
        shown = [lines[place] for place in places]
    heights = [_height(line, side) for line in shown]
    reach = max(len(line) * (side + _GAP) - _GAP for line in shown)
    width = page_width()
    caption = fitted_lines(_caption(shown, len(lines)), (width - 2 * MARGIN) * 72, SMALL_SIZE)
    with figure_style():
        ax = sheet(width, MARGIN + sum(heights) + len(caption) * SMALL_LINE + MARGIN)
        top = MARGIN
        models = [line[-1].model for line in shown]
        for index, (line, height) in enumerate(zip(shown, heights, strict=True)):
            is_first = models[index] not in models[:index]
            _draw_line(ax, line, top, side, width - 2 * MARGIN, is_first)
            top += height
        add_color_bar(ax, results, MARGIN + reach + 0.08, MARGIN + _HEADING, _map_side(shown[0], side))
        add_lines(ax, map(Line, caption), MARGIN, top, width - 2 * MARGIN)
    return figure_of(ax)


def _lines(panels: Sequence[Panel]) -> list[list[Panel]]:
    """The composed kernels, each after its stored kernels."""
    lines = []
    for panel in panels:
        if panel.kernel.variant == COMPOSED:
            stored = [
                other
                for path in panel.kernel.composed_of
                for other in panels
                if (other.model, other.kernel.path) == (panel.model, path) and other.kernel.variant != COMPOSED
            ]
            lines.append([*stored, panel])
    return lines


def _longest(line: Sequence[Panel]) -> int:
    return max(max(map(int, panel.kernel.spread.shape)) for panel in line)


def _map_side(line: Sequence[Panel], side: float) -> float:
    longest = _longest(line)
    return cell_side(side, longest) * longest


def _height(line: Sequence[Panel], side: float) -> float:
    """Height of a row with headings and numbers, in inches."""
    return _HEADING + _map_side(line, side) + 0.04 + len(_numbers(line[-1].kernel)) * SMALL_LINE + _BELOW


def _draw_line(ax: Axes, line: Sequence[Panel], top: float, side: float, width: float, is_first: bool) -> None:
    """Draw the heading of a row, with the weights if it is the first of its model, and maps with names and numbers."""
    whole = line[-1]
    heading = [title_line(f"{whole.model}, {whole.kernel.layer}"), *([source_line(whole, width)] if is_first else [])]
    add_lines(ax, heading, MARGIN, top, width)
    below = top + _HEADING - SMALL_LINE - 0.03
    longest = _longest(line)
    cell = cell_side(side, longest)
    for index, panel in enumerate(line):
        kernel, left = panel.kernel, MARGIN + index * (side + _GAP)
        name = COMPOSED if panel is whole else kernel.layer.removeprefix(f"{whole.kernel.path}.")
        if text_points(name, SMALL_SIZE) > side * 72:
            name = name.rpartition(".")[2]
        add_lines(ax, [Line(name, color=INK)], left, below, side)
        shown = kernel.spread
        height, across = shown.shape
        at = top + _HEADING
        if (height, across) != (longest, longest):
            add_outline(ax, left, at, cell * longest)
        add_map(ax, shown, left + (longest - across) / 2 * cell, at + (longest - height) / 2 * cell, cell)
        add_lines(ax, map(Line, _numbers(kernel)), left, at + cell * longest + 0.04, side)


def _numbers(kernel: Kernel) -> list[str]:
    """Lines below a map, which also fit below a narrow one."""
    height, width = kernel.kernel_size
    within = kernel.effective_size[90]
    gaps = f" dilation {max(kernel.dilation)}" if max(kernel.dilation) > 1 else ""
    return [
        f"{height}\u00d7{width}{gaps}, {kernel.channels} channels",
        f"center 3\u00d73 {percent(kernel.center3x3_share, 1)}",
        "no mass" if within is None else f"90 % within {within}\u00d7{within}",
    ]


def _caption(lines: Sequence[Sequence[Panel]], count: int) -> str:
    panels = [panel for line in lines for panel in line]
    ways = {panel.result.run.aggregate for panel in panels}
    how = "summed" if ways == {"sum"} else "averaged" if ways == {"mean"} else "aggregated"
    folding = folding_text([panel.kernel for panel in panels])
    text = (
        "The last map of each row shows the kernel that the convolutions to the left of it amount to, away from the "
        f"borders. Absolute weights, {folding}{how} over channels, each map divided by its maximum."
    )
    return text + (f" This figure shows {len(lines)} of {count} composed kernels." if len(lines) < count else "")
