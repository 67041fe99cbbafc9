"""The shape bias of observers by category of the shape.

Source: the kind of plot is that of Geirhos et al., ICLR 2019, arXiv:1811.12231, and NeurIPS 2021, arXiv:2106.07411.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from replk_probe.plot_style import (
    BAND,
    GRID,
    INK,
    RANDOM_BADGE,
    SMALL_SIZE,
    badge_style,
    check_axes,
    column_width,
    ensure_margins,
    figure_of,
    figure_style,
    fitted,
    inches_of,
    least_size,
    prepared_axes,
    text_points,
    width_around,
)

from .observers import Observer
from .plot_icons import add_icon, has_icon
from .plot_style import (
    ABOVE,
    BELOW,
    MARGIN,
    NEXT_TO,
    Style,
    add_lines,
    add_sample,
    arranged,
    caption_inches,
    fraction_limits,
    fraction_ticks,
    styles_of,
)

ROW = 0.22  # inches
_LEGEND_LINE = 1.6  # line height relative to the font size
_ICON = 11.5  # points
_SPREAD = 0.29  # maximum distance of a marker from the middle of its row, in rows
_ALL, _WIDEST_LABEL = "all stimuli", 90.0  # points
_MANY = 8  # number of models above which lines are thinner


def category_axes(
    observers: Sequence[Observer],
    ax: Axes | None = None,
    *,
    random: Sequence[Observer] = (),
    legend: bool = True,
    caption: bool = True,
) -> Axes:
    """Draw the shape bias of every observer by shape category, and over all stimuli.

    The first row shows micro-averages, which vertical lines extend downwards; the other rows are categories. Individual
    humans have lines only if there are no pooled humans. A category without a decision for shape or texture has no
    marker. Within a row, humans are at the top, and models follow in their order.

    Args:
        observers: Observers to show, with the same categories.
        ax: Axes to draw on; by default those of a new figure, one column wide. Labels are drawn outside of the frame.
        random: Observers among these whose weights are random; they have hollow markers and a badge.
        legend: Whether to draw the legend below the frame.
        caption: Whether to explain the lines below the legend.

    Returns:
        The Axes. x is the fraction of shape decisions among those for shape or texture, which ticks show in percent, on
        an axis from 0 to 1, or over the upper or lower tenth of it if that contains all fractions; y is 0 for all
        stimuli, then the number of the category from 1.

    Raises:
        InvalidInputError: No observers, or their categories differ.
    """
    shown = arranged(observers)
    styles = styles_of(shown, random)
    categories = shown[0].counts.categories
    check_axes(ax)
    with figure_style():
        ax = _prepared_axes(ax, shown, styles, legend, caption)
        row_points = inches_of(ax)[1] * 72 / (len(categories) + 1)
        middles = _row_offsets(shown)
        thin = 0.5 if sum(one.kind == "model" for one in shown) > _MANY else 0.9
        pooled = any(one.kind == "humans" for one in shown)
        for row in range(0, len(categories) + 1, 2):
            ax.axhspan(row - 0.5, row + 0.5, color=BAND, linewidth=0, zorder=0)
        for index, (one, style, middle) in enumerate(zip(shown, styles, middles, strict=True)):
            fractions = (one.counts.overall, *one.counts.by_category)
            points = [(x, row + middle) for row, x in enumerate(fractions) if not math.isnan(x)]
            on_top = 3.0 + (2 - style.individual) - index / len(shown)
            if not (style.individual and pooled) and not math.isnan(one.counts.overall):
                ax.plot(
                    [one.counts.overall] * 2,
                    [middle, len(categories) + 0.5],
                    color=style.color,
                    linewidth=1.3 if one.kind == "humans" else thin,
                    linestyle=(0, (3, 1.5)) if style.random else "solid",
                    alpha=0.75,
                    zorder=2,
                    gid=f"average {style.label}",
                )
            ax.plot(
                [x for x, _ in points],
                [y for _, y in points],
                zorder=on_top,
                clip_on=False,
                gid=f"observer {style.label}",
                **style.marker_style,
            )
            ax.lines[-1].set_markersize(style.marker_style["markersize"] * min(max(row_points / 11, 0.75), 1.0))
        ax.axhline(0.5, color=INK, linewidth=0.6, zorder=1.5)
        low, high = _limits(shown)
        ax.set(xlim=(low, high), ylim=(len(categories) + 0.5, -0.5), xlabel="Shape decisions, %")
        fraction_ticks(ax.xaxis, inches_of(ax)[0], (low, high))
        top = ax.secondary_xaxis("top", functions=(_reverse, _reverse))
        top.set_xlabel("Texture decisions, %")
        fraction_ticks(top.xaxis, inches_of(ax)[0], (1 - high, 1 - low))
        ax.grid(axis="x", color=GRID, linewidth=0.5)
        ax.set_axisbelow(True)
        ax.set_yticks([])
        _draw_categories(ax, categories, row_points)
        below = 27.0
        if legend:
            below = _draw_legend(ax, styles, -category_points(categories), below) + 4
        if caption:
            labels = category_points(categories)
            add_lines(ax, category_caption(shown), (-labels, -below), width_around(ax, labels))
    return ax


def category_caption(observers: Sequence[Observer]) -> list[str]:
    """Sentences that explain rows, lines and markers."""
    sentences = [
        "The top row and the vertical lines show the share of decisions for the shape, S / (S + T), over all stimuli "
        "with a cue conflict (micro-average), and the other rows that over the stimuli of one shape."
    ]
    if any(math.isnan(bias) for one in observers for bias in one.counts.by_category):
        sentences.append("A missing marker means that there was no decision for shape or texture.")
    low, high = _limits(observers)
    if high - low < 1:
        sentences.append(f"The axis covers only {100 * low:g} to {100 * high:g} %.")
    return sentences


def _limits(observers: Sequence[Observer]) -> tuple[float, float]:
    return fraction_limits(x for one in observers for x in (one.counts.overall, *one.counts.by_category))


def category_points(categories: Sequence[str]) -> float:
    """Width of labels and icons left of the frame, in points."""
    widest = max(text_points(name, SMALL_SIZE) for name in categories)
    return (
        max(text_points(_ALL, SMALL_SIZE, "bold"), min(widest, _WIDEST_LABEL)) + 2 * NEXT_TO + _icon_width(categories)
    )


def _row_offsets(observers: Sequence[Observer]) -> list[float]:
    """Vertical offset of each observer from the middle of its row: one for all humans at the top, then the models."""
    lanes = 1 if any(one.kind != "model" for one in observers) else 0
    numbers = []
    for one in observers:
        numbers.append(lanes if one.kind == "model" else 0)
        lanes += one.kind == "model"
    return [_SPREAD * (2 * number / (lanes - 1) - 1) if lanes > 1 else 0.0 for number in numbers]


def _reverse(x: Any) -> Any:
    return 1 - x


def _icon_width(categories: Sequence[str]) -> float:
    return _ICON + NEXT_TO if any(map(has_icon, categories)) else 0.0


def _draw_categories(ax: Axes, categories: Sequence[str], row_points: float) -> None:
    """Draw the names and icons of the rows, smaller in low rows, and only some of the names if they do not fit."""
    size, icon = max(min(SMALL_SIZE, 0.9 * row_points), least_size()), min(_ICON, 0.95 * row_points)
    step = math.ceil(0.95 * size / row_points)
    anchor = ax.get_yaxis_transform()
    left = -NEXT_TO - _icon_width(categories)
    for row, name in enumerate((_ALL, *categories)):
        if row and has_icon(name):
            add_icon(ax, name, (0, row), anchor, (-NEXT_TO - _ICON / 2, 0), icon)
        if row % step:
            continue
        ax.annotate(
            fitted(name, _WIDEST_LABEL, SMALL_SIZE),
            (0, row),
            xycoords=anchor,
            xytext=(left if row else -NEXT_TO, 0),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            fontsize=size,
            fontweight="normal" if row else "bold",
            color=INK,
            annotation_clip=False,
            parse_math=False,
            gid="category",
        )


def _legend_entries(styles: Sequence[Style]) -> list[tuple[Style, str]]:
    """One entry per observer, and a common one for several individual humans."""
    humans = [style for style in styles if style.individual]
    entries = [(style, style.label) for style in styles if not style.individual]
    if len(humans) > 1:
        entries.append((humans[0], f"{len(humans)} individual humans"))
    else:
        entries += [(style, style.label) for style in humans]
    return entries


def _legend_columns(styles: Sequence[Style], points: float) -> tuple[int, list[float]]:
    """Number of rows of the legend, and the widths of its columns, of which there are as many as fit."""
    badge = text_points(RANDOM_BADGE, SMALL_SIZE, "bold") + 10
    widths = [
        18 + 1.03 * text_points(text, SMALL_SIZE) + badge * style.random for style, text in _legend_entries(styles)
    ]
    for rows in range(1, len(widths)):
        columns = [max(widths[first : first + rows]) for first in range(0, len(widths), rows)]
        if sum(columns) <= points:
            return rows, columns
    return len(widths), [points]


def _legend_inches(styles: Sequence[Style], points: float) -> float:
    return (_legend_columns(styles, points)[0] * SMALL_SIZE * _LEGEND_LINE + 4) / 72


def _draw_legend(ax: Axes, styles: Sequence[Style], left: float, down: float) -> float:
    """Add the legend below the frame, column by column; returns its lower end, in points below the frame."""
    available = width_around(ax, -left)
    rows, widths = _legend_columns(styles, available)
    step = SMALL_SIZE * _LEGEND_LINE
    below: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "va": "center_baseline",
        "annotation_clip": False,
        "parse_math": False,
    }
    for index, (style, text) in enumerate(_legend_entries(styles)):
        column, row = divmod(index, rows)
        x, y = left + 4 + sum(widths[:column]), -down - (row + 0.5) * step
        add_sample(ax, style, (0, 0), ax.transAxes, (x, y))
        x += 6
        short = fitted(text, available - 12, SMALL_SIZE)
        ax.annotate(short, (0, 0), xytext=(x, y), fontsize=SMALL_SIZE, color=INK, gid="legend", **below)
        if style.random:
            x += 1.03 * text_points(short, SMALL_SIZE) + 3.5
            ax.annotate(RANDOM_BADGE, (0, 0), xytext=(x, y), **below, **badge_style())
    return down + rows * step


def _prepared_axes(
    ax: Axes | None, observers: Sequence[Observer], styles: Sequence[Style], legend: bool, caption: bool
) -> Axes:
    """Axes with space for the labels around them; by default, those of a new figure one column wide."""
    categories = observers[0].counts.categories
    labels, is_new = category_points(categories), ax is None
    ax = prepared_axes(ax, (column_width(), 1), left=MARGIN + labels / 72, right=0.12)
    points = width_around(ax, labels)
    foot = BELOW
    if legend:
        foot += _legend_inches(styles, points)
    if caption:
        foot += caption_inches(category_caption(observers), points)
    if is_new:
        figure_of(ax).set_figheight(MARGIN + ABOVE + ROW * (len(categories) + 1) + foot)
    ensure_margins(ax, top=MARGIN + ABOVE, bottom=foot)
    return ax
