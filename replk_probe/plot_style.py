"""Style, sizes and files of all figures."""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import seaborn as sns
import seaborn.cm
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends import backend_pdf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.gridspec import GridSpec
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from replk_probe.errors import InvalidInputError, close_names
from replk_probe.runtime.atomic_files import atomic_write_bytes
from replk_probe.runtime.checks import check_choice
from replk_probe.runtime.escaping import printable
from replk_probe.runtime.formatting import shortened

if TYPE_CHECKING:
    from replk_probe.runtime.provenance import HeadInfo, WeightsInfo

MIN_DPI = 300
SUFFIXES = ("png", "pdf", "svg")  # file formats of all presets
_SCREEN_DPI = 150
MAP_MARGIN = 0.06  # between a map and the border of its figure, in inches
BAR_INCHES = 0.72  # color bar with tick labels and label
_FINEST_DPI = 400  # maps of higher resolution are drawn as means over blocks of pixels

# Sizes of text as drawn, in points: of labels of axes, of titles, and of all other text. In a figure for a paper these
# are 8, 9 and 7 pt.
LABEL_SIZE = 7.0
TITLE_SIZE = LABEL_SIZE * 9 / 8
SMALL_SIZE = 6.1  # hinting makes letters of 6.125 pt wider by an eighth at 100 dots per inch
_LEAST_SIZE = 5.5  # of numbers in narrow spaces
LINE = 1.35  # line height relative to the size of the text
RANDOM_BADGE = "RANDOM WEIGHTS"
_BADGE_PAD = 0.2  # around the text of a badge, relative to its size

# All colors of figures. Maps are perceptually uniform: from black to nearly white, and for signed values from blue
# through white to red.
COLOR_MAP, SIGNED_COLOR_MAP = "rocket", "vlag"
# The accent color first. Each has a contrast of at least 3 to white. Any two differ by at least 14 in CIELAB to readers
# with protanopia or deuteranopia, and by 10 with tritanopia (Machado et al. 2009); markers or line styles differ, too.
COLORS = ("#b03a00", "#0072b2", "#009e73", "#c270a3", "#d68100", "#3f2673", "#3d9bd0")
# Decisions for the shape, for the texture and for neither: also as text, with a contrast of at least 4.5 to white.
SHAPE_COLOR, TEXTURE_COLOR, OTHER_COLOR = COLORS[1], "#b85300", "#6e6e6e"
# INK and MUTED are those of text, GRAY that of marks for comparison, RANGE, GRID and BAND those of lines and areas
# behind data, and HALO that of the outline of white lines on a map.
INK, MUTED, GRAY, RANGE, GRID, BAND, HALO = (
    "#1a1a1a", "#5a5a5a", "#8c8c8c", "#c8c8c8", "#e4e4e4", "#f4f4f4", "#000000a0",
)  # fmt: skip
_ALERT = "#ffb000"  # behind black text
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # included in matplotlib, so that figures are the same everywhere
    "font.size": LABEL_SIZE,
    "axes.linewidth": 0.6,
    "axes.titlesize": TITLE_SIZE,
    "axes.labelsize": LABEL_SIZE,
    "xtick.labelsize": SMALL_SIZE,
    "ytick.labelsize": SMALL_SIZE,
    "legend.fontsize": SMALL_SIZE,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "figure.dpi": 100.0,
    "pdf.fonttype": 42,  # embeds the font, so that text can be selected
}

# Tables of a font by which text is laid out. Fonts in PDF files do not have them, as their text is (ISO 32000-1, 9.9).
_LAYOUT_TABLES = ("GDEF", "GPOS", "GSUB", "kern")

# Width and height in the first lines of an SVG file.
_SVG_SIZE = re.compile(rb'(?P<name>width|height)="(?P<points>[0-9.]+)pt"')

