"""Preparation of a measurement on the sets of model-vs-human, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.decision_plan import (
    DecisionPlan,
    MeasuredDecisions,
    built_classifier,
    is_embedded,
    named_config,
    plan_fields,
)
from replk_probe.shape_bias.model_vs_human.raw_data import subject_of

from .config import BehaviourConfig
from .image_sets import BenchmarkImages, open_sets
from .result import BehaviourResult


def plan_behaviour(
    model: nn.Module | str,
    sets: BenchmarkImages | str | Sequence[str] | None = None,
    data: str | Path | None = None,
    config: BehaviourConfig | None = None,
) -> BehaviourPlan:
    """Prepare a measurement: build the model and open the sets.

    Args:
        model: Model or model name, as in :func:`~replk_probe.measure_behaviour`.
        sets: Sets, as in :func:`~replk_probe.measure_behaviour`, or their images.
        data: Folder of the sets, as in :func:`~replk_probe.measure_behaviour`.
        config: The other options; defaults to ``BehaviourConfig()``.

    Raises:
        ReplkProbeError: See :func:`~replk_probe.measure_behaviour`.
    """
    config = named_config(model, config or BehaviourConfig())
    module = built_classifier(model, config)
    images = sets if isinstance(sets, BenchmarkImages) else open_sets(sets, data, allow_partial=config.allow_partial)
    if is_embedded(module) and config.mapping is None:
        raise InvalidInputError(
            f"{config.name} has none of the categories of these sets. It is a small model trained on synthetic images. "
            "Use another model, or give mapping, with the class indices of each category."
        )
    return BehaviourPlan(**plan_fields(model, module, images, config))


@dataclass(eq=False)
class BehaviourPlan(DecisionPlan[BehaviourResult]):
    """A measurement that is ready to run."""

    stimuli: BenchmarkImages

    _options = (*DecisionPlan._options, "sets")

    @property
    def record(self) -> dict[str, Any]:
        """Everything that the decisions depend on; the stimuli are named as the option is."""
        return {"sets" if name == "stimuli" else name: value for name, value in super().record.items()}

    def _result(self, found: MeasuredDecisions) -> BehaviourResult:
        observer = subject_of(self.name)
        rows = self.stimuli.rows()
        names = tuple(f"{one.dataset}/{name}" for one in self.stimuli.sets for name in one.names)
        return BehaviourResult.from_trials(
            (),
            measured=[one.trials(observer, found.responses[place]) for one, place in rows],
            run=replace(found.run, image_ids=names),
            probabilities={one.dataset: found.probabilities[place] for one, place in rows},
            notes=found.notes,
        )
