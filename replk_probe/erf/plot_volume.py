"""Figure of the effective receptive field in a volume or a video: slices through its center, and projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    BAR_INCHES,
    COLOR_MAP,
    INK,
    LABEL_SIZE,
    MAP_MARGIN,
    Line,
    add_heading,
    check_drawable,
    figure_style,
    halo,
    new_figure,
    page_width,
    prepared_axes,
    title_line,
    weights_line,
)
from replk_probe.runtime.formatting import dimensions, percent

from .plot_labels import CAPTION_LINE, add_caption, conditions, draw_heading, layer_lines
from .plot_map import add_color_bar, draw_map, draw_scale_bar, floor_of, window_edges

if TYPE_CHECKING:
    from .result import ErfResult

_LEFT, _TOP, _BOTTOM, _GAP, _GROUP_GAP = 0.32, 0.72, 0.48, 0.1, 0.45  # inches
_SMALLEST, _LARGEST = 0.3, 1.0  # side of the first axis relative to that of the others


class _Plane(NamedTuple):
    """A plane of a volume: the axes along rows and columns, and the axis across it."""

    rows: int
    columns: int
    across: int


_FRONT, _SIDE, _BOTTOM_PLANE = _Plane(1, 2, 0), _Plane(1, 0, 2), _Plane(0, 2, 1)


def draw_volume(
    result: ErfResult,
    *,
    protocol: str = "paper",
    vmin: float | None = None,
    vmax: float = 1.0,
    cmap: str | Colormap = COLOR_MAP,
) -> Figure:
    """Draw the map of a volume or video ``[D, H, W]`` as three slices and three projections.

    The slices go through the center of the receptive field, and have the box of every threshold; the projections are
    sums along the axis that is not shown. The first axis is drawn larger than the others if it is much shorter.

    Args:
        result: Result of inputs ``[N, C, D, H, W]``.
        protocol: Protocol of the boxes, as in :func:`~replk_probe.erf.plot_erf`.
        vmin: Lowest value of the color scale, as a fraction of the maximum of each panel.
        vmax: Highest value of the color scale.
        cmap: Color map.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: The result is not that of a volume.

    Examples:
        >>> import torch
        >>> from replk_probe import measure_erf
        >>> from replk_probe.erf import draw_volume
        >>> network = torch.nn.Conv3d(1, 4, 5, padding=2)
        >>> figure = draw_volume(measure_erf(network, torch.rand(2, 1, 8, 16, 16), layer="forward"), protocol="linear")
        >>> figure.savefig("volume.png")
    """
    check_drawable(result, "ErfResult")
    if len(result.input_size) != 3:
        raise InvalidInputError(
            f"A map of size {dimensions(result.input_size)} is not a volume. Slices and projections need three axes. "
            "Use plot_erf for images and sequences."
        )
    depth, height, width = result.input_size
    # The first axis may be frames: its scale is its own.
    share = min(max(depth / max(height, width), _SMALLEST), _LARGEST)
    page = page_width()
    group = (page - 2 * _LEFT - _GROUP_GAP - BAR_INCHES) / 2
    across = (group - _GAP) / (1 + share)
    unit = across / max(height, width)
    wide, tall, deep = width * unit, height * unit, share * across
    total = _TOP + tall + _GAP + deep + _BOTTOM
    slices = {plane: _slice(result, plane) for plane in (_FRONT, _SIDE, _BOTTOM_PLANE)}
    sums = {plane: _projection(result, plane) for plane in slices}
    vmin = floor_of([*slices.values(), *sums.values()]) if vmin is None else vmin
    with figure_style():
        figure = new_figure(page, total)
        titles = ("Slices through the center", "Projections (sums)")
        for number, (title, panels) in enumerate(zip(titles, (slices, sums), strict=True)):
            left, top = _LEFT + number * (group + _GROUP_GAP), total - _TOP
            places = {
                _FRONT: (left, top - tall, wide, tall),
                _SIDE: (left + wide + _GAP, top - tall, deep, tall),
                _BOTTOM_PLANE: (left, top - tall - _GAP - deep, wide, deep),
            }
            for plane, values in panels.items():
                x, y, w, h = places[plane]
                ax = figure.add_axes((x / page, y / total, w / page, h / total))
                draw_map(ax, values, vmin, vmax, cmap)
                ax.set_aspect("auto")
                if panels is slices:
                    _draw_boxes(ax, result, plane, protocol)
                if plane is _FRONT:
                    ax.set_ylabel(f"y, {height} px", labelpad=2)
                    figure.text(x / page, (top + 0.05) / total, title, fontsize=LABEL_SIZE, color=INK, va="bottom")
                else:
                    ax.set_xlabel(f"z, {depth}" if plane is _SIDE else f"x, {width} px", labelpad=2)
                if plane is _BOTTOM_PLANE:
                    ax.set_ylabel(f"z, {depth}", labelpad=2)
        draw_scale_bar(figure.axes[0], width)
        bar_axes = figure.add_axes(
            ((page - BAR_INCHES - 0.08) / page, (total - _TOP - tall) / total, 0.1 / page, tall / total)
        )
        add_color_bar(figure.axes[0], bar_axes)
        _draw_text(figure, result, protocol, total)
    return figure


def plot_volume(
    result: ErfResult,
    ax: Axes | None,
    *,
    protocol: str,
    vmin: float | None,
    vmax: float,
    cmap: str | Colormap,
    caption: bool,
) -> Axes:
    """The first Axes of :func:`draw_volume`, or the slice of rows and columns through the center on given Axes."""
    if ax is None:
        return draw_volume(result, protocol=protocol, vmin=vmin, vmax=vmax, cmap=cmap).axes[0]
    values = _slice(result, _FRONT)
    lines = layer_lines(result)
    bottom = 0.3 + CAPTION_LINE * (len(lines) - 1)
    with figure_style():
        ax = prepared_axes(ax, (1, 1), left=MAP_MARGIN, right=MAP_MARGIN, top=0.48, bottom=bottom)
        draw_map(ax, values, floor_of([values]) if vmin is None else vmin, vmax, cmap)
        _draw_boxes(ax, result, _FRONT, protocol)
        draw_scale_bar(ax, result.input_size[-1])
        draw_heading(ax, result)
        if caption:
            add_caption(ax, *lines, f"Slice at z = {_index(result, 0)}; boxes: '{protocol}' protocol")
    return ax


def _index(result: ErfResult, axis: int) -> int:
    """Index of the slice through the center of the receptive field."""
    return min(max(round(result.center[axis]), 0), result.input_size[axis] - 1)


def _slice(result: ErfResult, plane: _Plane) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = np.take(result.contribution, _index(result, plane.across), axis=plane.across)
    return values if plane.rows < plane.columns else values.T


def _projection(result: ErfResult, plane: _Plane) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = result.contribution.sum(axis=plane.across)
    return values if plane.rows < plane.columns else values.T


def _draw_boxes(ax: Axes, result: ErfResult, plane: _Plane, protocol: str) -> None:
    """Draw the box of every threshold where it meets a slice."""
    for threshold in result.thresholds:
        edges = window_edges(result, protocol, threshold)
        (top, bottom), (left, right) = edges[plane.rows], edges[plane.columns]
        box = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.8, gid="box"
        )
        box.set_path_effects(halo(0.8))
        ax.add_patch(box)


def _draw_text(figure: Figure, result: ErfResult, protocol: str, total: float) -> None:
    page = page_width()
    add_heading(
        figure, [title_line(result.run.model), weights_line(result.run.weights), Line(conditions(result))], _LEFT
    )
    sides = ", ".join(f"{percent(one)}: {result.row(protocol, one).side:g}" for one in sorted(result.thresholds))
    caption = Line(f"Boxes: '{protocol}' protocol, longest side {sides}. Each panel is relative to its own maximum.")
    figure.text(_LEFT / page, 0.1 / total, caption.fitted((page - 2 * _LEFT) * 72), **caption.style)
