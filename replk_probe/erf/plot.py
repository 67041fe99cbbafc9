"""Figures of effective receptive fields: a result in, Axes out. Free of torch and of pyplot's state.

Every number drawn is a number of the result; colours show each map relative to its own maximum, on a logarithmic scale,
so that models whose gradients differ by orders of magnitude can share one colour bar.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Affine2D

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.files import atomic_path

from .result import ErfResult

MIN_DPI = 300
COLOUR_MAP = "rocket"  # perceptually uniform, from black to nearly white
_DEEPEST, _SHALLOWEST = -4, -1  # decades below the maximum that the colours may reach down to
_MAP_INCHES = 2.56  # 1024 px at 400 dots per inch: one dot per input pixel
_CELL_INCHES = 1.96  # three maps to a page
_BAR_ROOM = 0.72  # colour bar, its numbers and its label
_FINEST_DPI = 400  # maps of more pixels than that are drawn as means over blocks of pixels
_SHARE_OF = {
    "paper": "log10(score + 1)",
    "linear": "the contribution",
    "centred": "the contribution",
}

_INK, _MUTED, _ALERT, _ALERT_TEXT = "#1a1a1a", "#5a5a5a", "#ffb000", "#b03a00"
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
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that a figure looks the same everywhere
    "font.size": 7.0,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "figure.dpi": 100.0,
    "pdf.fonttype": 42,  # text stays text
}


# -- one map ----------------------------------------------------------------------------------------------------------


def plot_erf(
    result: ErfResult,
    ax: Axes | None = None,
    *,
    protocol: str = "paper",
    vmin: float | None = None,
    vmax: float = 1.0,
    colorbar: bool = True,
    caption: bool = True,
) -> Axes:
    """Draw the contribution map of one model, with the square of every threshold.

    Args:
        result: What to draw.
        ax: Where; by default the Axes of a new figure, one column wide.
        protocol: Whose squares: ``"paper"``, ``"linear"`` or ``"centred"``.
        vmin: Lowest colour, as a fraction of the map's maximum; by default see :func:`colour_floor`.
        vmax: Highest colour, as a fraction of the map's maximum.
        colorbar: Draw the colour bar.
        caption: Say below the map what the squares are.

    Returns:
        The Axes. x and y are edges of input pixels: pixel (0, 0) covers [0, 1] x [0, 1].

    Raises:
        InvalidInputError: ``protocol`` has no squares or was not measured, or not 0 < vmin < vmax.
    """
    _check_protocol(result, protocol)
    vmin = colour_floor([result]) if vmin is None else vmin
    if not 0 < vmin < vmax:
        raise InvalidInputError(
            f"Colours from {vmin} to {vmax} cannot be drawn. The scale is logarithmic, in fractions of the map's "
            "maximum. Give 0 < vmin < vmax."
        )
    with _style():
        colour_axes: Axes | None = None
        if ax is None:
            ax, colour_axes = _single_figure(result, colorbar)
        height, width = result.input_size
        maximum = float(result.contribution.max()) or 1.0
        block = _block(width, _inches(ax)[0])
        sns.heatmap(  # type: ignore[no-untyped-call]
            np.clip(_block_means(result.contribution / maximum, block), vmin, vmax),
            ax=ax,
            cmap=COLOUR_MAP,
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
        if colorbar:
            _draw_colour_bar(ax, mesh, colour_axes)
        _draw_squares(ax, result, protocol)
        if caption:
            ax.annotate(_caption(protocol), (0, 0), xytext=(0, -4), va="top", fontsize=5.8, color=_MUTED, **_OUTSIDE)
        _draw_scale_bar(ax, width)
        _draw_heading(ax, result)
        if result.run.weights.is_random:
            _draw_badge(ax)
    return ax


def colour_floor(results: Sequence[ErfResult]) -> float:
    """Lowest colour for these maps, as a fraction of their maxima: a power of ten from 1e-4 to 0.1.

    The decade below the fifth percentile of the non-zero scores, so that a map that is nearly flat is not drawn in one
    colour; the lowest one of several maps.
    """
    decades = []
    for result in results:
        scores = result.contribution[result.contribution > 0]
        low = float(np.percentile(scores, 5) / scores.max()) if scores.size else 1.0
        decades.append(math.floor(math.log10(max(low, 1e-300))))
    return float(10.0 ** min(max(min(decades, default=_DEEPEST), _DEEPEST), _SHALLOWEST))


def square_edges(result: ErfResult, protocol: str, threshold: float) -> tuple[float, float, float, float]:
    """Where a threshold's square lies: left, top, right, bottom, in edges of input pixels, clipped to the map."""
    side = result.row(protocol, threshold).side
    height, width = result.input_size
    y, x = result.centre if protocol == "centred" else (height // 2, width // 2)
    left, right = _clipped(x + 0.5, side, width)
    top, bottom = _clipped(y + 0.5, side, height)
    return left, top, right, bottom


def _clipped(middle: float, side: float, length: int) -> tuple[float, float]:
    """Edges of a window whose longer side, once clipped to the map, is ``side``."""
    low = min(max(middle - side / 2, 0.0), max(length - side, 0.0))
    return low, min(low + side, float(length))


def _check_protocol(result: ErfResult, protocol: str) -> None:
    if protocol not in _SHARE_OF or protocol not in result.protocols:
        usable = [name for name in _SHARE_OF if name in result.protocols]
        raise InvalidInputError(
            f"No squares of protocol {protocol!r} to draw. It has none, or it was not measured. "
            f"Use one of {', '.join(usable)}."
        )


def _draw_squares(ax: Axes, result: ErfResult, protocol: str) -> None:
    """Every threshold's square, and its label at the right, joined to the corner by a line and clear of the others."""
    width = result.input_size[1]
    point = width / (72 * _inches(ax)[0])  # in pixels of the map
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
        text = f"{_percent(threshold)}: {result.row(protocol, threshold).side:g} px"
        ax.text(width - 4 * point, at, text, ha="right", va="center", gid="square label", **_ON_MAP)
        text_left = width - (6.5 + 3.6 * len(text)) * point
        if right < text_left - 5 * point:
            (line,) = ax.plot([right, text_left], [top, at], color="white", linewidth=0.5, gid="leader")
            line.set_path_effects([withStroke(linewidth=1.2, foreground="#000000a0")])


def _draw_scale_bar(ax: Axes, width: int) -> None:
    """A bar of a round number of pixels, about a fifth of the width."""
    target = max(width / 5, 1.0)
    decade = 10 ** math.floor(math.log10(target))
    length = max(candidate * decade for candidate in (1, 2, 5) if candidate * decade <= target)
    point = width / (72 * _inches(ax)[0])
    bottom = max(ax.get_ylim())
    left, y = 6 * point, bottom - 6 * point
    (bar,) = ax.plot(
        [left, left + length], [y, y], color="white", linewidth=2.0, solid_capstyle="butt", gid="scale bar"
    )
    bar.set_path_effects([withStroke(linewidth=3.2, foreground="#000000a0")])
    ax.text(left, y - 4 * point, f"{length:g} px", ha="left", va="bottom", gid="scale label", **_ON_MAP)


def _draw_heading(ax: Axes, result: ErfResult) -> None:
    """Model, weights and images above the map, each on a line."""
    run = result.run
    height, width = result.input_size
    points = _inches(ax)[0] * 72
    small = 6.0 if points > 170 else 5.6
    images = "1 image" if result.n_images == 1 else f"{result.n_images} images"
    lines = [
        (f"{images}, {run.image_source}, {height}\u00d7{width} px", small, _MUTED, "normal"),
        (run.weights.label, small, _ALERT_TEXT if run.weights.is_random else _MUTED, "normal"),
        (run.model, 8.0, _INK, "bold"),
    ]
    up = 4.0
    for text, size, colour, weight in lines:
        # Widths of DejaVu Sans: 0.55 em on average, 0.67 in bold.
        text = _shortened(text, max(int(points / (size * (0.67 if weight == "bold" else 0.55))), 8))
        ax.annotate(
            text, (0, 1), xytext=(0, up), va="bottom", fontsize=size, color=colour, fontweight=weight, **_OUTSIDE
        )
        up += size * 1.35


def _draw_badge(ax: Axes) -> None:
    """Nothing with random weights may look trained."""
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
        bbox={"boxstyle": "round,pad=0.3", "facecolor": _ALERT, "edgecolor": "none"},
    )


