"""The strongest signed single-channel kernels of each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    INK,
    LABEL_SIZE,
    SIGNED_COLOR_MAP,
    SMALL_SIZE,
    Line,
    column_width,
    figure_of,
    figure_style,
    fitted_lines,
    page_width,
)

from .kernel import folding_text
from .plot_heatmaps import (
    MARGIN,
    SMALL_LINE,
    TALLEST,
    Panel,
    add_lines,
    add_map,
    cell_side,
    one_variant,
    panels_of,
    sheet,
    shown_layers,
    source_line,
    variant_text,
)

if TYPE_CHECKING:
    from .result import KernelResult

_NORM = Normalize(-1.0, 1.0)
_LABELS, _GAP, _LARGEST = 1.5, 0.07, 1.0
_CHANNEL = SMALL_LINE + 0.005
_BAR = 0.62
_ACROSS = 8  # channels per row


def draw_gallery(results: Sequence[KernelResult]) -> Figure:
    """Draw the single channels of each kernel with the largest sums of absolute weights, strongest first.

    Args:
        results: One result per model, measured with ``strongest`` above 0. If the layers do not fit, the first of each
            stage are shown.

    Returns:
        A figure as wide as a page, or as a column for one channel; channels are omitted to fit the height of a page.
        Each map is divided by its largest absolute weight.

    Raises:
        InvalidInputError: No channels were kept.

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import draw_gallery
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> figure = draw_gallery([measure_kernels(network)])
        >>> figure.savefig("gallery.png")
    """
    panels = one_variant(panels_of(results))
    layers = shown_layers(panels)
    panels = [panel for panel in panels if panel.kernel.layer in layers and len(panel.kernel.strongest)]
    if not panels:
        raise InvalidInputError(
            "There are no single channels to draw. The results contain none. Measure again with strongest above 0."
        )
    kept = max(len(panel.kernel.strongest) for panel in panels)
    columns = min(kept, _ACROSS)
    width = column_width() if columns == 1 else page_width()
    side = min(_LARGEST, (width - 2 * MARGIN - _LABELS - _BAR - (columns - 1) * _GAP) / columns)
    rows = [_CHANNEL + side * _aspect(panel) + 0.02 for panel in panels]
    # The maximum number of rows per layer that fits on a page.
    most = max(1, min(math.ceil(kept / columns), int(TALLEST / sum(rows))))
    deep = [min(most, math.ceil(len(panel.kernel.strongest) / columns)) for panel in panels]
    heights = [
        max(n * row, LABEL_SIZE / SMALL_SIZE * SMALL_LINE + 3 * SMALL_LINE + 0.1) + 0.05
        for n, row in zip(deep, rows, strict=True)
    ]
    fewer = f"This figure shows {most * columns} of {kept} channels that were kept. " if most * columns < kept else ""
    folding = folding_text([panel.kernel for panel in panels])
    caption = fitted_lines(
        f"{fewer}The maps are the kernels of the channels with the largest sums of absolute weights, strongest first, "
        f"{folding}each divided by its largest absolute weight. The number above a map is its channel.",
        (width - 2 * MARGIN) * 72,
        SMALL_SIZE,
    )
    with figure_style():
        ax = sheet(width, MARGIN + sum(heights) + len(caption) * SMALL_LINE + MARGIN)
        top, models = MARGIN, [panel.model for panel in panels]
        for index, (panel, height) in enumerate(zip(panels, heights, strict=True)):
            size = "\u00d7".join(map(str, panel.kernel.kernel_size))
            lines = [
                Line(panel.model, LABEL_SIZE, INK, "bold"),
                *([source_line(panel, _LABELS - 0.08)] if panel.model not in models[:index] else []),
                Line(f"{panel.kernel.layer}, {size}", color=INK),
                Line(variant_text(panel.kernel), color=INK),
            ]
            add_lines(ax, lines, MARGIN, top, _LABELS - 0.08)
            _draw_channels(ax, panel, MARGIN + _LABELS, top, side, most * columns)
            top += height
        add_lines(ax, map(Line, caption), MARGIN, top, width)
        figure = figure_of(ax)
        tall = min(max(sum(heights) - 0.3, 0.7), 1.6)
        left, down = MARGIN + _LABELS + columns * (side + _GAP) - _GAP + 0.08, figure.get_figheight()
        place = figure.add_axes((left / width, 1 - (MARGIN + _CHANNEL + tall) / down, 0.1 / width, tall / down))
        bar = figure.colorbar(ScalarMappable(_NORM, SIGNED_COLOR_MAP), cax=place, ticks=[-1, 0, 1])
        bar.set_label("w / max |w|")
        bar.outline.set_linewidth(0.6)
    return figure


def _aspect(panel: Panel) -> float:
    height, width = panel.kernel.kernel_size
    return height / max(height, width)


def _draw_channels(ax: Axes, panel: Panel, left: float, top: float, side: float, most: int) -> None:
    kernel = panel.kernel
    cell = cell_side(side, max(kernel.kernel_size))
    for index in range(min(most, len(kernel.strongest))):
        weights, place = kernel.strongest[index], kernel.strongest_channels[index]
        row, column = divmod(index, _ACROSS)
        x = left + column * (side + _GAP)
        y = top + row * (_CHANNEL + side * _aspect(panel) + 0.02)
        add_lines(ax, [Line(" \u2190 ".join(map(str, place)))], x, y, side)
        values = np.asarray(weights / (np.abs(weights).max() or 1.0))
        add_map(ax, values, x, y + _CHANNEL, cell, SIGNED_COLOR_MAP, _NORM)
