"""Differences between two results, with intervals.

``compare_results`` compares two results of one analyzer, ``compare_folders`` those in two folders, and
``draw_differences`` draws the differences. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .differences import Comparison, Difference, compare_results
    from .folders import compare_folders
    from .plot_differences import draw_differences

_HOME = {
    "Comparison": "differences",
    "Difference": "differences",
    "compare_folders": "folders",
    "compare_results": "differences",
    "draw_differences": "plot_differences",
}

__all__ = ["Comparison", "Difference", "compare_folders", "compare_results", "draw_differences"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
