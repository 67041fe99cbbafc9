"""The part of the page on shape bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from replk_probe.collection import Saved
from replk_probe.runtime.formatting import counted, percent
from replk_probe.runtime.provenance import RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import HUMANS
from replk_probe.shape_bias.observers import Observer
from replk_probe.shape_bias.published import ON_WHAT, SOURCE, TITLES, published_for, published_observers
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.statistics import wilson_interval

from .charts import Chart, Dots, dot_chart
from .names import numbered, with_head, with_names
from .number_texts import Badge, Cell, badge, interval_text, number, percent_text, share

_HUMAN = -1  # style of humans, who are drawn in gray


@dataclass(frozen=True)
class ObserverRow:
    """One observer: its name, the kind of its weights or None, its style, and the cells of its row."""

    name: str
    badge: Badge | None
    style: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class CategoryRow:
    """A category: its name, and a cell for each observer of the chart."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class StimulusSet:
    """The results on one set of stimuli.

    Attributes:
        name: Name of the set.
        observers: Observers, models first.
        chart: Shape bias by category, or None if it is undefined everywhere.
        shown: Name and style of the observers in the chart, and whether their markers are hollow.
        categories: Rows of the table of the chart.
        human_note: Where the human reference comes from, or that there is none for these stimuli.
        notes: Each note with the names of its models, which are empty if it is about all of them.
    """

    name: str
    observers: list[ObserverRow]
    chart: Chart | None
    shown: list[tuple[str, int, bool]]
    categories: list[CategoryRow]
    human_note: str
    notes: list[tuple[list[str], str]]


HEAD = ("shape bias", "category mean", "category median", "shape", "texture", "other", "cue accuracy", "kappa")


def shape_bias_sections(saved: Sequence[Saved[ShapeBiasResult]], styles: Sequence[int]) -> list[StimulusSet]:
    """A part for each set of stimuli; ``styles`` has the color of each result."""
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    results = [one.result for one in saved]
    for index, result in enumerate(results):
        if result.scores is not None:  # another section has them
            continue
        groups.setdefault((source_of(result), _categories(result)), []).append(index)
    return [
        _set(source, [results[index] for index in members], [styles[index] for index in members])
        for (source, _), members in groups.items()
    ]


def weights_of(result: ShapeBiasResult) -> WeightsInfo | None:
    """Provenance of the weights, or None for imported decisions."""
    return result.run.weights if isinstance(result.run, RunInfo) else None


def source_of(result: ShapeBiasResult) -> str:
    """Name of the stimuli."""
    return result.run.image_source if isinstance(result.run, RunInfo) else result.run.source


def bias_cell(observer: Observer) -> Cell:
    """The shape bias of an observer with its interval."""
    counts = observer.counts
    return share(counts.overall, observer.ci95, counted(counts.n_conflict, "decision"))


def _categories(result: ShapeBiasResult) -> tuple[str, ...]:
    observers = result.all_observers
    return observers[0].counts.categories if observers else ()


def _set(source: str, results: Sequence[ShapeBiasResult], styles: Sequence[int]) -> StimulusSet:
    models = [
        (replace(result.model, name=_name(result, source)), weights_of(result), style)
        for result, style in zip(results, styles, strict=True)
        if result.model is not None
    ]
    imported = {one.name: one for result in results for one in result.observers}
    known = {one.name: one for result in results for one in published_for(result)} | imported
    elsewhere = next(one for one in published_observers() if one.name == HUMANS)
    others = list(known.values())
    names = numbered([one.name for one, _, _ in models])
    models = [
        (replace(one, name=name), weights, style) for (one, weights, style), name in zip(models, names, strict=True)
    ]
    rows = [ObserverRow(one.name, badge(weights), style, _cells(one)) for one, weights, style in models] + [
        ObserverRow(_title(one), None, _HUMAN, _cells(one)) for one in others
    ]
    humans = next((one for one in others if one.kind == "humans"), None)
    if humans is None:
        rows.append(ObserverRow(f"{_title(elsewhere)}, other stimuli", None, _HUMAN, _cells(elsewhere)))
        bias = percent(elsewhere.counts.overall, 1)
        note = (
            f"There are no human decisions on these stimuli. For orientation: {bias} is the shape bias of ten humans "
            f"on the published stimuli ({SOURCE}). The two sets cannot be compared directly."
        )
    else:
        origin = (
            f"{ON_WHAT} ({SOURCE})" if humans.source == SOURCE else f"Human decisions were imported ({humans.source})"
        )
        note = f"{origin}."
    drawn = [(one, style, weights is not None and weights.is_random) for one, weights, style in models] + (
        [(humans, _HUMAN, False)] if humans is not None else []
    )
    labels = _labels(results)
    return StimulusSet(
        name=source,
        observers=rows,
        chart=_chart(drawn, labels),
        shown=[(_title(one), style, hollow) for one, style, hollow in drawn],
        categories=_category_rows([one for one, _, _ in drawn], labels),
        human_note=note,
        notes=notes_of_models(results, source),
    )


