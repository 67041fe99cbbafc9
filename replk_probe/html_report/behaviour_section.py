"""The part of the page on decisions on the sets of model-vs-human."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from replk_probe.behaviour.consistency import PAIRED
from replk_probe.behaviour.display_names import with_display_names
from replk_probe.behaviour.result import BehaviourResult
from replk_probe.behaviour.scores import Bootstrap, OverallScores, Scores
from replk_probe.collection import Saved
from replk_probe.runtime.formatting import counted
from replk_probe.runtime.provenance import RunInfo

from .charts import Chart, Dots, dot_chart
from .names import with_names
from .number_texts import Badge, Cell, Interval, badge, number, percent_text, share

_PEOPLE = -1  # style of people and imported networks, who are drawn in gray

# Possible ends of the axis of error consistencies, which has four steps.
_LIMITS = ((0.0, 0.4), (0.0, 0.8), (-0.2, 0.6), (-1.0, 1.0))

HEAD = ("OOD accuracy", "accuracy difference", "observed consistency", "error consistency", "mean rank")


@dataclass(frozen=True)
class ObserverRow:
    """One observer: its name, the kind of its weights or None, its style, and the cells of its row."""

    name: str
    badge: Badge | None
    style: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class SetGroup:
    """The results on the same sets.

    Attributes:
        name: The sets.
        head: Names of the numbers.
        observers: Measured networks, imported networks, and the mean of people.
        charts: Title and chart of the accuracy and of the error consistency by set.
        shown: Name and style of the observers in the charts, and whether their markers are hollow.
        remarks: What the table or the charts leave out.
        notes: Each note with the names of its models, which are empty if it is about all of them.
    """

    name: str
    head: tuple[str, ...]
    observers: list[ObserverRow]
    charts: list[tuple[str, Chart]]
    shown: list[tuple[str, int, bool]]
    remarks: list[str]
    notes: list[tuple[list[str], str]]


def behaviour_section(saved: Sequence[Saved[BehaviourResult]], styles: Sequence[int]) -> list[SetGroup]:
    """A part for each choice of sets; ``styles`` has the color of each result."""
    results = with_display_names([one.result for one in saved])
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, result in enumerate(results):
        groups.setdefault(tuple(one.name for one in result.sets), []).append(index)
    return [
        _group([results[index] for index in members], [styles[index] for index in members])
        for members in groups.values()
    ]


def _group(results: Sequence[BehaviourResult], styles: Sequence[int]) -> SetGroup:
    sets = [one.name for one in results[0].sets]
    rows, shown, drawn = [], [], []
    measured = {result.model for result in results}
    for result, style in zip(results, styles, strict=True):
        own = next((one for one in result.overall if one.name == result.model), None)
        if own is not None and isinstance(result.run, RunInfo):
            rows.append(ObserverRow(own.name, badge(result.run.weights), style, _cells(own, len(sets))))
            drawn.append(result)
            shown.append((own.name, style, result.run.weights.is_random))
    imported = {one.name: one for result in results for one in result.networks if one.name not in measured}
    rows += [ObserverRow(f"{one.name}, imported", None, _PEOPLE, _cells(one, len(sets))) for one in imported.values()]
    # With the decisions of people, if any result has them.
    known = min(results, key=lambda result: math.isnan(result.people.error_consistency)).people
    rows.append(ObserverRow("People (mean)", None, _PEOPLE, (*_numbers(known), number(None))))
    best = min(results, key=lambda result: math.isnan(result.people.error_consistency))
    charts = [
        ("Accuracy by set", _chart("Accuracy by set", "accuracy", drawn, shown, best)),
        ("Error consistency with people by set", _chart("Error consistency", "error_consistency", drawn, shown, best)),
    ]
    name = f"{counted(len(sets), 'set')}" if len(sets) > 3 else ", ".join(sets)
    remarks = []
    if any(one.n_sets < len(sets) for result in results for one in result.networks):
        remarks.append(
            "The numbers of networks with fewer sets are averages of these sets. They are not ranked, and cannot be "
            "compared with the mean of people over all sets."
        )
    if imported:
        remarks.append("The charts show the measured networks and people; imported networks are in the table only.")
    notes = with_names([(result.model or "imported", result.notes) for result in results])
    return SetGroup(name, HEAD, rows, charts, [*shown, ("People (mean)", _PEOPLE, False)], remarks, notes)


def _chart(
    title: str,
    number_name: str,
    results: Sequence[BehaviourResult],
    shown: Sequence[tuple[str, int, bool]],
    with_people: BehaviourResult,
) -> Chart:
    """A number of the measured networks, and of people on average, by set."""
    series = [
        Dots(style, hollow, _points(result, name, number_name))
        for result, (name, style, hollow) in zip(results, shown, strict=True)
    ]
    people = [(one.name, getattr(one.people, number_name)) for one in with_people.sets]
    series.append(
        Dots(
            _PEOPLE,
            False,
            [
                (place, value, None, f"People, {name}: {_text(number_name, value)}")
                for place, (name, value) in enumerate(people)
                if not math.isnan(value)
            ],
        )
    )
    sets = [one.name for one in with_people.sets]
    if number_name == "accuracy":
        return dot_chart(title, sets, series, "Accuracy, %", limits=(0.0, 1.0), scale=100.0)
    ends = [end for one in series for _, x, interval, _ in one.points for end in (x, *(interval or ()))]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    limits = next((one for one in _LIMITS if one[0] <= low and high <= one[1]), _LIMITS[-1])
    return dot_chart(title, sets, series, "Error consistency", limits=limits)


def _points(
    result: BehaviourResult, name: str, number_name: str
) -> list[tuple[int, float, tuple[float, float] | None, str]]:
    """Row, number, interval and text of a network on each set where they are defined."""
    found = []
    for place, each in enumerate(result.sets):
        one = each.observer(name)
        value = math.nan if one is None else getattr(one.scores, number_name)
        if one is not None and not math.isnan(value):
            text = f"{name}, {each.name}: {_text(number_name, value)}"
            found.append((place, value, _interval(one.intervals, number_name), text))
    return found


def _text(number_name: str, value: float) -> str:
    return f"{percent_text(value)} %" if number_name == "accuracy" else f"{value:.3f}"


def _interval(intervals: Mapping[str, Bootstrap], name: str) -> Interval | None:
    """The interval over images of an accuracy, and over people of the other numbers."""
    found = intervals[name]
    return found.images if name == "accuracy" else found.people


def _cells(one: OverallScores, n_sets: int) -> tuple[Cell, ...]:
    return observer_cells(one, f"{one.n_sets} of {counted(n_sets, 'set')}" if one.n_sets < n_sets else "")


def observer_cells(one: OverallScores, detail: str) -> tuple[Cell, ...]:
    """The numbers of an observer with their intervals, in the order of ``HEAD``; ``detail`` is that of the accuracy."""
    accuracy = share(one.scores.accuracy, _interval(one.intervals, "accuracy"), detail)
    paired = (
        replace(cell, interval="" if limits is None else f"{limits[0]:.3f} to {limits[1]:.3f}")
        for cell, limits in zip(
            _numbers(one.scores)[1:], (_interval(one.intervals, name) for name in PAIRED), strict=True
        )
    )
    return (accuracy, *paired, number(one.mean_rank, 3))


def _numbers(scores: Scores) -> tuple[Cell, ...]:
    return (share(scores.accuracy), *(number(value, 3) for value in scores.paired))