def _caption(protocol: str) -> str:
    return f"Squares: share of {_SHARE_OF[protocol]}, '{protocol}' protocol"


def _draw_colour_bar(ax: Axes, mesh: Collection, colour_axes: Axes | None) -> None:
    figure = _figure_of(ax)
    place: dict[str, Any] = (
        {"cax": colour_axes} if colour_axes is not None else {"ax": ax, "fraction": 0.046, "pad": 0.03}
    )
    bar = figure.colorbar(mesh, extend="min", **place)
    short = _inches(bar.ax)[1] < 1.9
    bar.set_label("Contribution / max" if short else "Contribution relative to its maximum")
    bar.outline.set_linewidth(0.6)
    bar.ax.yaxis.set_major_locator(LogLocator(numticks=12))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(width=0.6, size=2.5)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)


def _single_figure(result: ErfResult, colorbar: bool) -> tuple[Axes, Axes | None]:
    """A figure one column wide, laid out in inches so that the map is as large as it can be."""
    height, width = result.input_size
    left, top, bottom = 0.06, 0.47, 0.19
    # A tall map is made narrower, a wide one stays as wide as the column.
    map_width = _MAP_INCHES * min(1.0, 1.6 * width / height)
    map_height = map_width * height / width
    wide, high = left + _MAP_INCHES + (_BAR_ROOM if colorbar else left), top + max(map_height, 0.9) + bottom
    figure = _figure(wide, high)
    ax = figure.add_axes((left / wide, (high - top - map_height) / high, map_width / wide, map_height / high))
    if not colorbar:
        return ax, None
    bar_height = max(map_height, 0.9)
    return ax, figure.add_axes(
        ((left + map_width + 0.07) / wide, (high - top - bar_height) / high, 0.1 / wide, bar_height / high)
    )


