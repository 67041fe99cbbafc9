"""Text around the figures of one result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from replk_probe.plot_style import ALERT_TEXT, CAPTION_SIZE, INK, MUTED, fitted, inches_of, text_points
from replk_probe.runtime.formatting import counted, dimensions

from .position_rule import CENTER

if TYPE_CHECKING:
    from .result import ErfResult

# Height of a further line of a caption, in inches.
CAPTION_LINE = 0.12

_OUTSIDE: dict[str, Any] = {
    "xycoords": "axes fraction",
    "textcoords": "offset points",
    "ha": "left",
    "annotation_clip": False,
    "parse_math": False,
}


def draw_heading(ax: Axes, result: ErfResult) -> None:
    """Draw model, weights and images above the map, each on a line."""
    run = result.run
    is_image = len(result.input_size) == 2
    kind, size = "image" if is_image else "input", "\u00d7".join(map(str, result.input_size)) + " px" * is_image
    points = inches_of(ax)[0] * 72
    small = 6.0 if points > 170 else 5.6
    images = "" if result.n_images is None else f"{counted(result.n_images, kind)}, "
    lines = [
        (f"{images}{run.image_source}, {size}", small, MUTED, "normal"),
        (run.weights.label, small, ALERT_TEXT if run.weights.is_random else MUTED, "normal"),
        (run.model, _name_size(run.model, points), INK, "bold"),
    ]
    up = 4.0
    for text, points_high, color, weight in lines:
        style = {"va": "bottom", "fontsize": points_high, "color": color, "fontweight": weight, **_OUTSIDE}
        ax.annotate(fitted(text, points, points_high, weight), (0, 1), xytext=(0, up), **style)
        up += points_high * 1.35


def _name_size(name: str, points: float) -> float:
    """Largest font size at which the name fits above the map, but no smaller than that of the lines below it."""
    return next((size for size in (8.0, 7.5, 7.0, 6.5) if text_points(name, size, "bold") <= points), 6.0)


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
        text = fitted(line, points, CAPTION_SIZE)
        down = below + index * CAPTION_SIZE * 1.35
        ax.annotate(text, (0, 0), xytext=(0, -down), va="top", fontsize=CAPTION_SIZE, color=MUTED, **_OUTSIDE)
