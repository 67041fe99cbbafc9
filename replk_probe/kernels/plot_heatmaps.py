"""Parts of figures with many kernels, on one Axes in inches from the upper left corner."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Rectangle

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    COLOR_MAP,
    INK,
    LABEL_SIZE,
    MIN_DPI,
    MUTED,
    SMALL_SIZE,
    TITLE_SIZE,
    Line,
    check_all_drawable,
    figure_of,
    fitted_lines,
    least_size,
    new_figure,
    text_points,
    weights_line,
)
from replk_probe.plot_style import LINE as LINE_HEIGHT
from replk_probe.runtime.formatting import percent

from .kernel import COMPOSED, ONE_OF_SEVERAL, Kernel, distinct_names

if TYPE_CHECKING:
    from .result import KernelResult

TALLEST, MARGIN = 9.5, 0.1  # inches
LINE = LINE_HEIGHT / 72  # line height in inches per point of the font size
NAME_LINE, SMALL_LINE = TITLE_SIZE * LINE, SMALL_SIZE * LINE
UNIT = Normalize(0.0, 1.0)
_VALUE_WIDTH = 1.9  # minimum width of a cell with a printed value, relative to the size of the text
# Maximum number of layers in a figure; the overview shows all of them.
MOST_LAYERS = 6


@dataclass(frozen=True)
class Panel:
    """One kernel in a figure, the result that contains it, and the unique name of its model."""

    model: str
    result: KernelResult
    kernel: Kernel

    @property
    def is_random(self) -> bool:
        """Whether the weights are random."""
        return self.result.run.weights.is_random


def panels_of(results: Sequence[KernelResult]) -> list[Panel]:
    """Every kernel of every model; there must be at least one."""
    check_all_drawable(results, "KernelResult")
    panels = [
        Panel(name, result, kernel)
        for name, result in zip(distinct_names(results), results, strict=True)
        for kernel in result.kernels
    ]
    if not panels:
        raise InvalidInputError("There is nothing to draw. A figure requires at least one kernel. Give some results.")
    return panels


def shown_layers(panels: Sequence[Panel]) -> list[str]:
    """Layers to show: all, the first of each stage, or evenly spaced ones, depending on their number."""
    layers = list(dict.fromkeys(panel.kernel.layer for panel in panels))
    if len(layers) <= MOST_LAYERS:
        return layers
    first = [layer for layer in layers if layer.startswith("stage") and layer.endswith(".0")]
    if 0 < len(first) <= MOST_LAYERS:
        return first
    return [layers[index] for index in np.linspace(0, len(layers) - 1, MOST_LAYERS).round().astype(int)]


def stage_of(layer: str) -> str:
    """Stage of a layer name (``stage4`` for ``stage4.0``); empty for a module path."""
    stage = layer.partition(".")[0]
    return stage if re.fullmatch(r"stage\d+", stage) else ""


def short_names(layers: Sequence[str]) -> list[str]:
    """Module paths without their common parts; names such as stage4.0 are unchanged."""
    return _shortened(layers)[0]


def common_path(layers: Sequence[str]) -> str:
    """Common parts that :func:`short_names` omits, with ``*`` for the rest; empty if it omits nothing."""
    return _shortened(layers)[1]


def _shortened(layers: Sequence[str]) -> tuple[list[str], str]:
    parts = [layer.split(".") for layer in layers]
    whole = list(layers), ""
    if any(map(stage_of, layers)) or len(set(layers)) == 1:
        return whole
    if len({len(one) for one in parts}) == 1:
        shared = [len(set(column)) == 1 for column in zip(*parts, strict=True)]
        names = [".".join(part for part, same in zip(one, shared, strict=True) if not same) for one in parts]
        pattern = ".".join(part if same else "*" for part, same in zip(parts[0], shared, strict=True))
        return (names, pattern) if any(shared) else whole
    head, tail = (
        len(list(takewhile(lambda column: len(set(column)) == 1, zip(*(one[::way] for one in parts), strict=False))))
        for way in (1, -1)
    )
    # At least one part of each path is kept, even if it is contained in another path.
    most = min(map(len, parts)) - 1
    head = min(head, most)
    tail = min(tail, most - head)
    first = parts[0]
    pattern = ".".join([*first[:head], "*", *first[len(first) - tail :]])
    return ([".".join(one[head : len(one) - tail]) for one in parts], pattern) if head + tail else whole


def one_variant(panels: Sequence[Panel]) -> list[Panel]:
    """One kernel per layer: the merged one if there are several."""
    places: dict[tuple[str, str], Panel] = {}
    for panel in panels:
        place = (panel.model, panel.kernel.layer)
        if place not in places or panel.kernel.variant == "merged":
            places[place] = panel
    return list(places.values())


def sheet(width: float, height: float) -> Axes:
    """Create an empty page with coordinates in inches; y points downwards."""
    ax = new_figure(width, height).add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return ax


def cell_side(inches: float, entries: int) -> float:
    """Side of a cell such that ``entries`` cells fit into ``inches``, an integer number of dots."""
    return max(int(inches * MIN_DPI / entries), 1) / MIN_DPI


def add_map(
    ax: Axes,
    values: npt.NDArray[np.float64],
    left: float,
    top: float,
    cell: float,
    cmap: str | Colormap = COLOR_MAP,
    norm: Normalize = UNIT,
) -> None:
    """Draw one kernel as a map with a frame; ``left``, ``top`` and the side of a cell are in inches."""
    height, width = values.shape
    left, top = (round(place * MIN_DPI) / MIN_DPI for place in (left, top))
    # One pixel per dot, since viewers blur images that they enlarge.
    dots = np.kron(values, np.ones(2 * [round(cell * MIN_DPI)]))
    place = (left, left + cell * width, top + cell * height, top)
    ax.imshow(dots, cmap=cmap, norm=norm, extent=place, aspect="auto", interpolation="none", gid="map")
    frame = Rectangle((left, top), cell * width, cell * height, fill=False, edgecolor=INK, linewidth=0.5, gid="frame")
    ax.add_patch(frame)


def add_outline(ax: Axes, left: float, top: float, side: float) -> None:
    """Draw the outline of the larger square around a smaller kernel."""
    outline = Rectangle((left, top), side, side, fill=False, edgecolor=MUTED, linewidth=0.4, linestyle=(0, (3, 3)))
    outline.set_gid("outline")
    ax.add_patch(outline)


def values_fit(cell: float) -> bool:
    """Whether values are legible in cells with this side in inches."""
    return cell * 72 / _VALUE_WIDTH >= least_size()


def add_values(ax: Axes, values: npt.NDArray[np.float64], left: float, top: float, cell: float) -> None:
    """Print the value in every cell with two decimals."""
    size = min(cell * 72 / _VALUE_WIDTH, SMALL_SIZE)
    colors = sns.color_palette(COLOR_MAP, as_cmap=True)  # type: ignore[no-untyped-call]
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = colors(UNIT(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        x, y = left + (column + 0.5) * cell, top + (row + 0.52) * cell
        text = ax.text(x, y, value_text(value), ha="center", va="center", fontsize=size)
        text.set(color="white" if dark else "black", gid="value")


def value_text(value: float) -> str:
    """A value with two decimals, without redundant zeros: ``.19`` for 0.19, ``1`` for 1."""
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"


def add_lines(ax: Axes, lines: Iterable[Line], left: float, top: float, inches: float) -> float:
    """Add lines, shortened to ``inches``; returns the position below the last one."""
    for line in lines:
        ax.text(left + line.indent / 72, top, line.fitted(inches * 72), va="top", **line.style)
        top += line.size * LINE
    return top


def source_line(panel: Panel, inches: float) -> Line:
    """The provenance of the weights, shortened if it is wider than ``inches``."""
    return weights_line(panel.result.run.weights, inches * 72)


def add_color_bar(
    ax: Axes, results: Sequence[KernelResult], left: float, top: float, height: float, width: float = 0.1
) -> None:
    """Add a color bar from 0 to 1 with its label, at a position in inches."""
    ways = {result.run.aggregate for result in results}
    label, short = bar_label(ways.pop() if len(ways) == 1 else None)
    figure = figure_of(ax)
    across, down = figure.get_size_inches()
    place = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    bar = figure.colorbar(ScalarMappable(UNIT, COLOR_MAP), cax=place)
    bar.set_label(label if text_points(label, LABEL_SIZE) <= height * 72 else short)
    bar.outline.set_linewidth(0.6)
    bar.ax.tick_params(width=0.6, size=2.5)


def bar_label(aggregate: str | None) -> tuple[str, str]:
    """The label of a color bar, and a shorter version."""
    how = (aggregate or "aggregate").capitalize()
    return f"{how} of |w| over channels / maximum", f"{how} of |w| / max"


def numbers_lines(kernel: Kernel, inches: float) -> list[str]:
    """Lines with the statistics of a kernel, shown below its map."""
    height, width = kernel.kernel_size
    channels = f"{kernel.channels} channels" + ("" if kernel.operation == "depthwise" else f", {kernel.operation}")
    within = ", ".join(f"{side}\u00d7{side}" for side in kernel.effective_size.values() if side is not None)
    gaps = f" dilation {max(kernel.dilation)}" if max(kernel.dilation) > 1 else ""
    skeleton = f"central row and column {percent(kernel.skeleton_share, 1)}"
    if text_points(skeleton, SMALL_SIZE) > inches * 72:
        skeleton = skeleton.removeprefix("central ")
    groups = [
        [f"{height}\u00d7{width}{gaps},", channels],
        [f"center 3\u00d73 {percent(kernel.center3x3_share, 1)}"],
        [skeleton],
        ["50, 90, 99 % within", within] if within else ["no mass"],
    ]
    if kernel.small_branch_share is not None and kernel.variant == "merged":
        groups.append([f"small branch {percent(kernel.small_branch_share, 1)}"])
    if kernel.zero_fraction > 0:
        groups.append([f"zeros {percent(kernel.zero_fraction, 1)}"])
    lines: list[str] = []
    for group in groups:
        line = " ".join(group)
        parts = [line] if text_points(line, SMALL_SIZE) <= inches * 72 else group
        lines += [line for part in parts for line in fitted_lines(part, inches * 72, SMALL_SIZE)]
    return lines


def variant_text(kernel: Kernel) -> str:
    """Description of a kernel's variant."""
    if kernel.variant == COMPOSED:
        return "composed" if len(kernel.composed_of) < 2 else f"composed of {len(kernel.composed_of)} kernels"
    if kernel.variant == "merged" and not kernel.branches:
        return "merged in the weights"
    if kernel.branches == (ONE_OF_SEVERAL,):
        return "one of several branches"
    if kernel.variant == "merged" and kernel.branches not in (("large",), ()):
        if "small" in kernel.branches:
            return "merged: large + small"
        if "column" in kernel.branches:
            return "merged: column + row"
        if "large" in kernel.branches:
            return f"merged: large + {len(kernel.branches) - 1} dilated"
        count = len(kernel.branches)
        return f"merged: {count} branches" if count > 1 else f"merged: {kernel.branches[0]} and more"
    if len(kernel.branches) < 2:
        return "single kernel" if kernel.variant in ("merged", "large") else kernel.variant
    return "large: column + row" if kernel.variant == "large" and "column" in kernel.branches else kernel.variant
