"""Heatmap of one kernel on one Axes."""

from __future__ import annotations

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import check_axes, figure_style, new_figure

from .kernel import Kernel
from .plot_heatmaps import COLOR_MAP, bar_label, variant_text
from .result import KernelResult

_INCHES = (3.4, 2.8)


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
        ax: Axes to draw on; by default those of a new figure, one column wide.
        layer: Layer of the kernel in the result, by name or module path; by default the last one.
        variant: Variant of the kernel in the result; by default ``"merged"``, or the first one of a layer without it.
        vmin: Lowest value of the color scale.
        vmax: Highest value of the color scale.
        cmap: Color map.
        cbar: Whether to draw the color bar.

    Returns:
        The Axes. Entry (0, 0) of the kernel covers [0, 1] x [0, 1]; y points downwards.

    Raises:
        InvalidInputError: The result does not contain the kernel, ``layer`` or ``variant`` is given for a single
            kernel, or ``vmin >= vmax``.
    """
    if not vmin < vmax:
        raise InvalidInputError(
            f"A color scale from {vmin} to {vmax} is empty. Values of the heatmap lie in [0, 1]. Give vmin < vmax."
        )
    aggregate = kernel.run.aggregate if isinstance(kernel, KernelResult) else None
    model = f"{kernel.run.model}, " if isinstance(kernel, KernelResult) else ""
    chosen = _chosen(kernel, layer, variant)
    check_axes(ax)
    with figure_style():
        if ax is None:
            ax = new_figure(*_INCHES).subplots()
        sns.heatmap(  # type: ignore[no-untyped-call]
            chosen.normalised,
            ax=ax,
            vmin=vmin,
            vmax=vmax,
            cmap=cmap,
            cbar=cbar,
            cbar_kws={"label": bar_label(aggregate)[1]} if cbar else None,
            square=True,
            xticklabels=False,
            yticklabels=False,
            rasterized=True,
        )
        random = isinstance(kernel, KernelResult) and kernel.run.weights.is_random
        title = f"{model}{chosen.layer}\n{variant_text(chosen)}{', RANDOM WEIGHTS' if random else ''}"
        ax.set_title(title, loc="left", parse_math=False)
    return ax


def _chosen(kernel: Kernel | KernelResult, layer: str | None, variant: str | None) -> Kernel:
    if isinstance(kernel, Kernel):
        if layer is not None or variant is not None:
            raise InvalidInputError(
                "A single kernel was given together with a layer or a variant. These select a kernel of a result. "
                "Omit them, or give the result."
            )
        return kernel
    if not kernel.kernels:
        raise InvalidInputError("There is nothing to draw. The result has no kernel. Measure at least one layer.")
    layer = kernel.kernels[-1].layer if layer is None else layer
    if variant is None:
        known = [one.variant for one in kernel.kernels if layer in (one.layer, one.path)]
        variant = known[0] if known and "merged" not in known else "merged"
    return kernel.kernel(layer, variant)
