"""Names of models in tables and figures, as they were given and with their heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from replk_probe.runtime.provenance import RunInfo

from .decisions import as_observer

if TYPE_CHECKING:
    from .result import ShapeBiasResult


def with_display_names(results: Sequence[ShapeBiasResult]) -> tuple[ShapeBiasResult, ...]:
    """The results, with the names of measured models as they were given (``torchvision:resnet50``).

    As observers of the toolbox, models have the part after the last colon. The name is followed by the kind of a head
    that was added (``resnet50, linear head``).
    """
    return tuple(_with_display_name(result) for result in results)


def _with_display_name(result: ShapeBiasResult) -> ShapeBiasResult:
    if result.model is None or result.decisions is None or not isinstance(result.run, RunInfo):
        return result
    head = result.run.weights.head
    name = as_observer(result.run.model if head is None else f"{result.run.model}, {head.kind_label}")
    return replace(result, model=replace(result.model, name=name), decisions=result.decisions.renamed(name))
