"""The part of the page on decisions on the sets of model-vs-human."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.behaviour.result import BehaviourResult, with_distinct_names
from replk_probe.behaviour.scores import OverallScores, Scores
from replk_probe.collection import Saved
from replk_probe.runtime.formatting import counted
from replk_probe.runtime.provenance import RunInfo

from .charts import Chart, Dots, dot_chart
from .number_texts import Badge, Cell, badge, number, percent_text, share

_PEOPLE = -1  # style of people and imported networks, who are drawn in gray

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
        chart: Accuracy by set.
        shown: Name and style of the observers in the chart.
        notes: Name of the model and its notes.
    """

    name: str
    head: tuple[str, ...]
    observers: list[ObserverRow]
    chart: Chart
    shown: list[tuple[str, int]]
    notes: list[tuple[str, tuple[str, ...]]]


def behaviour_section(saved: Sequence[Saved[BehaviourResult]], styles: Sequence[int]) -> list[SetGroup]:
    """A part for each choice of sets; ``styles`` has the color of each result."""
    results = with_distinct_names([one.result for one in saved])
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, result in enumerate(results):
        groups.setdefault(tuple(one.name for one in result.sets), []).append(index)
    return [
        _group([results[index] for index in members], [styles[index] for index in members])
        for members in groups.values()
    ]


def _group(results: Sequence[BehaviourResult], styles: Sequence[int]) -> SetGroup:
    sets = [one.name for one in results[0].sets]
    rows, series, shown = [], [], []
    measured = {result.model for result in results}
    for result, style in zip(results, styles, strict=True):
        own = next((one for one in result.overall if one.name == result.model), None)
        if own is not None and isinstance(result.run, RunInfo):
            rows.append(ObserverRow(own.name, badge(result.run.weights), style, _cells(own, len(sets))))
            series.append(Dots(style, result.run.weights.is_random, _points(result, own.name)))
            shown.append((own.name, style))
    imported = {one.name: one for result in results for one in result.networks if one.name not in measured}
    rows += [ObserverRow(f"{one.name}, imported", None, _PEOPLE, _cells(one, len(sets))) for one in imported.values()]
    # With the decisions of people, if any result has them.
    known = min(results, key=lambda result: math.isnan(result.people.error_consistency)).people
    rows.append(ObserverRow("People (mean)", None, _PEOPLE, (*_numbers(known), number(None))))
    people = [
        (place, one.people.accuracy, None, f"People, {one.name}: {percent_text(one.people.accuracy)} %")
        for place, one in enumerate(results[0].sets)
        if not math.isnan(one.people.accuracy)
    ]
    series.append(Dots(_PEOPLE, False, people))
    chart = dot_chart("Accuracy by set", sets, series, "Accuracy, %", limits=(0.0, 1.0), scale=100.0)
    name = f"{counted(len(sets), 'set')}" if len(sets) > 3 else ", ".join(sets)
    notes = [(result.model or "imported", result.notes) for result in results if result.notes]
    return SetGroup(name, HEAD, rows, chart, [*shown, ("People (mean)", _PEOPLE)], notes)


def _points(result: BehaviourResult, name: str) -> list[tuple[int, float, tuple[float, float] | None, str]]:
    """Row, accuracy, interval and text of a network on each set where they are defined."""
    found = []
    for place, each in enumerate(result.sets):
        one = each.observer(name)
        if one is not None and not math.isnan(one.scores.accuracy):
            text = f"{name}, {each.name}: {percent_text(one.scores.accuracy)} %"
            found.append((place, one.scores.accuracy, one.intervals["accuracy"].images, text))
    return found


def _cells(one: OverallScores, n_sets: int) -> tuple[Cell, ...]:
    detail = f"{one.n_sets} of {counted(n_sets, 'set')}" if one.n_sets < n_sets else ""
    accuracy = share(one.scores.accuracy, one.intervals["accuracy"].images, detail)
    return (accuracy, *_numbers(one.scores)[1:], number(one.mean_rank, 3))


def _numbers(scores: Scores) -> tuple[Cell, ...]:
    return (share(scores.accuracy), *(number(value, 3) for value in scores.paired))
