"""Drawing of one contribution map, shared by the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Affine2D

from replk_probe.plot_style import COLOR_MAP, SMALL_SIZE, block_means, block_side, halo, inches_of, side_bar

if TYPE_CHECKING:
    from .result import ErfResult

_DEEPEST, _SHALLOWEST = -4, -1  # range of the lower end of the color scale, in decades below the maximum
ON_MAP: dict[str, Any] = {
    "color": "white",
    "fontsize": SMALL_SIZE,
    "bbox": {"boxstyle": "square,pad=0.15", "facecolor": "black", "edgecolor": "none"},
}


def draw_map(
    ax: Axes,
    scores: npt.NDArray[np.float64],
    vmin: float,
    vmax: float = 1.0,
    cmap: str | Colormap = COLOR_MAP,
) -> None:
    """Draw one map relative to its own maximum on a logarithmic scale; x and y are edges of input pixels."""
    height, width = scores.shape
    block = block_side(width, inches_of(ax)[0])
    values = np.clip(block_means(scores / (float(scores.max()) or 1.0), block), vmin, vmax)
    mesh = ax.pcolormesh(values, cmap=cmap, norm=LogNorm(vmin, vmax), rasterized=True)
    mesh.set_transform(Affine2D().scale(block) + ax.transData)
    ax.set_aspect("equal")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(True)


def floor_of(maps: Sequence[npt.NDArray[np.float64]]) -> float:
    """Lowest value of the color scale for these maps, as :func:`~replk_probe.erf.plot.color_floor` for results."""
    decades = []
    for one in maps:
        scores = one[one > 0]
        low = float(np.percentile(scores, 5) / scores.max()) if scores.size else 1.0
        decades.append(math.floor(math.log10(max(low, 1e-300))))
    return float(10.0 ** min(max(min(decades, default=_DEEPEST), _DEEPEST), _SHALLOWEST))


def draw_scale_bar(ax: Axes, width: int) -> None:
    """Draw a bar of a round number of pixels, about a fifth of the width."""
    target = max(width / 5, 1.0)
    decade = 10 ** math.floor(math.log10(target))
    length = max(candidate * decade for candidate in (1, 2, 5) if candidate * decade <= target)
    point = width / (72 * inches_of(ax)[0])
    bottom = max(ax.get_ylim())
    left, y = 6 * point, bottom - 6 * point
    ends = [left, left + length]
    (bar,) = ax.plot(ends, [y, y], color="white", linewidth=2.0, solid_capstyle="butt", gid="scale bar")
    bar.set_path_effects(halo(2.0))
    ax.text(left, y - 4 * point, f"{length:g} px", ha="left", va="bottom", gid="scale label", **ON_MAP)


def add_color_bar(ax: Axes, cax: Axes | None = None) -> None:
    """Add the color bar of a map, at its side or on Axes of its own."""
    bar = side_bar(ax, ax.collections[0], "Contribution relative to its maximum", "Contribution / max", cax=cax)
    bar.ax.yaxis.set_major_locator(LogLocator(numticks=12))
    bar.ax.yaxis.set_minor_locator(NullLocator())


def window_edges(result: ErfResult, protocol: str, threshold: float) -> tuple[tuple[int, int], ...]:
    """First and last-plus-one pixel of the window of a threshold along every axis, clipped to the map."""
    row = result.row(protocol, threshold)
    center = result.center if protocol == "centred" else result.middle
    # A clipped window does not show its half-width: find the one whose window has this side and this area.
    distances = [np.abs(np.arange(length) - middle) for length, middle in zip(result.input_size, center, strict=True)]
    half_widths = np.unique(np.concatenate(distances))
    extents = np.stack([np.searchsorted(np.sort(axis), half_widths, side="right") for axis in distances])
    off_side = np.abs(extents.max(axis=0) - row.side)
    off_area = np.abs(extents.prod(axis=0) - row.ratio * result.contribution.size)
    half_width = half_widths[np.lexsort((off_area, off_side))[0]]
    ends = [np.flatnonzero(axis <= half_width)[[0, -1]] for axis in distances]
    return tuple((int(first), int(last) + 1) for first, last in ends)
