"""The tables of shape bias."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from replk_probe.runtime.formatting import dimensions, percent, shortened
from replk_probe.runtime.provenance import RunInfo, WeightsInfo
from replk_probe.shape_bias.display_names import with_display_names
from replk_probe.shape_bias.observers import Observer, compare_pairs
from replk_probe.shape_bias.published import ON_WHAT, SOURCE, TITLES
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.statistics import Interval

from .cue_scores_table import cue_scores_table
from .text import OMITTED, PLAIN, Layout, decimals, note_lines, notes_of, table, wrapped

_HEAD = ("observer", "bias %", "95 % interval", "mean", "median", "shape", "texture", "other", "cue acc.", "kappa")
_LEGEND = {
    "bias %": "bias %: shape / (shape + texture) of the decisions on stimuli with a cue conflict",
    "mean": "mean: of the shape categories, in %",
    "median": "median: likewise",
    "cue acc.": "cue acc.: decisions for shape or texture, in %",
    "kappa": "kappa: mean error consistency with humans",
}
_CATEGORY = 16  # maximum length of an observer's name above its column


def shape_bias_table(
    results: Sequence[ShapeBiasResult], published: Sequence[Observer] = (), layout: Layout = PLAIN
) -> str:
    """Table of all observers; for one model also of every category, for several models of every pair.

    Imported observers are taken from the first result; published ones with the same name are left out. Results with
    scores have a table of their own.
    """
    if any(result.scores is not None for result in results):
        return cue_scores_table(results, layout)
    named = with_display_names(results)
    models = [result.model for result in named if result.model is not None]
    imported = results[0].observers if results else ()
    known = {one.name for one in imported}
    random = [result.model for result in named if isinstance(result.run, RunInfo) and result.run.weights.is_random]
    observers = [*models, *imported, *(one for one in published if one.name not in known)]
    blocks = [_model_lines(results, layout), _observer_lines(observers, random, layout)]
    if len(models) > 1:
        blocks.append(_pair_lines(named, layout))
    else:
        pooled = [one for one in imported if one.kind == "humans"]
        blocks.append(_category_lines([*models, *pooled] or imported, layout))
    blocks.append(note_lines([(_name(result), notes_of(_weights(result), result.notes)) for result in results], layout))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _model_lines(results: Sequence[ShapeBiasResult], layout: Layout) -> list[str]:
    """Models, weights and stimuli; for one model, or without conflict stimuli, also further statistics."""
    measured = [result for result in results if result.model is not None]
    lines: list[str] = []
    for detail, group in groupby(measured, _detail):
        for result in group:
            label = f": {result.run.weights.label}" if isinstance(result.run, RunInfo) else ""
            lines += wrapped(f"{_name(result)}{label}", "", layout)
        lines += wrapped(detail, "  ", layout)
    for result in measured:
        if result.model is not None and (len(measured) == 1 or not result.model.counts.n_conflict):
            lines += [line for text in _statistics(result.model) for line in wrapped(text, "  ", layout)]
    return lines


def _detail(result: ShapeBiasResult) -> str:
    if result.model is None or not isinstance(result.run, RunInfo):
        return ""
    counts, run = result.model.counts, result.run
    return (
        f"{counts.n_conflict + counts.n_congruent} stimuli of {run.image_source}, {counts.n_conflict} with a cue "
        f"conflict; {dimensions(run.input_size)} px; {run.precision} on {run.device}"
    )


def _statistics(one: Observer) -> Iterator[str]:
    counts, boot = one.counts, one.bootstrap
    if math.isnan(counts.overall):
        yield "shape bias undefined: no decision followed either cue"
    else:
        categories = "category" if counts.n_defined == 1 else "categories"
        yield (
            f"shape bias {percent(counts.overall, 1)} (S / (S + T) of all decisions; {one.ci95_method} "
            f"{_interval(one.ci95)}, bootstrap over {boot.resampled} {_interval(boot.overall)})"
        )
        yield (
            f"mean of {counts.n_defined} {categories} {percent(counts.macro, 1)} ({_interval(boot.macro)}), "
            f"median {percent(counts.median, 1)} ({_interval(boot.median)})"
        )
    yield (
        f"cue accuracy {percent(counts.cue_accuracy, 1)} of {counts.n_conflict}; without a conflict "
        f"{counts.congruent_correct} of {counts.n_congruent} correct ({percent(counts.congruent_accuracy, 1)})"
    )


def _observer_lines(observers: Sequence[Observer], random: Sequence[Observer | None], layout: Layout) -> list[str]:
    if not observers:
        return []
    rows = [
        [
            _title(one) + (" (RANDOM)" if any(one is other for other in random) else ""),
            percent(one.counts.overall, 1, ""),
            _interval(one.ci95),
            percent(one.counts.macro, 1, ""),
            percent(one.counts.median, 1, ""),
            str(one.counts.n_shape),
            str(one.counts.n_texture),
            str(one.counts.n_other),
            percent(one.counts.cue_accuracy, 1, ""),
            decimals(one.consistency.mean_human),
        ]
        for one in observers
    ]
    optional = ["median", "mean"]
    optional.insert(2 if any(row[-1] != "-" for row in rows) else 0, "kappa")
    lines = table(_HEAD, rows, layout, optional=optional)
    legend = "; ".join(text for title, text in _LEGEND.items() if title in lines[0])
    lines += wrapped(f"{legend}.", "", layout)
    return lines + (wrapped(f"{ON_WHAT}.", "", layout) if any(one.source == SOURCE for one in observers) else [])


def _category_lines(observers: Sequence[Observer], layout: Layout) -> list[str]:
    """Shape bias by category with conflict stimuli, with one column per observer, as many as fit."""
    label = max((len(category) for one in observers for category in one.counts.categories), default=0)
    shown = observers[: max((layout.width - label) // (_CATEGORY + 2), 1)]
    used = {category for one in shown for category in _with_conflict(one)}
    if not used:
        return []
    rows = [
        [category, *(_share(one, category) for one in shown)]
        for category in filter(used.__contains__, shown[0].counts.categories)
    ]
    lines = table(["shape bias, %", *(shortened(one.name, _CATEGORY, mark=OMITTED) for one in shown)], rows, layout)
    more = len(observers) - len(shown)
    return [*lines, f"{more} more in the CSV file"] if more else lines


def _share(one: Observer, category: str) -> str:
    if category not in one.counts.categories:
        return "-"
    place = one.counts.categories.index(category)
    shape, texture = one.counts.shape[place], one.counts.texture[place]
    share = percent(one.counts.by_category[place], 1, "")
    return f"{share} ({shape}/{shape + texture})"


def _pair_lines(results: Sequence[ShapeBiasResult], layout: Layout) -> list[str]:
    """Comparison of each pair of models on their common stimuli."""
    pairs = list(compare_pairs([result.decisions for result in results if result.decisions is not None]))
    lines: list[str] = []
    for first, second, pair in pairs:
        who = f"{first} - {second}"
        if math.isnan(pair.difference):
            lines += wrapped(f"{who}: undefined, because one of them followed no cue", "", layout)
            continue
        opposite = f"{pair.first_only + pair.second_only} of {pair.n_pairs} ({pair.first_only} / {pair.second_only})"
        lines += wrapped(
            f"{who}: {100 * pair.difference:+.1f} points of shape bias ({_interval(pair.ci95, signed=True)}); opposite "
            f"cues on {opposite}, McNemar's exact p = {pair.p_value:.2g}",
            "",
            layout,
        )
    return lines


def _name(result: ShapeBiasResult) -> str:
    if isinstance(result.run, RunInfo):
        return result.run.model
    return "imported" if result.model is None else result.model.name


def _weights(result: ShapeBiasResult) -> WeightsInfo | None:
    return result.run.weights if isinstance(result.run, RunInfo) else None


def _with_conflict(one: Observer) -> list[str]:
    counts = one.counts
    rows = zip(counts.categories, counts.shape, counts.texture, counts.other, strict=True)
    return [category for category, *numbers in rows if any(numbers)]


def _title(one: Observer) -> str:
    return f"{TITLES.get(one.name, one.name)}, published" if one.source == SOURCE else one.name


def _interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "-"
    low, high = (100 * value for value in interval)
    return f"{low:+.1f} to {high:+.1f}" if signed else f"{low:.1f} to {high:.1f}"
