"""Style, sizes and files of all figures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import atomic_path
from replk_probe.runtime.escaping import printable

MIN_DPI = 300
_SCREEN_DPI = 150
MAP_INCHES = 2.56  # 1024 px at 400 dots per inch: one dot per input pixel
BAR_INCHES = 0.72  # color bar with tick labels and label
_FINEST_DPI = 400  # maps of higher resolution are drawn as means over blocks of pixels

INK, MUTED, ALERT, ALERT_TEXT = "#1a1a1a", "#5a5a5a", "#ffb000", "#b03a00"
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # included in matplotlib, so that figures are the same everywhere
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
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "figure.dpi": 100.0,
    "pdf.fonttype": 42,  # embeds the font, so that text can be selected
}


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


def check_axes(ax: object) -> None:
    """Raise InvalidInputError unless ``ax`` is an Axes or None."""
    if ax is not None and not isinstance(ax, Axes):
        raise InvalidInputError(
            f"Expected ax as Axes of matplotlib, but got an object of type {type(ax).__name__}. "
            "Give one Axes, or None for a new figure."
        )


def figure_of(ax: Axes) -> Figure:
    """The top-level figure of an Axes, which may be in a subfigure."""
    return ax.figure.canvas.figure


def inches_of(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes as drawn, in inches."""
    ax.apply_aspect()
    box = ax.get_window_extent()
    return box.width / figure_of(ax).dpi, box.height / figure_of(ax).dpi


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


def percent(share: float, decimals: int | None = None) -> str:
    """A fraction as text in percent.

    Args:
        share: Fraction; NaN is shown as a dash.
        decimals: Number of decimals; by default as many as the fraction needs (``"99 %"``).
    """
    if math.isnan(share):
        return "-"
    return f"{100 * share:g} %" if decimals is None else f"{100 * share:.{decimals}f} %"


def shortened(text: str, letters: int, head: int | None = None) -> str:
    """``text`` in at most ``letters`` characters: its middle is omitted, and the first ``head`` characters are kept."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 2 if head is None else head
    return text[:head] + "\u2026" + text[len(text) - (letters - 1 - head) :]


def text_points(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in the font of the figures, in points, at any resolution."""
    font = FontProperties(family=_STYLE["font.family"], size=size, weight=weight)
    # Hinting makes small letters at low resolutions up to 6 % wider than their outlines.
    return 1.07 * float(text_to_path.get_text_width_height_descent(printable(text), font, ismath=False)[0])


def fitted(text: str, points: float, size: float, weight: str = "normal") -> str:
    """``text``, shortened if it is wider than ``points``; at least eight characters are kept."""
    letters = len(text)
    short = text
    while letters > 8 and text_points(short, size, weight) > points:
        letters -= 1
        short = shortened(text, letters)
    return short


def wrapped(text: str, points: float, size: float) -> list[str]:
    """Break a text into lines no wider than ``points``."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_points(longer, size) <= points:
            lines[-1] = longer
        else:
            lines.append(fitted(word, points, size))
    return lines


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG for a screen."""
    stream = io.BytesIO()
    _escape_labels(figure)
    with figure_style():
        figure.savefig(stream, format="png", dpi=_SCREEN_DPI)
    return stream.getvalue()


def save_figure(figure: Figure, folder: Path, stem: str, width: int) -> tuple[Path, ...]:
    """Write a figure, whose first map is ``width`` pixels wide, as PNG and PDF; returns the files."""
    _escape_labels(figure)
    # An integer number of dots per cell of the first map, so that resampling causes no moiré pattern.
    inches = inches_of(figure.axes[0])[0]
    cells = width / block_side(width, inches)
    dpi = math.ceil(MIN_DPI * inches / cells) * cells / inches
    # No timestamp, so that equal results give equal bytes.
    metadata: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}}
    written = []
    with figure_style():
        for suffix, extra in metadata.items():
            target = folder / f"{stem}.{suffix}"
            with atomic_path(target) as path:
                figure.savefig(path, format=suffix, dpi=dpi, metadata=extra)
            written.append(target)
    return tuple(written)


def _escape_labels(figure: Figure) -> None:
    """Escape what comes from outside, such as a model name, in every text of a figure; line breaks stay."""
    for label in figure.findobj(Text):
        label.set_text("\n".join(map(printable, label.get_text().split("\n"))))
