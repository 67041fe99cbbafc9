"""Text around the figures of one result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from replk_probe.plot_style import (
    INK,
    LABEL_SIZE,
    LINE,
    SMALL_SIZE,
    TITLE_SIZE,
    Line,
    inches_of,
    text_points,
    weights_line,
)
from replk_probe.runtime.formatting import counted, dimensions

from .position_rule import CENTER

if TYPE_CHECKING:
    from .result import ErfResult

# Height of a further line of a caption, in inches.
CAPTION_LINE = SMALL_SIZE * LINE / 72

_OUTSIDE: dict[str, Any] = {
    "xycoords": "axes fraction",
    "textcoords": "offset points",
    "ha": "left",
    "annotation_clip": False,
}


def draw_heading(ax: Axes, result: ErfResult) -> None:
    """Draw model, weights and images above the map, each on a line."""
    run = result.run
    is_image = len(result.input_size) == 2
    kind, size = "image" if is_image else "input", "\u00d7".join(map(str, result.input_size)) + " px" * is_image
    points = inches_of(ax)[0] * 72
    images = "" if result.n_images is None else f"{counted(result.n_images, kind)}, "
    lines = [
        Line(f"{images}{run.image_source}, {size}"),
        weights_line(run.weights, points),
        Line(run.model, name_size(run.model, points), INK, "bold"),
    ]
    up = 4.0
    for line in lines:
        style: dict[str, Any] = {"xytext": (line.indent, up), "va": "bottom"}
        if line is lines[-1]:
            style["gid"] = "name"
        ax.annotate(line.fitted(points), (0, 1), **_OUTSIDE, **style, **line.style)
        up += line.size * LINE


def name_size(name: str, points: float) -> float:
    """Largest size at which the name fits above a map that is ``points`` wide, or that of the lines below it."""
    sizes = (TITLE_SIZE, LABEL_SIZE)
    return next((size for size in sizes if text_points(name, size, "bold") <= points), SMALL_SIZE)


def conditions(result: ErfResult, *, has_sizes: bool = True) -> str:
    """Images, input, layer, position and definition of a measurement, on one line; the sizes can be left out."""
    is_image = len(result.input_size) == 2
    images = [] if result.n_images is None else [counted(result.n_images, "image" if is_image else "input")]
    size = f", {dimensions(result.input_size)}{' px' * is_image}" if has_sizes else ""
    map_size = f", map {dimensions(result.feature_size)}" if has_sizes and result.feature_size else ""
    position = "" if result.position == CENTER else f", position {result.position}"
    definition = f"; {result.definition}" if result.definition else ""
    source = ", ".join([*images, result.run.image_source])
    return f"{source}{size}; layer {result.layer}{map_size}{position}{definition}"


def layer_lines(result: ErfResult) -> list[str]:
    """The layer, and on another line the definition of the map where it is not the usual one."""
    position = "" if result.position == CENTER else f", position {result.position}"
    return [f"Layer {result.layer}{position}", *([f"Map: {result.definition}"] if result.definition else [])]


def add_caption(ax: Axes, *lines: str, below: float = 4) -> None:
    """Add small lines ``below`` points below the map, none of them wider than the map."""
    points = inches_of(ax)[0] * 72
    for index, line in enumerate(lines):
        down = below + index * SMALL_SIZE * LINE
        ax.annotate(Line(line).fitted(points), (0, 0), xytext=(0, -down), va="top", **_OUTSIDE, **Line(line).style)