# -- several models ---------------------------------------------------------------------------------------------------


def plot_comparison(results: Sequence[ErfResult], *, protocol: str = "paper") -> Figure:
    """Draw several models side by side, on one colour scale, above their area ratios.

    Args:
        results: One per model, in the order to show them.
        protocol: Whose squares and, beside those of ``"centred"``, whose area ratios.

    Returns:
        A figure at most as wide as a page (7 inches).

    Raises:
        InvalidInputError: No result at all, or as :func:`plot_erf`.
    """
    if not results:
        raise InvalidInputError(
            "No result to compare. A comparison figure shows at least one model. Give some results."
        )
    columns = min(len(results), 3)
    rows = math.ceil(len(results) / columns)
    left, top, gap_x, gap_y = 0.08, 0.5, 0.16, 0.54
    cell = _CELL_INCHES if columns == 3 else _MAP_INCHES
    page = max(left + columns * cell + (columns - 1) * gap_x + _BAR_ROOM, 5.5)
    tallest = cell * max(min(result.input_size[0] / result.input_size[1], 1.6) for result in results)
    maps = rows * tallest + (rows - 1) * gap_y
    lines = 0.19 * len(results)
    total = top + maps + 0.5 + lines + 0.42
    vmin = colour_floor(results)
    with _style():
        figure = _figure(page, total)
        for index, result in enumerate(results):
            row, column = divmod(index, columns)
            x = left + column * (cell + gap_x)
            y = total - top - row * (tallest + gap_y) - tallest
            ax = figure.add_axes((x / page, y / total, cell / page, tallest / total))
            ax.set_anchor("NW")
            plot_erf(result, ax, protocol=protocol, vmin=vmin, colorbar=False, caption=False)
        edge = left + columns * cell + (columns - 1) * gap_x
        bar_height = min(tallest, 2.6)
        colour_axes = figure.add_axes(
            ((edge + 0.07) / page, (total - top - bar_height) / total, 0.1 / page, bar_height / total)
        )
        _draw_colour_bar(figure.axes[0], figure.axes[0].collections[0], colour_axes)
        figure.text(left / page, (total - top - maps - 0.14) / total, _caption(protocol), fontsize=5.8, color=_MUTED)
        panels = [name for name in dict.fromkeys((protocol, "centred")) if all(name in r.protocols for r in results)]
        label_room = 1.55
        panel = (page - label_room - 0.1 - 0.15 * (len(panels) - 1)) / len(panels)
        for index, name in enumerate(panels):
            x = label_room + index * (panel + 0.15)
            ax = figure.add_axes((x / page, 0.42 / total, panel / page, lines / total))
            _draw_ratios(ax, results, name, named=index == 0)
    return figure


def _draw_ratios(ax: Axes, results: Sequence[ErfResult], protocol: str, *, named: bool) -> None:
    """Area ratio of every model and threshold with its 95 % interval, one line per model."""
    thresholds = sorted({threshold for result in results for threshold in result.thresholds})
    colours = list(sns.color_palette("crest", len(thresholds)))  # type: ignore[no-untyped-call]
    for y, result in enumerate(results):
        rows = [row for row in result.ratios if row.protocol == protocol]
        ax.plot([row.ratio for row in rows], [y] * len(rows), color="#c8c8c8", linewidth=0.6, zorder=1)
        for row in rows:
            colour = colours[thresholds.index(row.threshold)]
            if row.ci95 is not None:
                low, high = max(row.ci95[0], 1e-6), row.ci95[1]
                ax.plot([low, high], [y, y], color=colour, linewidth=2.4, alpha=0.45, solid_capstyle="butt", zorder=2)
            hollow = result.run.weights.is_random
            ax.plot(
                row.ratio, y, "o", markersize=3.6, color=colour, markerfacecolor="white" if hollow else colour, zorder=3
            )
    smallest = min(row.ratio for result in results for row in result.ratios if row.protocol == protocol)
    ax.set_xscale("log")
    ax.set(xlim=(smallest / 1.7, 1.25), ylim=(len(results) - 0.4, -0.6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(results)))
    names = [_shortened(result.run.model, 17 if result.run.weights.is_random else 26) for result in results]
    names = [name + " (random)" * result.run.weights.is_random for name, result in zip(names, results, strict=True)]
    ax.set_yticklabels(names if named else [], parse_math=False)
    ax.tick_params(left=False)
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    ax.set_axisbelow(True)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel(f"Area ratio, % ('{protocol}')")
    if named:
        handles = [
            ax.plot([], [], "o", markersize=3.6, color=colour, label=_percent(threshold))[0]
            for threshold, colour in zip(thresholds, colours, strict=True)
        ]
        if any(result.run.weights.is_random for result in results):
            handles += ax.plot(
                [], [], "o", markersize=3.6, color=_MUTED, markerfacecolor="white", label="random weights"
            )
        ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(handles),
            frameon=False,
            fontsize=6.0,
            handletextpad=0.1,
            columnspacing=0.9,
            borderaxespad=0.1,
        )


