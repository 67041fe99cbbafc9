"""The shape bias of observers over all stimuli, as bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from replk_probe.plot_style import (
    GRID,
    INK,
    OTHER_COLOR,
    RANDOM_BADGE,
    SHAPE_COLOR,
    SMALL_SIZE,
    TEXTURE_COLOR,
    badge_style,
    check_axes,
    column_width,
    ensure_margins,
    figure_of,
    figure_style,
    inches_of,
    prepared_axes,
    text_points,
    width_around,
)
from replk_probe.runtime.formatting import percent

from .observers import Observer
from .plot_style import (
    BELOW,
    MARGIN,
    NEXT_TO,
    Style,
    add_lines,
    add_sample,
    arranged,
    caption_inches,
    fitted_labels,
    fraction_ticks,
    styles_of,
)

# In inches: lines of text above a bar, the bar, the gap between rows, and the legend of the decisions.
_TEXT, _BADGE, _BAR, _GAP, _LEGEND = 0.125, 0.14, 0.12, 0.05, 0.16
_DECISIONS_ROW = 0.17  # minimum height of a row with the decisions of an observer, in inches
_MARKER = 9.0  # points from the frame to a name, right of the marker


def bar_axes(
    observers: Sequence[Observer], ax: Axes | None = None, *, random: Sequence[Observer] = (), caption: bool = True
) -> Axes:
    """Draw the shape bias of every observer over all stimuli as a bar with its 95 % interval, below name and value.

    Args:
        observers: Observers to show, with the same categories.
        ax: Axes to draw on; by default those of a new figure, one column wide.
        random: Observers among these whose weights are random; they have hatched bars and a badge.
        caption: Whether to explain bars and intervals below the frame.

    Returns:
        The Axes. x is the shape bias as a fraction, which ticks show in percent; y is the number of the observer:
        models first, then humans.

    Raises:
        InvalidInputError: No observers, or their categories differ.
    """
    shown = arranged(observers)
    styles = styles_of(shown, random)
    check_axes(ax)
    with figure_style():
        ax = _prepared_axes(ax, shown, styles, caption)
        ax.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5), xlabel="Shape bias, %")
        pitch = inches_of(ax)[1] / len(shown)
        # Offsets from the middle of a row, in rows.
        down = (bar_row(styles) - _GAP - _BAR) / 2 / pitch
        _draw_heads(ax, shown, styles, (bar_row(styles) - _GAP - _TEXT) / 2 / pitch)
        for y, (one, style) in enumerate(zip(shown, styles, strict=True)):
            overall = one.counts.overall
            if not math.isnan(overall):
                face: dict[str, Any] = {"color": style.tint, "linewidth": 0}
                if style.random:
                    face = {"facecolor": "white", "edgecolor": style.tint, "hatch": "//////", "linewidth": 0.6}
                ax.barh(y + down, overall, height=_BAR / pitch, zorder=2, gid="bar", **face)
            if one.ci95 is not None:
                ax.plot(
                    one.ci95, [y + down] * 2, color=style.color, linewidth=1.0, zorder=3, gid="interval",
                    clip_on=False, marker="|", markersize=3.6, markeredgewidth=0.8,
                )  # fmt: skip
        fraction_ticks(ax.xaxis, inches_of(ax)[0])
        _draw_frame(ax)
        if caption:
            add_lines(ax, bars_caption(shown), (0, -29), width_around(ax, 0))
    return ax


def decision_axes(observers: Sequence[Observer], ax: Axes, *, random: Sequence[Observer] = ()) -> None:
    """Draw the decisions of every observer as stacked bars: for the shape, for the texture and for neither cue.

    Args:
        observers: Observers to show, with the same categories.
        ax: Axes to draw on; markers are drawn left of the frame and the legend above it. x is the fraction of the
            stimuli with a cue conflict, which ticks show in percent; y is the number of the observer.
        random: Observers among these whose weights are random.
    """
    shown = arranged(observers)
    width, height = inches_of(ax)
    thickness = min(0.75, 0.16 * len(shown) / height)
    for y, (one, style) in enumerate(zip(shown, styles_of(shown, random), strict=True)):
        add_sample(ax, style, (0, y), ax.get_yaxis_transform(), (-NEXT_TO - 3.5, 0))
        left = 0.0
        for name, color, count in _decisions(one):
            share = count / one.counts.n_conflict if one.counts.n_conflict else 0.0
            ax.barh(y, share, left=left, height=thickness, color=color, linewidth=0, gid=name)
            if text_points(str(count), SMALL_SIZE) < share * width * 72 - 3:
                ax.text(
                    left + share / 2, y, str(count), ha="center", va="center_baseline", fontsize=SMALL_SIZE,
                    color="white", gid="count",
                )  # fmt: skip
            left += share
    ax.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5), xlabel="Decisions, % of the stimuli with a cue conflict")
    fraction_ticks(ax.xaxis, width)
    _draw_frame(ax)
    handles = [Patch(color=color, linewidth=0, label=name) for name, color, _ in _decisions(shown[0])]
    ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=SMALL_SIZE,
        handlelength=1.0, handleheight=0.7, handletextpad=0.4, borderaxespad=0.1, borderpad=0.1, columnspacing=1.2,
    )  # fmt: skip


def bar_row(styles: Sequence[Style]) -> float:
    """Minimum height of a row of :func:`bar_axes` in inches, larger if there is a badge, which has a separate line."""
    return _TEXT + _BADGE * any(style.random for style in styles) + _BAR + _GAP


def panel_heights(styles: Sequence[Style], body: float) -> tuple[float, float]:
    """Heights of :func:`bar_axes` and, below, of :func:`decision_axes`, in inches; 0 if there is no space for it.

    Args:
        styles: Styles of the observers.
        body: Height of both and of what is between them, in inches.
    """
    free = body - BELOW - _LEGEND
    row = bar_row(styles)
    if free < len(styles) * (row + _DECISIONS_ROW):
        return body, 0.0
    bars = free * row / (row + _DECISIONS_ROW)
    return bars, free - bars


def _decisions(observer: Observer) -> tuple[tuple[str, str, int], ...]:
    """Name, color and number of each kind of decision."""
    counts = observer.counts
    return (
        ("shape", SHAPE_COLOR, counts.n_shape),
        ("texture", TEXTURE_COLOR, counts.n_texture),
        ("neither", OTHER_COLOR, counts.n_other),
    )


def _draw_heads(ax: Axes, observers: Sequence[Observer], styles: Sequence[Style], up: float) -> None:
    """Draw above each bar the marker, the name and the value of the observer, and a badge for random weights.

    Args:
        ax: The Axes, whose limits are set.
        observers: The observers.
        styles: Their styles.
        up: Distance of the names from the middles of the rows, in rows.
    """
    anchor = ax.get_yaxis_transform()
    head: dict[str, Any] = {"xycoords": anchor, "textcoords": "offset points", "annotation_clip": False}
    values = max(text_points(figures_of(one), SMALL_SIZE) for one in observers)
    widest = inches_of(ax)[0] * 72 - _MARKER - values - 6
    labels = fitted_labels([style.label for style in styles], widest, SMALL_SIZE)
    for y, (one, style, label) in enumerate(zip(observers, styles, labels, strict=True)):
        add_sample(ax, style, (0, y - up), anchor, (3.0, 0))
        ax.annotate(
            label, (0, y - up), xytext=(_MARKER, 0), ha="left", va="center_baseline", fontsize=SMALL_SIZE,
            fontweight="bold" if one.source == "measured" else "normal", color=INK, parse_math=False, gid="name",
            **head,
        )  # fmt: skip
        ax.annotate(
            figures_of(one), (1, y - up), xytext=(0, 0), ha="right", va="center_baseline", fontsize=SMALL_SIZE,
            color=INK, gid="figures", **head,
        )  # fmt: skip
        if style.random:
            place = (_MARKER + 1, -72 * (_TEXT + _BADGE) / 2)
            ax.annotate(
                RANDOM_BADGE, (0, y - up), xytext=place, ha="left", va="center_baseline", **head, **badge_style()
            )


def _draw_frame(ax: Axes) -> None:
    ax.grid(axis="x", color=GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_yticks([])
    for side in ("right", "top"):
        ax.spines[side].set_visible(False)


def bars_caption(observers: Sequence[Observer]) -> list[str]:
    """Sentences that explain bars and intervals."""
    methods = list(dict.fromkeys(one.ci95_method for one in observers if one.ci95 is not None and one.kind != "humans"))
    methods += [f"humans: {one.ci95_method}" for one in observers if one.kind == "humans" and one.ci95 is not None]
    how = f" ({'; '.join(methods)})" if methods else ""
    return [f"Bars show the micro-average with its 95\u00a0% interval{how}."]


def figures_of(observer: Observer) -> str:
    """Shape bias and interval as text, such as ``"42.9 % [39.2, 46.7]"``."""
    overall = observer.counts.overall
    if math.isnan(overall):
        return "undefined"
    interval = "" if observer.ci95 is None else " [{:.1f}, {:.1f}]".format(*(100 * edge for edge in observer.ci95))
    return f"{percent(overall, 1)}{interval}"


def _prepared_axes(ax: Axes | None, observers: Sequence[Observer], styles: Sequence[Style], caption: bool) -> Axes:
    """Axes with space for the labels around them; by default, those of a new figure one column wide."""
    is_new = ax is None
    ax = prepared_axes(ax, (column_width(), 1), left=2 * MARGIN, right=2 * MARGIN)
    foot = BELOW + caption * caption_inches(bars_caption(observers), width_around(ax, 0))
    if is_new:
        figure_of(ax).set_figheight(0.1 + max(bar_row(styles) * len(observers), 0.4) + foot)
    ensure_margins(ax, top=0.1, bottom=foot)
    return ax