_NAME_PART = re.compile(r"[^-_./:]*[-_./:]+|[^-_./:]+")

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Preset:
    """Properties of figures as they are saved.

    Attributes:
        column: Width of a figure of one column, in inches.
        page: Width of a figure of a whole page or slide, in inches.
        text: Size of labels, in points; titles are an eighth larger, and all other text an eighth smaller.
        formats: File formats, as endings.
    """

    column: float
    page: float
    text: float
    formats: tuple[str, ...]

    @property
    def magnification(self) -> float:
        """Size of a figure as saved divided by its size as drawn."""
        return self.text / LABEL_SIZE


USUAL = Preset(3.4, 7.0, LABEL_SIZE, ("png", "pdf"))
PRESETS = {
    # The usual widths of a column and of a page in conference templates with two columns: 3.25 and 6.75 in at ICML, and
    # at most 8 % more at CVPR and IEEE.
    "paper": Preset(3.25, 6.75, 8.0, ("png", "pdf", "svg")),
    # Half and almost all of a slide of 13.33 x 7.5 in.
    "talk": Preset(6.2, 12.6, 14.0, ("png", "pdf", "svg")),
    "notebook": Preset(4.8, 9.6, 10.0, ("png", "svg")),
}
_current: ContextVar[Preset] = ContextVar("preset", default=USUAL)


@contextmanager
def figure_preset(name: str) -> Iterator[None]:
    """Context manager in which figures are drawn and saved as ``"paper"``, ``"talk"`` or ``"notebook"``.

    Raises:
        InvalidInputError: There is no preset of this name.
    """
    check_choice("figure style", name, tuple(PRESETS))
    token = _current.set(PRESETS[name])
    try:
        yield
    finally:
        _current.reset(token)


def preset() -> Preset:
    """The preset of this context."""
    return _current.get()


def column_width() -> float:
    """Width in inches at which a figure of one column is drawn."""
    return _drawn(preset().column)


def page_width() -> float:
    """Width in inches at which a figure of a page is drawn."""
    return _drawn(preset().page)


def _drawn(inches: float) -> float:
    return inches if preset() is USUAL else inches / preset().magnification


@contextmanager
def figure_style() -> Iterator[None]:
    """Context manager for the style of all figures, which leaves matplotlib's global settings unchanged."""
    style: Any = sns.axes_style("white") | sns.plotting_context("paper") | _STYLE  # type: ignore[no-untyped-call]
    with mpl.rc_context(style):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Create a figure that is independent of pyplot and of window systems."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def map_inches(*, cbar: bool = True) -> float:
    """Width of a map that fills a column, together with its color bar if it has one, in inches."""
    return column_width() - MAP_MARGIN - (BAR_INCHES if cbar else MAP_MARGIN)


def least_size() -> float:
    """Size of the smallest text that is legible, in points as drawn."""
    return _LEAST_SIZE if preset() is USUAL else SMALL_SIZE


def prepared_axes(ax: Axes | None, inches: tuple[float, float], **margins: float) -> Axes:
    """``ax``, or Axes of a new figure of this width and height, in the style of all figures.

    ``margins`` are those of :func:`ensure_margins`.
    """
    if ax is None:
        ax = new_figure(*inches).add_axes((0, 0, 1, 1))
    ensure_margins(ax, **margins)
    _apply_style(ax)
    return ax


def check_axes(ax: object) -> None:
    """Raise InvalidInputError unless ``ax`` is an Axes or None."""
    if ax is not None and not isinstance(ax, Axes):
        raise InvalidInputError(
            f"Expected ax as Axes of matplotlib, but got an object of type {type(ax).__name__}. "
            "Give one Axes, or None for a new figure."
        )


def check_drawable(value: object, *kinds: str) -> None:
    """Raise InvalidInputError unless ``value`` is an instance of one of the classes named ``kinds``.

    By name, because the classes of results import the functions that draw them; importing the classes there would be
    a circle.
    """
    if not {base.__name__ for base in type(value).__mro__} & {*kinds}:
        expected = " or ".join(kinds)
        raise InvalidInputError(
            f"Expected an object of type {expected} to draw, but got one of type {type(value).__name__}. Other objects "
            f"have plots of their own. Give an instance of {expected}."
        )


