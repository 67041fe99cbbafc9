"""Geometry of the charts of the page, which the template ``charts.html`` draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

# Units of the drawing; the page scales it to the width of the window.
WIDTH, HEIGHT = 440.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 12.0, 40.0
ROW = 21.0  # height of a row of a dot chart
LABEL = 132.0  # width of the labels of the rows
_MOST_FAINT = 24  # markers of a curve without visible ones
MARKERS = ("circle", "square", "triangle", "diamond", "down", "cross")


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: its position in the drawing, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A marker: its position, a text that is shown when it has the pointer or the focus, and ends of its interval."""

    x: float
    y: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One model or variant of a chart.

    Attributes:
        style: Index of its color, marker and dashes, the same in all charts of the page.
        hollow: Whether its markers are hollow, as those of random weights are.
        line: Path of its line, or "".
        band: Path around its intervals, or "".
        marks: Its markers.
        is_faint: Whether a marker is only drawn when it has the pointer or the focus.
    """

    style: int
    hollow: bool
    line: str = ""
    band: str = ""
    marks: tuple[Mark, ...] = ()
    is_faint: bool = False

    @property
    def marker(self) -> str:
        """Name of its marker."""
        return MARKERS[self.style % len(MARKERS)]


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: What it shows, for screen readers.
        width: Width of the drawing.
        height: Height of the drawing.
        plot: Left, top, right and bottom of the plot in the drawing.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis; "" for rows.
        x_ticks: Ticks of the horizontal axis.
        y_ticks: Ticks of the vertical axis, or labels of the rows.
        series: The series.
        is_rows: Whether the vertical axis has rows with names.
        reference: Position and label of a vertical line, or None.
    """

    title: str
    width: float
    height: float
    plot: tuple[float, float, float, float]
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    is_rows: bool = False
    reference: Tick | None = None


@dataclass(frozen=True)
class Curve:
    """Data of a series of a line chart: x, y and the interval of y, or None, of each point.

    Without ``marks``, markers are faint, and only some of many points have one.
    """

    name: str
    style: int
    hollow: bool
    points: Sequence[tuple[float, float, tuple[float, float] | None]]
    marks: bool = False


@dataclass(frozen=True)
class Dots:
    """Data of a series of a dot chart: row, x, interval of x or None, and text of each marker."""

    style: int
    hollow: bool
    points: Sequence[tuple[int, float, tuple[float, float] | None, str]] = field(default=())


def line_chart(
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    text_of: Callable[[str, float, float, tuple[float, float] | None], str],
    y_max: float | None = None,
) -> Chart:
    """A chart of fractions, in percent, against a number from zero on.

    Args:
        title: What it shows.
        curves: The series.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        text_of: The text of a marker, from the name of the series, x, y and the interval.
        y_max: End of the vertical axis; by default a round number above all intervals, at most 1.
    """
    points = [point for curve in curves for point in curve.points]
    x_ticks = round_ticks(max(x for x, _, _ in points))
    highest = max(max(y, interval[1] if interval else y) for _, y, interval in points)
    y_ticks = round_ticks(100 * min(highest, 1.0) if y_max is None else 100 * y_max, most=5)
    x_end, y_end = x_ticks[-1], y_ticks[-1] / 100
    left, top, right, bottom = plot = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)

    def across(x: float) -> float:
        return _rounded(left + (right - left) * x / x_end)

    def down(y: float) -> float:
        return _rounded(bottom - (bottom - top) * min(y, y_end) / y_end)

    series = []
    for curve in curves:
        ends = [(across(x), down(i[0]), down(i[1])) for x, _, i in curve.points if i is not None]
        band = [(x, low) for x, low, _ in ends] + [(x, high) for x, _, high in reversed(ends)]
        step = 1 if curve.marks else math.ceil(len(curve.points) / _MOST_FAINT)
        marks = [Mark(across(x), down(y), text_of(curve.name, x, y, i)) for x, y, i in curve.points[::step]]
        series.append(
            Series(
                curve.style,
                curve.hollow,
                _path((across(x), down(y)) for x, y, _ in curve.points),
                f"{_path(band)}Z" if len(ends) > 1 else "",
                tuple(marks),
                is_faint=not curve.marks,
            )
        )
    return Chart(
        title,
        WIDTH,
        HEIGHT,
        plot,
        x_label,
        y_label,
        tuple(Tick(across(value), f"{value:g}") for value in x_ticks),
        tuple(Tick(down(value / 100), f"{value:g}") for value in y_ticks),
        tuple(series),
    )


def dot_chart(
    title: str,
    rows: Sequence[str],
    series: Sequence[Dots],
    x_label: str,
    *,
    limits: tuple[float, float] | None = None,
    scale: float = 1.0,
    reference: tuple[float, str] | None = None,
) -> Chart:
    """A chart with a row for each name and a marker for each series.

    Args:
        title: What it shows.
        rows: Names of the rows.
        series: The series.
        x_label: Label of the horizontal axis.
        limits: Ends of a linear axis; None for a logarithmic one around all values.
        scale: Factor of the tick labels, such as 100 for percent.
        reference: Value and label of a vertical line.
    """
    left, top, right = LABEL, TOP + (14 if reference else 0), WIDTH - RIGHT - 6
    bottom = top + ROW * len(rows)
    if limits is None:
        values = [x for one in series for _, x, _, _ in one.points]
        low, high = min(values) / 1.25, max(values) * 1.25
        ticks = log_ticks(low, high)

        def share(x: float) -> float:
            return math.log(x / low) / math.log(high / low)
    else:
        low, high = limits
        ticks = [low + (high - low) * step / 4 for step in range(5)]

        def share(x: float) -> float:
            return (x - low) / (high - low)

    def across(x: float) -> float:
        return _rounded(left + (right - left) * min(max(share(x), 0.0), 1.0))

    count = len(series)
    drawn = []
    for index, one in enumerate(series):
        # The markers of a row are a little above each other, so that equal values are all visible.
        offset = 0.0 if count == 1 else (index / (count - 1) - 0.5) * min(0.62 * ROW, 5.0 * (count - 1))
        marks = [
            Mark(across(x), _rounded(top + ROW * (row + 0.5) + offset), text, *(map(across, ends) if ends else ()))
            for row, x, ends, text in one.points
        ]
        drawn.append(Series(one.style, one.hollow, marks=tuple(marks)))
    return Chart(
        title,
        WIDTH,
        bottom + BOTTOM,
        (left, top, right, bottom),
        x_label,
        "",
        tuple(Tick(across(value), f"{scale * value:g}") for value in ticks),
        tuple(Tick(top + ROW * (row + 0.5), name) for row, name in enumerate(rows)),
        tuple(drawn),
        is_rows=True,
        reference=None if reference is None else Tick(across(reference[0]), reference[1]),
    )


def round_ticks(highest: float, most: int = 6) -> list[float]:
    """Round numbers from zero to the first one that is not below ``highest``, at most ``most`` steps."""
    target = max(highest, 1e-12)
    power = 10.0 ** math.floor(math.log10(target / most))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * most >= target * (1 - 1e-9))
    return [round(step * index, 12) for index in range(math.ceil(target / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis: those of 1, 2 and 5 in each decade, or only powers of ten if those are many.

    At least the two ends if there are no others.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        found = [value for power in decades for value in (f * 10.0**power for f in factors) if low <= value <= high]
        if len(found) <= 7:
            break
    return [float(f"{value:.6g}") for value in found] if len(found) > 1 else [float(f"{v:.2g}") for v in (low, high)]


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _rounded(value: float) -> float:
    return round(value, 1)
