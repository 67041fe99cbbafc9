"""Shape bias: decisions of classifiers and humans on stimuli whose shape and texture conflict.

``measure_shape_bias`` measures a model; ``Decisions`` and ``ShapeBiasResult.from_decisions`` analyze existing decisions
without a model. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .config import ShapeBiasConfig as ShapeBiasConfig
    from .cue_scores import CueScore as CueScore
    from .cue_scores import CueScores as CueScores
    from .decision_mapping import LabelMapping as LabelMapping
    from .decision_mapping import load_mapping as load_mapping
    from .decisions import Decisions as Decisions
    from .measure import measure_shape_bias as measure_shape_bias
    from .model_vs_human.raw_data import read_folder as read_folder
    from .model_vs_human.register import register as register
    from .observers import Observer as Observer
    from .observers import compare as compare
    from .plot import draw_shape_bias as draw_shape_bias
    from .plot import plot_bars as plot_bars
    from .plot import plot_shape_bias as plot_shape_bias
    from .plot_comparison import draw_comparison as draw_comparison
    from .plot_scores import draw_cue_scores as draw_cue_scores
    from .plot_scores import plot_cue_scores as plot_cue_scores
    from .plot_stimuli import draw_contact_sheet as draw_contact_sheet
    from .published import published_observers as published_observers
    from .result import ShapeBiasResult as ShapeBiasResult
    from .stimuli.names import CATEGORIES as CATEGORIES
    from .stimuli.names import Stimulus as Stimulus
    from .stimuli.names import parse_stimulus_name as parse_stimulus_name
    from .stimuli.stimulus_set import StimulusSet as StimulusSet
    from .stimulus_source import open_stimuli as open_stimuli

_HOME = {
    "CATEGORIES": "stimuli.names",
    "CueScore": "cue_scores",
    "CueScores": "cue_scores",
    "Decisions": "decisions",
    "LabelMapping": "decision_mapping",
    "Observer": "observers",
    "ShapeBiasConfig": "config",
    "ShapeBiasResult": "result",
    "Stimulus": "stimuli.names",
    "StimulusSet": "stimuli.stimulus_set",
    "compare": "observers",
    "draw_comparison": "plot_comparison",
    "draw_contact_sheet": "plot_stimuli",
    "draw_cue_scores": "plot_scores",
    "draw_shape_bias": "plot",
    "load_mapping": "decision_mapping",
    "measure_shape_bias": "measure",
    "open_stimuli": "stimulus_source",
    "parse_stimulus_name": "stimuli.names",
    "plot_bars": "plot",
    "plot_cue_scores": "plot_scores",
    "plot_shape_bias": "plot",
    "published_observers": "published",
    "read_folder": "model_vs_human.raw_data",
    "register": "model_vs_human.register",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