def check_all_drawable(values: object, kind: str) -> None:
    """Raise InvalidInputError unless ``values`` is a sequence of instances of the class named ``kind``."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise InvalidInputError(
            f"Expected a sequence of objects of type {kind} to draw, but got an object of type "
            f"{type(values).__name__}. The function draws several of them. Give a list, such as [result]."
        )
    for value in values:
        check_drawable(value, kind)


def check_color_map(cmap: object) -> None:
    """Raise InvalidInputError unless ``cmap`` is a color map or the name of one in matplotlib's registry."""
    if isinstance(cmap, Colormap) or (isinstance(cmap, str) and cmap in mpl.colormaps):
        return
    similar = close_names(cmap, mpl.colormaps) if isinstance(cmap, str) else []
    raise InvalidInputError(
        f"Unknown color map {cmap!r}. It is neither a Colormap nor a name known to matplotlib or seaborn. "
        f"Use for instance {', '.join(similar or ('rocket', 'viridis', 'gray'))}."
    )


def check_limits(vmin: object, vmax: object, *, logarithmic: bool = False) -> None:
    """Raise InvalidInputError unless a color scale from ``vmin`` to ``vmax`` has a positive length, and is positive."""
    try:
        if (0 if logarithmic else -math.inf) < vmin < vmax < math.inf:  # type: ignore[operator]
            return
    except (TypeError, ValueError):
        pass  # not numbers
    raise InvalidInputError(
        f"A color scale from {vmin!r} to {vmax!r} is invalid. It is in fractions of the maximum"
        f"{' and logarithmic' if logarithmic else ''}. Give numbers with {'0 < ' if logarithmic else ''}vmin < vmax."
    )


def figure_of(ax: Axes) -> Figure:
    """The top-level figure of an Axes, which may be in a subfigure."""
    return ax.figure.canvas.figure