def _name(result: ShapeBiasResult, source: str) -> str:
    """The name of the model, or that of the source for imported decisions."""
    if isinstance(result.run, RunInfo):
        return with_head(result.run.model, result.run.weights)
    return source if result.model is None else result.model.name


def notes_of_models(results: Sequence[ShapeBiasResult], source: str) -> list[tuple[list[str], str]]:
    """Each note with the names of its models, which are empty if it is about all of them."""
    return with_names([(_name(result, source), result.notes) for result in results])


def _cells(one: Observer) -> tuple[Cell, ...]:
    counts, boot = one.counts, one.bootstrap
    return (
        bias_cell(one),
        share(counts.macro, boot.macro),
        share(counts.median, boot.median),
        number(counts.n_shape),
        number(counts.n_texture),
        number(counts.n_other),
        share(counts.cue_accuracy),
        number(one.consistency.mean_human, 3),
    )


def _used(observers: Sequence[Observer]) -> list[str]:
    """The categories with a decision for one of the cues, in their order."""
    names = dict.fromkeys(
        name
        for one in observers
        for name, s, t in zip(one.counts.categories, one.counts.shape, one.counts.texture, strict=True)
        if s + t
    )
    return sorted(names)


def _labels(results: Sequence[ShapeBiasResult]) -> dict[str, str]:
    """What is drawn in each category of synthetic stimuli, whose names are not words."""
    labels = {}
    for result in results:
        record = result.run.config.get("stimuli record") if isinstance(result.run, RunInfo) else None
        synthetic = record.get("synthetic") if isinstance(record, dict) else None
        cues = synthetic.get("cues") if isinstance(synthetic, dict) else None
        for name, cue in cues.items() if isinstance(cues, dict) else ():
            if isinstance(cue, list) and cue and str(cue[0]) != name:
                labels[name] = f"{cue[0]} ({name})"
    return labels


def _category_rows(observers: Sequence[Observer], labels: Mapping[str, str]) -> list[CategoryRow]:
    return [
        CategoryRow(labels.get(name, name), [_category_cell(one, name) for one in observers])
        for name in _used(observers)
    ]


def _category_cell(one: Observer, name: str) -> Cell:
    counts = one.counts
    if name not in counts.categories:
        return Cell("\u2013")
    place = counts.categories.index(name)
    shape, texture = counts.shape[place], counts.texture[place]
    cell = share(counts.by_category[place], wilson_interval(shape, shape + texture))
    return Cell(cell.text, cell.value, cell.interval, f"{shape}/{shape + texture}")


def _chart(drawn: Sequence[tuple[Observer, int, bool]], labels: Mapping[str, str]) -> Chart | None:
    observers = [one for one, _, _ in drawn]
    names = _used(observers)
    if not names:
        return None
    series = []
    for one, style, is_random in drawn:
        counts = one.counts
        points = []
        for name, s, t in zip(counts.categories, counts.shape, counts.texture, strict=True):
            if s + t:
                interval = wilson_interval(s, s + t)
                who = f"{_title(one)}, {labels.get(name, name)}"
                text = f"{who}: {percent_text(s / (s + t))} % ({interval_text(interval)}), {s} of {s + t}"
                points.append((names.index(name), s / (s + t), None if one.kind == "humans" else interval, text))
        series.append(Dots(style, is_random, points))
    return dot_chart(
        "Shape bias by category of the shape",
        [labels.get(name, name) for name in names],
        series,
        "Shape bias, %",
        limits=(0.0, 1.0),
        scale=100.0,
    )


def _title(one: Observer) -> str:
    return f"{TITLES.get(one.name, one.name)}, published" if one.source == SOURCE else one.name
