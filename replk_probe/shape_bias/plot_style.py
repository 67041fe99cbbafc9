"""Styles of observers in the figures of shape bias: colors, markers, labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.colors as mcolors
from matplotlib.axes import Axes
from matplotlib.axis import XAxis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter
from matplotlib.transforms import Transform

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    COLORS,
    GRAY,
    INK,
    LINE,
    SMALL_SIZE,
    Line,
    fitted,
    fitted_lines,
    text_points,
)

from .observers import Observer
from .plot_icons import near
from .published import SOURCE, TITLES

ABOVE, BELOW, MARGIN = 0.36, 0.4, 0.06  # inches: of a frame with its ticks and label; around a figure
NEXT_TO = 4.0  # points between a frame and adjacent text
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)

# The numbers of colors and markers are coprime, so that their combinations differ.
_MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">", "p", "h")
_SIZES = {"o": 4.3, "s": 4.1, "P": 5.4, "X": 5.2}  # points, for equal apparent size
_EDGE = 0.4


@dataclass(frozen=True)
class Style:
    """Style of one observer."""

    label: str  # unique name, or the title of a published observer
    color: str  # color of markers, bar and line
    marker: str  # marker in matplotlib's notation
    size: float  # size of the marker in points
    random: bool = False  # whether the weights are random, shown by hollow markers
    individual: bool = False  # whether the observer is an individual human, shown by a tick

    @property
    def marker_style(self) -> dict[str, Any]:
        """Keyword arguments of a marker."""
        style: dict[str, Any] = {"marker": self.marker, "markersize": self.size, "linestyle": "none"}
        if self.individual:
            return style | {"color": self.color, "markeredgewidth": 0.8}
        if self.random:
            hollow = {"markersize": self.size - 0.5, "markerfacecolor": "white", "markeredgewidth": 1.0}
            return style | {"color": self.color} | hollow
        return style | {"color": self.color, "markeredgecolor": "white", "markeredgewidth": _EDGE}

    @property
    def tint(self) -> tuple[float, ...]:
        """A lighter color, so that an interval is visible on its bar."""
        return tuple(0.38 * part + 0.62 for part in mcolors.to_rgb(self.color))


def arranged(observers: Sequence[Observer]) -> tuple[Observer, ...]:
    """Observers in the order of figures: models, pooled humans, individual humans.

    Raises:
        InvalidInputError: There are no observers, or their categories differ.
    """
    if not observers:
        raise InvalidInputError("There is nothing to draw. A figure requires at least one observer. Give some.")
    for one in observers:
        if one.counts.categories != observers[0].counts.categories:
            raise InvalidInputError(
                f"Observers {observers[0].name!r} and {one.name!r} cannot share a figure. Their categories differ. "
                "Draw observers of one stimulus set."
            )
    return tuple(one for kind in ("model", "humans", "human") for one in observers if one.kind == kind)


def styles_of(observers: Sequence[Observer], random: Sequence[Observer] = ()) -> tuple[Style, ...]:
    """Styles of observers, which differ in color and marker.

    Args:
        observers: Observers in the order of :func:`arranged`.
        random: Observers among these whose weights are random.
    """
    names = [TITLES.get(one.name, one.name) if one.source == SOURCE else one.name for one in observers]
    counted = Counter(names)
    found = []
    models = 0
    for one, name in zip(observers, names, strict=True):
        source = "this run" if one.source == "measured" else one.source.partition(":")[0]
        label = f"{name} ({source})" if counted[name] > 1 and source else name
        if one.kind == "model":
            is_random = any(one is other for other in random)
            color, marker = COLORS[models % len(COLORS)], _MARKERS[models % len(_MARKERS)]
            found.append(Style(label, color, marker, _SIZES.get(marker, 5.0), random=is_random))
            models += 1
        elif one.kind == "humans":
            found.append(Style(label, INK, "D", 4.4))
        else:
            found.append(Style(label, GRAY, "|", 4.2, individual=True))
    return tuple(found)


def fitted_labels(labels: Sequence[str], points: float, size: float) -> list[str]:
    """Labels shortened to a width of ``points`` in bold; different labels remain different."""
    short = [fitted(label, points, size, "bold") for label in labels]
    if len(set(short)) == len(set(labels)):
        return short
    order = list(dict.fromkeys(labels))
    numbers = [f" #{order.index(label) + 1}" for label in labels]
    return [
        fitted(label, points - text_points(number, size, "bold"), size, "bold") + number if text != label else label
        for label, text, number in zip(labels, short, numbers, strict=True)
    ]


def add_sample(ax: Axes, style: Style, at: tuple[float, float], anchor: Transform, points: tuple[float, float]) -> None:
    """Draw a sample marker outside of the frame, offset from ``at`` to the right and upwards by ``points``."""
    ax.add_artist(
        Line2D(
            [points[0]],
            [points[1]],
            transform=near(ax, at, anchor),
            clip_on=False,
            gid=f"sample {style.label}",
            **style.marker_style,
        )
    )


def add_lines(ax: Axes, sentences: Sequence[str], at: tuple[float, float], width: float) -> None:
    """Add a caption at most ``width`` points wide, offset from the lower left corner of the frame by ``at`` points."""
    for index, line in enumerate(fitted_lines(" ".join(sentences), width, SMALL_SIZE)):
        ax.annotate(
            line,
            (0, 0),
            xycoords="axes fraction",
            xytext=(at[0], at[1] - index * SMALL_SIZE * LINE),
            textcoords="offset points",
            va="top",
            annotation_clip=False,
            gid="caption",
            **Line(line).style,
        )


def fraction_limits(fractions: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis of fractions: 0 and 1, or those of the upper or lower tenth if it contains all of them."""
    known = [fraction for fraction in fractions if not math.isnan(fraction)]
    if known and min(known) >= 0.9:
        return 0.9, 1.0
    return (0.0, 0.1) if known and max(known) <= 0.1 else (0.0, 1.0)


def fraction_ticks(axis: XAxis, inches: float, limits: tuple[float, float] = (0.0, 1.0)) -> None:
    """Set ticks in percent between the limits of an axis of the given length, fewer on a short one."""
    low, high = limits
    axis.set_major_locator(FixedLocator([low + tick * (high - low) for tick in _TICKS[:: 1 if inches > 1.1 else 2]]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def caption_inches(sentences: Sequence[str], width: float) -> float:
    """Height of the caption of :func:`add_lines`, in inches; ``width`` is in points."""
    lines = fitted_lines(" ".join(sentences), width, SMALL_SIZE)
    return (len(lines) * SMALL_SIZE * LINE + 4) / 72