def inches_of(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes as drawn, in inches."""
    ax.apply_aspect(_place_of(ax))
    box = ax.get_window_extent()
    return box.width / figure_of(ax).dpi, box.height / figure_of(ax).dpi


def _place_of(ax: Axes) -> Bbox:
    """Position of the Axes before its aspect is applied, in fractions of the figure."""
    locator = ax.get_axes_locator()
    return ax.get_position(original=True) if locator is None else locator(ax, None)  # type: ignore[arg-type]


def _apply_style(ax: Axes) -> None:
    """Give Axes that were created outside of :func:`figure_style` its fonts, sizes and line widths."""
    settings: Any = mpl.rcParams
    for axis, name in ((ax.xaxis, "xtick"), (ax.yaxis, "ytick")):
        axis.set_tick_params(
            labelsize=settings[f"{name}.labelsize"],
            labelfontfamily=settings["font.family"],
            width=settings[f"{name}.major.width"],
            size=settings[f"{name}.major.size"],
        )
        axis.label.set(fontsize=settings["axes.labelsize"], fontfamily=settings["font.family"])
    for spine in ax.spines.values():
        spine.set_linewidth(settings["axes.linewidth"])


def ensure_margins(ax: Axes, *, left: float = 0.0, right: float = 0.0, top: float = 0.0, bottom: float = 0.0) -> None:
    """Shrink Axes that have less space than this around them, in inches, for labels outside of them.

    The space ends at the border of the figure, or halfway to the next one of several subplots. Axes of a figure with a
    layout engine (``layout="constrained"``) are unchanged, since it finds space for all labels.
    """
    known = ax.get_axes_locator()
    margins = (left, right, top, bottom)
    if known is None:
        ax.set_axes_locator(_Margins(ax, margins))
    elif isinstance(known, _Margins):
        known.inches = tuple(map(max, known.inches, margins))


def width_around(ax: Axes, labels: float) -> float:
    """Width of Axes with labels that are ``labels`` points wide, in points; at most that of the space for both.

    With a layout engine, the Axes have their final width only when they are drawn.
    """
    available = _area_of(ax).width * ax.figure.bbox.width / ax.figure.dpi
    return min(inches_of(ax)[0] * 72 + labels, available * 72 - 8)


class _Margins:
    """Locator of Axes with margins, which computes their position whenever they are drawn.

    A fixed position would be wrong after ``tight_layout()``, and ``bbox_inches="tight"`` would ignore these Axes.
    """

    def __init__(self, ax: Axes, inches: tuple[float, ...]) -> None:
        self.get_subplotspec = ax.get_subplotspec  # as tight_layout expects
        self.inches = inches

    def __call__(self, ax: Axes, renderer: object) -> Bbox:
        figure, place = ax.figure, ax.get_position(original=True)
        if figure.get_layout_engine() is not None:
            return place
        width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
        left, right, top, bottom = self.inches
        area = _area_of(ax)
        x0, x1 = max(place.x0, area.x0 + left / width), min(place.x1, area.x1 - right / width)
        y0, y1 = max(place.y0, area.y0 + bottom / height), min(place.y1, area.y1 - top / height)
        return Bbox.from_extents(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else place


def _area_of(ax: Axes) -> Bbox:
    """The part of the figure that belongs to an Axes and its labels, in fractions of the figure."""
    spec = ax.get_subplotspec()
    if spec is None:
        return Bbox.unit()
    grid, rows, columns = spec.get_gridspec(), spec.rowspan, spec.colspan
    bottoms, tops, lefts, rights = (list(map(float, edges)) for edges in grid.get_grid_positions(ax.figure))  # type: ignore[arg-type]
    # From left to right and from top to bottom; a grid in a cell of another one ends there.
    nested = not isinstance(grid, GridSpec)
    x = [lefts[0] if nested else 0.0, *_middles(rights, lefts), rights[-1] if nested else 1.0]
    y = [tops[0] if nested else 1.0, *_middles(bottoms, tops), bottoms[-1] if nested else 0.0]
    return Bbox.from_extents(x[columns.start], y[rows.stop], x[columns.stop], y[rows.start])


def _middles(ends: Sequence[float], starts: Sequence[float]) -> list[float]:
    """Middles of the gaps between each cell and the next one."""
    return [(end + start) / 2 for end, start in zip(ends[:-1], starts[1:], strict=True)]


def side_bar(ax: Axes, mappable: ScalarMappable, label: str, short: str, *, cax: Axes | None = None) -> Colorbar:
    """Add a color bar at the right side of a map, as high as the map, or for a flat map a third of its width.

    Args:
        ax: Axes of the map, whose aspect is set.
        mappable: The colors of the map.
        label: Label of the bar.
        short: Label of a bar that is too short for ``label``.
        cax: Axes to draw the bar on instead.
    """
    if cax is None:
        width, height = inches_of(ax)
        available = _place_of(ax).height * ax.figure.bbox.height / ax.figure.dpi
        tall = max(height, min(width / 3, available)) / height
        cax = ax.inset_axes((1 + 0.07 / width, (1 - tall) / 2, 0.1 / width, tall))
    bar = figure_of(ax).colorbar(mappable, cax=cax, extend="min" if isinstance(mappable.norm, LogNorm) else None)
    points = inches_of(cax)[1] * 72
    bar.set_label(label if text_points(label, mpl.rcParams["axes.labelsize"]) <= points else short)
    bar.outline.set_linewidth(0.6)
    cax.tick_params(width=0.6, size=2.5)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    return bar


def log_ticks(axis: Axis, low: float, high: float, scale: float = 1.0) -> None:
    """Set ticks on a logarithmic axis from ``low`` to ``high``: powers of ten, and other numbers if those are few.

    Args:
        axis: Axis to change.
        low: Lower limit of the axis.
        high: Upper limit of the axis; at least two ticks are shown if it is more than twice as high.
        scale: Factor of the labels, such as 100 for percent.
    """
    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)):
        if sum(low <= step * decade <= high for step in steps for decade in decades) >= 3:
            break
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:g}"))
    axis.set_minor_locator(NullLocator())


def by_rows(entries: Sequence[_Entry], columns: int) -> list[_Entry]:
    """Entries of a legend, which is filled by columns, such that its rows have their order."""
    return [entry for first in range(columns) for entry in entries[first::columns]]


def block_side(width: int, inches: float) -> int:
    """Side of the blocks of pixels that are drawn as one cell."""
    return max(math.ceil(width / (_FINEST_DPI * inches) - 1e-6), 1)


def block_means(values: npt.NDArray[np.float64], block: int) -> npt.NDArray[np.float64]:
    """Means over squares of ``block`` pixels, which are smaller at the lower and right edges."""
    if block == 1:
        return values
    starts = [np.arange(0, length, block) for length in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    counts = [np.diff(np.append(start, length)) for start, length in zip(starts, values.shape, strict=True)]
    return np.asarray(sums / np.outer(*counts))


@cache
def _glyphs() -> frozenset[int]:
    """Code points that the font of the figures has."""
    return frozenset(get_font(findfont(FontProperties(family=_STYLE["font.family"]))).get_charmap())


def drawable(text: str) -> str:
    r"""Text on one line, with all characters escaped that are not printable or not in the font of the figures.

    Every text from outside this package, such as the name of a model, is passed through this function or one that
    calls it (:func:`fitted`, :func:`fitted_lines`) before it is added to a figure. matplotlib would draw boxes instead
    of such characters, with a warning for each.
    """
    return "".join(
        character if ord(character) in _glyphs() else character.encode("unicode_escape").decode("ascii")
        for character in printable(text)
    )


@lru_cache(4096)
def text_points(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in the font of the figures, in points, at any resolution."""
    font = FontProperties(family=_STYLE["font.family"], size=size, weight=weight)
    # Hinting makes small letters at low resolutions up to 6 % wider than their outlines.
    return 1.07 * float(text_to_path.get_text_width_height_descent(drawable(text), font, ismath=False)[0])


def fitted(text: str, points: float, size: float, weight: str = "normal") -> str:
    """:func:`drawable` text, shortened if it is wider than ``points``; at least eight characters are kept."""
    text = short = drawable(text)
    letters = len(text)
    while letters > 8 and text_points(short, size, weight) > points:
        letters -= 1
        short = shortened(text, letters)
    return short


def fitted_lines(text: str, points: float, size: float, weight: str = "normal") -> list[str]:
    """:func:`drawable` text, broken into lines no wider than ``points``.

    Lines end between words, and in wider words, such as names of models, after punctuation.
    """
    lines: list[str] = []
    for word in drawable(text).split(" "):
        parts = [word] if text_points(word, size, weight) <= points else _NAME_PART.findall(word)
        for index, part in enumerate(parts or [word]):
            longer = f"{lines[-1]}{'' if index else ' '}{part}" if lines else part
            if lines and text_points(longer, size, weight) <= points:
                lines[-1] = longer
            else:
                lines.append(fitted(part, points, size, weight))
    return lines


def badge_style() -> dict[str, Any]:
    """Style of the text of the badge for random weights."""
    return {
        "fontsize": SMALL_SIZE,
        "fontweight": "bold",
        "color": "black",
        "gid": "random weights",
        "bbox": {"boxstyle": f"round,pad={_BADGE_PAD}", "facecolor": _ALERT, "edgecolor": "none"},
    }


@dataclass(frozen=True)
class Line:
    """A line of text next to a plot."""

    text: str
    size: float = SMALL_SIZE
    color: str = MUTED
    weight: str = "normal"
    is_badge: bool = False

    @property
    def indent(self) -> float:
        """Distance of the text from the left margin, in points, such that a badge starts there."""
        return _BADGE_PAD * self.size if self.is_badge else 0.0

    @property
    def style(self) -> dict[str, Any]:
        """Keyword arguments of a text of matplotlib."""
        style: dict[str, Any] = {"fontsize": self.size, "color": self.color, "fontweight": self.weight}
        return (badge_style() if self.is_badge else style) | {"parse_math": False}

    def fitted(self, points: float) -> str:
        """The text, shortened to a width of ``points``."""
        return fitted(self.text, points - 2 * self.indent, self.size, "bold" if self.is_badge else self.weight)


def title_line(text: str) -> Line:
    """The first line of a heading."""
    return Line(text, TITLE_SIZE, INK, "bold")


def weights_text(weights: WeightsInfo) -> str:
    """Provenance of weights in a figure: the label without the digest, which the result has, and the name of a file."""
    label = weights.own_label
    if weights.sha256:
        label = label.removesuffix(f" [{weights.sha256[:8]}]")
    label = f"weights from {label.removeprefix('file:')}" if label.startswith("file:") else label
    return label if weights.head is None else f"{label}, {head_text(weights.head)}"


def head_text(head: HeadInfo) -> str:
    """A head in a figure, likewise."""
    return head.label.removesuffix(f" [{head.sha256[:8]}]").replace(" file:", " from ")


def weights_line(weights: WeightsInfo, points: float = math.inf) -> Line:
    """Provenance of weights as a line of a heading: a badge if they are random.

    Args:
        weights: The weights.
        points: Width of the line, into which a shorter text is chosen to fit.
    """
    text = weights_text(weights)
    short = [text.rpartition(" (")[0] or text] if weights.is_random else []
    short += ["trained on synthetic data", "synthetic data"] if weights.is_embedded else []
    lines = [Line(one, is_badge=weights.is_random) for one in (text, *short)]
    return next((line for line in lines if line.fitted(points) == drawable(line.text)), lines[-1])


def add_heading(figure: Figure, lines: Iterable[Line], left: float, top: float = 0.06) -> None:
    """Add lines at the upper edge of a figure, shortened to its width.

    Args:
        figure: The figure.
        lines: Lines to add.
        left: Distance from the left border of the figure, and of a long line from the right one, in inches.
        top: Distance of the first line from the upper border, in inches.
    """
    width, height = map(float, figure.get_size_inches())
    for line in lines:
        x = (left + line.indent / 72) / width
        figure.text(x, 1 - top / height, line.fitted((width - 2 * left) * 72), va="top", **line.style)
        top += line.size * LINE / 72


def heading_inches(lines: Iterable[Line]) -> float:
    """Height of the lines of a heading, in inches."""
    return sum(line.size for line in lines) * LINE / 72


def threshold_colors(thresholds: Iterable[float]) -> dict[float, tuple[float, ...]]:
    """The color of each threshold, in increasing order, from light to dark.

    The lightest has a contrast of 3 to white.
    """
    ordered = sorted(set(thresholds))
    shades: Any = sns.color_palette("crest", as_cmap=True)  # type: ignore[no-untyped-call]
    return {one: tuple(shades(place)) for one, place in zip(ordered, np.linspace(0.32, 1, len(ordered)), strict=True)}


def halo(linewidth: float) -> list[AbstractPathEffect]:
    """Path effects of a white line on a map: a dark outline on both sides."""
    return [withStroke(linewidth=linewidth + 0.9, foreground=HALO)]


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG for a screen."""
    stream = io.BytesIO()
    with figure_style():
        figure.savefig(stream, format="png", dpi=_SCREEN_DPI)
    return stream.getvalue()


def save_figure(figure: Figure, folder: Path, stem: str, width: int) -> tuple[Path, ...]:
    """Write a figure, whose first map is ``width`` pixels wide, in the formats of the preset; returns the files.

    These are PNG and PDF unless a preset was chosen.
    """
    # An integer number of dots per cell of the first map, so that resampling causes no moiré pattern.
    inches = inches_of(figure.axes[0])[0]
    cells = width / block_side(width, inches)
    factor = 1.0
    if preset() is not USUAL:
        factor = min(preset().magnification, preset().page / figure.get_figwidth())
    dpi = math.ceil(MIN_DPI * factor * inches / cells) * cells / inches
    # No timestamp, so that equal results give equal bytes.
    metadata: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    written = []
    with figure_style(), _small_fonts():
        for suffix in preset().formats:
            target = folder / f"{stem}.{suffix}"
            stream = io.BytesIO()  # matplotlib does not report every error of writing a file
            if preset() is USUAL:
                figure.savefig(stream, format=suffix, dpi=dpi, metadata=metadata[suffix])
            else:
                _save_magnified(figure, stream, suffix, dpi, metadata[suffix], factor)
            atomic_write_bytes(target, stream.getvalue())
            written.append(target)
    return tuple(written)


def remove_figures(folder: str | Path, *stems: str) -> None:
    """Remove the files that :func:`save_figure` wrote in an earlier run, in any format."""
    for stem in stems:
        for suffix in SUFFIXES:
            (Path(folder) / f"{stem}.{suffix}").unlink(missing_ok=True)


@contextmanager
def _small_fonts() -> Iterator[None]:
    """Context manager in which matplotlib embeds fonts in PDF files without the tables for the layout of text.

    It has no option for this. Reading these tables takes two thirds of the time of embedding a font. A version of
    matplotlib that embeds fonts in another way is left as it is.
    """
    module: Any = getattr(backend_pdf, "_backend_pdf_ps", None)
    subset: Any = getattr(module, "subset", None)
    is_usual = module is not None and subset is sys.modules.get("fontTools.subset")
    if not is_usual:
        yield
        return

    def load_font(*args: Any, **given: Any) -> Any:
        font = subset.load_font(*args, **given)
        for tag in _LAYOUT_TABLES:
            if tag in font:
                del font[tag]
        return font

    module.subset = SimpleNamespace(**vars(subset) | {"load_font": load_font})
    try:
        yield
    finally:
        module.subset = subset


def _save_magnified(
    figure: Figure, stream: io.BytesIO, suffix: str, dpi: float, metadata: dict[str, Any], factor: float
) -> None:
    """Write a figure whose width is ``factor`` times that of the figure.

    Args:
        figure: The figure.
        stream: Stream to write to.
        suffix: ``"png"``, ``"pdf"`` or ``"svg"``.
        dpi: Dots per inch of the figure as drawn, for PNG and the pixels inside the others.
        metadata: Metadata of the file.
        factor: Magnification.
    """
    if suffix == "pdf":
        try:
            _MagnifiedPdf(figure, factor).print_figure(stream, format="pdf", dpi=dpi, metadata=metadata)
        finally:
            FigureCanvasAgg(figure)
    elif suffix == "svg":
        drawn = io.BytesIO()
        # A fixed salt, so that equal figures give equal bytes. Text is saved as outlines, which need no font.
        with mpl.rc_context({"svg.hashsalt": "replk-probe", "svg.fonttype": "path"}):
            figure.savefig(drawn, format="svg", dpi=dpi, metadata=metadata)
        # The first two are those of the page, whose coordinates stay the same.
        resized = _SVG_SIZE.sub(
            lambda found: b'%s="%.6gpt"' % (found["name"], factor * float(found["points"])), drawn.getvalue(), count=2
        )
        stream.write(resized)
    else:
        # The size of a PNG file in inches is its number of dots by this number.
        dots = round(dpi / factor / 0.0254)
        figure.savefig(stream, format="png", dpi=dpi, metadata=metadata, pil_kwargs={"dpi": (dots * 0.0254,) * 2})


class _MagnifiedPdf(FigureCanvasPdf):
    """A canvas that writes PDF files in which the coordinates of the page are magnified."""

    def __init__(self, figure: Figure, factor: float) -> None:
        super().__init__(figure)
        self._factor = factor

    def print_pdf(self, filename: Any, *, bbox_inches_restore: Any = None, metadata: Any = None, **_: Any) -> None:
        """Write the figure, as the method of the base class does."""
        dpi = self.figure.dpi
        self.figure.dpi = 72  # points, the unit of PDF
        width, height = self.figure.get_size_inches()
        pdf: Any = backend_pdf
        file = pdf.PdfFile(filename, metadata=metadata)
        try:
            file.newPage(width * self._factor, height * self._factor)
            file.output(self._factor, 0, 0, self._factor, 0, 0, pdf.Op.concat_matrix)
            vector = pdf.RendererPdf(file, dpi, height, width)
            renderer = pdf.MixedModeRenderer(
                self.figure, width, height, dpi, vector, bbox_inches_restore=bbox_inches_restore
            )
            self.figure.draw(renderer)
            renderer.finalize()
            file.finalize()
        finally:
            file.close()
