"""The shape bias of observers over all stimuli, as bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from replk_probe.plot_style import (
    GRID,
    INK,
    OTHER_COLOR,
    RANDOM_BADGE,
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

_WIDEST_NAME = 108.0  # points


def bar_axes(
    observers: Sequence[Observer], ax: Axes | None = None, *, random: Sequence[Observer] = (), caption: bool = True
) -> Axes:
    """Draw the shape bias of every observer over all stimuli as a bar, with its 95 % interval and its value.

    Args:
        observers: Observers to show, with the same categories.
        ax: Axes to draw on; by default those of a new figure, one column wide. Names and numbers are drawn outside of
            the frame.
        random: Observers among these whose weights are random; they have hatched bars and a badge.
        caption: Whether to explain bars and intervals below the frame.

    Returns:
        The Axes. x is the shape bias, y the number of the observer: models first, then humans.

    Raises:
        InvalidInputError: No observers, or their categories differ.
    """
    shown = arranged(observers)
    styles = styles_of(shown, random)
    check_axes(ax)
    with figure_style():
        ax = _prepared_axes(ax, shown, styles, caption)
        _draw_names(ax, shown, styles)
        pitch = inches_of(ax)[1] / len(shown)
        thickness = min(0.66, 0.2 / pitch)
        for y, (one, style) in enumerate(zip(shown, styles, strict=True)):
            overall = one.counts.overall
            if not math.isnan(overall):
                face: dict[str, Any] = {"color": style.tint, "linewidth": 0}
                if style.random:
                    face = {"facecolor": "white", "edgecolor": style.tint, "hatch": "//////", "linewidth": 0.6}
                ax.barh(y, overall, height=thickness, zorder=2, gid="bar", **face)
            if one.ci95 is not None:
                low, high = one.ci95
                ax.plot(
                    [low, high], [y, y], color=style.color, linewidth=1.0, zorder=3, gid="interval", clip_on=False,
                    marker="|", markersize=min(3.6, 40 * pitch * thickness), markeredgewidth=0.8,
                )  # fmt: skip
            _draw_value(ax, y, figures_of(one))
        ax.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5), xlabel="Shape bias")
        fraction_ticks(ax.xaxis, inches_of(ax)[0])
        _draw_frame(ax)
        if caption:
            names = name_points(styles)
            add_lines(ax, bars_caption(shown), (-names, -29), width_around(ax, names + value_points(shown)))
    return ax


def error_axes(observers: Sequence[Observer], ax: Axes, *, random: Sequence[Observer] = ()) -> None:
    """Draw the decisions for the texture and for neither cue as stacked bars, in percent of the conflict stimuli."""
    shown = arranged(observers)
    styles = styles_of(shown, random)
    pitch = inches_of(ax)[1] / len(shown)
    for y, one in enumerate(shown):
        left = 0.0
        for name, color, count in _errors(one):
            share = 100 * count / one.counts.n_conflict if one.counts.n_conflict else 0.0
            ax.barh(y, share, left=left, height=min(0.66, 0.2 / pitch), color=color, linewidth=0, gid=name)
            left += share
        _draw_value(ax, y, _errors_text(one))
    _draw_names(ax, shown, styles, badges=False)
    ax.set(xlim=(0, None), ylim=(len(shown) - 0.5, -0.5), xlabel="Decisions not for the shape, %")
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _draw_frame(ax)
    handles = [Patch(color=color, linewidth=0, label=name) for name, color, _ in _errors(shown[0])]
    ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=SMALL_SIZE,
        handlelength=1.0, handleheight=0.7, handletextpad=0.4, borderaxespad=0.1, borderpad=0.1,
    )  # fmt: skip


def _errors(observer: Observer) -> tuple[tuple[str, str, int], ...]:
    """Name, color and number of the decisions that were not for the shape."""
    counts = observer.counts
    return ("texture", TEXTURE_COLOR, counts.n_texture), ("neither", OTHER_COLOR, counts.n_other)


def _errors_text(observer: Observer) -> str:
    return ", ".join(f"{count} {name}" for name, _, count in _errors(observer))


def error_points(observers: Sequence[Observer]) -> float:
    """Width of the texts right of the bars of :func:`error_axes`, in points."""
    return max(text_points(_errors_text(one), SMALL_SIZE) for one in observers) + NEXT_TO + 2


def _draw_names(ax: Axes, observers: Sequence[Observer], styles: Sequence[Style], *, badges: bool = True) -> None:
    """Draw the name and the marker of every observer left of its bar, with a badge for random weights below."""
    labels = fitted_labels([style.label for style in styles], _WIDEST_NAME, SMALL_SIZE)
    anchor = ax.get_yaxis_transform()
    for y, (one, style, label) in enumerate(zip(observers, styles, labels, strict=True)):
        add_sample(ax, style, (0, y), anchor, (-NEXT_TO - 3.5, 0))
        ax.annotate(
            label,
            (0, y),
            xycoords=anchor,
            xytext=(-NEXT_TO - 9, 4.6 * (badges and style.random)),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            fontsize=SMALL_SIZE,
            fontweight="bold" if one.source == "measured" else "normal",
            color=INK,
            annotation_clip=False,
            parse_math=False,
            gid="name",
        )
        if badges and style.random:
            ax.annotate(
                RANDOM_BADGE,
                (0, y),
                xycoords=anchor,
                xytext=(-NEXT_TO - 10, -5.0),
                textcoords="offset points",
                ha="right",
                va="center_baseline",
                annotation_clip=False,
                **badge_style(),
            )


def _draw_value(ax: Axes, y: int, text: str) -> None:
    """Draw a text right of a bar."""
    ax.annotate(
        text,
        (1, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(NEXT_TO + 2, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=SMALL_SIZE,
        color=INK,
        annotation_clip=False,
        gid="figures",
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
    """Shape bias and interval as text, such as ``"0.429 [0.392, 0.467]"``."""
    overall = observer.counts.overall
    if math.isnan(overall):
        return "undefined"
    interval = f" [{observer.ci95[0]:.3f}, {observer.ci95[1]:.3f}]" if observer.ci95 is not None else ""
    return f"{overall:.3f}{interval}"


def name_points(styles: Sequence[Style]) -> float:
    """Width of names and markers left of the bars, in points."""
    widest = max(text_points(style.label, SMALL_SIZE, "bold") for style in styles)
    badge = text_points(RANDOM_BADGE, SMALL_SIZE, "bold") + 2
    return max(min(widest, _WIDEST_NAME), badge * _any_random(styles)) + NEXT_TO + 10


def value_points(observers: Sequence[Observer]) -> float:
    """Width of the values right of the bars, in points."""
    return max(text_points(figures_of(one), SMALL_SIZE) for one in observers) + NEXT_TO + 2


def bar_row(styles: Sequence[Style]) -> float:
    """Minimum height of a bar's row in inches, larger if there is a badge, which has a separate line."""
    return 0.27 if _any_random(styles) else 0.17


def _any_random(styles: Sequence[Style]) -> bool:
    return any(style.random for style in styles)


def _prepared_axes(ax: Axes | None, observers: Sequence[Observer], styles: Sequence[Style], caption: bool) -> Axes:
    """Axes with space for the labels around them; by default, those of a new figure one column wide."""
    names, values, is_new = name_points(styles), value_points(observers), ax is None
    ax = prepared_axes(ax, (column_width(), 1), left=MARGIN + names / 72, right=MARGIN + values / 72)
    foot = BELOW + caption * caption_inches(bars_caption(observers), width_around(ax, names + values))
    if is_new:
        figure_of(ax).set_figheight(0.1 + max(bar_row(styles) * len(observers), 0.4) + foot)
    ensure_margins(ax, top=0.1, bottom=foot)
    return ax
