"""Shape bias: what a classifier goes by where shape and texture disagree, beside humans and other networks.

``measure_shape_bias`` is the whole measurement; ``Decisions`` of anybody and ``ShapeBiasResult.from_decisions`` need no
model. Importing this package loads nothing heavy: every name is resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .decide import LabelMapping as LabelMapping
    from .decide import load_mapping as load_mapping
    from .decisions import Decisions as Decisions
    from .measure import measure_shape_bias as measure_shape_bias
    from .observers import Observer as Observer
    from .observers import compare as compare
    from .published import published_observers as published_observers
    from .result import ShapeBiasResult as ShapeBiasResult
    from .stimuli import CATEGORIES as CATEGORIES
    from .stimuli import Stimulus as Stimulus
    from .stimuli import parse_stimulus_name as parse_stimulus_name
    from .stimulus_set import StimulusSet as StimulusSet
    from .stimulus_set import open_stimuli as open_stimuli
    from .toolbox import register as register
    from .toolbox_csv import read_folder as read_folder

_HOME = {
    "CATEGORIES": "stimuli",
    "Decisions": "decisions",
    "LabelMapping": "decide",
    "Observer": "observers",
    "ShapeBiasResult": "result",
    "Stimulus": "stimuli",
    "StimulusSet": "stimulus_set",
    "compare": "observers",
    "load_mapping": "decide",
    "measure_shape_bias": "measure",
    "open_stimuli": "stimulus_set",
    "parse_stimulus_name": "stimuli",
    "published_observers": "published",
    "read_folder": "toolbox_csv",
    "register": "toolbox",
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
