"""Preparation of a shape-bias measurement, and its result."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import data_config
from replk_probe.models.architectures.micro import is_micro

from .config import ShapeBiasConfig
from .cue_scores import CueScores, reciprocal_ranks
from .decision_plan import DecisionPlan, MeasuredDecisions, built_classifier, is_embedded, named_config, plan_fields
from .decisions import Decisions
from .model_vs_human.raw_data import subject_of
from .result import ShapeBiasResult
from .stimuli.cue_conflict import cached_cue_conflict
from .stimuli.names import CATEGORIES
from .stimuli.stimulus_set import CUE_CONFLICT, SYNTHETIC, StimulusSet
from .stimulus_source import check_partial, open_stimuli
from .synthetic import SYNTHETIC_CATEGORIES

_RANK_RULE = "reciprocal rank of the highest output of the right classes; equal outputs of other classes rank before it"


def plan_shape_bias(
    model: nn.Module | str, stimuli: StimulusSet | str | Path | None = None, config: ShapeBiasConfig | None = None
) -> ShapeBiasPlan:
    """Prepare a measurement: build the model and open the stimuli.

    Args:
        model: Model or model name, as in :func:`~replk_probe.measure_shape_bias`.
        stimuli: Stimuli, as in :func:`~replk_probe.measure_shape_bias`.
        config: The other options; defaults to ``ShapeBiasConfig()``.

    Raises:
        ReplkProbeError: See :func:`~replk_probe.measure_shape_bias`.
    """
    config = named_config(model, config or ShapeBiasConfig())
    if stimuli is not None and not isinstance(stimuli, (StimulusSet, str, os.PathLike)):
        raise InvalidInputError(
            f"Expected stimuli as a StimulusSet, a folder or the name of a set, but got an object of type "
            f"{type(stimuli).__name__}. Give a StimulusSet, a path, {CUE_CONFLICT!r} or {SYNTHETIC!r}."
        )
    check_partial(stimuli, config.allow_partial)
    if stimuli is None:
        stimuli = CUE_CONFLICT if cached_cue_conflict() and not is_embedded(model) else SYNTHETIC
    if not isinstance(stimuli, StimulusSet) and stimuli != SYNTHETIC:
        categories = CATEGORIES if config.mapping is None else config.mapping.categories
        stimuli = open_stimuli(stimuli, categories=categories, allow_partial=config.allow_partial)
    module = built_classifier(model, config)
    if is_embedded(module) and config.mapping is None and isinstance(stimuli, StimulusSet):
        _check_known(str(config.name), stimuli.categories)
    if not isinstance(stimuli, StimulusSet):
        stimuli = open_stimuli(SYNTHETIC, size=max(config.size or data_config(module).input_size))
    return ShapeBiasPlan(**plan_fields(model, module, stimuli, config, stimuli.mapping))


def default_stimuli(models: Collection[str]) -> str:
    """Default stimuli: the synthetic set for the small models trained on it, otherwise the published stimuli."""
    return SYNTHETIC if all(map(is_micro, models)) else CUE_CONFLICT


def _check_known(name: str, categories: tuple[str, ...]) -> None:
    """Refuse stimuli of other categories, also if their number is that of the model's classes."""
    if categories != SYNTHETIC_CATEGORIES:
        raise InvalidInputError(
            f"{name} has none of the categories of these stimuli. It is a small model trained on the "
            f"{len(SYNTHETIC_CATEGORIES)} classes of the synthetic set. "
            f"Give stimuli {SYNTHETIC!r}, give mapping, or use another model."
        )


@dataclass(eq=False)
class ShapeBiasPlan(DecisionPlan[ShapeBiasResult]):
    """A measurement that is ready to run."""

    stimuli: StimulusSet

    @property
    def _has_decisions(self) -> bool:
        return not self.stimuli.cues

    @property
    def _rule(self) -> str:
        return _RANK_RULE if self.stimuli.cues else super()._rule

    def _of_categories(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.stimuli.cues:
            return reciprocal_ranks(outputs, self.mapping.indices)
        return super()._of_categories(outputs)

    def _result(self, found: MeasuredDecisions) -> ShapeBiasResult:
        stimuli = self.stimuli.stimuli
        names, shape, texture = (
            tuple(getattr(stimulus, name) for stimulus in stimuli) for name in ("name", "shape", "texture")
        )
        if self.stimuli.cues:
            own = [self.mapping.categories.index(label) for label in shape]
            scores = CueScores(names, self.stimuli.cues, shape, found.probabilities[np.arange(len(own)), own])
            notes = (*found.notes, *scores.notes)
            return ShapeBiasResult(replace(found.run, image_ids=names), None, notes=notes, scores=scores)
        decisions = Decisions(
            observer=subject_of(self.name),
            names=names,
            shape=shape,
            texture=texture,
            response=found.responses,
            categories=self.mapping.categories,
        )
        row = {name: index for index, name in enumerate(names)}
        return ShapeBiasResult.from_decisions(
            decisions,
            run=replace(found.run, image_ids=decisions.names),
            probabilities=found.probabilities[[row[name] for name in decisions.names]],
            notes=found.notes,
        )
