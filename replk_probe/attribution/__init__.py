"""Attributions of the class scores of a classifier to the pixels of its images, next to its effective receptive field.

``measure_attribution`` measures a model on images. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .config import AttributionConfig
    from .measure import measure_attribution
    from .plot import plot_attribution
    from .plot_images import draw_attributions
    from .result import AttributedImage, AttributionResult, ErfWindow

_HOME = {
    "AttributedImage": "result",
    "AttributionConfig": "config",
    "AttributionResult": "result",
    "ErfWindow": "result",
    "draw_attributions": "plot_images",
    "measure_attribution": "measure",
    "plot_attribution": "plot",
}

__all__ = [
    "AttributedImage",
    "AttributionConfig",
    "AttributionResult",
    "ErfWindow",
    "draw_attributions",
    "measure_attribution",
    "plot_attribution",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
