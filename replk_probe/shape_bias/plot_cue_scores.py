"""The figure of the scores of images with one cue each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    INK,
    OTHER_COLOR,
    SHAPE_COLOR,
    TEXTURE_COLOR,
    Line,
    add_heading,
    check_drawable,
    figure_style,
    fitted,
    heading_inches,
    new_figure,
    page_width,
    text_points,
    title_line,
    weights_line,
)
from replk_probe.runtime.provenance import RunInfo

from .cue_scores import CueScore, CueScores

if TYPE_CHECKING:
    from .result import ShapeBiasResult

_COLORS = (SHAPE_COLOR, TEXTURE_COLOR)
_ROW, _LABELS, _GAP, _BELOW, _RIGHT = 0.16, 0.95, 0.3, 0.42, 0.1  # inches
_TICK_POINTS = 7.0
_LIMITS = (0.1, 0.2, 0.5, 1.0)  # of the axes


def draw_cue_scores(result: ShapeBiasResult) -> Figure:
    """Draw the mean reciprocal rank of each label, and of all images, for each cue, with 95 % intervals.

    Args:
        result: A result with :attr:`~replk_probe.ShapeBiasResult.scores`.

    Returns:
        A figure as wide as a page (7 inches), with one panel for each cue.

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
    check_drawable(result, "ShapeBiasResult")
    scores, run = result.scores, result.run
    if scores is None:
        raise InvalidInputError(
            "The result has no scores of images with one cue. Its decisions are drawn by draw_shape_bias. Give the "
            "result of a set whose images have one cue each."
        )
    heading: list[Line] = [title_line("Mean reciprocal rank of the right classes")]
    if isinstance(run, RunInfo):
        heading = [title_line(f"Mean reciprocal rank of the right classes, {run.model}"), weights_line(run.weights)]
        height, width = run.input_size
        heading.append(Line(f"{len(scores.names)} images, {run.image_source}, {height}\u00d7{width} px"))
    cues = list(scores.by_cue)
    highest = max(score.ci95[1] for some in (scores.by_cue, *scores.by_label.values()) for score in some.values())
    limit = next(limit for limit in _LIMITS if limit >= highest)
    top = heading_inches(heading) + 0.28
    inside = _ROW * (1 + max(len(scores.by_label[cue]) for cue in cues))
    wide, high = page_width(), top + inside + _BELOW
    with figure_style():
        figure = new_figure(wide, high)
        add_heading(figure, heading, _RIGHT)
        panel = (wide - _RIGHT - len(cues) * _LABELS - (len(cues) - 1) * _GAP) / len(cues)
        for index, cue in enumerate(cues):
            left = _LABELS + index * (panel + _LABELS + _GAP)
            ax = figure.add_axes((left / wide, _BELOW / high, panel / wide, inside / high))
            _draw_cue(ax, scores, cue, _COLORS[index] if index < len(_COLORS) else OTHER_COLOR, limit)
    return figure


def _draw_cue(ax: Axes, scores: CueScores, cue: str, color: str, limit: float) -> None:
    rows: Sequence[tuple[str, CueScore]] = [
        ("all", scores.by_cue[cue]),
        *sorted(scores.by_label[cue].items(), key=lambda item: -item[1].mean_reciprocal_rank),
    ]
    for row, (_, score) in enumerate(rows):
        mean, own = score.mean_reciprocal_rank, INK if row == 0 else color
        ax.plot(score.ci95, [row, row], color=own, linewidth=1.0, solid_capstyle="butt", clip_on=False)
        ax.plot([mean], [row], marker="D" if row == 0 else "o", color=own, markersize=4, clip_on=False)
    ax.axhline(0.5, color=INK, linewidth=0.5)
    ax.set(xlim=(0, limit), ylim=(len(rows) - 0.5, -0.5), xlabel="mean reciprocal rank, 95 % interval")
    points = 72 * _LABELS - 8
    size = min(_TICK_POINTS, _TICK_POINTS * points / max(text_points(name, _TICK_POINTS) for name, _ in rows))
    ax.set_yticks(range(len(rows)), [fitted(name, points, size) for name, _ in rows], fontsize=max(size, 5))
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"{cue} ({scores.by_cue[cue].n_images} images)")
