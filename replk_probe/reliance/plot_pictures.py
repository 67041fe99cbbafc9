"""The first image of a measurement under each suppression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

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

_Picture: TypeAlias = tuple[str, npt.NDArray[np.uint8]]

_MARGIN, _GAP, _HEAD, _LABEL = 0.08, 0.06, 0.16, 0.13  # in inches
_FEW = 4  # pictures are not larger than this many in a row are, and fewer groups are rows instead of columns


def draw_suppressions(result: RelianceResult) -> Figure:
    """Draw the first image without a suppression and under every one of a single method.

    Args:
        result: Result to draw.

    Returns:
        A figure as wide as a page, or less for fewer than four pictures in a row. The number above a picture is the
        strength. With at least three methods that have strengths, there is one column for each, after a first column
        with the original image and the methods without a strength; otherwise, one row for each, which begins with the
        original image.

    Raises:
        InvalidInputError: ``result`` is not a :class:`~replk_probe.RelianceResult`.

    Examples:
        >>> from replk_probe import measure_reliance
        >>> from replk_probe.reliance import draw_suppressions
        >>> result = measure_reliance("replknet_micro_k3", suppressions="patch-shuffle,grayscale", images=32)
        >>> draw_suppressions(result).savefig("suppressions.png")
    """
    check_drawable(result, "RelianceResult")
    groups = _groups(result)
    in_columns = len(groups) >= _FEW
    longest = max(len(pictures) for _, pictures in groups)
    count = len(groups) if in_columns else longest
    wide = (page_width() - 2 * _MARGIN - (max(count, _FEW) - 1) * _GAP) / max(count, _FEW)
    width = 2 * _MARGIN + count * (wide + _GAP) - _GAP
    rows, across = result.pictures.shape[1:3]
    tall = wide * rows / across
    step = _LABEL + tall + _GAP
    inside = _HEAD + longest * step if in_columns else len(groups) * (_HEAD + step)
    caption = fitted_lines(_caption(result), (width - 2 * _MARGIN) * 72, SMALL_SIZE)
    height = 2 * _MARGIN + inside + len(caption) * SMALL_SIZE * LINE / 72
    with figure_style():
        figure = new_figure(width, height)

        def write(line: Line, left: float, upper: float, points: float) -> None:
            figure.text(left / width, 1 - upper / height, line.fitted(points), va="top", **line.style)

        for index, (title, pictures) in enumerate(groups):
            left = _MARGIN + index * (wide + _GAP) * in_columns
            upper = _MARGIN + index * (_HEAD + step) * (not in_columns)
            room = wide if in_columns else width - 2 * _MARGIN
            write(Line(title, LABEL_SIZE, INK, "bold"), left, upper, room * 72)
            upper += _HEAD
            for label, picture in pictures:
                write(Line(label), left, upper, wide * 72)
                place = (left / width, 1 - (upper + _LABEL + tall) / height, wide / width, tall / height)
                ax = figure.add_axes(place)
                ax.imshow(picture, interpolation="nearest", aspect="auto", gid="picture")
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                left, upper = (left, upper + step) if in_columns else (left + wide + _GAP, upper)
        for index, text in enumerate(reversed(caption)):
            y = (_MARGIN + index * SMALL_SIZE * LINE / 72) / height
            figure.text(_MARGIN / width, y, text, va="bottom", **Line(text).style)
    return figure


def save_figures(result: RelianceResult, directory: str | Path) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_suppressions` to ``suppressions.png`` and ``.pdf``; returns the files."""
    return save_figure(draw_suppressions(result), Path(directory), "suppressions", result.pictures.shape[2])


def _groups(result: RelianceResult) -> list[tuple[str, list[_Picture]]]:
    """The labeled pictures of each column or row with its title; see :func:`draw_suppressions`."""
    original: _Picture = ("original", result.pictures[0])
    color: list[_Picture] = []
    methods: dict[str, list[_Picture]] = {}
    for one, picture in zip(result.single, result.pictures[1:], strict=True):
        title = METHODS[one.method].title
        if one.strength is None:
            color.append((title.lower(), picture))
        else:
            methods.setdefault(title, []).append((f"{one.strength:g}", picture))
    if 1 + len(methods) >= _FEW:
        return [("Original and color" if color else "Image", [original, *color]), *methods.items()]
    rows = {"Color": color} | methods if color else methods
    return [(title, [original, *pictures]) for title, pictures in rows.items()]


def _caption(result: RelianceResult) -> str:
    used = dict.fromkeys(one.method for one in result.single if one.strength is not None)
    axes: dict[str, list[str]] = {}
    for method in used:
        axes.setdefault(METHODS[method].axis, []).append(METHODS[method].title)
    strengths = "; ".join(f"{axis} ({', '.join(methods)})" for axis, methods in axes.items())
    text = f"Image {result.run.image_ids[0]} as {result.run.model} receives it."
    return f"{text} Strengths: {strengths}." if strengths else text
