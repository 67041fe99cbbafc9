"""Names of models with their heads, for tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from replk_probe.runtime.provenance import RunInfo

if TYPE_CHECKING:
    from .result import ShapeBiasResult


def with_heads_in_names(results: Sequence[ShapeBiasResult]) -> tuple[ShapeBiasResult, ...]:
    """The results, with the kind of a head that was added in the name of a model (``resnet50, linear head``)."""
    return tuple(
        replace(result, model=replace(result.model, name=f"{result.model.name}, {head.kind_label}"))
        if result.model is not None
        and isinstance(result.run, RunInfo)
        and (head := result.run.weights.head) is not None
        else result
        for result in results
    )
