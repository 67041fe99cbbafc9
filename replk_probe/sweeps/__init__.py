"""Sweeps: many models measured by several analyzers, with results that survive failures and interruptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .engines.interface import ENGINES as ENGINES
    from .result import SweepResult as SweepResult
    from .run import sweep as sweep

_HOME = {"ENGINES": "engines.interface", "SweepResult": "result", "sweep": "run"}

__all__ = ["ENGINES", "SweepResult", "sweep"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
