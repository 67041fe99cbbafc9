"""Heatmap of one kernel on one Axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    BAR_INCHES,
    COLOR_MAP,
    RANDOM_BADGE,
    check_axes,
    check_color_map,
    check_drawable,
    check_limits,
    column_width,
    drawable,
    figure_style,
    fitted,
    inches_of,
    prepared_axes,
    side_bar,
    text_points,
)

from .kernel import Kernel
from .plot_heatmaps import bar_label, variant_text

if TYPE_CHECKING:
    from .result import KernelResult

_LEFT, _TOP, _BOTTOM = 0.1, 0.4, 0.1  # margins around the map in inches


def plot_kernel(
    kernel: Kernel | KernelResult,
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    variant: str | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    cmap: str | Colormap = COLOR_MAP,
    cbar: bool = True,
) -> Axes:
    """Plot the magnitude of one kernel, divided by its maximum, as a heatmap.

    Args:
        kernel: Kernel to plot, or the result that contains it.
        ax: Axes to draw on; by default those of a new figure, one column wide. Given Axes are made smaller if the
            labels around them do not fit between them and their neighbors.
        layer: Layer of the kernel in the result, by name or module path; by default the last one.
        variant: Variant of the kernel in the result; by default ``"merged"``, or the first one of a layer without it.
        vmin: Lowest value of the color scale.
        vmax: Highest value of the color scale.
        cmap: Color map.
        cbar: Whether to draw the color bar.

    Returns:
        The Axes. Entry (0, 0) of the kernel covers [0, 1] x [0, 1]; y points downwards.

    Raises:
        InvalidInputError: An argument has the wrong type, the result does not contain the kernel, ``layer`` or
            ``variant`` is given for a single kernel, ``cmap`` is unknown, or ``vmin >= vmax``.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.kernels import Kernel, plot_kernel
        >>> ax = plot_kernel(Kernel("conv", "conv", "merged", np.eye(7), channels=8), cbar=False)
        >>> [round(edge) for edge in (*ax.get_xlim(), *ax.get_ylim())]
        [0, 7, 7, 0]
    """
    check_limits(vmin, vmax)
    check_color_map(cmap)
    chosen = _chosen(kernel, layer, variant)
    run = None if isinstance(kernel, Kernel) else kernel.run
    check_axes(ax)
    with figure_style():
        right = BAR_INCHES if cbar else _LEFT
        inches = column_width(), _TOP + column_width() - _LEFT - right + _BOTTOM
        ax = prepared_axes(ax, inches, left=_LEFT, right=right, top=_TOP, bottom=_BOTTOM)
        height, width = chosen.normalized.shape
        mesh = ax.pcolormesh(chosen.normalized, vmin=vmin, vmax=vmax, cmap=cmap, rasterized=True)
        ax.set_aspect("equal")
        ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if cbar:
            side_bar(ax, mesh, *bar_label(run.aggregate if run else None))
        size = mpl.rcParams["axes.titlesize"]
        points = inches_of(ax)[0] * 72 - text_points(chosen.layer, size)
        name = fitted(f"{run.model}, " if run else "", points, size) + drawable(chosen.layer)
        random = f", {RANDOM_BADGE}" if run and run.weights.is_random else ""
        title = f"{name}\n{variant_text(chosen)}{random}"
        ax.set_title(title, loc="left", parse_math=False, fontfamily=mpl.rcParams["font.family"])
    return ax


def _chosen(kernel: Kernel | KernelResult, layer: str | None, variant: str | None) -> Kernel:
    if isinstance(kernel, Kernel):
        if layer is not None or variant is not None:
            raise InvalidInputError(
                "A single kernel was given together with a layer or a variant. These select a kernel of a result. "
                "Omit them, or give the result."
            )
        return kernel
    check_drawable(kernel, "Kernel", "KernelResult")
    if not kernel.kernels:
        raise InvalidInputError("There is nothing to draw. The result has no kernel. Measure at least one layer.")
    layer = kernel.kernels[-1].layer if layer is None else layer
    if variant is None:
        known = [one.variant for one in kernel.kernels if layer in (one.layer, one.path)]
        variant = known[0] if known and "merged" not in known else "merged"
    return kernel.kernel(layer, variant)
