"""Plots of shape bias, by category and overall, of several observers.

All values are those of an :class:`~replk_probe.shape_bias.observers.Observer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.plot_style import (
    LINE,
    SMALL_SIZE,
    Line,
    add_heading,
    check_all_drawable,
    check_drawable,
    figure_style,
    fitted_lines,
    head_text,
    heading_inches,
    new_figure,
    page_width,
    remove_figures,
    save_figure,
    title_line,
    weights_text,
)
from replk_probe.runtime.provenance import RunInfo

from .display_names import with_display_names
from .observers import Observer
from .plot_categories import ROW as CATEGORY_ROW
from .plot_categories import category_axes, category_caption, category_points
from .plot_overall import bar_axes, bar_row, bars_caption, decision_axes, panel_heights
from .plot_scores import draw_cue_scores
from .plot_style import ABOVE, BELOW, MARGIN, arranged, styles_of
from .published import ON_WHAT, SOURCE

if TYPE_CHECKING:
    from .result import ShapeBiasResult

_BETWEEN = 0.32  # inches between the panels
_SHARE = 0.42  # of the width of both is that of the left one


def plot_shape_bias(
    result: ShapeBiasResult,
    ax: Axes | None = None,
    *,
    others: Sequence[Observer] = (),
    legend: bool = True,
    caption: bool = True,
) -> Axes:
    """Plot the shape bias by category of the shape, and over all stimuli, as markers.

    Args:
        result: Result whose model and observers to plot.
        ax: Axes to draw on; by default those of a new figure, one column wide. Given Axes are made smaller if the
            labels around them do not fit between them and their neighbors.
        others: Further observers, such as published ones, without those whose names the observers of the result have.
        legend: Whether to draw the legend below the frame.
        caption: Whether to explain the lines below the frame.

    Returns:
        The Axes. x is the fraction of shape decisions among those for shape or texture, which ticks show in percent, on
        an axis from 0 to 1, or over the upper or lower tenth of it if that contains all fractions; y is 0 for all
        stimuli, then the number of the category from 1.

    Raises:
        InvalidInputError: An argument has the wrong type, the result has no observers, or the categories differ.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import Decisions, plot_shape_bias
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> decisions = Decisions.from_names("network", names, ["cat", "dog", "bear", "bear"])
        >>> result = ShapeBiasResult.from_decisions(decisions)
        >>> ax = plot_shape_bias(result, legend=False)
        >>> [round(limit) for limit in ax.get_xlim()]
        [0, 1]
    """
    shown, random = _observers_of(result, others)
    return category_axes(shown, ax, random=random, legend=legend, caption=caption)


def plot_bars(
    result: ShapeBiasResult, ax: Axes | None = None, *, others: Sequence[Observer] = (), caption: bool = True
) -> Axes:
    """Plot the shape bias over all stimuli as bars with 95 % confidence intervals.

    Args:
        result: Result whose model and observers to plot.
        ax: Axes to draw on; by default those of a new figure, one column wide. Given Axes are made smaller if the
            labels around them do not fit between them and their neighbors.
        others: Further observers; see :func:`plot_shape_bias`.
        caption: Whether to explain bars and intervals below the frame.

    Returns:
        The Axes. x is the shape bias as a fraction, which ticks show in percent; y is the number of the observer:
        models first, then humans.

    Raises:
        InvalidInputError: An argument has the wrong type, the result has no observers, or the categories differ.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import Decisions, plot_bars, published_observers
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> decisions = Decisions.from_names("network", names, ["cat", "dog", "bear", "bear"])
        >>> result = ShapeBiasResult.from_decisions(decisions)
        >>> ax = plot_bars(result, others=published_observers()[:2])
        >>> [round(limit) for limit in ax.get_xlim()]
        [0, 1]
    """
    shown, random = _observers_of(result, others)
    return bar_axes(shown, ax, random=random, caption=caption)


def draw_observers(
    observers: Sequence[Observer], *, random: Sequence[Observer] = (), heading: Sequence[str] = ()
) -> Figure:
    """Draw the shape bias by category, and bars next to it, which also serve as the legend.

    If there is space, bars below these show the decisions for shape, texture and neither.

    Args:
        observers: Observers to show, with the same categories.
        random: Observers among these whose weights are random.
        heading: Lines above the figure; the first one is the title.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: No observers, or their categories differ.
    """
    shown = arranged(observers)
    styles = styles_of(shown, random)
    categories = shown[0].counts.categories
    sentences = [*category_caption(shown), *bars_caption(shown)]
    if any(one.source == SOURCE for one in shown):
        sentences.append(f"{ON_WHAT}. Source: {SOURCE.removeprefix('published: ')}.")
    page = page_width()
    inside = (page - 2 * MARGIN) * 72
    lines = fitted_lines(" ".join(sentences), inside, SMALL_SIZE)
    body = max(CATEGORY_ROW * (len(categories) + 1), bar_row(styles) * len(shown))
    above = [title_line(line) for line in heading[:1]]
    above += [Line(line) for text in heading[1:] for line in fitted_lines(text, inside, SMALL_SIZE)]
    head = heading_inches(above) + 5 / 72 if heading else 0.0
    foot = BELOW + (len(lines) * SMALL_SIZE * LINE + 4) / 72
    height = MARGIN + head + ABOVE + body + foot
    left = MARGIN + category_points(categories) / 72
    frames = page - left - _BETWEEN - 2 * MARGIN
    wide = _SHARE * frames
    bars, decisions = panel_heights(styles, body)
    with figure_style():
        figure = new_figure(page, height)

        def frame(x: float, bottom: float, across: float, tall: float) -> Axes:
            return figure.add_axes((x / page, bottom / height, across / page, tall / height))

        category_axes(shown, frame(left, foot, wide, body), random=random, legend=False, caption=False)
        right = left + wide + _BETWEEN, frames - wide
        bar_axes(shown, frame(right[0], foot + body - bars, right[1], bars), random=random, caption=False)
        if decisions:
            decision_axes(shown, frame(right[0], foot, right[1], decisions), random=random)
        add_heading(figure, above, MARGIN, MARGIN)
        for index, line in enumerate(lines):
            y = (foot - BELOW) * 72 - index * SMALL_SIZE * LINE
            figure.text(MARGIN / page, y / 72 / height, line, va="top", **Line(line).style)
    return figure


def draw_shape_bias(result: ShapeBiasResult, *, others: Sequence[Observer] = ()) -> Figure:
    """Draw the model and the observers of one result, and others, with :func:`draw_observers`.

    Args:
        result: Result to draw.
        others: Further observers; see :func:`plot_shape_bias`.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: An argument has the wrong type, the result has no observers, or the categories differ.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import Decisions, draw_shape_bias, published_observers
        >>> names = ["cat1-dog1.png", "dog1-cat1.png", "bear1-cat2.png", "cat2-bear1.png"]
        >>> decisions = Decisions.from_names("network", names, ["cat", "dog", "bear", "bear"])
        >>> result = ShapeBiasResult.from_decisions(decisions)
        >>> draw_shape_bias(result, others=published_observers()).savefig("shape_bias.png")
    """
    shown, random = _observers_of(result, others)
    return draw_observers(shown, random=random, heading=_heading(result))


def save_figures(
    result: ShapeBiasResult, directory: str | Path, *, others: Sequence[Observer] = ()
) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_shape_bias` to ``shape_bias.png`` and ``shape_bias.pdf``; returns both paths.

    Of a result with scores, it is that of :func:`draw_cue_scores`, in ``cue_scores.png`` and ``cue_scores.pdf``.
    Figures of the other kind, which an earlier run wrote to this folder, are removed.

    Args:
        result: Result to draw.
        directory: Folder to write to; created if it does not exist.
        others: Further observers; see :func:`plot_shape_bias`.

    Raises:
        InvalidInputError: The folder cannot be written to, or as in :func:`draw_shape_bias`.
    """
    if result.scores is not None:
        remove_figures(directory, "shape_bias", "contact_sheet")
        return save_figure(draw_cue_scores(result), Path(directory), "cue_scores", width=1)
    remove_figures(directory, "cue_scores")
    # The figure has no pixel map, so its resolution is arbitrary.
    return save_figure(draw_shape_bias(result, others=others), Path(directory), "shape_bias", width=1)


