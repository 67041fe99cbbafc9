"""The first image of a measurement under each suppression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from replk_probe.plot_style import (
    INK,
    LABEL_SIZE,
    LINE,
    SMALL_SIZE,
    Line,
    check_drawable,
    figure_style,
    fitted_lines,
    new_figure,
    page_width,
    save_figure,
)

from .suppressions import METHODS

if TYPE_CHECKING:
    from .result import RelianceResult

_MARGIN, _GAP, _HEAD, _LABEL = 0.08, 0.06, 0.16, 0.13  # in inches
_LEAST_COLUMNS = 4  # so that pictures of few methods are not larger than the others


def draw_suppressions(result: RelianceResult) -> Figure:
    """Draw the first image under every suppression of a single method, with one column per method.

    Args:
        result: Result to draw.

    Returns:
        A figure as wide as a page. The number above a picture is the strength; the last column has the original image
        and the methods without a strength.

    Raises:
        InvalidInputError: ``result`` is not a :class:`~replk_probe.RelianceResult`.

    Examples:
        >>> from replk_probe import measure_reliance
        >>> from replk_probe.reliance import draw_suppressions
        >>> result = measure_reliance("replknet_micro_k3", suppressions="patch-shuffle,grayscale", images=32)
        >>> draw_suppressions(result).savefig("suppressions.png")
    """
    check_drawable(result, "RelianceResult")
    columns = _columns(result)
    width = page_width()
    count = max(len(columns), _LEAST_COLUMNS)
    wide = (width - 2 * _MARGIN - (count - 1) * _GAP) / count
    rows, across = result.pictures.shape[1:3]
    tall = wide * rows / across
    deep = max(len(pictures) for pictures in columns.values())
    caption = fitted_lines(_caption(result), (width - 2 * _MARGIN) * 72, SMALL_SIZE)
    height = 2 * _MARGIN + _HEAD + deep * (_LABEL + tall + _GAP) + len(caption) * SMALL_SIZE * LINE / 72
    with figure_style():
        figure = new_figure(width, height)
        for column, (title, pictures) in enumerate(columns.items()):
            left = _MARGIN + column * (wide + _GAP)
            head = Line(title, LABEL_SIZE, INK, "bold")
            figure.text(left / width, 1 - _MARGIN / height, head.fitted(wide * 72), va="top", **head.style)
            for row, (label, picture) in enumerate(pictures):
                upper = _MARGIN + _HEAD + row * (_LABEL + tall + _GAP)
                line = Line(label)
                figure.text(left / width, 1 - upper / height, line.fitted(wide * 72), va="top", **line.style)
                place = (left / width, 1 - (upper + _LABEL + tall) / height, wide / width, tall / height)
                ax = figure.add_axes(place)
                ax.imshow(picture, interpolation="nearest", aspect="auto", gid="picture")
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
        for index, text in enumerate(reversed(caption)):
            y = (_MARGIN + index * SMALL_SIZE * LINE / 72) / height
            figure.text(_MARGIN / width, y, text, va="bottom", **Line(text).style)
    return figure


def save_figures(result: RelianceResult, directory: str | Path) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_suppressions` to ``suppressions.png`` and ``.pdf``; returns the files."""
    return save_figure(draw_suppressions(result), Path(directory), "suppressions", result.pictures.shape[2])


def _columns(result: RelianceResult) -> dict[str, list[tuple[str, npt.NDArray[np.uint8]]]]:
    """The pictures of each column with their labels, by its title."""
    last: list[tuple[str, npt.NDArray[np.uint8]]] = [("original", result.pictures[0])]
    columns: dict[str, list[tuple[str, npt.NDArray[np.uint8]]]] = {}
    for one, picture in zip(result.single, result.pictures[1:], strict=True):
        if one.strength is None:
            last.append((METHODS[one.method].title.lower(), picture))
        else:
            columns.setdefault(METHODS[one.method].title, []).append((f"{one.strength:g}", picture))
    title = "Color" if len(last) > 1 else "Original"
    return columns | {title: last}


def _caption(result: RelianceResult) -> str:
    used = dict.fromkeys(one.method for one in result.single if one.strength is not None)
    axes: dict[str, list[str]] = {}
    for method in used:
        axes.setdefault(METHODS[method].axis, []).append(METHODS[method].title)
    strengths = "; ".join(f"{axis} ({', '.join(methods)})" for axis, methods in axes.items())
    text = f"Image {result.run.image_ids[0]} as {result.run.model} receives it."
    return f"{text} Strengths: {strengths}." if strengths else text
