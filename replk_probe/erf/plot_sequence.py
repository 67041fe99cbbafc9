"""Plot of the effective receptive field in a sequence: a curve over the positions of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from replk_probe.plot_style import (
    COLORS,
    GRID,
    INK,
    MUTED,
    SMALL_SIZE,
    column_width,
    figure_style,
    prepared_axes,
    threshold_colors,
)
from replk_probe.runtime.formatting import percent

from .plot_labels import CAPTION_LINE, add_caption, draw_heading, layer_lines
from .plot_map import window_edges

if TYPE_CHECKING:
    from .result import ErfResult

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 0.42, 0.12, 0.5, 0.6, 1.7
_FIRST_BAR, _BAR_STEP = 1.07, 0.1


def plot_sequence(result: ErfResult, ax: Axes | None = None, *, protocol: str, caption: bool) -> Axes:
    """Draw the contribution relative to its maximum, below the interval of every threshold.

    Arguments are those of :func:`~replk_probe.erf.plot_erf`.
    """
    lines = layer_lines(result)
    bottom = _BOTTOM + CAPTION_LINE * (len(lines) - 1)
    with figure_style():
        inches = column_width(), _TOP + _HEIGHT + bottom
        ax = prepared_axes(ax, inches, left=_LEFT, right=_RIGHT, top=_TOP, bottom=bottom)
        (length,) = result.input_size
        scores = result.contribution / (float(result.contribution.max()) or 1.0)
        color = COLORS[0]
        # Means of stretches of samples, since a curve has fewer points than a long sequence.
        step = max(length // 2000, 1)
        starts = np.arange(0, length, step)
        means = np.add.reduceat(scores, starts) / np.diff(np.append(starts, length))
        ax.fill_between(starts, means, step="post", color=color, alpha=0.25, linewidth=0)
        ax.step(np.append(starts, length), np.append(means, means[-1]), where="post", color=color, linewidth=0.8)
        ax.axvline(result.center[0] + 0.5, color=INK, linewidth=0.7, linestyle=(0, (4, 3)), gid="center")
        colors = threshold_colors(result.thresholds)
        for index, (threshold, shade) in enumerate(colors.items()):
            ((first, last),) = window_edges(result, protocol, threshold)
            y = _FIRST_BAR + index * _BAR_STEP
            ax.plot([first, last], [y, y], color=shade, linewidth=2.2, solid_capstyle="butt", gid="interval")
            # On the side with more space.
            at_right = length - last >= first
            ax.annotate(
                f"{percent(threshold)}: {result.row(protocol, threshold).side:g}", (last if at_right else first, y),
                xytext=(3 if at_right else -3, 0), textcoords="offset points", va="center",
                ha="left" if at_right else "right", fontsize=SMALL_SIZE, color=INK,
            )  # fmt: skip
        top = _FIRST_BAR + len(colors) * _BAR_STEP
        ax.set(xlim=(0, length), ylim=(0, top), yticks=(0, 0.5, 1), xlabel="Position in the input")
        ax.set_ylabel("Contribution / max", y=0.5 / top)
        ax.grid(axis="x", color=GRID, linewidth=0.5)
        ax.set_axisbelow(True)
        sns.despine(ax=ax)  # type: ignore[no-untyped-call]
        draw_heading(ax, result)
        if caption:
            bars = f"Bars: intervals, '{protocol}' protocol. Dashed: center of the field"
            add_caption(ax, *lines, bars, below=25)
        ax.tick_params(color=MUTED)
    return ax
