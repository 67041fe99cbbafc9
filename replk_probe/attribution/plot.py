"""Plot of the attribution of one image, over the image.

Colors show the absolute attribution relative to its 99th percentile, since single pixels may exceed all others by far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.patches import Rectangle

from replk_probe.plot_style import (
    BAR_INCHES,
    COLOR_MAP,
    INK,
    LINE,
    MAP_MARGIN,
    Line,
    check_axes,
    check_color_map,
    check_drawable,
    figure_style,
    halo,
    inches_of,
    map_inches,
    prepared_axes,
    side_bar,
    title_line,
    weights_line,
)
from replk_probe.runtime.formatting import percent

if TYPE_CHECKING:
    from .result import AttributedImage, AttributionResult

_TOP, _BOTTOM = 0.6, 0.42  # margins above and below the map in inches
_PERCENTILE = 99
_OPACITY = 0.75  # share of the color of the attribution; the rest is the brightness of the image
BAR_LABEL = f"|attribution| / {_PERCENTILE}th percentile"
_OUTSIDE: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False}


def plot_attribution(
    result: AttributionResult,
    ax: Axes | None = None,
    *,
    image: int | str = 0,
    cmap: str | Colormap = COLOR_MAP,
    cbar: bool = True,
    caption: bool = True,
) -> Axes:
    """Draw the absolute attribution of one image over the image, with the windows of the effective receptive field.

    Args:
        result: Result to draw.
        ax: Axes to draw on; by default those of a new figure, one column wide. Given Axes are made smaller if the
            labels around them do not fit between them and their neighbors.
        image: Index or name of the image.
        cmap: Color map, of which the colors are mixed with the brightness of the image.
        cbar: Whether to draw the color bar.
        caption: Whether to state the layer and the shares in the windows below the map.

    Returns:
        The Axes. x and y are edges of input pixels: pixel (0, 0) covers [0, 1] x [0, 1].

    Raises:
        InvalidInputError: An argument has the wrong type, ``image`` is not in the result, or ``cmap`` is unknown.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> layers = nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        >>> from replk_probe import measure_attribution
        >>> from replk_probe.attribution import plot_attribution
        >>> ax = plot_attribution(measure_attribution(nn.Sequential(*layers), torch.rand(2, 3, 32, 32)), image=1)
        >>> [round(edge) for edge in (*ax.get_xlim(), *ax.get_ylim())]
        [0, 32, 32, 0]
    """
    check_drawable(result, "AttributionResult")
    index = result.index_of(image)
    check_color_map(cmap)
    check_axes(ax)
    height, width = result.maps.shape[1:]
    with figure_style():
        right = BAR_INCHES if cbar else MAP_MARGIN
        map_width = map_inches(cbar=cbar) * min(1.0, 1.6 * width / height)
        inches = MAP_MARGIN + map_width + right, _TOP + map_width * max(height / width, 1 / 3) + _BOTTOM
        ax = prepared_axes(ax, inches, left=MAP_MARGIN, right=right, top=_TOP, bottom=_BOTTOM)
        draw_overlay(ax, result, index, cmap)
        if cbar:
            side_bar(ax, color_scale(cmap), BAR_LABEL, "|attribution|")
        points = inches_of(ax)[0] * 72
        add_lines(ax, heading_lines(result, index, points), (0, 1), points, up=True)
        if caption:
            lines = list(map(Line, numbers_lines(result.images[index])))
            add_lines(ax, lines, (0, 0), points, up=False)
    return ax


def draw_picture(ax: Axes, picture: npt.NDArray[Any]) -> None:
    """Draw RGB pixels; x and y are edges of input pixels."""
    height, width = picture.shape[:2]
    ax.imshow(picture, extent=(0, width, height, 0), interpolation="nearest", aspect="equal", gid="picture")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(True)


def draw_overlay(ax: Axes, result: AttributionResult, index: int, cmap: str | Colormap = COLOR_MAP) -> None:
    """Draw the attribution of an image over its brightness, with the windows and the most attributed position."""
    draw_picture(ax, overlay_pixels(result, index, cmap))
    draw_windows(ax, result.images[index])


def overlay_pixels(result: AttributionResult, index: int, cmap: str | Colormap = COLOR_MAP) -> npt.NDArray[np.float64]:
    """The attribution of an image over its brightness, ``[H, W, 3]`` RGB in [0, 1]."""
    absolute = np.abs(result.maps[index].astype(np.float64))
    # Of a map with few pixels that are not zero, the percentile is zero.
    scale = float(np.percentile(absolute, _PERCENTILE)) or float(absolute.max()) or 1.0
    colors = mpl.colormaps[cmap] if isinstance(cmap, str) else cmap
    brightness = result.pictures[index] @ np.array([0.299, 0.587, 0.114]) / 255
    levels = colors(np.minimum(absolute / scale, 1.0))[..., :3]
    return np.asarray((_OPACITY * levels + (1 - _OPACITY) * brightness[..., None]).clip(0, 1))


def draw_windows(ax: Axes, image: AttributedImage) -> None:
    """Draw the windows of an image as squares, and the center of the most attributed position as a cross."""
    stroke = halo(0.8)
    for window in image.windows:
        corner, size = (window.left, window.top), (window.right - window.left, window.bottom - window.top)
        square = Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=0.8, gid="window")
        square.set_path_effects(stroke)
        ax.add_patch(square)
    if image.center is not None:
        y, x = image.center
        (cross,) = ax.plot([x + 0.5], [y + 0.5], "+", color="white", markersize=4, markeredgewidth=0.8, gid="position")
        cross.set_path_effects(stroke)


def color_scale(cmap: str | Colormap = COLOR_MAP) -> ScalarMappable:
    """The colors of an attribution over a medium gray, from 0 to 1."""
    colors = mpl.colormaps[cmap] if isinstance(cmap, str) else cmap
    levels = colors(np.linspace(0, 1, 256))[:, :3]
    return ScalarMappable(Normalize(0, 1), ListedColormap(_OPACITY * levels + (1 - _OPACITY) * 0.5))


def heading_lines(result: AttributionResult, index: int, points: float) -> list[Line]:
    """The lines above one image, which is ``points`` wide."""
    image = result.images[index]
    return [
        title_line(image.id),
        Line(target_text(image), color=INK),
        Line(f"{result.run.model}, {result.method}"),
        weights_line(result.run.weights, points),
    ]


def target_text(image: AttributedImage) -> str:
    """The target and its probability, and the predicted class if it is another one."""
    predicted = "predicted" if image.predicted == image.target else "not predicted"
    return f"{image.target_label}, {predicted}, probability {percent(image.probability, 1)}"


def _two_digits(value: float) -> str:
    """A percentage with two significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def numbers_lines(image: AttributedImage) -> list[str]:
    """The windows, their shares and their areas, each on a line."""
    if image.effective_area is None:
        return ["Zero everywhere"]
    effective = f"Effective area: {percent(image.effective_area, 1)}"
    if not image.windows:
        return [effective]
    thresholds, shares, areas = (
        ", ".join(_two_digits(100 * getattr(window, name)) for window in image.windows)
        for name in ("threshold", "share", "area")
    )
    return [f"Windows: {thresholds} % of the ERF", f"Attribution: {shares} %", f"Area: {areas} %. {effective}"]


def add_lines(ax: Axes, lines: Sequence[Line], corner: tuple[float, float], points: float, *, up: bool) -> None:
    """Add lines above (or below) a map, none of them wider than ``points``."""
    offset = 4.0
    for line in reversed(lines) if up else lines:
        place = (line.indent, offset if up else -offset)
        ax.annotate(
            line.fitted(points), corner, xytext=place, xycoords="axes fraction", ha="left",
            va="bottom" if up else "top", **_OUTSIDE, **line.style,
        )  # fmt: skip
        offset += line.size * LINE
