"""Plots of relative accuracies: the profile of cues, and curves over the strength of each suppression."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullLocator

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    COLORS,
    GRAY,
    GRID,
    INK,
    LABEL_SIZE,
    LINE,
    RANDOM_BADGE,
    SMALL_SIZE,
    Line,
    check_all_drawable,
    check_axes,
    column_width,
    drawable,
    figure_style,
    fitted,
    fitted_lines,
    inches_of,
    new_figure,
    page_width,
    prepared_axes,
    save_figure,
    text_points,
    weights_text,
)

from .suppressions import METHODS

if TYPE_CHECKING:
    from .result import RelianceResult, SuppressedAccuracy
    from .statistics import Interval

_MARKERS = ("o", "s", "^", "D", "v", "X")
_MARGIN, _BELOW, _ABOVE = 0.08, 0.4, 0.22  # around the figure, below and above a panel, in inches
_LEFT, _RIGHT = 0.48, 0.1  # beside a panel, in inches
_TALL, _ACROSS, _PROFILE = 1.05, 3, 1.65  # height of a panel of curves, panels in a row, width of the profile
_ROW, _STEP = 0.14, 0.085  # heights of a row of the profile and of each model in it, in inches
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALL_SIZE, "labelspacing": 0.25, "handlelength": 1.4}
_LABEL = "Relative accuracy, %"
_WITHOUT_STRENGTH = "Color"


def draw_reliance(results: Sequence[RelianceResult]) -> Figure:
    """Draw the profile of cues, and the relative accuracy against the strength of each suppression.

    Args:
        results: One result per model; colors and markers distinguish models.

    Returns:
        A figure as wide as a page. Bars are 95 % intervals, and dotted lines are guesses.

    Raises:
        InvalidInputError: There are no results, or all relative accuracies are undefined.

    Examples:
        >>> from replk_probe import measure_reliance
        >>> from replk_probe.reliance import draw_reliance
        >>> result = measure_reliance("replknet_micro_k3", suppressions="gaussian-blur,grayscale", images=32)
        >>> draw_reliance([result]).savefig("reliance.png")
    """
    _check(results)
    rows = _cues(results)
    panels = _panels(results)
    width = page_width()
    labels = _label_inches(rows)
    across = min(len(panels), _ACROSS)
    down = math.ceil(len(panels) / across) if panels else 0
    caption = fitted_lines(_caption(results), (width - 2 * _MARGIN) * 72, SMALL_SIZE)
    legend = 0.135 * len(results) + 0.06
    body = max(down * (_ABOVE + _TALL + _BELOW), _ABOVE + _profile_inches(rows, results) + _BELOW)
    height = _MARGIN + legend + body + len(caption) * SMALL_SIZE * LINE / 72 + _MARGIN
    top = height - _MARGIN - legend
    with figure_style():
        figure = new_figure(width, height)

        def axes(left: float, upper: float, wide: float, tall: float) -> Axes:
            return figure.add_axes((left / width, (upper - tall) / height, wide / width, tall / height))

        wide = _PROFILE if panels else width - labels - _RIGHT - _MARGIN
        profile = axes(_MARGIN + labels, top - _ABOVE, wide, body - _ABOVE - _BELOW)
        _add_profile(profile, results, rows)
        _title(profile, "Mean of all strengths")
        start = _MARGIN + labels + _PROFILE + 0.2
        each = (width - start - _MARGIN) / max(across, 1)
        tall = body / max(down, 1) - _ABOVE - _BELOW
        for index, (name, methods) in enumerate(panels.items()):
            row, column = divmod(index, across)
            upper = top - row * (_ABOVE + tall + _BELOW) - _ABOVE
            ax = axes(start + column * each + _LEFT, upper, each - _LEFT - _RIGHT, tall)
            _add_curves(ax, results, methods)
            _title(ax, name)
            if column == 0:
                ax.set_ylabel(_LABEL)
        shown = figure.legend(
            handles=_handles(results, width, details=True),
            loc="upper left",
            bbox_to_anchor=(_MARGIN / width, 1 - _MARGIN / height),
            borderaxespad=0.0,
            **_LEGEND,
        )
        for text in shown.get_texts():
            text.set_parse_math(False)
        for index, line in enumerate(reversed(caption)):
            y = (_MARGIN + index * SMALL_SIZE * LINE / 72) / height
            figure.text(_MARGIN / width, y, line, va="bottom", **Line(line).style)
    return figure


def plot_profile(results: Sequence[RelianceResult], ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Plot the mean relative accuracy of each cue and each combination of cues, one row for each.

    Args:
        results: One result per model; colors and markers distinguish models.
        ax: Axes to draw on; by default those of a new figure, one column wide. Given Axes are made smaller if the
            labels around them do not fit between them and their neighbors.
        legend: Whether to draw the legend, with the names and weights of the models.

    Returns:
        The Axes. x is the relative accuracy in percent, where 100 is that without a suppression; y the row, from the
        first cue at the top. Bars are 95 % intervals.

    Raises:
        InvalidInputError: An argument has the wrong type, there are no results, or all relative accuracies are
            undefined.

    Examples:
        >>> from replk_probe import measure_reliance
        >>> from replk_probe.reliance import plot_profile
        >>> result = measure_reliance("replknet_micro_k3", suppressions="gaussian-blur,grayscale", images=32)
        >>> ax = plot_profile([result])
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['texture', 'color']
    """
    _check(results)
    check_axes(ax)
    rows = _cues(results)
    above = 0.135 * len(results) + 0.1 if legend else 0.1
    margins = {"left": _label_inches(rows), "right": _RIGHT, "top": above, "bottom": _BELOW}
    with figure_style():
        inches = column_width(), above + _profile_inches(rows, results) + _BELOW
        ax = prepared_axes(ax, inches, **margins)
        _add_profile(ax, results, rows)
        if legend:
            place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
            handles = _handles(results, inches_of(ax)[0], details=False)
            for text in ax.legend(handles=handles, **place, **_LEGEND).get_texts():
                text.set_parse_math(False)
    return ax


