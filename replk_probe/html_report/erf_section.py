"""The part of the page on effective receptive fields."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from replk_probe.collection import Saved
from replk_probe.erf.area_protocols import PROTOCOLS
from replk_probe.erf.labels import size_label
from replk_probe.erf.map_numbers import ALL_LABELS, ErfNumbers
from replk_probe.erf.plot import color_floor, square_edges
from replk_probe.erf.result import ErfResult
from replk_probe.plot_style import figure_of, png_bytes
from replk_probe.runtime.formatting import counted, dimensions, percent

from .charts import Chart, Curve, Tick, line_chart, round_ticks
from .map_images import block_of, map_image, set_images
from .names import erf_names
from .number_texts import NO_CELL, Badge, Cell, Interval, badge, interval_text, number, percent_text, share, side_text

Point: TypeAlias = tuple[float, float, Interval | None]

_NEARLY_ALL = 0.995  # share of the total at which the axis of the radial curves may end
# Protocol and threshold that the page shows first, where they were measured.
FIRST_PROTOCOL, FIRST_THRESHOLD = "centred", 0.5
PROTOCOL_TEXTS = {
    "centred": "squares around the center of the receptive field",
    "pixels": "the fewest pixels, wherever they are",
    "paper": "squares around the middle pixel, of log10(score + 1), as published",
    "linear": "squares around the middle pixel, of the scores",
}


@dataclass(frozen=True)
class ErfCard:
    """One map.

    Attributes:
        name: Name of the model, with what differs from other results of the same model.
        badge: Kind of its weights.
        style: Index of its color and marker.
        conditions: Images, size and layer.
        size: Height and width of the map, or None if it does not have two axes.
        cell: Side of the squares of pixels that are drawn as one.
        logarithmic: Image of the map on a logarithmic scale.
        linear: Image of the map on a linear scale.
        figure: Figure of a sequence or a volume instead of the images.
        center: Center of the receptive field (y, x), in edges of pixels.
        values: Value, interval, side, window and layer of pixels by protocol and threshold.
        rows: Protocol, and a cell for each threshold of the page.
        notes: Notes on the result.
    """

    name: str
    badge: Badge
    style: int
    conditions: str
    size: tuple[int, int] | None
    cell: int
    logarithmic: str
    linear: str
    figure: str
    center: tuple[float, float]
    values: dict[str, dict[str, dict[str, Any]]]
    rows: list[tuple[str, list[Cell]]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ErfSection:
    """All maps, and the charts of all models.

    Attributes:
        cards: The maps.
        protocols: Protocols that were measured, with what their windows are.
        thresholds: Keys and labels of the thresholds, ascending.
        protocol: The protocol that is shown first.
        threshold: Index of the threshold that is shown first.
        floor_ticks: Ticks of the color bar on the logarithmic scale, in fractions of its length.
        reduced: Whether maps are drawn as means over squares of pixels.
        radial: Chart of the share within a radius, or None.
        convergence: Protocol, threshold and chart of the ratios as functions of the number of images.
        numbered: Names of the models with further numbers.
        numbers: Further numbers: label, unit, and a cell for each of these models.
    """

    cards: list[ErfCard]
    protocols: list[tuple[str, str]]
    thresholds: list[tuple[str, str]]
    protocol: str
    threshold: int
    floor_ticks: list[Tick]
    reduced: bool
    radial: Chart | None
    convergence: list[tuple[str, str, Chart]]
    numbered: list[str]
    numbers: list[tuple[str, str, list[Cell]]]


def erf_section(saved: Sequence[Saved[ErfResult]], styles: Sequence[int]) -> ErfSection | None:
    """The section, or None without results; ``styles`` has the color of each result."""
    if not saved:
        return None
    results = [one.result for one in saved]
    labels = erf_names(results)
    thresholds = sorted({threshold for result in results for threshold in result.thresholds})
    protocols = [name for name in PROTOCOL_TEXTS if any(name in result.protocols for result in results)]
    maps = [result for result in results if len(result.input_size) == 2]
    floor = color_floor(maps) if maps else 0.1
    cards = [
        _card(result, label, style, floor, thresholds)
        for result, label, style in zip(results, labels, styles, strict=True)
    ]
    decades = range(round(-_decades(floor)), 1)
    first = FIRST_THRESHOLD if FIRST_THRESHOLD in thresholds else thresholds[len(thresholds) // 2]
    return ErfSection(
        cards=cards,
        protocols=[(name, PROTOCOL_TEXTS[name]) for name in protocols],
        thresholds=[(threshold_key(one), percent(one)) for one in thresholds],
        protocol=FIRST_PROTOCOL if FIRST_PROTOCOL in protocols else protocols[0],
        threshold=thresholds.index(first),
        floor_ticks=[Tick(1 + power / _decades(floor), _power(power)) for power in decades],
        reduced=any(card.cell > 1 for card in cards),
        radial=_radial(results, labels, styles),
        convergence=[
            (protocol, threshold_key(threshold), chart)
            for protocol in protocols
            for threshold in thresholds
            if (chart := _convergence(results, labels, styles, protocol, threshold)) is not None
        ],
        numbered=[label for result, label in zip(results, labels, strict=True) if result.numbers is not None],
        numbers=_numbers([result.numbers for result in results if result.numbers is not None]),
    )


def threshold_key(threshold: float) -> str:
    """The threshold as it is written in the record, by which the script finds values."""
    return repr(threshold)


def conditions_of(result: ErfResult) -> str:
    """Size, images and layer of a measurement, in a few words."""
    unit = size_label(result.input_size) if len(result.input_size) == 2 else dimensions(result.input_size)
    images = [] if result.n_images is None else [counted(result.n_images, "image")]
    further = [
        part for part in (result.definition, *([] if result.position == "center" else [result.position])) if part
    ]
    return ", ".join([unit, *images, result.layer, *further])


def ratio_cell(result: ErfResult, protocol: str, threshold: float) -> Cell | None:
    """The ratio of one protocol and threshold, or None if it was not measured."""
    row = next((row for row in result.ratios if (row.protocol, row.threshold) == (protocol, threshold)), None)
    return None if row is None else share(row.ratio, row.ci95)


def _card(result: ErfResult, label: str, style: int, floor: float, thresholds: Sequence[float]) -> ErfCard:
    is_map = len(result.input_size) == 2
    height, width = result.input_size if is_map else (1, 1)
    scores = result.contribution
    values: dict[str, dict[str, dict[str, Any]]] = {}
    counts = {row.threshold: round(row.ratio * scores.size) for row in result.ratios if row.protocol == "pixels"}
    outside = dict(zip(counts, set_images(scores, [*counts.values()]), strict=True)) if is_map else {}
    for row in result.ratios:
        entry: dict[str, Any] = {
            "ratio": percent_text(row.ratio),
            "interval": interval_text(row.ci95),
            "side": side_text(row.side),
        }
        if is_map and row.protocol != "pixels":
            left, top, right, bottom = square_edges(result, row.protocol, row.threshold)
            entry["window"] = [left, top, right - left, bottom - top]
        elif is_map:
            entry["outside"] = outside[row.threshold]
        values.setdefault(row.protocol, {})[threshold_key(row.threshold)] = entry
    return ErfCard(
        name=label,
        badge=badge(result.run.weights),
        style=style,
        conditions=conditions_of(result),
        size=(height, width) if is_map else None,
        cell=block_of(height, width),
        logarithmic=map_image(scores, floor) if is_map else "",
        linear=map_image(scores) if is_map else "",
        figure="" if is_map else _figure(result),
        center=(result.center[0] + 0.5, result.center[1] + 0.5) if is_map else (0.0, 0.0),
        values=values,
        rows=[
            (name, [ratio_cell(result, name, one) or Cell("\u2013") for one in thresholds])
            for name in PROTOCOLS
            if name in result.protocols
        ],
        notes=result.notes,
    )


def _numbers(found: Sequence[ErfNumbers]) -> list[tuple[str, str, list[Cell]]]:
    """Label, unit and values of every further number, each with a cell for each map."""
    rows: dict[tuple[str, str], list[Cell]] = {}
    for index, numbers in enumerate(found):
        for label, unit, one in _labeled(numbers):
            rows.setdefault((label, unit), [NO_CELL] * len(found))[index] = one
    return [(label, unit, cells) for (label, unit), cells in rows.items()]


def _labeled(numbers: ErfNumbers) -> Iterator[tuple[str, str, Cell]]:
    """Label, unit and value of every further number of a map."""
    for threshold, radius, interval in numbers.radii():
        yield f"radius with {percent(threshold)} of the total", "px", _with_interval(number(radius), interval)
    for name, (value, interval) in numbers.named().items():
        label, unit = ALL_LABELS[name]
        cell = share(value, interval) if unit == "%" else _with_interval(number(value), interval)
        yield label, "" if unit == "%" else unit, cell


def _with_interval(cell: Cell, interval: Interval | None) -> Cell:
    text = "" if interval is None else " to ".join(f"{end:.4g}" for end in interval)
    return Cell(cell.text, cell.value, text)


def _radial(results: Sequence[ErfResult], labels: Sequence[str], styles: Sequence[int]) -> Chart | None:
    curves = []
    for result, label, style in zip(results, labels, styles, strict=True):
        if result.numbers is None:
            continue
        shares = result.numbers.radial_share
        intervals = result.numbers.radial_share_ci95 or (None,) * len(shares)
        points = [(float(radius), held, ends) for (radius, held), ends in zip(shares, intervals, strict=True)]
        curves.append(Curve(label, style, result.run.weights.is_random, points))
    if not curves:
        return None
    # Inputs of several sizes would have most curves in the first pixels of the axis.
    end = round_ticks(max(_radius_of(curve, _NEARLY_ALL) for curve in curves))[-1]
    return line_chart(
        "Share of the total contribution within a radius around the center of the receptive field",
        [replace(curve, points=_thinned([point for point in curve.points if point[0] <= end])) for curve in curves],
        "Radius, px",
        "Share of the total, %",
        lambda name, x, y, ends: (
            f"{name}: {percent_text(y)} % within {x:g} px" + (f" ({interval_text(ends)})" if ends is not None else "")
        ),
        y_max=1.0,
    )


def _radius_of(curve: Curve, share_of_total: float) -> float:
    """The first radius with at least this share of the total."""
    return next((x for x, y, _ in curve.points if y >= share_of_total), curve.points[-1][0])


def _thinned(points: list[Point]) -> list[Point]:
    """At most about 130 points, which are as many as the drawing can show, the first and the last one among them."""
    step = max(len(points) // 128, 1)
    return [*points[:-1:step], points[-1]]


def _convergence(
    results: Sequence[ErfResult], labels: Sequence[str], styles: Sequence[int], protocol: str, threshold: float
) -> Chart | None:
    curves = []
    for result, label, style in zip(results, labels, styles, strict=True):
        if result.convergence is None:
            continue
        for curve in result.convergence.ratios:
            if (curve.protocol, curve.threshold) != (protocol, threshold):
                continue
            points = [
                (float(n), value, None if half is None else (max(value - half, 0.0), min(value + half, 1.0)))
                for n, value, half in zip(result.convergence.n_images, curve.values, curve.half_widths, strict=True)
            ]
            curves.append(Curve(label, style, result.run.weights.is_random, points, marks=True))
    if not any(len(curve.points) > 1 for curve in curves):
        return None
    return line_chart(
        f"Area ratio as a function of the number of images, {protocol}, {percent(threshold)}",
        curves,
        "Images",
        "Area ratio, %",
        lambda name, x, y, ends: (
            f"{name}: {percent_text(y)} % with {counted(int(x), 'image')}"
            + (f" ({interval_text(ends)})" if ends is not None else "")
        ),
    )


def _figure(result: ErfResult) -> str:
    with_windows = [name for name in ("centred", "linear") if name in result.protocols]
    content = png_bytes(figure_of(result.plot(protocol=[*with_windows, "paper"][0])))
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _decades(floor: float) -> float:
    return -math.log10(floor)


def _power(power: int) -> str:
    return "1" if power == 0 else f"10{''.join(_SUPERSCRIPT[letter] for letter in str(power))}"


_SUPERSCRIPT = dict(
    zip("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", strict=True)
)
