"""Radial profiles of kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from replk_probe.plot_style import (
    COLORS,
    GRID,
    INK,
    LABEL_SIZE,
    RANDOM_BADGE,
    SMALL_SIZE,
    Line,
    check_axes,
    column_width,
    drawable,
    figure_style,
    fitted,
    fitted_lines,
    inches_of,
    log_ticks,
    new_figure,
    page_width,
    prepared_axes,
    text_points,
    weights_text,
)

from .plot_heatmaps import SMALL_LINE, Panel, panels_of, variant_text

if TYPE_CHECKING:
    from .result import KernelResult

# Line styles distinguish variants without color.
_STYLES: dict[str, Any] = {"merged": "-", "large": "--", "small": ":", "column": "-.", "row": (0, (3, 1, 1, 1, 1, 1))}
_OTHER_STYLE: Any = (0, (5, 1, 1, 1))  # one of several small branches
_LOWEST = 1e-4  # lower bound of the vertical axis
_TALL, _ACROSS = 1.75, 2
_LEFT, _RIGHT, _TOP, _BELOW = 0.52, 0.1, 0.22, 0.42


def draw_profiles(results: Sequence[KernelResult]) -> Figure:
    """Draw the radial profile of every kernel, with one panel per stage or per kernel size.

    Args:
        results: One result per model; colors distinguish models, line styles distinguish variants.

    Returns:
        A figure as wide as a page, or as a column if it has one panel. The horizontal axis starts at the kernel's
        center; the vertical axis is logarithmic.

    Raises:
        InvalidInputError: There is no kernel.

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import draw_profiles
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> figure = draw_profiles([measure_kernels(network)])
        >>> figure.savefig("profiles.png")
    """
    panels = panels_of(results)
    groups = {group: [panel for panel in panels if _group(panel) == group] for group in map(_group, panels)}
    columns = min(len(groups), _ACROSS)
    rows = math.ceil(len(groups) / columns)
    width = page_width() if columns > 1 else column_width()
    inside = width / columns - _LEFT - _RIGHT
    styles = {_style(panel): panel for panel in panels}
    # In the order of the legend, which says which are random.
    weights = dict.fromkeys(
        f"{panel.model}: {weights_text(panel.result.run.weights)}." for panel in panels if not panel.is_random
    )
    what = (
        "Each line shows the mean magnitude of the entries of a layer at each distance from the center, rounded to "
        "integers, relative to the maximum of the kernel."
    )
    caption = [line for text in (what, *weights) for line in fitted_lines(text, (width - 0.2) * 72, SMALL_SIZE)]
    legend = 0.125 * len(styles) + 0.05
    below = len(caption) * SMALL_LINE + 0.1
    height = legend + rows * (_TOP + _TALL + _BELOW) + below
    lowest = min(map(_smallest, panels))
    with figure_style():
        figure = new_figure(width, height)
        for index, (group, members) in enumerate(groups.items()):
            row, column = divmod(index, columns)
            left = column * (_LEFT + inside + _RIGHT) + _LEFT
            bottom = height - legend - row * (_TOP + _TALL + _BELOW) - _TOP - _TALL
            ax = figure.add_axes((left / width, bottom / height, inside / width, _TALL / height))
            _add_profiles(ax, members, [style[0] for style in styles], lowest)
            ax.set_title(
                drawable(group), loc="left", fontsize=LABEL_SIZE, fontweight="bold", color=INK, parse_math=False
            )
            if column == 0:
                ax.set_ylabel("Magnitude / maximum")
            if row == rows - 1 or index + columns >= len(groups):
                ax.set_xlabel("Distance from the center, entries")
        shown = figure.legend(
            handles=_handles(styles, width),
            loc="upper left",
            bbox_to_anchor=(0.04 / width, 1 - 0.02 / height),
            frameon=False,
            fontsize=SMALL_SIZE,
            labelspacing=0.25,
            handlelength=2.2,
        )
        for text in shown.get_texts():
            text.set_parse_math(False)
        for index, line in enumerate(caption):
            y = (below - 0.05 - index * SMALL_LINE) / height
            figure.text(0.1 / width, y, line, va="top", **Line(line).style)
    return figure


def plot_radial_profile(result: KernelResult, ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Plot the mean magnitude of every kernel at each distance from its center, one line per kernel.

    Args:
        result: Result to plot; line styles distinguish variants.
        ax: Axes to draw on; by default those of a new figure, one column wide. Given Axes are made smaller if the
            labels around them do not fit between them and their neighbors.
        legend: Whether to draw the legend.

    Returns:
        The Axes. x is the distance from the center in entries; y, logarithmic, the magnitude divided by its maximum.

    Raises:
        InvalidInputError: An argument has the wrong type, or the result has no kernel.

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.kernels import plot_radial_profile
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> ax = plot_radial_profile(measure_kernels(network, "stage1.0", variant="all"))
        >>> ax.get_yscale()
        'log'
    """
    panels = panels_of([result])
    styles = {_style(panel): panel for panel in panels}
    check_axes(ax)
    with figure_style():
        inches = column_width(), _RIGHT + _TALL + _BELOW
        ax = prepared_axes(ax, inches, left=_LEFT, right=_RIGHT, top=_RIGHT, bottom=_BELOW)
        _add_profiles(ax, panels, [model for model, _ in styles], min(map(_smallest, panels)))
        ax.set_ylabel("Magnitude / maximum")
        ax.set_xlabel("Distance from the center, entries")
        if legend:
            shown = ax.legend(handles=_handles(styles, inches_of(ax)[0]), frameon=False, fontsize=SMALL_SIZE)
            for text in shown.get_texts():
                text.set_parse_math(False)
    return ax


