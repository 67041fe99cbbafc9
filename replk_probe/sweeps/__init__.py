"""Sweeps: many models measured by several analyzers, with results that survive failures and interruptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .result import SweepResult as SweepResult
    from .run import sweep as sweep

_HOME = {"SweepResult": "result", "sweep": "run"}

__all__ = ["SweepResult", "sweep"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