def save_figures(results: Sequence[RelianceResult], directory: str | Path, stem: str = "reliance") -> tuple[Path, ...]:
    """Write the figure of :func:`draw_reliance` to ``stem.png`` and ``stem.pdf``; returns the files."""
    # The figure has no pixel map, so its resolution is arbitrary.
    return save_figure(draw_reliance(results), Path(directory), stem, width=1)


def _check(results: Any) -> None:
    check_all_drawable(results, "RelianceResult")
    if not any(cue.relative_accuracy is not None for result in results for cue in result.profile):
        raise InvalidInputError(
            "There is nothing to draw. Without a result in which an image is classified correctly, there are no "
            "relative accuracies. Give at least one such result."
        )


def _cues(results: Sequence[RelianceResult]) -> list[str]:
    """The cues of all results, single ones first."""
    found = dict.fromkeys(cue.cues for result in results for cue in result.profile)
    return sorted(found, key=lambda cues: cues.count("+"))


def _panels(results: Sequence[RelianceResult]) -> dict[str, list[str]]:
    """The methods of each panel of curves; those without a strength share one."""
    used = {one.method for result in results for one in result.single}
    panels: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        if name in used:
            panels.setdefault(method.title if method.strengths else _WITHOUT_STRENGTH, []).append(name)
    return panels


def _profile_inches(rows: Sequence[str], results: Sequence[RelianceResult]) -> float:
    return len(rows) * (_ROW + _STEP * len(results))


def _label_inches(rows: Sequence[str]) -> float:
    return max(text_points(_row_text(cues), SMALL_SIZE) for cues in rows) / 72 + 0.1


def _row_text(cues: str) -> str:
    return cues.replace("+", " + ")


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _title(ax: Axes, text: str) -> None:
    ax.set_title(drawable(text), loc="left", fontsize=LABEL_SIZE, fontweight="bold", color=INK, pad=3)


def _offsets(count: int, step: float) -> list[float]:
    """Places of models around a value that they share."""
    return [step * (index - (count - 1) / 2) for index in range(count)]


def _add_profile(ax: Axes, results: Sequence[RelianceResult], rows: Sequence[str]) -> None:
    ax.axvline(100, color=GRAY, linewidth=0.8, zorder=1)
    step = _STEP / (_ROW + _STEP * len(results))
    for index, (result, offset) in enumerate(zip(results, _offsets(len(results), step), strict=True)):
        for cue in result.profile:
            if cue.relative_accuracy is None:
                continue
            y = rows.index(cue.cues) + offset
            if cue.interval is not None:
                ends = [100 * end for end in cue.interval]
                ax.plot(ends, [y, y], color=_color(index), linewidth=1.0, solid_capstyle="butt", gid="interval")
            ax.plot(
                [100 * cue.relative_accuracy], [y], _marker(index), color=_color(index), markersize=3.2,
                markeredgewidth=0, gid="value",
            )  # fmt: skip
    for boundary in range(1, len(rows)):
        ax.axhline(boundary - 0.5, color=GRID, linewidth=0.5, zorder=0)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [_row_text(cues) for cues in rows])
    ax.set_xlim(0, _upper(_ends(results, [cue.interval for result in results for cue in result.profile])))
    ax.xaxis.set_major_locator(MultipleLocator(25))
    ax.set_xlabel(_LABEL)
    ax.grid(axis="x", color=GRID, linewidth=0.5)
    sns.despine(ax=ax)  # type: ignore[no-untyped-call]
    ax.tick_params(left=False, bottom=True)


