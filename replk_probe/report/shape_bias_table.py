"""The plain-text tables of shape bias, at most 100 columns wide. Free of torch and of anything that draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias.observers import Observer, compare_pairs
from replk_probe.shape_bias.published import ON_WHAT, SOURCE, TITLES
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.statistics import Interval

from .text import WIDTH, cut, wrapped

_NAME = 30
_HEADS = ("bias %", "95 % interval", "mean", "median", "shape", "texture", "other", "cue acc.", "kappa")
_WIDTHS = (7, 14, 6, 7, 6, 8, 6, 9, 7)


def shape_bias_table(results: Sequence[ShapeBiasResult], published: Sequence[Observer] = ()) -> str:
    """Each model's own numbers, all observers side by side, each category, and the models compared in pairs.

    Args:
        results: One per model, in the order to print them; or one without a model. Observers are taken of the first.
        published: Observers whose counts are known from elsewhere, printed below the measured ones; those of a name
            that was imported are left out.

    Returns:
        Lines without a newline at the end.
    """
    models = [result.model for result in results if result.model is not None]
    imported = results[0].observers if results else ()
    known = {one.name for one in imported}
    groups = (models, imported, [one for one in published if one.name not in known])
    blocks = [list(_model_lines(result)) for result in results if result.model is not None]
    random = [result.model for result in results if isinstance(result.run, RunInfo) and result.run.weights.is_random]
    blocks += [list(_observer_lines(groups, random)), list(_category_lines([*models, *_pooled(imported)] or imported))]
    blocks += [list(_pair_lines(results)), list(_note_lines(results))]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _model_lines(result: ShapeBiasResult) -> Iterator[str]:
    """What was measured, and the numbers that the table of observers has no room for."""
    one, run = result.model, result.run
    if one is None:
        return
    counts, label = one.counts, ""
    if isinstance(run, RunInfo):
        label = f": {run.weights.label}"
    yield from wrapped(f"{one.name}{label}")
    if isinstance(run, RunInfo):
        height, width = run.input_size
        yield from wrapped(
            f"{counts.n_conflict + counts.n_congruent} stimuli of {run.image_source}, {counts.n_conflict} of them with "
            f"a cue conflict; {height}x{width} px; {run.precision} on {run.device}",
            "  ",
        )
    boot = one.bootstrap
    if math.isnan(counts.overall):
        yield "  shape bias undefined: no decision followed either cue"
    else:
        categories = "category" if counts.n_defined == 1 else "categories"
        yield from wrapped(
            f"shape bias {_percent(counts.overall)} % (S / (S + T) of all decisions; {one.ci95_method} "
            f"{_interval(one.ci95)}, bootstrap over {boot.resampled} {_interval(boot.overall)})",
            "  ",
        )
        yield from wrapped(
            f"mean of {counts.n_defined} {categories} {_percent(counts.macro)} % ({_interval(boot.macro)}), "
            f"median {_percent(counts.median)} % ({_interval(boot.median)})",
            "  ",
        )
    yield from wrapped(
        f"cue accuracy {_percent(counts.cue_accuracy)} % of {counts.n_conflict}; without a conflict "
        f"{counts.congruent_correct} of {counts.n_congruent} right ({_percent(counts.congruent_accuracy)} %)",
        "  ",
    )


def _observer_lines(groups: Sequence[Sequence[Observer]], random: Sequence[Observer | None]) -> Iterator[str]:
    if not any(groups):
        return
    yield _line("observer", _HEADS)
    yield "-" * WIDTH
    for group in groups:
        for one in group:
            counts = one.counts
            is_random = any(one is other for other in random)
            yield _line(
                f"{cut(one.name, _NAME - 10)} (RANDOM)" if is_random else _title(one),
                (
                    _percent(counts.overall),
                    _interval(one.ci95),
                    _percent(counts.macro),
                    _percent(counts.median),
                    str(counts.n_shape),
                    str(counts.n_texture),
                    str(counts.n_other),
                    _percent(counts.cue_accuracy),
                    _kappa(one.consistency.mean_human),
                ),
            )
    yield from wrapped(
        "bias, mean and median over the shape categories, and cue accuracy in percent; shape, texture, other: "
        "decisions on stimuli with a cue conflict; kappa: mean error consistency with the people.",
    )
    if any(one.source == SOURCE for group in groups for one in group):
        yield from wrapped(f"{ON_WHAT}.")


def _category_lines(observers: Sequence[Observer]) -> Iterator[str]:
    """Shape bias of each category of the shape, a column per observer, as many as fit.

    Categories without a stimulus with a cue conflict are left out.
    """
    label = max((len(category) for one in observers for category in one.counts.categories), default=0) + 2
    cell = 18
    shown = list(observers[: (WIDTH - label) // cell])
    used = {category for one in shown for category in _with_conflict(one)}
    if not used:
        return
    yield "shape bias, %".ljust(label) + "".join(f"{cut(one.name, cell - 2):>{cell}}" for one in shown)
    yield "-" * (label + cell * len(shown))
    for category in filter(used.__contains__, shown[0].counts.categories):
        cells = ""
        for one in shown:
            if category in one.counts.categories:
                place = one.counts.categories.index(category)
                shape, texture = one.counts.shape[place], one.counts.texture[place]
                share = f"{_percent(one.counts.by_category[place])} ({shape}/{shape + texture})"
            else:
                share = "-"
            cells += f"{share:>{cell}}"
        yield f"{category:<{label}}{cells}"
    if len(observers) > len(shown):
        yield f"and {len(observers) - len(shown)} more in the CSV"


def _pair_lines(results: Sequence[ShapeBiasResult]) -> Iterator[str]:
    """Each pair of models on the stimuli that both decided on."""
    decisions = [result.decisions for result in results if result.decisions is not None]
    pairs = list(compare_pairs(decisions))
    if pairs:
        yield "Differences of shape bias, on the same stimuli"
    for first, second, pair in pairs:
        who = f"{first} - {second}"
        if math.isnan(pair.difference):
            yield from wrapped(f"{who}: undefined, one of them followed no cue", "  ")
            continue
        opposite = f"{pair.first_only + pair.second_only} of {pair.n_pairs} ({pair.first_only} / {pair.second_only})"
        yield from wrapped(
            f"{who}: {100 * pair.difference:+.1f} points ({_interval(pair.ci95, signed=True)}); opposite cues on "
            f"{opposite}, McNemar's exact p = {pair.p_value:.2g}",
            "  ",
        )


def _note_lines(results: Sequence[ShapeBiasResult]) -> Iterator[str]:
    notes: list[str] = []
    for result in results:
        run = result.run
        if isinstance(run, RunInfo):
            if run.weights.is_random:
                yield from wrapped("Nothing here is trained: these are RANDOM WEIGHTS.", f"{run.model}: ")
            notes += filter(None, [run.weights.note])
        notes += result.notes
    for note in dict.fromkeys(notes):  # several models have the stimuli's in common
        yield from wrapped(note, "note: ")


def _with_conflict(one: Observer) -> list[str]:
    counts = one.counts
    rows = zip(counts.categories, counts.shape, counts.texture, counts.other, strict=True)
    return [category for category, *numbers in rows if any(numbers)]


def _title(one: Observer) -> str:
    return f"{TITLES.get(one.name, one.name)}, published" if one.source == SOURCE else one.name


def _pooled(observers: Sequence[Observer]) -> list[Observer]:
    return [one for one in observers if one.kind == "humans"]


def _line(name: str, cells: Sequence[str]) -> str:
    padded = (f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return f"{cut(name, _NAME - 1):<{_NAME}}" + "".join(padded)


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def _interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "-"
    low, high = (100 * value for value in interval)
    return f"{low:+.1f} to {high:+.1f}" if signed else f"{low:.1f} to {high:.1f}"


def _kappa(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
