"""Shape bias: what a classifier goes by where shape and texture disagree, beside humans and other networks.

Importing this package loads nothing heavy: every name is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stimuli import CATEGORIES as CATEGORIES
    from .stimuli import Stimulus as Stimulus
    from .stimuli import parse_stimulus_name as parse_stimulus_name
    from .stimulus_set import StimulusSet as StimulusSet
    from .stimulus_set import open_stimuli as open_stimuli

_HOME = {
    "CATEGORIES": "stimuli",
    "Stimulus": "stimuli",
    "StimulusSet": "stimulus_set",
    "open_stimuli": "stimulus_set",
    "parse_stimulus_name": "stimuli",
}

__all__ = ["CATEGORIES", "Stimulus", "StimulusSet", "open_stimuli", "parse_stimulus_name"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
