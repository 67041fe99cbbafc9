"""One self-contained HTML page with all results, for readers who have neither the data nor the package.

``write_report`` writes the page; ``render_report`` returns it as text. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .page import render_report, write_report

_HOME = {"render_report": "page", "write_report": "page"}

__all__ = ["render_report", "write_report"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
