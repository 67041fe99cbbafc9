"""The figure of an occlusion check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import COLORS, GRID, MUTED, check_drawable, figure_style, save_figure

from .occlusion_rows import ALL_FILLS, FILLS, KEPT, OcclusionRow
from .plot_labels import conditions
from .plot_series import LEGEND, panels

if TYPE_CHECKING:
    from .result import ErfResult

_KEPT = dict(zip(KEPT, ((COLORS[1], "window kept"), (COLORS[0], "window replaced")), strict=True))
_MARKERS = dict(zip(FILLS, ("o", "s", "^"), strict=True))
_QUANTITIES = {"cosine": "Cosine", "distance": "Relative distance"}


def draw_occlusion(result: ErfResult) -> Figure:
    """Draw cosine and relative distance of an occlusion check against the share of the contribution in the window.

    Args:
        result: A result with an occlusion check.

    Returns:
        A figure with two panels: lines with 95 % bands for the mean over the fills, and a marker for each fill.

    Raises:
        InvalidInputError: ``result`` is not an :class:`ErfResult`, has no occlusion check, or all its windows are the
            whole image.

    Examples:
        >>> import torch
        >>> from replk_probe import measure_erf
        >>> from replk_probe.erf import draw_occlusion
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU())
        >>> figure = draw_occlusion(measure_erf(network, torch.rand(2, 3, 32, 32), layer="0", check="occlusion"))
        >>> figure.savefig("occlusion.png")
    """
    check_drawable(result, "ErfResult")
    if not result.occlusion:
        raise InvalidInputError(
            f"{result.run.model} has no occlusion check to draw. It is made on request, and windows that are the whole "
            "image are left out. Measure with check='occlusion'."
        )
    with figure_style():
        figure, axes = panels(result, conditions(result), 2)
        for ax, quantity in zip(axes, _QUANTITIES, strict=True):
            _draw(ax, result.occlusion, quantity)
        # The colors are explained above one panel, the markers above the other.
        lines = [Line2D([], [], color=color, label=name) for color, name in _KEPT.values()]
        markers = [
            Line2D([], [], color=MUTED, marker=marker, markersize=3, linestyle="none", label=fill)
            for fill, marker in _MARKERS.items()
        ]
        for ax, handles in zip(axes, (lines, markers), strict=True):
            ax.legend(handles=handles, ncols=3, **LEGEND)
    return figure


def save_occlusion(result: ErfResult, directory: str | Path) -> tuple[Path, ...]:
    """Write :func:`draw_occlusion` to ``erf_occlusion.png`` and ``.pdf``, if there is a check; returns the files."""
    if not result.occlusion:
        return ()
    return save_figure(draw_occlusion(result), Path(directory), "erf_occlusion", 100)


def _draw(ax: Axes, rows: Sequence[OcclusionRow], quantity: str) -> None:
    for kept, (color, _) in _KEPT.items():
        means = _known(rows, kept, ALL_FILLS, quantity)
        places = [100 * row.threshold for row in means]
        ax.plot(places, [getattr(row, quantity) for row in means], color=color, linewidth=1.2, zorder=3)
        bounds = [getattr(row, f"{quantity}_ci95") for row in means]
        if bounds and all(bounds):
            low, high = zip(*bounds, strict=True)
            ax.fill_between(places, low, high, color=color, alpha=0.18, linewidth=0, zorder=2)
        for fill, marker in _MARKERS.items():
            found = _known(rows, kept, fill, quantity)
            ax.plot(
                [100 * row.threshold for row in found],
                [getattr(row, quantity) for row in found],
                marker,
                color=color,
                markersize=3,
                linestyle="none",
                zorder=4,
            )
    ax.set(xlim=(0, 103), xlabel="Share of the contribution in the window, %", ylabel=_QUANTITIES[quantity])
    if quantity == "distance":
        ax.set_ylim(bottom=0)
    else:
        ax.set_ylim(top=1.03)
        ax.yaxis.set_major_locator(MaxNLocator(6, prune="upper"))
    ax.grid(color=GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    sns.despine(ax=ax)  # type: ignore[no-untyped-call]


def _known(rows: Sequence[OcclusionRow], kept: str, fill: str, quantity: str) -> list[OcclusionRow]:
    return [row for row in rows if (row.kept, row.fill) == (kept, fill) and getattr(row, quantity) is not None]
