"""Plot of one effective receptive field, without torch or pyplot's global state.

Every number drawn is a number of the result; colors show each map relative to its own maximum, on a logarithmic scale,
so that models whose gradients differ by orders of magnitude can share one color bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import Colormap, LogNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Affine2D

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    ALERT,
    ALERT_TEXT,
    BAR_INCHES,
    INK,
    MAP_INCHES,
    MUTED,
    block_means,
    block_side,
    check_axes,
    figure_of,
    figure_style,
    fitted,
    inches_of,
    new_figure,
    percent,
    save_figure,
    text_points,
)

from .result import ErfResult

COLOR_MAP = "rocket"  # perceptually uniform, from black to nearly white
_DEEPEST, _SHALLOWEST = -4, -1  # range of the lower end of the color scale, in decades below the maximum
CAPTION_SIZE = 5.8
_SHARE_OF = {
    "paper": "log10(score + 1)",
    "linear": "the contribution",
    "centred": "the contribution",
}

_ON_MAP: dict[str, Any] = {
    "color": "white",
    "fontsize": 6.5,
    "bbox": {"boxstyle": "square,pad=0.15", "facecolor": "#000000", "edgecolor": "none"},
}
_OUTSIDE: dict[str, Any] = {
    "xycoords": "axes fraction",
    "textcoords": "offset points",
    "ha": "left",
    "annotation_clip": False,
    "parse_math": False,
}


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
        ax: Axes to draw on; by default those of a new figure, one column wide.
        protocol: Protocol of the squares: ``"paper"``, ``"linear"`` or ``"centred"``.
        vmin: Lowest value of the color scale, as a fraction of the map's maximum; by default :func:`color_floor`.
        vmax: Highest value of the color scale, as a fraction of the map's maximum.
        cmap: Color map.
        cbar: Whether to draw the color bar.
        caption: Whether to state the layer and the meaning of the squares below the map.

    Returns:
        The Axes. x and y are edges of input pixels: pixel (0, 0) covers [0, 1] x [0, 1].

    Raises:
        InvalidInputError: ``protocol`` has no squares or was not measured, or not 0 < vmin < vmax.
    """
    _check_protocol(result, protocol)
    vmin = color_floor([result]) if vmin is None else vmin
    if not 0 < vmin < vmax:
        raise InvalidInputError(
            f"A color scale from {vmin} to {vmax} is invalid. The scale is logarithmic, in fractions of the map's "
            "maximum. Give 0 < vmin < vmax."
        )
    check_axes(ax)
    with figure_style():
        bar_axes: Axes | None = None
        if ax is None:
            ax, bar_axes = _single_figure(result, cbar)
        height, width = result.input_size
        maximum = float(result.contribution.max()) or 1.0
        block = block_side(width, inches_of(ax)[0])
        sns.heatmap(  # type: ignore[no-untyped-call]
            np.clip(block_means(result.contribution / maximum, block), vmin, vmax),
            ax=ax,
            cmap=cmap,
            norm=LogNorm(vmin, vmax),
            cbar=False,
            xticklabels=False,
            yticklabels=False,
            rasterized=True,
        )
        mesh = ax.collections[-1]
        mesh.set_transform(Affine2D().scale(block) + ax.transData)
        ax.set_aspect("equal")
        ax.set(xlim=(0, width), ylim=(height, 0))
        for spine in ax.spines.values():
            spine.set_visible(True)
        if cbar:
            add_color_bar(ax, mesh, bar_axes)
        _draw_squares(ax, result, protocol)
        if caption:
            add_caption(ax, f"Layer {result.layer}", caption_of(protocol))
        _draw_scale_bar(ax, width)
        _draw_heading(ax, result)
        if result.run.weights.is_random:
            _draw_badge(ax)
    return ax


def color_floor(results: Sequence[ErfResult]) -> float:
    """Lowest value of the color scale for these maps, as a fraction of their maxima: a power of ten from 1e-4 to 0.1.

    It is the decade below the fifth percentile of the non-zero scores, so that a nearly flat map is not drawn in one
    color; for several maps, the lowest of their values.
    """
    decades = []
    for result in results:
        scores = result.contribution[result.contribution > 0]
        low = float(np.percentile(scores, 5) / scores.max()) if scores.size else 1.0
        decades.append(math.floor(math.log10(max(low, 1e-300))))
    return float(10.0 ** min(max(min(decades, default=_DEEPEST), _DEEPEST), _SHALLOWEST))


