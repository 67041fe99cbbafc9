"""Shape bias: decisions of classifiers and humans on stimuli whose shape and texture conflict.

``measure_shape_bias`` measures a model; ``Decisions`` and ``ShapeBiasResult.from_decisions`` analyze existing decisions
without a model. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .decision_mapping import LabelMapping as LabelMapping
    from .decision_mapping import load_mapping as load_mapping
    from .decisions import Decisions as Decisions
    from .measure import measure_shape_bias as measure_shape_bias
    from .model_vs_human.raw_data import read_folder as read_folder
    from .model_vs_human.register import register as register
    from .observers import Observer as Observer
    from .observers import compare as compare
    from .published import published_observers as published_observers
    from .result import ShapeBiasResult as ShapeBiasResult
    from .stimuli.names import CATEGORIES as CATEGORIES
    from .stimuli.names import Stimulus as Stimulus
    from .stimuli.names import parse_stimulus_name as parse_stimulus_name
    from .stimuli.stimulus_set import StimulusSet as StimulusSet
    from .stimulus_source import open_stimuli as open_stimuli

_HOME = {
    "CATEGORIES": "stimuli.names",
    "Decisions": "decisions",
    "LabelMapping": "decision_mapping",
    "Observer": "observers",
    "ShapeBiasResult": "result",
    "Stimulus": "stimuli.names",
    "StimulusSet": "stimuli.stimulus_set",
    "compare": "observers",
    "load_mapping": "decision_mapping",
    "measure_shape_bias": "measure",
    "open_stimuli": "stimulus_source",
    "parse_stimulus_name": "stimuli.names",
    "published_observers": "published",
    "read_folder": "model_vs_human.raw_data",
    "register": "model_vs_human.register",
}

__all__ = [
    "CATEGORIES",
    "Decisions",
    "LabelMapping",
    "Observer",
    "ShapeBiasResult",
    "Stimulus",
    "StimulusSet",
    "compare",
    "load_mapping",
    "measure_shape_bias",
    "open_stimuli",
    "parse_stimulus_name",
    "published_observers",
    "read_folder",
    "register",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
