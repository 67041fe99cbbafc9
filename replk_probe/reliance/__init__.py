"""Reliance of classifiers on shape, texture and color: their accuracy when a cue is suppressed.

``measure_reliance`` measures a model on images. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .config import RelianceConfig
    from .measure import measure_reliance
    from .plot import draw_reliance, plot_profile
    from .plot_pictures import draw_suppressions
    from .result import CueAccuracy, RelianceResult, SuppressedAccuracy
    from .suppressions import CUES, Suppression, parse_suppressions
    from .transforms import suppress

_HOME = {
    "CUES": "suppressions",
    "CueAccuracy": "result",
    "RelianceConfig": "config",
    "RelianceResult": "result",
    "SuppressedAccuracy": "result",
    "Suppression": "suppressions",
    "draw_reliance": "plot",
    "draw_suppressions": "plot_pictures",
    "measure_reliance": "measure",
    "parse_suppressions": "suppressions",
    "plot_profile": "plot",
    "suppress": "transforms",
}

__all__ = [
    "CUES",
    "CueAccuracy",
    "RelianceConfig",
    "RelianceResult",
    "SuppressedAccuracy",
    "Suppression",
    "draw_reliance",
    "draw_suppressions",
    "measure_reliance",
    "parse_suppressions",
    "plot_profile",
    "suppress",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
