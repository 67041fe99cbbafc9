"""Icons of the 16 categories, and the shapes of the synthetic ones, as vector paths."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, ScaledTranslation, Transform

from replk_probe.plot_style import INK, figure_of

from .synthetic.silhouettes import RADIUS, REACH, silhouette
from .synthetic.stimuli import CUES

_PAPER = "white"
_SIDE = 100.0

# Layers from back to front, filled with the color "ink" or "paper", or stroked with the given line width (in the paper
# color if it is negative). Coordinates are in a square of 100 x 100 with y downwards: M, L, Q, C, Z as in SVG
# (absolute); E x y rx ry is an ellipse, R x y width height a rectangle.
_Layer = tuple[str | float, str]
_ICONS: dict[str, tuple[_Layer, ...]] = {
    "airplane": (
        (
            "ink",
            "M50 3 C57 3 58 14 58 24 L58 37 L97 61 L97 72 L58 59 L56 80 L70 89 L70 97 L50 91 L30 97 L30 89 L44 80 "
            "L42 59 L3 72 L3 61 L42 37 L42 24 C42 14 43 3 50 3 Z",
        ),
    ),
    "bear": (
        ("ink", "E21 24 16 16 E79 24 16 16 E50 54 43 40"),
        ("paper", "E50 70 21 17 E33 46 5 5 E67 46 5 5"),
        ("ink", "E50 63 10 7"),
        (4.5, "M50 66 L50 78"),
    ),
    "bicycle": (
        (6.5, "E22 66 19 19 E78 66 19 19"),
        (6.0, "M22 66 L38 34 L66 34 L49 66 L22 66 M35 26 L49 66 M62 22 L78 66 M62 22 L75 19"),
        (7.5, "M26 26 L44 26"),
    ),
    "bird": (
        (
            "ink",
            "M2 35 L20 27 C23 13 40 9 49 20 C54 27 56 34 62 39 L98 60 L94 67 L73 70 C62 85 36 85 25 68 "
            "C18 57 18 48 20 41 Z",
        ),
        (5.0, "M42 76 L39 96 M56 76 L57 96"),
        (-5.0, "M38 50 C46 64 62 66 78 61"),
        ("paper", "E33 29 4.5 4.5"),
    ),
    "boat": (
        ("ink", "M4 72 L96 72 L82 94 L18 94 Z M54 4 Q88 32 92 62 L54 62 Z M44 16 Q36 46 10 62 L44 62 Z"),
        (5.0, "M49 3 L49 74"),
    ),
    "bottle": (
        (
            "ink",
            "M41 2 L59 2 L59 26 C59 37 72 39 72 52 L72 91 Q72 98 65 98 L35 98 Q28 98 28 91 L28 52 C28 39 41 37 41 26 Z",
        ),
        ("paper", "R37 57 26 25"),
        (-4.5, "M40 14 L60 14"),
    ),
    "car": (
        (
            "ink",
            "M2 72 L2 58 Q3 50 12 48 L22 46 L34 27 Q37 23 42 23 L64 23 Q69 23 72 27 L85 46 L92 48 Q98 50 98 58 L98 72 "
            "Z",
        ),
        ("paper", "M30 46 L40 30 L50 30 L50 46 Z M56 46 L56 30 L66 30 L77 46 Z E25 71 16 16 E75 71 16 16"),
        ("ink", "E25 71 11.5 11.5 E75 71 11.5 11.5"),
    ),
    "cat": (
        ("ink", "M8 6 L38 24 Q50 21 62 24 L92 6 Q98 34 93 56 C90 82 70 95 50 95 C30 95 10 82 7 56 Q2 34 8 6 Z"),
        ("paper", "E31 50 8.5 10 E69 50 8.5 10 M43 66 L57 66 L50 74 Z"),
        ("ink", "E31 50 3 9 E69 50 3 9"),
        (-3.5, "M36 74 L8 68 M36 80 L12 84 M64 74 L92 68 M64 80 L88 84"),
    ),
    "chair": (("ink", "M19 2 L31 2 L36 49 L79 49 L83 98 L72 98 L69 61 L37 61 L33 98 L22 98 L26 60 Z"),),
    "clock": (
        ("ink", "E50 50 47 47"),
        ("paper", "E50 50 37 37"),
        (7.0, "M50 24 L50 51 L67 61"),
        (5.0, "M50 15 L50 19 M85 50 L81 50 M50 85 L50 81 M15 50 L19 50"),
    ),
    "dog": (
        ("ink", "M50 6 C74 6 80 24 80 46 C80 60 74 96 50 96 C26 96 20 60 20 46 C20 24 26 6 50 6 Z"),
        ("ink", "M26 10 C8 8 0 34 3 62 C5 76 20 76 22 62 Z M74 10 C92 8 100 34 97 62 C95 76 80 76 78 62 Z"),
        (-4.0, "M29 12 C22 28 20 46 23 64 M71 12 C78 28 80 46 77 64"),
        ("paper", "E38 42 5 6 E62 42 5 6 E50 74 19 17"),
        ("ink", "E50 66 11.5 8"),
        (4.5, "M50 70 L50 84"),
    ),
    "elephant": (
        (
            "ink",
            "M32 15 C52 5 86 10 93 34 C98 50 96 72 95 94 L77 94 L75 72 L57 72 L56 94 L38 94 L36 68 C30 68 27 66 25 62 "
            "C24 78 22 92 10 93 C2 93 1 85 7 84 C13 82 9 62 9 46 C9 28 18 16 32 15 Z",
        ),
        (-4.5, "M36 24 C58 22 62 54 42 58 C38 59 36 56 35 50"),
        ("paper", "E23 38 4 4"),
    ),
    "keyboard": (
        ("ink", "M8 22 L92 22 Q98 22 98 28 L98 74 Q98 80 92 80 L8 80 Q2 80 2 74 L2 28 Q2 22 8 22 Z"),
        (
            "paper",
            "R10 31 11 10 R27 31 11 10 R44.5 31 11 10 R62 31 11 10 R79 31 11 10 "
            "R10 46 11 10 R27 46 11 10 R44.5 46 11 10 R62 46 11 10 R79 46 11 10 R10 61 11 10 R27 61 46 10 R79 61 11 10",
        ),
    ),
    "knife": (
        ("ink", "M3 3 L69 57 L57 69 C34 60 10 34 3 3 Z M60 72 L72 60 L96 83 Q100 93 92 97 Q86 99 83 96 Z"),
        ("paper", "E74 74 3 3 E85 85 3 3"),
    ),
    "oven": (
        ("ink", "M10 3 L90 3 Q94 3 94 8 L94 92 Q94 97 90 97 L10 97 Q6 97 6 92 L6 8 Q6 3 10 3 Z"),
        ("paper", "E23 17 6 6 E41 17 6 6 E59 17 6 6 E77 17 6 6 R22 54 56 30"),
        (-4.0, "M6 30 L94 30"),
        (-6.0, "M22 42 L78 42"),
    ),
    "truck": (
        ("ink", "R1 20 60 53 M65 34 L82 34 L99 54 L99 73 L65 73 Z"),
        ("paper", "M71 40 L80 40 L90 53 L71 53 Z E19 74 15 15 E44 74 15 15 E81 74 15 15"),
        ("ink", "E19 74 10.5 10.5 E44 74 10.5 10.5 E81 74 10.5 10.5"),
    ),
}


def has_icon(category: str) -> bool:
    """Whether there is an icon of the category."""
    return category in _ICONS or category in CUES


def add_icon(
    ax: Axes, category: str, at: tuple[float, float], anchor: Transform, points: tuple[float, float], size: float
) -> None:
    """Draw the icon of a category.

    Args:
        ax: Axes to draw on; the icon may lie outside of the frame.
        category: Category with an icon.
        at: Position in the coordinates of ``anchor``.
        anchor: Transform from these coordinates to display coordinates.
        points: Offset of the icon's center from that position to the right and upwards, in points.
        size: Side in points.
    """
    scale = size / _SIDE
    to_points = Affine2D().translate(-_SIDE / 2, -_SIDE / 2).scale(scale, -scale).translate(*points)
    place = near(ax, at, anchor)
    for kind, path in _layers(category):
        style: dict[str, Any] = {"facecolor": INK if kind == "ink" else _PAPER, "linewidth": 0}
        if isinstance(kind, float):
            color = INK if kind > 0 else _PAPER
            style = {"fill": False, "edgecolor": color, "linewidth": abs(kind) * scale, "capstyle": "round"}
        patch = PathPatch(path, clip_on=False, gid=f"icon {category}", zorder=2, **style)
        patch.set_transform(to_points + place)
        ax.add_artist(patch)


@cache
def _layers(category: str) -> tuple[tuple[str | float, Path], ...]:
    if category in _ICONS:
        return tuple((kind, _path(outline)) for kind, outline in _ICONS[category])
    # Half the resolution is fine enough; the padding closes outlines at the border.
    mask = np.pad(silhouette(CUES[category][0])[::2, ::2].astype(float), 1)
    # Outlines of holes have the opposite direction.
    outlines = contour_generator(z=mask, line_type=LineType.Separate).lines(0.5)
    shape = Path.make_compound_path(*(Path(np.asarray(outline), closed=True) for outline in outlines))
    zoom = _SIDE / (RADIUS * REACH)  # the longest shape fills the square
    height, width = mask.shape
    return (("ink", shape.transformed(Affine2D().translate(-width / 2, -height / 2).scale(zoom).translate(50, 50))),)


def near(ax: Axes, at: tuple[float, float], anchor: Transform) -> Transform:
    """Transform from an offset in points from ``at`` (in the coordinates of ``anchor``) to display coordinates."""
    return Affine2D().scale(1 / 72) + figure_of(ax).dpi_scale_trans + ScaledTranslation(*at, anchor)  # type: ignore[arg-type]


_CODES = {"M": Path.MOVETO, "L": Path.LINETO, "Q": Path.CURVE3, "C": Path.CURVE4}


def _path(outline: str) -> Path:
    vertices: list[Any] = []
    codes: list[Any] = []
    for command, text in re.findall(r"([A-Z])([^A-Z]*)", outline):
        numbers = np.array([float(number) for number in text.split()]).reshape(-1, 2)
        if command in "ER":
            part = Path.unit_circle() if command == "E" else Path.unit_rectangle()
            vertices += [*(np.asarray(part.vertices) * numbers[1] + numbers[0])]
            codes += [*np.asarray(part.codes)]
        elif command == "Z":
            vertices.append((0.0, 0.0))
            codes.append(Path.CLOSEPOLY)
        else:
            vertices += [*numbers]
            codes += [_CODES[command]] * len(numbers)
    return Path(np.array(vertices), codes)