def _group(panel: Panel) -> str:
    layer = panel.kernel.layer
    if layer.startswith("stage") and layer[5:6].isdigit():
        return f"Stage {layer[5:].partition('.')[0]}"
    height, width = panel.kernel.kernel_size
    return f"{height}\u00d7{width}"


def _style(panel: Panel) -> tuple[str, str]:
    return panel.model, panel.kernel.variant


def _smallest(panel: Panel) -> float:
    """Minimum of a profile, limited to the lower bound of the axis."""
    profile = panel.kernel.radial_profile
    drawn = profile[np.nan_to_num(profile) > 0]
    return max(float(drawn.min()) if drawn.size else 1.0, _LOWEST)


def _color(models: Sequence[str], model: str) -> str:
    return COLORS[list(dict.fromkeys(models)).index(model) % len(COLORS)]


def _add_profiles(ax: Axes, members: Sequence[Panel], models: Sequence[str], lowest: float) -> None:
    counts = {style: sum(_style(panel) == style for panel in members) for style in map(_style, members)}
    for panel in members:
        profile = panel.kernel.radial_profile
        several = counts[_style(panel)] > 1
        ax.plot(
            np.arange(len(profile)),
            np.where(profile > 0, profile, np.nan),
            color=_color(models, panel.model),
            linestyle=_STYLES.get(panel.kernel.variant, _OTHER_STYLE),
            linewidth=0.7 if several else 1.1,
            alpha=0.6 if several else 1.0,
            marker="" if several else "o",
            markersize=2.0,
            gid="profile",
        )
    ax.set_yscale("log")
    ax.set_ylim(min(lowest / 1.3, 0.45), 1.3)
    ax.set_xlim(left=-0.3)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.grid(color=GRID, linewidth=0.5)
    sns.despine(ax=ax)  # type: ignore[no-untyped-call]


def _handles(styles: dict[tuple[str, str], Panel], width: float) -> list[Line2D]:
    """One legend entry per model and variant, with labels that fit into ``width`` inches."""
    models = [model for model, _ in styles]
    handles = []
    for (model, variant), panel in styles.items():
        which = f"{variant_text(panel.kernel)}{f', {RANDOM_BADGE}' if panel.is_random else ''}"
        points = (width - 0.6) * 72 - text_points(f", {which}", SMALL_SIZE)
        label = f"{fitted(model, points, SMALL_SIZE)}, {which}"
        handles.append(
            Line2D([], [], color=_color(models, model), linestyle=_STYLES.get(variant, _OTHER_STYLE), label=label)
        )
    return handles