def square_edges(result: ErfResult, protocol: str, threshold: float) -> tuple[float, float, float, float]:
    """Square of a threshold: left, top, right, bottom, in edges of input pixels, clipped to the map."""
    row = result.row(protocol, threshold)
    height, width = result.input_size
    centre = result.centre if protocol == "centred" else (height // 2, width // 2)
    # A clipped window does not show its half-width: find the one whose window has this side and this area.
    distances = [np.abs(np.arange(length) - middle) for length, middle in zip((height, width), centre, strict=True)]
    half_widths = np.unique(np.concatenate(distances))
    rows, columns = (np.searchsorted(np.sort(axis), half_widths, side="right") for axis in distances)
    off_side = np.abs(np.maximum(rows, columns) - row.side)
    off_area = np.abs(rows * columns - row.ratio * height * width)
    half_width = half_widths[np.lexsort((off_area, off_side))[0]]
    (top, bottom), (left, right) = (np.flatnonzero(axis <= half_width)[[0, -1]] for axis in distances)
    return float(left), float(top), float(right + 1), float(bottom + 1)


def _check_protocol(result: ErfResult, protocol: str) -> None:
    if protocol not in _SHARE_OF or protocol not in result.protocols:
        usable = [name for name in _SHARE_OF if name in result.protocols]
        raise InvalidInputError(
            f"Protocol {protocol!r} has no squares to draw. It defines none, or it was not measured. "
            f"Choose from {', '.join(usable)}."
        )


def _draw_squares(ax: Axes, result: ErfResult, protocol: str) -> None:
    """Draw the square of every threshold, with a label at the right that a line connects to the square's corner."""
    width = result.input_size[1]
    point = width / (72 * inches_of(ax)[0])  # in pixels of the map
    lowest = 0.0
    for threshold in sorted(result.thresholds, reverse=True):
        left, top, right, bottom = square_edges(result, protocol, threshold)
        square = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.8, gid="square"
        )
        square.set_path_effects([withStroke(linewidth=1.7, foreground="#000000a0")])
        ax.add_patch(square)
        # Larger squares have higher corners, so labels in this order never cross each other's lines.
        lowest = at = max(top + 5.5 * point, lowest + 9.5 * point)
        text = f"{percent(threshold)}: {result.row(protocol, threshold).side:g} px"
        ax.text(width - 4 * point, at, text, ha="right", va="center", gid="square label", **_ON_MAP)
        text_left = width - (6.5 + 3.6 * len(text)) * point
        if right < text_left - 5 * point:
            (line,) = ax.plot([right, text_left], [top, at], color="white", linewidth=0.5, gid="leader")
            line.set_path_effects([withStroke(linewidth=1.2, foreground="#000000a0")])


def _draw_scale_bar(ax: Axes, width: int) -> None:
    """Draw a bar of a round number of pixels, about a fifth of the width."""
    target = max(width / 5, 1.0)
    decade = 10 ** math.floor(math.log10(target))
    length = max(candidate * decade for candidate in (1, 2, 5) if candidate * decade <= target)
    point = width / (72 * inches_of(ax)[0])
    bottom = max(ax.get_ylim())
    left, y = 6 * point, bottom - 6 * point
    (bar,) = ax.plot(
        [left, left + length], [y, y], color="white", linewidth=2.0, solid_capstyle="butt", gid="scale bar"
    )
    bar.set_path_effects([withStroke(linewidth=3.2, foreground="#000000a0")])
    ax.text(left, y - 4 * point, f"{length:g} px", ha="left", va="bottom", gid="scale label", **_ON_MAP)


def _draw_heading(ax: Axes, result: ErfResult) -> None:
    """Draw model, weights and images above the map, each on a line."""
    run = result.run
    height, width = result.input_size
    points = inches_of(ax)[0] * 72
    small = 6.0 if points > 170 else 5.6
    images = "1 image" if result.n_images == 1 else f"{result.n_images} images"
    lines = [
        (f"{images}, {run.image_source}, {height}\u00d7{width} px", small, MUTED, "normal"),
        (run.weights.label, small, ALERT_TEXT if run.weights.is_random else MUTED, "normal"),
        (run.model, _name_size(run.model, points), INK, "bold"),
    ]
    up = 4.0
    for text, size, colour, weight in lines:
        text = fitted(text, points, size, weight)
        ax.annotate(
            text, (0, 1), xytext=(0, up), va="bottom", fontsize=size, color=colour, fontweight=weight, **_OUTSIDE
        )
        up += size * 1.35