def _observers_of(
    result: ShapeBiasResult, others: Sequence[Observer]
) -> tuple[tuple[Observer, ...], tuple[Observer, ...]]:
    """The observers to show, and those of them with random weights."""
    check_drawable(result, "ShapeBiasResult")
    (named,) = with_display_names([result])
    return with_others(named.all_observers, named.observers, others), random_models([named])


def with_others(
    shown: Sequence[Observer], imported: Sequence[Observer], others: Sequence[Observer]
) -> tuple[Observer, ...]:
    """``shown``, and those of ``others`` whose names are not among the imported observers."""
    check_all_drawable(others, "Observer")
    known = {one.name for one in imported}
    return (*shown, *(one for one in others if one.name not in known))


def random_models(results: Sequence[ShapeBiasResult]) -> tuple[Observer, ...]:
    """Models with random weights among the results."""
    return tuple(
        result.model
        for result in results
        if result.model is not None and isinstance(result.run, RunInfo) and result.run.weights.is_random
    )


def conflict_stimuli(models: Sequence[Observer]) -> str:
    """``"1200 stimuli with a cue conflict"``."""
    numbers = " or ".join(map(str, sorted({one.counts.n_conflict for one in models})))
    return f"{numbers} stimuli with a cue conflict"


def _heading(result: ShapeBiasResult) -> list[str]:
    """Model, weights and stimuli; the badge at the bar of the model says that weights are random."""
    run, model = result.run, result.model
    if model is None or not isinstance(run, RunInfo):
        title = "Shape bias" if model is None else f"Shape bias of {model.name}"
        return [title, run.image_source if isinstance(run, RunInfo) else run.source]
    height, width = run.input_size
    head = [] if run.weights.head is None else [head_text(run.weights.head)]
    return [
        f"Shape bias of {run.model}",
        *(head if run.weights.is_random else [weights_text(run.weights)]),
        f"{conflict_stimuli([model])}, {run.image_source}, {height}\u00d7{width} px",
    ]
