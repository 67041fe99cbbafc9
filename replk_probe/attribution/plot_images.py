"""All images of a result with their attributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.plot_style import (
    CAPTION_SIZE,
    INK,
    MUTED,
    check_drawable,
    column_width,
    figure_style,
    fitted,
    fitted_lines,
    new_figure,
    page_width,
    save_figure,
)
from replk_probe.runtime.formatting import counted

from .plot import (
    BAR_LABEL,
    add_lines,
    color_scale,
    draw_badge,
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
_ABOVE, _BELOW, _BAR = 0.3, 0.42, 0.42  # for the text of a pair and for the color bar, in inches
_LINE = 1.35 / 72  # line height in inches per point of the font size
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
    caption = fitted_lines(_caption(result, count), (width - 2 * _MARGIN) * 72, CAPTION_SIZE)
    top = _MARGIN + sum(size for _, size, _, _ in head) * _LINE + 0.05
    cell = _ABOVE + high + _BELOW
    bars = top + math.ceil(count / columns) * cell
    height = bars + _BAR + len(caption) * CAPTION_SIZE * _LINE + _MARGIN
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
            above = [(image.id, 7.0, INK, "bold"), (target_text(image), CAPTION_SIZE, MUTED, "normal")]
            add_lines(picture, above, (0, 1), pair * 72, up=True)
            below = [(line, CAPTION_SIZE, MUTED, "normal") for line in numbers_lines(image)]
            add_lines(picture, below, (0, 0), pair * 72, up=False)
            if result.run.weights.is_random:
                draw_badge(overlay)
        bar = figure.colorbar(
            color_scale(), cax=axes(_MARGIN, bars + 0.02, min(2 * side, 2.0), 0.08), orientation="horizontal"
        )
        bar.set_label(BAR_LABEL, fontsize=6.0, labelpad=1)
        bar.ax.tick_params(labelsize=CAPTION_SIZE, width=0.5, size=2)
        bar.outline.set_linewidth(0.5)
        _add_text(figure, head, _MARGIN)
        _add_text(figure, [(line, CAPTION_SIZE, MUTED, "normal") for line in caption], bars + _BAR)
    return figure


def _heading(result: AttributionResult) -> list[tuple[str, float, str, str]]:
    weights = result.run.weights
    # The badges on the maps say that weights are random.
    label = [] if weights.is_random else [(weights.label, 6.0, MUTED, "normal")]
    layer = "" if result.layer is None else f", positions of layer {result.layer}"
    return [
        (result.run.model, 8.0, INK, "bold"),
        *label,
        (f"{result.method}{layer}", 6.0, MUTED, "normal"),
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


def _add_text(figure: Figure, lines: Sequence[tuple[str, float, str, str]], down: float) -> None:
    """Add lines at the left margin, the first one ``down`` inches below the upper edge."""
    width, height = figure.get_size_inches()
    for text, size, color, weight in lines:
        label = fitted(text, (width - 2 * _MARGIN) * 72, size, weight)
        figure.text(
            _MARGIN / width, 1 - down / height, label, va="top", fontsize=size, color=color, fontweight=weight,
            parse_math=False,
        )  # fmt: skip
        down += size * _LINE


def save_figures(result: AttributionResult, directory: str | Path) -> tuple[Path, ...]:
    """Write the figure of all images to ``attribution.png`` and ``attribution.pdf``; returns the files."""
    return save_figure(draw_attributions(result), Path(directory), "attribution", result.maps.shape[2])