def _name_size(name: str, points: float) -> float:
    """Largest font size at which the name fits above the map, but no smaller than that of the lines below it."""
    return next((size for size in (8.0, 7.5, 7.0, 6.5) if text_points(name, size, "bold") <= points), 6.0)


def _draw_badge(ax: Axes) -> None:
    """Mark random weights, so that the map is not mistaken for that of a trained model."""
    ax.text(
        0.03,
        0.97,
        "RANDOM WEIGHTS",
        transform=ax.transAxes,
        fontsize=6.5,
        fontweight="bold",
        color="black",
        ha="left",
        va="top",
        gid="random weights",
        bbox={"boxstyle": "round,pad=0.3", "facecolor": ALERT, "edgecolor": "none"},
    )


def add_caption(ax: Axes, *lines: str) -> None:
    """Add small lines below the map, none of them wider than the map."""
    points = inches_of(ax)[0] * 72
    for index, line in enumerate(lines):
        text = fitted(line, points, CAPTION_SIZE)
        down = 4 + index * CAPTION_SIZE * 1.35
        ax.annotate(text, (0, 0), xytext=(0, -down), va="top", fontsize=CAPTION_SIZE, color=MUTED, **_OUTSIDE)


def caption_of(protocol: str) -> str:
    """The meaning of the squares of a protocol."""
    return f"Squares: share of {_SHARE_OF[protocol]}, '{protocol}' protocol"


def add_color_bar(ax: Axes, mesh: Collection, bar_axes: Axes | None) -> None:
    """Add the color bar of a map, on Axes of its own or at the side of ``ax``."""
    figure = figure_of(ax)
    place: dict[str, Any] = {"cax": bar_axes} if bar_axes is not None else {"ax": ax, "fraction": 0.046, "pad": 0.03}
    bar = figure.colorbar(mesh, extend="min", **place)
    short = inches_of(bar.ax)[1] < 1.9
    bar.set_label("Contribution / max" if short else "Contribution relative to its maximum")
    bar.outline.set_linewidth(0.6)
    bar.ax.yaxis.set_major_locator(LogLocator(numticks=12))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(width=0.6, size=2.5)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)


def _single_figure(result: ErfResult, cbar: bool) -> tuple[Axes, Axes | None]:
    """A figure one column wide, laid out in inches so that the map is as large as it can be."""
    height, width = result.input_size
    left, top, bottom = 0.06, 0.47, 0.3
    # A tall map is made narrower, a wide one stays as wide as the column.
    map_width = MAP_INCHES * min(1.0, 1.6 * width / height)
    map_height = map_width * height / width
    wide, high = left + MAP_INCHES + (BAR_INCHES if cbar else left), top + max(map_height, 0.9) + bottom
    figure = new_figure(wide, high)
    ax = figure.add_axes((left / wide, (high - top - map_height) / high, map_width / wide, map_height / high))
    if not cbar:
        return ax, None
    bar_height = max(map_height, 0.9)
    return ax, figure.add_axes(
        ((left + map_width + 0.07) / wide, (high - top - bar_height) / high, 0.1 / wide, bar_height / high)
    )


def save_figures(
    result: ErfResult, directory: str | Path, *, protocol: str = "paper", vmin: float | None = None
) -> tuple[Path, ...]:
    """Write ``erf.png`` and ``erf.pdf``.

    Args:
        result: Result to draw.
        directory: Folder to write to; created if it does not exist.
        protocol: Protocol of the squares.
        vmin: As in :func:`plot_erf`; ``color_floor(results)`` gives the figures of several models one color scale.

    Returns:
        The files written.

    Raises:
        InvalidInputError: The folder cannot be written to; also as for :func:`plot_erf`.
    """
    figure = figure_of(plot_erf(result, protocol=protocol, vmin=vmin))
    return save_figure(figure, Path(directory), "erf", result.input_size[1])
