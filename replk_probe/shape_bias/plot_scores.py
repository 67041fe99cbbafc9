"""The figure of the scores of images with one cue each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    INK,
    SHAPE_COLOR,
    TEXTURE_COLOR,
    Line,
    add_heading,
    check_axes,
    check_drawable,
    column_width,
    figure_style,
    fitted,
    heading_inches,
    new_figure,
    page_width,
    prepared_axes,
    text_points,
    title_line,
    weights_line,
)
from replk_probe.runtime.provenance import RunInfo

from .cue_scores import CueScores

if TYPE_CHECKING:
    from .result import ShapeBiasResult

_ROW, _LABELS, _GAP, _BELOW, _RIGHT, _TITLE = 0.16, 0.95, 0.3, 0.42, 0.16, 0.28  # inches
_TICK_POINTS, _LEAST_POINTS = 7.0, 5.0
_LIMITS = (0.1, 0.2, 0.5, 1.0)  # of the axes


def plot_cue_scores(result: ShapeBiasResult, ax: Axes | None = None, *, cue: str | None = None) -> Axes:
    """Draw the mean reciprocal rank for one cue, of all images and of each label, with 95 % intervals.

    Args:
        result: A result with :attr:`~replk_probe.ShapeBiasResult.scores`.
        ax: Axes to draw on; by default those of a new figure, one column wide.
        cue: The cue; defaults to the first one.

    Returns:
        The Axes.

    Raises:
        InvalidInputError: The result has no scores, or not for this cue.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import CueScores, plot_cue_scores
        >>> from replk_probe.shape_bias.result import GivenDecisions
        >>> scores = CueScores(("a.png", "b.png"), ("shape", "texture"), ("cat", "cat"), [1.0, 0.25])
        >>> ax = plot_cue_scores(ShapeBiasResult(GivenDecisions("mine"), None, scores=scores), cue="texture")
        >>> ax.get_title()
        'texture (1 image)'
    """
    scores = _scores_of(result)
    check_axes(ax)
    cues = list(scores.by_cue)
    chosen = cues[0] if cue is None else cue
    if chosen not in cues:
        raise InvalidInputError(
            f"The result has no scores for {chosen!r}. Its cues are {', '.join(cues)}. Choose one of these."
        )
    rows = [
        ("all", scores.by_cue[chosen]),
        *sorted(scores.by_label[chosen].items(), key=lambda item: -item[1].mean_reciprocal_rank),
    ]
    color = (SHAPE_COLOR, TEXTURE_COLOR)[cues.index(chosen) % 2]
    with figure_style():
        size = column_width(), _ROW * len(rows) + _BELOW + _TITLE
        ax = prepared_axes(ax, size, left=_LABELS, right=_RIGHT, top=_TITLE, bottom=_BELOW)
        for row, (_, score) in enumerate(rows):
            own = INK if row == 0 else color
            ax.plot(score.ci95, [row, row], color=own, linewidth=1.0, solid_capstyle="butt", clip_on=False)
            marker = "D" if row == 0 else "o"
            ax.plot([score.mean_reciprocal_rank], [row], marker=marker, color=own, markersize=4, clip_on=False)
        ax.axhline(0.5, color=INK, linewidth=0.5)
        ax.set(xlim=(0, _limit(scores)), ylim=(len(rows) - 0.5, -0.5), xlabel="mean reciprocal rank, 95 % interval")
        points = 72 * _LABELS - 8
        widest = max(text_points(name, _TICK_POINTS) for name, _ in rows)
        size_of_text = max(min(_TICK_POINTS, _TICK_POINTS * points / widest), _LEAST_POINTS)
        names = [fitted(name, points, size_of_text) for name, _ in rows]
        ax.set_yticks(range(len(rows)), names, fontsize=size_of_text)
        ax.tick_params(axis="y", length=0)
        count = scores.by_cue[chosen].n_images
        ax.set_title(f"{chosen} ({count} image{'s' * (count != 1)})")
    return ax


def draw_cue_scores(result: ShapeBiasResult) -> Figure:
    """Draw the mean reciprocal ranks for all cues, with one panel each; see :func:`plot_cue_scores`.

    Args:
        result: A result with :attr:`~replk_probe.ShapeBiasResult.scores`.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: The result has no scores.

    Examples:
        >>> from replk_probe import ShapeBiasResult
        >>> from replk_probe.shape_bias import CueScores, draw_cue_scores
        >>> from replk_probe.shape_bias.result import GivenDecisions
        >>> scores = CueScores(("a.png", "b.png"), ("shape", "texture"), ("cat", "cat"), [1.0, 0.25])
        >>> figure = draw_cue_scores(ShapeBiasResult(GivenDecisions("mine"), None, scores=scores))
        >>> figure.savefig("cue_scores.png")
    """
    scores, run = _scores_of(result), result.run
    heading: list[Line] = [title_line("Mean reciprocal rank of the right classes")]
    if isinstance(run, RunInfo):
        height, width = run.input_size
        heading = [title_line(f"Mean reciprocal rank of the right classes, {run.model}"), weights_line(run.weights)]
        heading.append(Line(f"{len(scores.names)} images, {run.image_source}, {height}\u00d7{width} px"))
    cues = list(scores.by_cue)
    top = heading_inches(heading) + _TITLE
    inside = _ROW * (1 + max(len(scores.by_label[cue]) for cue in cues))
    wide, high = page_width(), top + inside + _BELOW
    panel = (wide - _RIGHT - len(cues) * _LABELS - (len(cues) - 1) * _GAP) / len(cues)
    with figure_style():
        figure = new_figure(wide, high)
        add_heading(figure, heading, _RIGHT)
        for index, cue in enumerate(cues):
            left = _LABELS + index * (panel + _LABELS + _GAP)
            ax = figure.add_axes((left / wide, _BELOW / high, panel / wide, inside / high))
            plot_cue_scores(result, ax, cue=cue)
    return figure


def _scores_of(result: ShapeBiasResult) -> CueScores:
    check_drawable(result, "ShapeBiasResult")
    if result.scores is None:
        raise InvalidInputError(
            "The result has no scores of images with one cue. Its decisions are drawn by draw_shape_bias. Give the "
            "result of a set whose images have one cue each."
        )
    return result.scores


def _limit(scores: CueScores) -> float:
    """Upper limit of the axes, the same for all cues."""
    highest = max(score.ci95[1] for some in (scores.by_cue, *scores.by_label.values()) for score in some.values())
    return next(limit for limit in _LIMITS if limit >= highest)
