"""Plot of one effective receptive field.

Colors show each map relative to its own maximum, on a logarithmic scale, so that models whose gradients differ by
orders of magnitude can share one color bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.patches import Rectangle

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    BAR_INCHES,
    COLOR_MAP,
    MAP_MARGIN,
    SMALL_SIZE,
    check_axes,
    check_color_map,
    check_drawable,
    check_limits,
    figure_of,
    figure_style,
    halo,
    inches_of,
    map_inches,
    prepared_axes,
    save_figure,
    text_points,
)
from replk_probe.runtime.formatting import percent

from .plot_labels import CAPTION_LINE, add_caption, draw_heading, layer_lines
from .plot_map import ON_MAP, add_color_bar, draw_map, draw_scale_bar, floor_of, window_edges
from .plot_positions import save_positions
from .plot_sequence import plot_sequence
from .plot_volume import plot_volume

if TYPE_CHECKING:
    from .result import ErfResult


_TOP, _BOTTOM = 0.48, 0.3  # margins above and below the map in inches
_SHARE_OF = {"paper": "log10(score + 1)", "linear": "the contribution", "centred": "the contribution"}


def plot_erf(
    result: ErfResult,
    ax: Axes | None = None,
    *,
    protocol: str = "paper",
    vmin: float | None = None,
    vmax: float = 1.0,
    cmap: str | Colormap = COLOR_MAP,
    cbar: bool = True,
    caption: bool = True,
) -> Axes:
    """Draw the contribution map of one model, with the square of every threshold.

    Args:
        result: Result to draw.
        ax: Axes to draw on; by default those of a new figure, one column wide. Given Axes are made smaller if the
            labels around them do not fit between them and their neighbors.
        protocol: Protocol of the squares: ``"paper"``, ``"linear"`` or ``"centred"``.
        vmin: Lowest value of the color scale, as a fraction of the map's maximum; by default :func:`color_floor`.
        vmax: Highest value of the color scale, as a fraction of the map's maximum.
        cmap: Color map.
        cbar: Whether to draw the color bar.
        caption: Whether to state the layer and the meaning of the squares below the map, and to label the squares.

    Returns:
        The Axes. x and y are edges of input pixels: pixel (0, 0) covers [0, 1] x [0, 1]. A sequence is drawn as a
        curve. Of a volume, six panels are drawn if ``ax`` is None (see :func:`~replk_probe.erf.draw_volume`), otherwise
        the slice of rows and columns through the center.

    Raises:
        InvalidInputError: An argument has the wrong type, ``protocol`` has no squares or was not measured, ``cmap`` is
            unknown, or not 0 < vmin < vmax.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import import_erf, plot_erf
        >>> ax = plot_erf(import_erf(np.ones((32, 48)), name="uniform"), protocol="linear")
        >>> [round(edge) for edge in (*ax.get_xlim(), *ax.get_ylim())]  # y points downwards
        [0, 48, 32, 0]
        >>> ax.figure.savefig("erf.pdf")
    """
    check_drawable(result, "ErfResult")
    usable = [name for name in _SHARE_OF if name in result.protocols]
    if protocol not in usable:
        raise InvalidInputError(
            f"Protocol {protocol!r} has no squares to draw. It defines none, or it was not measured. "
            f"Choose from {', '.join(usable)}."
        )
    vmin = color_floor([result]) if vmin is None else vmin
    check_limits(vmin, vmax, logarithmic=True)
    check_color_map(cmap)
    check_axes(ax)
    if len(result.input_size) == 1:
        return plot_sequence(result, ax, protocol=protocol, caption=caption)
    if len(result.input_size) == 3:
        return plot_volume(result, ax, protocol=protocol, vmin=vmin, vmax=vmax, cmap=cmap, caption=caption)
    height, width = result.input_size
    with figure_style():
        right = BAR_INCHES if cbar else MAP_MARGIN
        # As large as a column allows: a tall map is made narrower, a wide one stays as wide as the column.
        map_width = map_inches(cbar=cbar) * min(1.0, 1.6 * width / height)
        bottom = _BOTTOM + CAPTION_LINE * len(layer_lines(result))
        inches = MAP_MARGIN + map_width + right, _TOP + map_width * max(height / width, 1 / 3) + bottom
        ax = prepared_axes(ax, inches, left=MAP_MARGIN, right=right, top=_TOP, bottom=bottom)
        draw_map(ax, result.contribution, vmin, vmax, cmap)
        if cbar:
            add_color_bar(ax)
        _draw_squares(ax, result, protocol)
        if caption:
            squares = caption_of(protocol)
            if text_points(squares, SMALL_SIZE) > inches_of(ax)[0] * 72:
                squares = f"Squares: '{protocol}' protocol"
            add_caption(ax, *layer_lines(result), squares, *filter(None, [add_square_labels(ax, result, protocol)]))
        draw_scale_bar(ax, width)
        draw_heading(ax, result)
    return ax


def color_floor(results: Sequence[ErfResult]) -> float:
    """Lowest value of the color scale for these maps, as a fraction of their maxima: a power of ten from 1e-4 to 0.1.

    It is the decade below the fifth percentile of the non-zero scores, so that a nearly flat map is not drawn in one
    color; for several maps, the lowest of their values.
    """
    return floor_of([result.contribution for result in results])


def square_edges(result: ErfResult, protocol: str, threshold: float) -> tuple[float, float, float, float]:
    """Square of a threshold: left, top, right, bottom, in edges of input pixels, clipped to the map."""
    (top, bottom), (left, right) = window_edges(result, protocol, threshold)
    return float(left), float(top), float(right), float(bottom)


def _draw_squares(ax: Axes, result: ErfResult, protocol: str) -> None:
    """Draw the square of every threshold."""
    for threshold in sorted(result.thresholds, reverse=True):
        left, top, right, bottom = square_edges(result, protocol, threshold)
        square = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.8)
        square.set(gid="square", path_effects=halo(0.8))
        ax.add_patch(square)


def add_square_labels(ax: Axes, result: ErfResult, protocol: str) -> str:
    """Label the squares at the right of the map, each with a line to the corner of its square.

    Returns:
        The sides of the squares from the smallest on, as a line of the caption, if the labels would hide the corners of
        the squares, which are large or on a small map. Empty otherwise.
    """
    width, length = result.input_size[1], result.input_size[0]
    point = width / (72 * inches_of(ax)[0])  # in pixels of the map
    thresholds = sorted(result.thresholds, reverse=True)
    sides = {threshold: f"{result.row(protocol, threshold).side:g}" for threshold in thresholds}
    lowest = 0.0
    labels = []
    for threshold in thresholds:
        _, top, right, _ = square_edges(result, protocol, threshold)
        text = f"{percent(threshold)}: {sides[threshold]} px"
        # Larger squares have higher corners, so labels in this order never cross each other's lines.
        lowest = at = max(top + 5.5 * point, lowest + 9.5 * point)
        text_left = width - (6.5 + 3.6 * len(text)) * point
        # A label directly in the corner of a square at the border needs no line.
        is_in_corner = right > width - 4 * point and at == top + 5.5 * point
        if (right >= text_left - 5 * point and not is_in_corner) or at > length - 5 * point:
            shares = ", ".join(percent(one, unit="") for one in reversed(thresholds))
            all_sides = f"{', '.join(sides[one] for one in reversed(thresholds))} px"
            text = f"{shares} %: {all_sides}"
            return text if text_points(text, SMALL_SIZE) <= inches_of(ax)[0] * 72 else all_sides
        labels.append((text, at, None if is_in_corner else ([right, text_left], [top, at])))
    for label, at, ends in labels:
        ax.text(width - 4 * point, at, label, ha="right", va="center", gid="square label", **ON_MAP)
        if ends is not None:
            (line,) = ax.plot(*ends, color="white", linewidth=0.5, gid="leader")
            line.set_path_effects(halo(0.5))
    return ""


def caption_of(protocol: str) -> str:
    """The meaning of the squares of a protocol."""
    return f"Squares: share of {_SHARE_OF[protocol]}, '{protocol}' protocol"


def save_figures(
    result: ErfResult, directory: str | Path, *, protocol: str = "paper", vmin: float | None = None
) -> tuple[Path, ...]:
    """Write the figure of :func:`plot_erf` to ``erf.png`` and ``erf.pdf``; returns the files.

    For several positions, their figure is written to ``erf_positions.png`` and ``erf_positions.pdf`` as well.
    """
    figure = figure_of(plot_erf(result, protocol=protocol, vmin=vmin))
    written = save_figure(figure, Path(directory), "erf", result.input_size[-1])
    if result.position_maps is None or len(result.input_size) != 2:
        return written
    return (*written, *save_positions(result, directory))
