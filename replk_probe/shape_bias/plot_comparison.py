"""The figure that compares the shape bias of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import check_all_drawable, head_text, remove_figures, save_figure
from replk_probe.runtime.provenance import RunInfo

from .display_names import with_display_names
from .model_vs_human.raw_data import COMPARISON_NAME
from .observers import Observer
from .plot import conflict_stimuli, draw_observers, random_models, with_others
from .result import PAIRS_NAME

if TYPE_CHECKING:
    from .result import ShapeBiasResult


def draw_comparison(results: Sequence[ShapeBiasResult], *, others: Sequence[Observer] = ()) -> Figure:
    """Draw several models and the observers of their results in one figure.

    Args:
        results: One result per model, in the order of the figure.
        others: Further observers, such as published ones, without those whose names the observers of the results have.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: No result with a model, or the categories differ.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import Decisions, draw_comparison
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> first = Decisions.from_names("first", names, ["cat", "dog", "bear", "bear"])
        >>> second = Decisions.from_names("second", names, ["dog", "cat", "cat", "cat"])
        >>> figure = draw_comparison([ShapeBiasResult.from_decisions(decisions) for decisions in (first, second)])
        >>> figure.savefig("comparison.png")
    """
    check_all_drawable(results, "ShapeBiasResult")
    results = with_display_names(results)
    models = [result.model for result in results if result.model is not None]
    if not models:
        raise InvalidInputError(
            "There is no model to compare. The results have only imported observers. Give results of measured models."
        )
    imported = list({one.name: one for result in results for one in result.observers}.values())
    return draw_observers(
        with_others([*models, *imported], imported, others), random=random_models(results), heading=_heading(results)
    )


def save_comparison(
    results: Sequence[ShapeBiasResult], directory: str | Path, *, others: Sequence[Observer] = ()
) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_comparison` to ``comparison.png`` and ``comparison.pdf``; returns both paths."""
    return save_figure(draw_comparison(results, others=others), Path(directory), "comparison", width=1)


def remove_comparison(directory: str | Path) -> None:
    """Remove the comparison that an earlier run, on stimuli whose cues conflict, wrote to a folder."""
    remove_figures(directory, "comparison")
    for name in (COMPARISON_NAME, PAIRS_NAME):
        (Path(directory) / name).unlink(missing_ok=True)


def _heading(results: Sequence[ShapeBiasResult]) -> list[str]:
    """Number of models, small models, and stimuli; badges at the bars say which weights are random."""
    runs = [result.run for result in results if isinstance(result.run, RunInfo)]
    models = [result.model for result in results if result.model is not None]
    title = f"Shape bias of {len(models)} models" if len(models) > 1 else f"Shape bias of {models[0].name}"
    lines = [title]
    small = [run.model for run in runs if run.weights.is_embedded]
    if small:
        which = "" if len(small) == len(models) else f": {', '.join(small)}"
        lines.append(f"Small models trained on synthetic data{which}")
    heads = dict.fromkeys(head_text(run.weights.head) for run in runs if run.weights.head is not None)
    lines += [f"{head[:1].upper()}{head[1:]}" for head in heads]
    sources = dict.fromkeys(run.image_source for run in runs)
    lines.append(", ".join([conflict_stimuli(models), *sources]))
    return lines
