"""Names of measured networks in tables and figures, and in runs of several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias.decisions import as_observer

from .result_notes import notes_of

if TYPE_CHECKING:
    from .result import BehaviourResult


def with_distinct_names(results: Sequence[BehaviourResult]) -> tuple[BehaviourResult, ...]:
    """The results, with full names of models that share a short one (``resnet50`` and ``timm:resnet50``)."""
    full: dict[str | None, set[str]] = {}
    for result in results:
        if isinstance(result.run, RunInfo):
            full.setdefault(result.model, set()).add(result.run.model)
    return tuple(
        _renamed(result, {str(result.model): as_observer(result.run.model)})
        if isinstance(result.run, RunInfo) and result.trials and len(full[result.model]) > 1
        else result
        for result in results
    )


def with_display_names(results: Sequence[BehaviourResult]) -> tuple[BehaviourResult, ...]:
    """The results, with the names of all measured models as they were given (``torchvision:resnet50``).

    As observers of the toolbox, models have the part after the last colon.
    """
    full: dict[str, set[str]] = {}
    for result in results:
        if result.model is not None and isinstance(result.run, RunInfo):
            full.setdefault(result.model, set()).add(result.run.model)
    given = {short: as_observer(name) for short, (name, *others) in full.items() if not others}
    return tuple(
        _renamed(result, given | {result.model: as_observer(result.run.model)})
        if result.model is not None and isinstance(result.run, RunInfo)
        else _renamed(result, given)
        for result in results
    )


def _renamed(result: BehaviourResult, names: Mapping[str, str]) -> BehaviourResult:
    """The result with other names of networks."""
    trials = tuple(replace(one, observer=names.get(one.observer, one.observer)) for one in result.trials)
    overall = tuple(replace(one, name=names.get(one.name, one.name)) for one in result.overall)
    sets = tuple(
        replace(each, observers=tuple(replace(one, name=names.get(one.name, one.name)) for one in each.observers))
        for each in result.sets
    )
    notes = dict(zip(notes_of(result.sets), notes_of(sets), strict=True))  # those with names of networks
    renamed = tuple(notes.get(note, note) for note in result.notes)
    return replace(result, trials=trials, overall=overall, sets=sets, notes=renamed)
