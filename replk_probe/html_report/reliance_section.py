"""The part of the page on the reliance on shape, texture and color."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replk_probe.collection import Saved
from replk_probe.reliance.result import RelianceResult
from replk_probe.reliance.suppressions import CUES

from .charts import Chart, Dots, dot_chart
from .names import numbered, with_head
from .number_texts import NO_CELL, Badge, Cell, badge, interval_text, percent_text, share

HEAD = ("accuracy", *CUES)


@dataclass(frozen=True)
class ReliancePart:
    """The accuracies of one model.

    Attributes:
        name: Name of the model.
        badge: Kind of its weights.
        style: Style in all charts.
        images: The images, as text.
        cells: Accuracy without a suppression, and the mean relative accuracy for each cue.
        rows: Name and cells of each suppression: the cues, the accuracy and the relative accuracy.
        notes: Notes on the result.
    """

    name: str
    badge: Badge
    style: int
    images: str
    cells: list[Cell]
    rows: list[tuple[str, list[Cell]]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RelianceSection:
    """All models, and the chart of their profiles, or None if all relative accuracies are undefined."""

    parts: list[ReliancePart]
    chart: Chart | None


def reliance_names(results: Sequence[RelianceResult]) -> list[str]:
    """Names of the models, with a number where one was measured several times."""
    return numbered([with_head(result.run.model, result.run.weights) for result in results])


def reliance_section(saved: Sequence[Saved[RelianceResult]], styles: Sequence[int]) -> RelianceSection | None:
    """The section, or None if there are no results; ``styles`` are those of the results in all charts."""
    if not saved:
        return None
    results = [one.result for one in saved]
    names = reliance_names(results)
    parts = [_part(result, name, style) for result, name, style in zip(results, names, styles, strict=True)]
    return RelianceSection(parts, _chart(results, names, styles))


def profile_cells(result: RelianceResult) -> tuple[Cell, ...]:
    """The mean relative accuracy for each single cue."""
    found = {one.cues: one for one in result.profile}
    return tuple(
        share(found[cue].relative_accuracy or 0.0, found[cue].interval)
        if cue in found and found[cue].relative_accuracy is not None
        else NO_CELL
        for cue in CUES
    )


def _part(result: RelianceResult, name: str, style: int) -> ReliancePart:
    rows = []
    for one in result.suppressions:
        relative = one.relative_accuracy
        cells = [
            Cell(one.cues.replace("+", " + "), one.cues),
            share(one.accuracy, one.accuracy_interval),
            NO_CELL if relative is None else share(relative, one.relative_interval),
        ]
        rows.append((one.suppression, cells))
    return ReliancePart(
        name=name,
        badge=badge(result.run.weights),
        style=style,
        images=result.images_text,
        cells=[share(result.accuracy, result.accuracy_interval), *profile_cells(result)],
        rows=rows,
        notes=result.notes,
    )


def _chart(results: Sequence[RelianceResult], names: Sequence[str], styles: Sequence[int]) -> Chart | None:
    cues = sorted(dict.fromkeys(cue.cues for one in results for cue in one.profile), key=lambda name: name.count("+"))
    series, highest = [], 1.0
    for result, name, style in zip(results, names, styles, strict=True):
        points = []
        for cue in result.profile:
            if cue.relative_accuracy is not None:
                highest = max(highest, cue.relative_accuracy, *(cue.interval or ()))
                ends = f" ({interval_text(cue.interval)})" if cue.interval else ""
                text = f"{name}, {cue.cues}: {percent_text(cue.relative_accuracy)} %{ends}"
                points.append((cues.index(cue.cues), cue.relative_accuracy, cue.interval, text))
        series.append(Dots(style, result.run.weights.is_random, points))
    if not any(one.points for one in series):
        return None
    return dot_chart(
        "Relative accuracy by the suppressed cue",
        [cue.replace("+", " + ") for cue in cues],
        series,
        "Relative accuracy, %",
        limits=(0.0, 1.0 if highest <= 1 else 1.2 if highest <= 1.2 else 2.0),
        scale=100.0,
    )
