"""Figure of the differences between two results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    COLORS,
    GRID,
    INK,
    LINE,
    MUTED,
    SMALL_SIZE,
    Line,
    add_heading,
    check_drawable,
    drawable,
    figure_style,
    fitted,
    fitted_lines,
    new_figure,
    page_width,
    save_figure,
    text_points,
    title_line,
)

if TYPE_CHECKING:
    from .differences import Comparison, Difference

_ROW, _HEAD, _FOOT = 0.17, 0.36, 0.48  # inches
_MOST_ROWS = 60
_PANELS = {"%": "percentage points", "px": "px", "ms": "ms", "": "no unit"}


def draw_differences(comparison: Comparison) -> Figure:
    """Draw the differences between two results with their 95 % intervals, one row each, and one panel for each unit.

    Significant differences, whose interval excludes zero, are filled; others are hollow. Those without an interval are
    short lines.

    Args:
        comparison: Comparison to draw; of more than 60 numbers, those with the largest differences of each unit.

    Returns:
        A figure as wide as a page (7 inches).

    Raises:
        InvalidInputError: The argument is not a comparison, or it has no difference.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.comparison import compare_results, draw_differences
        >>> from replk_probe.erf import import_erf
        >>> small, large = (import_erf(np.pad(np.ones((n, n)), 16 - n // 2), name=f"{n}x{n}") for n in (8, 16))
        >>> draw_differences(compare_results(large, small)).savefig("differences.png")
    """
    check_drawable(comparison, "Comparison")
    if not comparison.differences:
        raise InvalidInputError(
            "The comparison has no difference to draw. The results have no number in common. Compare two results that "
            "were measured alike."
        )
    units = [unit for unit in _PANELS if any(one.unit == unit for one in comparison.differences)]
    rows = {unit: _shown([one for one in comparison.differences if one.unit == unit], len(units)) for unit in units}
    page = page_width()
    with figure_style():
        caption = fitted_lines(
            f"{comparison.method} Filled: the interval excludes zero.", 72 * (page - 0.2), SMALL_SIZE
        )
        below = SMALL_SIZE * LINE / 72 * len(caption) + 0.1
        total = _HEAD + below + sum(_ROW * len(members) + _FOOT for members in rows.values())
        figure = new_figure(page, total)
        labels = {unit: [_label(one) for one in members] for unit, members in rows.items()}
        widest = max(text_points(label, SMALL_SIZE) for group in labels.values() for label in group)
        left = min(widest / 72 + 0.16, 0.55 * page)
        top = total - _HEAD
        for unit, members in rows.items():
            height = _ROW * len(members)
            ax = figure.add_axes((left / page, (top - height) / total, 1 - (left + 0.12) / page, height / total))
            top -= height + _FOOT
            scale = 100.0 if unit == "%" else 1.0
            for y, one in enumerate(members):
                color = COLORS[0] if one.is_significant else MUTED
                if one.ci95 is not None:
                    ax.plot(
                        [scale * end for end in one.ci95], [y, y], color=color, linewidth=1.4, solid_capstyle="butt"
                    )
                face = color if one.is_significant else "white"
                marker = "o" if one.ci95 is not None else "|"
                ax.plot(scale * one.difference, y, marker, color=color, markerfacecolor=face, markersize=4.0)
            ax.axvline(0, color=INK, linewidth=0.7, zorder=0)
            ax.set(ylim=(len(members) - 0.4, -0.6))
            ax.set_yticks(range(len(members)))
            points = 72 * (left - 0.16)
            ax.set_yticklabels(
                [fitted(label, points, SMALL_SIZE) for label in labels[unit]], parse_math=False, fontsize=SMALL_SIZE
            )
            ax.tick_params(left=False)
            ax.grid(axis="x", color=GRID, linewidth=0.5)
            ax.set_axisbelow(True)
            sns.despine(ax=ax, left=True)  # type: ignore[no-untyped-call]
            ax.set_xlabel(f"Difference, {_PANELS[unit]}")
        add_heading(figure, [title_line(f"{comparison.first} minus {comparison.second}")], 0.08)
        add_heading(figure, map(Line, caption), 0.08, total - below + 0.06)
    return figure


def save_differences(comparison: Comparison, directory: str | Path) -> tuple[Path, ...]:
    """Write the figure to ``differences.png`` and ``differences.pdf``; returns the files."""
    return save_figure(draw_differences(comparison), Path(directory), "differences", width=1)


def _shown(differences: Sequence[Difference], panels: int) -> list[Difference]:
    """At most as many differences as fit, the largest ones, in their order."""
    most = _MOST_ROWS // panels
    largest = sorted(differences, key=lambda one: -abs(one.difference))[:most]
    return [one for one in differences if one in largest]


def _label(one: Difference) -> str:
    return drawable(f"{one.group}, {one.name}")