# -- files ------------------------------------------------------------------------------------------------------------


def save_figures(
    result: ErfResult, directory: str | Path, *, protocol: str = "paper", vmin: float | None = None
) -> tuple[Path, ...]:
    """Write ``erf.png`` and ``erf.pdf``.

    Args:
        result: What to draw.
        directory: Created if it is not there.
        protocol: Whose squares.
        vmin: As :func:`plot_erf`; ``colour_floor(results)`` gives the figures of several models one colour scale.

    Returns:
        The files written.

    Raises:
        InvalidInputError: The folder cannot be written to, or as :func:`plot_erf`.
    """
    figure = _figure_of(plot_erf(result, protocol=protocol, vmin=vmin))
    return _save(figure, Path(directory), "erf", result)


def save_comparison(
    results: Sequence[ErfResult], directory: str | Path, *, protocol: str = "paper"
) -> tuple[Path, ...]:
    """Write ``comparison.png`` and ``comparison.pdf``; see :func:`plot_comparison` and :func:`save_figures`."""
    return _save(plot_comparison(results, protocol=protocol), Path(directory), "comparison", results[0])


def _save(figure: Figure, folder: Path, stem: str, result: ErfResult) -> tuple[Path, ...]:
    # Whole dots per cell of the first map, so that a fine grid in it is not seen through another one.
    inches = _inches(figure.axes[0])[0]
    cells = result.input_size[1] / _block(result.input_size[1], inches)
    dpi = math.ceil(MIN_DPI * inches / cells) * cells / inches
    # Without the clock, so that the same result gives the same bytes.
    metadata: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}}
    written = []
    with _style():
        for suffix, extra in metadata.items():
            target = folder / f"{stem}.{suffix}"
            with atomic_path(target) as path:
                figure.savefig(path, format=suffix, dpi=dpi, metadata=extra)
            written.append(target)
    return tuple(written)


# -- shared -----------------------------------------------------------------------------------------------------------


@contextmanager
def _style() -> Iterator[None]:
    """The house style, for the time of drawing only."""
    style: Any = sns.axes_style("white") | sns.plotting_context("paper") | _STYLE  # type: ignore[no-untyped-call]
    with mpl.rc_context(style):
        yield


def _figure(width: float, height: float) -> Figure:
    """A figure that no window system and no pyplot knows of."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _figure_of(ax: Axes) -> Figure:
    """The whole figure, also of an Axes in a subfigure."""
    return ax.figure.canvas.figure


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes as it will be drawn."""
    ax.apply_aspect()
    box = ax.get_window_extent()
    return box.width / _figure_of(ax).dpi, box.height / _figure_of(ax).dpi


def _block(width: int, inches: float) -> int:
    """Side of the blocks of pixels that are drawn as one cell."""
    return max(math.ceil(width / (_FINEST_DPI * inches) - 1e-6), 1)


def _block_means(values: npt.NDArray[np.float64], block: int) -> npt.NDArray[np.float64]:
    """Means over squares of ``block`` pixels, smaller ones at the far edges."""
    if block == 1:
        return values
    starts = [np.arange(0, length, block) for length in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    counts = [np.diff(np.append(start, length)) for start, length in zip(starts, values.shape, strict=True)]
    return np.asarray(sums / np.outer(*counts))


def _percent(threshold: float) -> str:
    return f"{100 * threshold:g} %"


def _shortened(text: str, letters: int) -> str:
    """``text``, with its middle left out where it is longer than ``letters``."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 2
    return text[:head] + "\u2026" + text[len(text) - (letters - 1 - head) :]
