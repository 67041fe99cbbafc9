"""Contact sheet of stimuli with the decisions of an observer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    INK,
    MUTED,
    OTHER_COLOR,
    RANDOM_BADGE,
    SHAPE_COLOR,
    SMALL_SIZE,
    TEXTURE_COLOR,
    TITLE_SIZE,
    Line,
    badge_style,
    block_side,
    check_drawable,
    drawable,
    figure_style,
    fitted,
    fitted_lines,
    new_figure,
    page_width,
    save_figure,
    text_points,
)
from replk_probe.runtime.checks import whole

from .decisions import NO_ANSWER, Decisions
from .statistics import OTHER, SHAPE, TEXTURE

if TYPE_CHECKING:
    from .stimuli.names import Stimulus
    from .stimuli.stimulus_set import StimulusSet

_CHOICES = {
    SHAPE: ("shape", SHAPE_COLOR, "o"),
    TEXTURE: ("texture", TEXTURE_COLOR, "s"),
    OTHER: ("neither", OTHER_COLOR, "X"),
}
_COLUMNS = 8
_ANSWER, _MARGIN = 0.19, 0.06  # the decision below a stimulus with the gap to the next, and around a figure, in inches
_CUE = SMALL_SIZE * 1.25 / 72  # height of a line with a cue, in inches
_SHARE = 0.868  # of the width is stimuli, so that one of 224 px has a dot for each pixel at 300 dots per inch
_FRAME = 1.6  # points


def draw_contact_sheet(
    stimulus_set: StimulusSet,
    decisions: Decisions,
    *,
    count: int = 48,
    names: Sequence[str] | None = None,
    random: bool = False,
    weights: str | None = None,
) -> Figure:
    """Draw stimuli with the decision of an observer, the shape category and the texture category below each.

    The color of the frame and the marker show whether the decision follows the shape, the texture or neither.

    Args:
        stimulus_set: The stimuli, of which only those shown are decoded.
        decisions: Decisions of one observer, paired with the stimuli by their ids.
        count: Maximum number of stimuli, spread over the shape categories and their stimuli; a multiple of 8 fills the
            sheet.
        names: Base names of the stimuli to draw instead, in this order.
        random: Whether the weights of the observer are random.
        weights: Short description of non-random weights, shown next to the name.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: There is no decision on a stimulus with a cue conflict, or a name is not among these stimuli.
        UnreadableImageError: A stimulus is missing or damaged.

    Examples:
        >>> from replk_probe.shape_bias import Decisions, draw_contact_sheet, open_stimuli
        >>> stimuli = open_stimuli("synthetic", size=32)
        >>> names = [stimulus.name for stimulus in stimuli.stimuli]
        >>> answers = [stimulus.texture for stimulus in stimuli.stimuli]
        >>> decisions = Decisions.from_names("texture only", names, answers, stimuli.categories)
        >>> draw_contact_sheet(stimuli, decisions, count=8).savefig("stimuli.png")
    """
    check_drawable(stimulus_set, "StimulusSet")
    check_drawable(decisions, "Decisions")
    response = dict(zip(decisions.image_ids, decisions.response, strict=True))
    choice = dict(zip(decisions.image_ids, decisions.choices().tolist(), strict=True))
    usable = [
        index
        for index, stimulus in enumerate(stimulus_set.stimuli)
        if stimulus.is_conflict and stimulus.image_id in choice
    ]
    if not usable:
        raise InvalidInputError(
            f"There is no stimulus of {stimulus_set.source!r} to draw. {decisions.observer!r} has no decision on any "
            "of its stimuli with a cue conflict. Give the stimulus set of the decisions."
        )
    chosen = _spread(stimulus_set, usable, count) if names is None else _named(stimulus_set, usable, names)
    columns = min(_COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / _COLUMNS)
    width = page_width()
    cell, gap = _cell_and_gap()
    head = 0.5
    cues = [_cues(stimulus_set, stimulus_set.stimuli[index]) for index in chosen]
    text = _ANSWER + max(map(len, cues)) * _CUE
    height = head + rows * (cell + text) + _MARGIN - 0.08
    counts = decisions.counts()
    totals = {SHAPE: counts.n_shape, TEXTURE: counts.n_texture, OTHER: counts.n_other}
    with figure_style():
        figure = new_figure(width, height)
        for place, index in enumerate(chosen):
            row, column = divmod(place, columns)
            x = _MARGIN + column * (cell + gap)
            y = height - head - row * (cell + text) - cell
            stimulus = stimulus_set.stimuli[index]
            _draw_stimulus(figure, stimulus_set, index, (x, y))
            what, color, marker = _CHOICES[choice[stimulus.image_id]]
            answer = response[stimulus.image_id]
            _draw_labels(
                figure, (x, y), color, marker, "no answer" if answer == NO_ANSWER else answer,
                cues[place], what,
            )  # fmt: skip
        _draw_head(figure, decisions, totals, counts.n_conflict, stimulus_set.source, random, weights)
    return figure


def _cues(stimulus_set: StimulusSet, stimulus: Stimulus) -> list[str]:
    """Lines that describe a stimulus; a synthetic texture has a name of its own, besides that of its category."""
    cues = stimulus_set.record.get("synthetic", {}).get("cues", {})
    texts = f"shape {stimulus.shape}", f"texture {stimulus.texture}"
    if stimulus.texture in cues:
        texts = f"{stimulus.shape} on {cues[stimulus.texture][1]}", f"texture of {stimulus.texture}"
    return [line for text in texts for line in fitted_lines(text, _text_points(), SMALL_SIZE)]


def _text_points() -> float:
    """Width of the text below a stimulus, in points."""
    return sum(_cell_and_gap()) * 72 - 2


def save_contact_sheet(
    stimulus_set: StimulusSet,
    decisions: Decisions,
    directory: str | Path,
    *,
    count: int = 48,
    names: Sequence[str] | None = None,
    random: bool = False,
    weights: str | None = None,
) -> tuple[Path, ...]:
    """Write the figure of :func:`draw_contact_sheet` to ``contact_sheet.png`` and ``.pdf``; returns both paths."""
    figure = draw_contact_sheet(stimulus_set, decisions, count=count, names=names, random=random, weights=weights)
    width = 224 if stimulus_set.size is None else stimulus_set.size[1]
    return save_figure(figure, Path(directory), "contact_sheet", width)


def spread_over(groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """Select at most ``count`` members, as evenly over the groups as their sizes allow, and evenly within each group.

    The position of the first one differs between groups, so that identically sorted groups do not show the same
    textures.
    """
    takes = [0] * len(groups)
    for _ in range(min(count, sum(map(len, groups)))):
        _, group = min((takes[i], i) for i, members in enumerate(groups) if takes[i] < len(members))
        takes[group] += 1
    golden = (math.sqrt(5) - 1) / 2
    return [
        members[int((k + (position * golden) % 1) * len(members) / take)]
        for position, (members, take) in enumerate(zip(groups, takes, strict=True))
        for k in range(take)
    ]


def _spread(stimulus_set: StimulusSet, usable: Sequence[int], count: int) -> list[int]:
    if (whole(count) or 0) < 1:
        raise InvalidInputError(
            f"A contact sheet of {count!r} stimuli cannot be drawn. The number must be a positive integer. "
            "Give 1 or more."
        )
    by_shape: dict[str, list[int]] = {}
    for index in usable:
        by_shape.setdefault(stimulus_set.stimuli[index].shape, []).append(index)
    return spread_over(list(by_shape.values()), count)


def _named(stimulus_set: StimulusSet, usable: Sequence[int], names: Sequence[str]) -> list[int]:
    known = {stimulus_set.stimuli[index].name: index for index in usable}
    missing = next((name for name in names if name not in known), None)
    if missing is not None or not names:
        raise InvalidInputError(
            f"Cannot draw stimulus {missing!r}. No stimulus with a cue conflict and a decision has this name. "
            f"Choose from {len(known)}, such as {next(iter(known))}."
        )
    return [known[name] for name in names]


def _cell_and_gap() -> tuple[float, float]:
    """Side of a stimulus and the gap between two, in inches."""
    inside = page_width() - 2 * _MARGIN
    return _SHARE * inside / _COLUMNS, (1 - _SHARE) * inside / (_COLUMNS - 1)


def _draw_stimulus(figure: Figure, stimulus_set: StimulusSet, index: int, corner: tuple[float, float]) -> None:
    width, height = figure.get_size_inches()
    picture = stimulus_set.load(index)
    cell, _ = _cell_and_gap()
    block = block_side(max(picture.size), cell)
    if block > 1:
        picture = picture.reduce(block)
    ax = figure.add_axes((corner[0] / width, corner[1] / height, cell / width, cell / height))
    ax.imshow(np.asarray(picture), interpolation="none")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_gid(stimulus_set.stimuli[index].name)


def _draw_labels(
    figure: Figure, corner: tuple[float, float], color: str, marker: str, answer: str, cues: Sequence[str], what: str
) -> None:
    """Draw the frame and the text of a stimulus whose lower left corner is at ``corner``, in inches."""
    width, height = figure.get_size_inches()
    x, y = corner
    cell, _ = _cell_and_gap()
    rim = _FRAME / 2 / 72
    figure.add_artist(
        Rectangle(
            ((x - rim) / width, (y - rim) / height),
            (cell + 2 * rim) / width,
            (cell + 2 * rim) / height,
            fill=False,
            edgecolor=color,
            linewidth=_FRAME,
            transform=figure.transFigure,
            gid=f"frame {what}",
        )
    )
    baseline = y - 0.105
    _draw_marker(figure, color, marker, x + 0.035, baseline + 0.029)
    text = fitted(answer, _text_points() - 7, SMALL_SIZE, "bold")
    style: dict[str, Any] = {"va": "baseline", "parse_math": False}
    figure.text(
        (x + 0.09) / width, baseline / height, text, fontsize=SMALL_SIZE, fontweight="bold", color=color,
        gid="decision", **style,
    )  # fmt: skip
    for cue in cues:
        baseline -= _CUE
        figure.text(x / width, baseline / height, cue, gid="cue", **style | Line(cue).style)


def _draw_marker(figure: Figure, color: str, marker: str, x: float, y: float) -> None:
    width, height = figure.get_size_inches()
    figure.add_artist(
        Line2D(
            [x / width],
            [y / height],
            transform=figure.transFigure,
            marker=marker,
            markersize=4.2,
            markeredgewidth=0,
            color=color,
            linestyle="none",
        )
    )


def _draw_head(
    figure: Figure,
    decisions: Decisions,
    totals: dict[int, int],
    conflict: int,
    source: str,
    random: bool,
    weights: str | None,
) -> None:
    """Draw the observer, the numbers of decisions and the stimulus set."""
    width, height = figure.get_size_inches()
    y = height - 0.165
    right = 0.0 if weights is None else text_points(weights, SMALL_SIZE) / 72
    available = width - max(1.2, right + 0.4)
    name = fitted(f"Decisions of {decisions.observer}", available * 72, TITLE_SIZE, "bold")
    figure.text(
        _MARGIN / width, y / height, name, va="baseline", fontsize=TITLE_SIZE, fontweight="bold", parse_math=False
    )
    style: dict[str, Any]
    if random:
        x = _MARGIN + text_points(name, TITLE_SIZE, "bold") / 72 + 0.08
        figure.text(x / width, (y + 0.015) / height, RANDOM_BADGE, va="baseline", **badge_style())
    elif weights is not None:
        style = {"va": "baseline", "ha": "right", "fontsize": SMALL_SIZE, "color": MUTED, "gid": "weights"}
        figure.text(1 - _MARGIN / width, y / height, drawable(weights), parse_math=False, **style)
    y -= 0.175
    x = _MARGIN
    style = {"va": "baseline", "fontsize": SMALL_SIZE, "parse_math": False}
    for key, (what, color, marker) in _CHOICES.items():
        _draw_marker(figure, color, marker, x + 0.035, y + 0.03)
        text = f"{what}: {totals[key]}"
        figure.text((x + 0.1) / width, y / height, text, color=INK, gid="legend", **style)
        x += 0.1 + text_points(text, SMALL_SIZE) / 72 + 0.1
    text = fitted(f"of {conflict} stimuli with a cue conflict, {source}", (width - _MARGIN - x) * 72, SMALL_SIZE)
    figure.text(x / width, y / height, text, color=MUTED, **style)
