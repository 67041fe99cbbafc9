"""Behaviour: decisions of classifiers and people on the 17 sets of images of model-vs-human, and their consistency.

``measure_behaviour`` measures a model; ``read_raw_data`` and ``BehaviourResult.from_trials`` analyze existing decisions
without a model. Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replk_probe._lazy import lazy_names

if TYPE_CHECKING:
    from .benchmark_sets import BENCHMARK_SETS as BENCHMARK_SETS
    from .benchmark_sets import BenchmarkSet as BenchmarkSet
    from .benchmark_sets import choose_sets as choose_sets
    from .config import BehaviourConfig as BehaviourConfig
    from .image_sets import open_sets as open_sets
    from .measure import measure_behaviour as measure_behaviour
    from .people import published_people as published_people
    from .plot import draw_benchmark as draw_benchmark
    from .plot import draw_sets as draw_sets
    from .plot import plot_benchmark as plot_benchmark
    from .plot import plot_conditions as plot_conditions
    from .plot import plot_consistency as plot_consistency
    from .plot_images import draw_contact_sheet as draw_contact_sheet
    from .raw_data import read_raw_data as read_raw_data
    from .result import BehaviourResult as BehaviourResult
    from .scores import Scores as Scores
    from .trials import Trials as Trials

_HOME = {
    "BENCHMARK_SETS": "benchmark_sets",
    "BehaviourConfig": "config",
    "BehaviourResult": "result",
    "BenchmarkSet": "benchmark_sets",
    "Scores": "scores",
    "Trials": "trials",
    "choose_sets": "benchmark_sets",
    "draw_benchmark": "plot",
    "draw_contact_sheet": "plot_images",
    "draw_sets": "plot",
    "measure_behaviour": "measure",
    "open_sets": "image_sets",
    "plot_benchmark": "plot",
    "plot_conditions": "plot",
    "plot_consistency": "plot",
    "published_people": "people",
    "read_raw_data": "raw_data",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
