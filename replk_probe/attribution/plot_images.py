"""All images of a result with their attributions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.plot_style import (
    INK,
    LABEL_SIZE,
    LINE,
    SMALL_SIZE,
    Line,
    add_heading,
    check_drawable,
    column_width,
    figure_style,
    fitted_lines,
    heading_inches,
    new_figure,
    page_width,
    save_figure,
    title_line,
    weights_line,
)
from replk_probe.runtime.formatting import counted

from .plot import (
    BAR_LABEL,
    add_lines,
    color_scale,
    draw_overlay,
    draw_picture,
    draw_windows,
    numbers_lines,
    target_text,
)

if TYPE_CHECKING:
    from .result import AttributionResult

MOST_IMAGES = 12
_MARGIN, _GAP, _BETWEEN = 0.1, 0.05, 0.2  # around the figure, in a pair, between pairs, in inches
_ABOVE, _BELOW, _BAR = 0.3, 0.45, 0.44  # for the text of a pair and for the color bar, in inches
_TALLEST = 3.0  # height of a map in inches


def draw_attributions(result: AttributionResult) -> Figure:
    """Draw each image beside its attribution, both with the windows of the effective receptive field.

    Args:
        result: Result to draw, of which the first twelve images are shown.

    Returns:
        A figure that is one column wide for one image, and one page wide for several.

    Raises:
        InvalidInputError: ``result`` is not an :class:`~replk_probe.attribution.AttributionResult`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> layers = nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        >>> from replk_probe import measure_attribution
        >>> from replk_probe.attribution import draw_attributions
        >>> figure = draw_attributions(measure_attribution(nn.Sequential(*layers), torch.rand(2, 3, 32, 32)))
        >>> figure.savefig("attributions.png")
    """
    check_drawable(result, "AttributionResult")
    count = min(len(result.images), MOST_IMAGES)
    columns = min(count, 2)
    width = column_width() if columns == 1 else page_width()
    pair = (width - 2 * _MARGIN - (columns - 1) * _BETWEEN) / columns
    rows, columns_of_map = result.maps.shape[1:]
    side = (pair - _GAP) / 2
    high = min(side * rows / columns_of_map, _TALLEST)
    side = high * columns_of_map / rows
    head = _heading(result)
    caption = fitted_lines(_caption(result, count), (width - 2 * _MARGIN) * 72, SMALL_SIZE)
    top = _MARGIN + heading_inches(head) + 0.05
    cell = _ABOVE + high + _BELOW
    bars = top + math.ceil(count / columns) * cell
    height = bars + _BAR + len(caption) * SMALL_SIZE * LINE / 72 + _MARGIN
    with figure_style():
        figure = new_figure(width, height)

        def axes(left: float, down: float, wide: float, tall: float) -> Axes:
            return figure.add_axes((left / width, 1 - (down + tall) / height, wide / width, tall / height))

        for index in range(count):
            row, column = divmod(index, columns)
            left, down = _MARGIN + column * (pair + _BETWEEN), top + row * cell + _ABOVE
            picture, overlay = axes(left, down, side, high), axes(left + side + _GAP, down, side, high)
            image = result.images[index]
            draw_picture(picture, result.pictures[index])
            draw_windows(picture, image)
            draw_overlay(overlay, result, index)
            above = [Line(image.id, LABEL_SIZE, INK, "bold"), Line(target_text(image))]
            add_lines(picture, above, (0, 1), pair * 72, up=True)
            add_lines(picture, list(map(Line, numbers_lines(image))), (0, 0), pair * 72, up=False)
        bar = figure.colorbar(
            color_scale(), cax=axes(_MARGIN, bars + 0.02, 2 * side + _GAP, 0.08), orientation="horizontal"
        )
        bar.set_label(BAR_LABEL, labelpad=1)
        bar.ax.tick_params(width=0.6, size=2)
        bar.outline.set_linewidth(0.6)
        add_heading(figure, head, _MARGIN, _MARGIN)
        add_heading(figure, map(Line, caption), _MARGIN, bars + _BAR)
    return figure


def _heading(result: AttributionResult) -> list[Line]:
    layer = "" if result.layer is None else f", positions of layer {result.layer}"
    return [
        title_line(result.run.model),
        weights_line(result.run.weights),
        Line(f"{result.method}{layer}"),
    ]


def _caption(result: AttributionResult, count: int) -> str:
    shown = f"The first {count} of {counted(len(result.images), 'image')}. " if count < len(result.images) else ""
    if not any(image.windows for image in result.images):
        return f"{shown}Left: image. Right: absolute attribution."
    source = "measured on each image" if result.erf == "image" else f"of the result for {result.erf}"
    return (
        f"{shown}Left: image. Right: absolute attribution. Cross: position of the layer with the highest mean. "
        f"Squares: windows of its effective receptive field (ERF), {source}, and their shares of the attribution."
    )


def save_figures(result: AttributionResult, directory: str | Path) -> tuple[Path, ...]:
    """Write the figure of all images to ``attribution.png`` and ``attribution.pdf``; returns the files."""
    return save_figure(draw_attributions(result), Path(directory), "attribution", result.maps.shape[2])
