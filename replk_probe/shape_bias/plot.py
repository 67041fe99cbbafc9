"""The figure of shape bias: by category and overall, observers side by side. Free of torch and of pyplot's state.

Every number drawn is a number of an :class:`~replk_probe.shape_bias.observers.Observer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from replk_probe.plot_style import ALERT_TEXT, INK, MUTED, figure_style, fitted, new_figure, save_figure, wrapped
from replk_probe.runtime.provenance import RunInfo

from .observers import Observer
from .plot_categories import ROW, category_caption, category_room, plot_shape_bias
from .plot_overall import bar_row, bars_caption, name_room, plot_bars, value_room
from .plot_style import ABOVE, BELOW, CAPTION_SIZE, LINE, MARGIN, PAGE, arranged, looks
from .published import ON_WHAT, SOURCE
from .result import ShapeBiasResult

_BETWEEN, _WIDEST_BAR_ROW = 0.16, 0.4  # inches


def plot_page(
    observers: Sequence[Observer], *, random: Sequence[Observer] = (), heading: Sequence[tuple[str, bool]] = ()
) -> Figure:
    """Draw the shape bias by category beside the bars, which also say who is who.

    Args:
        observers: To show, of the same categories.
        random: Those of ``observers`` whose weights are random.
        heading: Lines above, and whether each is a warning; the first one is the title.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: No observers, or their categories differ.
    """
    shown = arranged(observers)
    styles = looks(shown, random)
    categories = shown[0].counts.categories
    sentences = [*category_caption(shown), *bars_caption(shown)]
    if any(one.source == SOURCE for one in shown):
        sentences.append(f"{ON_WHAT}; {SOURCE.removeprefix('published: ')}.")
    lines = wrapped(" ".join(sentences), (PAGE - 2 * MARGIN) * 72, CAPTION_SIZE)
    body = max(ROW * (len(categories) + 1), bar_row(styles) * len(shown))
    head = (sum(_heading_sizes(heading)) * LINE + 5) / 72 if heading else 0.0
    foot = BELOW + (len(lines) * CAPTION_SIZE * LINE + 4) / 72
    height = MARGIN + head + ABOVE + body + foot
    left = MARGIN + category_room(categories) / 72
    names, values = name_room(styles) / 72, value_room(shown) / 72
    frames = PAGE - left - _BETWEEN - names - values - MARGIN
    wide = 0.62 * frames
    with figure_style():
        figure = new_figure(PAGE, height)
        first = figure.add_axes((left / PAGE, foot / height, wide / PAGE, body / height))
        # A few bars stand at the top, not apart from each other over the whole height.
        bars = min(body, _WIDEST_BAR_ROW * len(shown))
        second = figure.add_axes(
            (
                (left + wide + _BETWEEN + names) / PAGE,
                (foot + body - bars) / height,
                (frames - wide) / PAGE,
                bars / height,
            )
        )
        plot_shape_bias(shown, first, random=random, legend=False, caption=False)
        plot_bars(shown, second, random=random, caption=False)
        down = MARGIN * 72
        for index, ((line, warns), size) in enumerate(zip(heading, _heading_sizes(heading), strict=True)):
            weight = "normal" if index else "bold"
            figure.text(
                MARGIN / PAGE,
                1 - down / 72 / height,
                fitted(line, (PAGE - 2 * MARGIN) * 72, size, weight),
                va="top",
                fontsize=size,
                fontweight=weight,
                color=ALERT_TEXT if warns else MUTED if index else INK,
                parse_math=False,
            )
            down += size * LINE
        for index, line in enumerate(lines):
            y = (foot - BELOW) * 72 - index * CAPTION_SIZE * LINE
            figure.text(MARGIN / PAGE, y / 72 / height, line, va="top", fontsize=CAPTION_SIZE, color=MUTED)
    return figure


def plot_result(result: ShapeBiasResult, *, others: Sequence[Observer] = ()) -> Figure:
    """Draw one result: :func:`plot_page` of its model, its observers and others.

    Args:
        result: What to draw.
        others: Also shown, such as published observers; one of a name that the result's observers have is left out.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: The result has no observers, or the categories differ.
    """
    return plot_page(
        with_others(result.everyone, result.observers, others), random=random_models([result]), heading=_heading(result)
    )


def save_figures(
    result: ShapeBiasResult, directory: str | Path, *, others: Sequence[Observer] = ()
) -> tuple[Path, ...]:
    """Write ``shape_bias.png`` and ``shape_bias.pdf``: :func:`plot_result` as files, which are returned.

    Args:
        result: What to draw.
        directory: Created if it is not there.
        others: As :func:`plot_result`.

    Raises:
        InvalidInputError: The folder cannot be written to, or as :func:`plot_result`.
    """
    # No map of pixels here whose grid the resolution would have to fit.
    return save_figure(plot_result(result, others=others), Path(directory), "shape_bias", width=1)


def with_others(
    shown: Sequence[Observer], imported: Sequence[Observer], others: Sequence[Observer]
) -> tuple[Observer, ...]:
    """``shown``, and those of ``others`` that were not imported as well."""
    known = {one.name for one in imported}
    return (*shown, *(one for one in others if one.name not in known))


def random_models(results: Sequence[ShapeBiasResult]) -> tuple[Observer, ...]:
    """The models of results whose weights are random."""
    return tuple(
        result.model
        for result in results
        if result.model is not None and isinstance(result.run, RunInfo) and result.run.weights.is_random
    )


def conflict_stimuli(models: Sequence[Observer]) -> str:
    """``"1200 stimuli with a cue conflict"``."""
    numbers = " or ".join(map(str, sorted({one.counts.n_conflict for one in models})))
    return f"{numbers} stimuli with a cue conflict"


def _heading_sizes(heading: Sequence[tuple[str, bool]]) -> list[float]:
    return [8.5 if index == 0 else 6.2 for index in range(len(heading))]


def _heading(result: ShapeBiasResult) -> list[tuple[str, bool]]:
    """Model, weights and stimuli."""
    run, model = result.run, result.model
    if model is None or not isinstance(run, RunInfo):
        title = "Shape bias" if model is None else f"Shape bias of {model.name}"
        return [(title, False), (run.image_source if isinstance(run, RunInfo) else run.source, False)]
    height, width = run.input_size
    return [
        (f"Shape bias of {run.model}", False),
        (run.weights.label, run.weights.is_random),
        (f"{conflict_stimuli([model])}, {run.image_source}, {height}\u00d7{width} px", False),
    ]
