"""The tables of decisions on the sets of model-vs-human."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from replk_probe.behaviour.result import BehaviourResult
from replk_probe.behaviour.scores import Bootstrap, OverallScores, Scores
from replk_probe.runtime.formatting import dimensions, percent, shortened
from replk_probe.runtime.provenance import RunInfo, WeightsInfo

from .text import OMITTED, PLAIN, Layout, decimals, note_lines, notes_of, table, wrapped

_HEAD = ("observer", "acc. %", "95 % interval", "acc. diff.", "obs. cons.", "kappa", "95 % interval ", "rank")
_LEGEND = (
    "acc.: accuracy, with its interval over images; acc. diff.: mean squared difference from the accuracy of people; "
    "obs. cons. and kappa: observed and error consistency with people, with its interval over people; rank: mean rank "
    "of the networks with all sets by the last three numbers."
)
_FEWER = (
    "The numbers of networks with fewer sets are averages of these sets. They are not ranked, and are not comparable "
    "with the mean of people over all sets."
)
_MOST_ROWS = 18  # of the table by set together with that of observers
_NETWORKS = 2  # columns of networks in the table by set
_NAME = 14  # maximum length of a network's name above its column


def behaviour_table(results: Sequence[BehaviourResult], layout: Layout = PLAIN) -> str:
    """Tables of the networks and of people over all sets, and, if they are few, by set.

    Args:
        results: Results of the models of one run, each of which has the scores of the others.
        layout: Width and colors.
    """
    first = results[0]
    random = {result.model for result in results if isinstance(result.run, RunInfo) and result.run.weights.is_random}
    observers = [_row(one, random, len(first.sets)) for one in first.networks]
    observers.append(["people (mean)", *_cells(first.people, {}), "-"])
    blocks = [_model_lines(results, layout)]
    optional = ["95 % interval ", "obs. cons.", "rank"]
    fewer = any(one.n_sets < len(first.sets) for one in first.networks)
    legend = f"{_LEGEND} {_FEWER}" if fewer else _LEGEND
    blocks.append([*table(_HEAD, observers, layout, optional=optional), *wrapped(legend, "", layout)])
    if len(observers) + len(first.sets) <= _MOST_ROWS or not first.networks:
        blocks.append(_set_lines(first, layout))
    else:
        blocks.append(wrapped(f"The numbers of {len(first.sets)} sets are in behaviour.csv.", "", layout))
    notes = [(_name(result), notes_of(_weights(result), result.notes)) for result in results]
    blocks.append(note_lines(notes, layout))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _model_lines(results: Sequence[BehaviourResult], layout: Layout) -> list[str]:
    lines = []
    for result in results:
        if isinstance(result.run, RunInfo):
            run = result.run
            lines += wrapped(f"{_name(result)}: {run.weights.label}", "", layout)
            count = sum(len(one.names) for one in result.trials)
            where = f"{dimensions(run.input_size)} px; {run.precision} on {run.device}"
            lines += wrapped(f"{count} images of {run.image_source}; {where}", "  ", layout)
    return lines


def _row(one: OverallScores, random: Collection[str | None], n_sets: int) -> list[str]:
    name = f"{one.name} (RANDOM)" if one.name in random else one.name
    if one.n_sets < n_sets:
        name += f" ({one.n_sets} of {n_sets} sets)"
    rank = "-" if math.isnan(one.mean_rank) else f"{one.mean_rank:.2f}"
    return [name, *_cells(one.scores, one.intervals), rank]


def _cells(scores: Scores, intervals: Mapping[str, Bootstrap]) -> list[str]:
    accuracy, kappa = (intervals.get(name, Bootstrap()) for name in ("accuracy", "error_consistency"))
    return [
        percent(scores.accuracy, 1, ""),
        "-" if accuracy.images is None else f"{100 * accuracy.images[0]:.1f} to {100 * accuracy.images[1]:.1f}",
        decimals(scores.accuracy_difference),
        decimals(scores.observed_consistency),
        decimals(scores.error_consistency),
        "-" if kappa.people is None else f"{kappa.people[0]:.3f} to {kappa.people[1]:.3f}",
    ]


def _set_lines(result: BehaviourResult, layout: Layout) -> list[str]:
    """Accuracy and error consistency on each set, of people and of the first networks."""
    networks = [one.name for one in result.networks[:_NETWORKS]]
    short = [shortened(name, _NAME, mark=OMITTED) for name in networks]
    head = ["accuracy %, kappa", "people", "kappa", *(cell for name in short for cell in (name, "kappa"))]
    rows = []
    for one in result.sets:
        of_each = [one.people]
        for name in networks:
            found = one.observer(name)
            of_each.append(Scores() if found is None else found.scores)
        pairs = [(percent(scores.accuracy, 1, ""), decimals(scores.error_consistency)) for scores in of_each]
        rows.append([one.name, *(cell for pair in pairs for cell in pair)])
    lines = table(head, rows, layout)
    more = len(result.networks) - len(networks)
    return [*lines, f"{more} more networks in the CSV file"] if more > 0 else lines


def _name(result: BehaviourResult) -> str:
    return "imported" if result.model is None else result.model


def _weights(result: BehaviourResult) -> WeightsInfo | None:
    return result.run.weights if isinstance(result.run, RunInfo) else None