def _add_curves(ax: Axes, results: Sequence[RelianceResult], methods: Sequence[str]) -> None:
    """One line per model against the strength of a method, or one point for each method without a strength."""
    ax.axhline(100, color=GRAY, linewidth=0.8, zorder=1)
    has_strength = bool(METHODS[methods[0]].strengths)
    places: Mapping[float | str | None, float]
    if has_strength:
        strengths = sorted({one.strength for result in results for one in _members(result, methods) if one.strength})
        places = {strength: math.log2(strength) for strength in strengths}
    else:
        strengths = []
        places = {method: float(index) for index, method in enumerate(methods)}
    span = max(places.values()) - min(places.values()) or 1.0
    shift = min(0.04 * span, 0.12 * span / len(results))
    for index, (result, offset) in enumerate(zip(results, _offsets(len(results), shift), strict=True)):
        points = sorted(
            ((places[one.strength if has_strength else one.method] + offset, one) for one in _members(result, methods)),
            key=lambda point: point[0],
        )
        x = [place for place, _ in points]
        y = [math.nan if one.relative_accuracy is None else 100 * one.relative_accuracy for _, one in points]
        for place, one in points:
            if one.relative_interval is not None:
                ends = [100 * end for end in one.relative_interval]
                ax.plot([place, place], ends, color=_color(index), linewidth=0.8, solid_capstyle="butt", gid="interval")
        ax.plot(
            x, y, color=_color(index), linewidth=1.0 if has_strength else 0, marker=_marker(index), markersize=2.8,
            markeredgewidth=0, gid="curve",
        )  # fmt: skip
        if result.accuracy:
            guess = 100 * result.chance / result.accuracy
            ax.axhline(guess, color=_color(index), linewidth=0.7, linestyle=":", zorder=1)
    all_limits = [one.relative_interval for result in results for one in result.single]
    ax.set_ylim(0, _upper(_ends(results, all_limits)))
    ax.yaxis.set_major_locator(MultipleLocator(25))
    margin = 0.12 * span if has_strength else 0.5
    ax.set_xlim(min(places.values()) - margin, max(places.values()) + margin)
    if has_strength:
        ax.xaxis.set_major_locator(FixedLocator([*places.values()]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{2**value:.3g}"))
        ax.set_xlabel(METHODS[methods[0]].label)
    else:
        ax.set_xticks([*places.values()], [METHODS[method].title.replace(" ", "\n") for method in methods])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=GRID, linewidth=0.5)
    sns.despine(ax=ax)  # type: ignore[no-untyped-call]
    ax.tick_params(left=True, bottom=True)


def _members(result: RelianceResult, methods: Sequence[str]) -> list[SuppressedAccuracy]:
    return [one for one in result.single if one.method in methods]


def _ends(results: Sequence[RelianceResult], limits: Sequence[Interval | None]) -> list[float]:
    """Upper ends of intervals and the values themselves, as far as they are defined."""
    values = [one.relative_accuracy for result in results for one in result.single]
    values += [cue.relative_accuracy for result in results for cue in result.profile]
    values += [None if one is None else one[1] for one in limits]
    return [value for value in values if value is not None]


def _upper(values: Sequence[float]) -> float:
    """Upper limit of an axis in percent, above 100 and all values."""
    return 100 * max(1.08, 1.03 * float(np.max(values, initial=0.0)))


def _handles(results: Sequence[RelianceResult], width: float, *, details: bool) -> list[Line2D]:
    """One entry of the legend per model, with its weights and accuracy if ``details``; of equal names, numbers differ.

    Random weights are always stated.
    """
    counts = Counter(result.run.model for result in results)
    seen: Counter[str] = Counter()
    handles = []
    for index, result in enumerate(results):
        name = result.run.model
        seen[name] += 1
        number = f" #{seen[name]}" if counts[name] > 1 else ""
        after = ""
        if details:
            after = f", {weights_text(result.run.weights)}, accuracy {100 * result.accuracy:.1f} %"
        elif result.run.weights.is_random:
            after = f", {RANDOM_BADGE}"
        points = (width - 0.4) * 72 - text_points(number + after, SMALL_SIZE)
        label = f"{fitted(name, points, SMALL_SIZE)}{number}{drawable(after)}"
        style: dict[str, Any] = {"color": _color(index), "marker": _marker(index), "markersize": 3.2}
        handles.append(Line2D([], [], linewidth=1.0, markeredgewidth=0, label=label, **style))
    return handles


def _caption(results: Sequence[RelianceResult]) -> str:
    where = " or ".join(sorted({result.images_text for result in results}))
    return (
        f"Accuracy under a suppression relative to that without one, on {where}. Bars: 95 % intervals by the bootstrap "
        "over images. Dotted: guesses. The lower a value, the more the model relies on the suppressed cue."
    )
