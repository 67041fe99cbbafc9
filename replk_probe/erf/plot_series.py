"""Figures of area ratios against the number of images, the input size, and the checkpoints of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from replk_probe.errors import InvalidInputError
from replk_probe.plot_style import (
    GRID,
    MUTED,
    SMALL_SIZE,
    Line,
    add_heading,
    check_all_drawable,
    check_drawable,
    figure_style,
    fitted,
    log_ticks,
    new_figure,
    page_width,
    save_figure,
    text_points,
    threshold_colors,
    title_line,
    weights_line,
)
from replk_probe.runtime.formatting import percent

from .convergence import CRITERION, NumberCurve, RatioCurve
from .labels import row_names, size_label
from .map_numbers import ALL_LABELS, THRESHOLD_RADIUS
from .plot_labels import conditions

if TYPE_CHECKING:
    from .result import ErfResult

# Fewer points show no course.
_FEWEST_POINTS = 4
_PANEL_HEIGHT = 2.0  # inches
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 0.55, 0.12, 0.62, 0.46, 0.62
LEGEND: dict[str, Any] = {
    "loc": "lower left", "bbox_to_anchor": (0, 1.0), "frameon": False, "fontsize": SMALL_SIZE, "handlelength": 1.4,
    "handletextpad": 0.3, "columnspacing": 1.0, "borderaxespad": 0.1,
}  # fmt: skip


class _Curve(NamedTuple):
    """A number at every x, with the ends of its intervals (NaN where undefined)."""

    x: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def has_convergence(result: ErfResult) -> bool:
    """Whether a result has enough numbers of images for :func:`draw_convergence`."""
    return result.convergence is not None and len(result.convergence.n_images) >= _FEWEST_POINTS


def draw_convergence(result: ErfResult, curves: Sequence[str] = CRITERION) -> Figure:
    """Draw ratios and numbers of the map against the number of images, with 95 % bands.

    Args:
        result: Result to draw.
        curves: One name for each panel: a protocol, or the name of a number in ``result.convergence.numbers``, such as
            ``"effective_area"``.

    Returns:
        A figure at most as wide as a page (7 inches). x is the number of images, y the ratio or number in its own unit.

    Raises:
        InvalidInputError: ``result`` is not an :class:`ErfResult`, or has fewer than four numbers of images; or it has
            no ratio or number of a name.

    Examples:
        >>> import torch
        >>> from replk_probe import measure_erf
        >>> from replk_probe.erf import draw_convergence
        >>> result = measure_erf(torch.nn.Conv2d(3, 8, 3, padding=1), torch.rand(8, 3, 16, 16), layer="forward")
        >>> figure = draw_convergence(result, ["pixels", "effective_area"])
        >>> figure.savefig("convergence.png")
    """
    check_drawable(result, "ErfResult")
    convergence = result.convergence
    if convergence is None or not has_convergence(result):
        raise InvalidInputError(
            f"{result.run.model} has no convergence to draw. At least {_FEWEST_POINTS} blocks of images are needed. "
            "Measure more images."
        )
    found: list[list[RatioCurve | NumberCurve]] = []
    for name in curves:
        found.append([one for one in convergence.ratios if one.protocol == name])
        found[-1] += [one for one in convergence.numbers if one.name == name]
        if not found[-1]:
            known = dict.fromkeys((*result.protocols, *(one.name for one in convergence.numbers)))
            raise InvalidInputError(
                f"{result.run.model} has no convergence of {name!r}. Choose from {', '.join(known)}."
            )
    with figure_style():
        figure, axes = panels(result, conditions(result), len(found))
        for ax, ones in zip(axes, found, strict=True):
            first = ones[0]
            lines: dict[float | None, _Curve] = {}
            for one in ones:
                values, halves = (
                    np.array([math.nan if value is None else value for value in column])
                    for column in (one.values, one.half_widths)
                )
                low, high = values - halves, values + halves
                if isinstance(first, RatioCurve):
                    low, high = np.maximum(low, 0), np.minimum(high, 1)
                lines[one.threshold] = _Curve(convergence.n_images, values.tolist(), low.tolist(), high.tolist())
            _draw(ax, lines, bands=True)
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.set_xlabel("Number of images")
            if isinstance(first, RatioCurve):
                _percent_axis(ax, first.protocol)
            else:
                label, unit = (ALL_LABELS | {THRESHOLD_RADIUS: ("radius", "px")})[first.name]
                scale = 100 if unit == "%" else 1
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _, scale=scale: f"{scale * value:.4g}"))
                ax.set_ylabel(f"{label[0].upper()}{label[1:]}{f', {unit}' if unit else ''}")
        for ax, ones in zip(axes, found, strict=True):
            if ones[0].threshold is not None:
                _legend(ax, result.thresholds)
                break
    return figure


def draw_sizes(results: Sequence[ErfResult], *, protocol: str = "pixels") -> Figure:
    """Draw the area ratio of one model, and the side of a square of that area in pixels, against the input size.

    Args:
        results: Results of one model at several input sizes, in any order.
        protocol: Protocol of the area ratio. ``"pixels"`` is defined without a center.

    Returns:
        A figure at most as wide as a page (7 inches). x is the side of the input in pixels; y is the ratio in one
        panel, and the side of a square of that area in pixels in the other.

    Raises:
        InvalidInputError: There are fewer than two results; their models, layers, positions, definitions or
            thresholds differ; or the protocol
            was not measured.

    Examples:
        >>> import torch
        >>> from replk_probe import measure_erf
        >>> from replk_probe.erf import draw_sizes
        >>> network = torch.nn.Conv2d(3, 8, 5, padding=2)
        >>> results = [measure_erf(network, torch.rand(2, 3, side, side), layer="forward") for side in (16, 24, 32)]
        >>> figure = draw_sizes(results)
        >>> figure.savefig("sizes.png")
    """
    _check_series(results, protocol, "sizes")
    ordered = sorted(results, key=lambda result: math.prod(result.input_size))
    sides = [math.sqrt(math.prod(result.input_size)) for result in ordered]
    with figure_style():
        figure, axes = panels(ordered[0], conditions(ordered[0], has_sizes=False), 2)
        _draw(axes[0], _curves(ordered, sides, protocol), bands=False)
        _percent_axis(axes[0], protocol)
        lengths = {
            threshold: _Curve(
                sides, *([math.sqrt(share) * side for share, side in zip(one, sides, strict=True)] for one in curve[1:])
            )
            for threshold, curve in _curves(ordered, sides, protocol).items()
        }
        _draw(axes[1], lengths, bands=False)
        dashes: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
        axes[1].legend(handles=axes[1].plot(sides, sides, label="whole image", **dashes), **LEGEND)
        axes[1].set_yscale("log")
        log_ticks(axes[1].yaxis, *axes[1].get_ylim())
        axes[1].set_ylabel(f"Square root of area, px ('{protocol}')")
        for ax in axes:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(sides))
            names = dict(zip(sides, (size_label(result.input_size) for result in ordered), strict=True))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda side, _, names=names: names.get(side, "")[:-3]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel("Input size, px")
        _legend(axes[0], ordered[0].thresholds)
    return figure


def draw_checkpoints(results: Sequence[ErfResult], names: Sequence[str] | None = None) -> Figure:
    """Draw the area ratios of ``"centred"`` and ``"pixels"`` of one model against its checkpoints.

    Args:
        results: Results of one model with several weights, in the order of the figure.
        names: Name of each checkpoint, such as ``"epoch 1"``; None for the names of the weights.

    Returns:
        A figure at most as wide as a page (7 inches), with one panel for each protocol.

    Raises:
        InvalidInputError: There are fewer than two results; their models, layers, positions, definitions or
            thresholds differ; or there are not
            as many names as results.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import draw_checkpoints, import_erf
        >>> results = [import_erf(np.pad(np.ones((n, n)), 16 - n // 2), name="network") for n in (8, 16, 24)]
        >>> figure = draw_checkpoints(results, ["epoch 1", "epoch 10", "epoch 100"])
        >>> figure.savefig("checkpoints.png")
    """
    for protocol in CRITERION:
        _check_series(results, protocol, "checkpoints")
    places = list(range(len(results)))
    names = row_names(results) if names is None else names
    if len(names) != len(results):
        raise InvalidInputError(
            f"There are {len(names)} names for {len(results)} checkpoints. Each checkpoint has one. Give as many."
        )
    with figure_style():
        shown = [fitted(name, 90, SMALL_SIZE) for name in names]
        longest = max(text_points(name, SMALL_SIZE) for name in shown) / 72
        # The names are turned by 40 degrees.
        figure, axes = panels(
            results[0], conditions(results[0]), len(CRITERION), bottom=0.2 + 0.65 * longest, has_weights=False
        )
        for ax, protocol in zip(axes, CRITERION, strict=True):
            _draw(ax, _curves(results, places, protocol), bands=False)
            _percent_axis(ax, protocol)
            ax.set_xticks(places)
            ax.set_xticklabels(
                shown, rotation=40, ha="right", rotation_mode="anchor", fontsize=SMALL_SIZE, parse_math=False,
            )  # fmt: skip
            ax.set_xlim(-0.4, len(results) - 0.6)
        _legend(axes[0], results[0].thresholds)
    return figure


def save_convergence(result: ErfResult, directory: str | Path) -> tuple[Path, ...]:
    """Write :func:`draw_convergence` to ``erf_convergence.png`` and ``.pdf``, if there are enough blocks of images."""
    return _save(draw_convergence(result), directory, "erf_convergence") if has_convergence(result) else ()


def save_sizes(results: Sequence[ErfResult], directory: str | Path) -> tuple[Path, ...]:
    """Write :func:`draw_sizes` to ``erf_sizes.png`` and ``.pdf``; returns the files."""
    return _save(draw_sizes(results), directory, "erf_sizes")


def save_checkpoints(results: Sequence[ErfResult], directory: str | Path) -> tuple[Path, ...]:
    """Write :func:`draw_checkpoints` to ``erf_checkpoints.png`` and ``.pdf``; returns the files."""
    return _save(draw_checkpoints(results), directory, "erf_checkpoints")


def _save(figure: Figure, directory: str | Path, stem: str) -> tuple[Path, ...]:
    return save_figure(figure, Path(directory), stem, 100)


def _check_series(results: Sequence[ErfResult], protocol: str, what: str) -> None:
    check_all_drawable(results, "ErfResult")
    kinds = {
        (result.run.model, result.layer, result.thresholds, result.position, result.definition) for result in results
    }
    if len(results) < 2 or len(kinds) > 1:
        raise InvalidInputError(
            f"These {len(results)} results do not form a series of {what}. A series has at least two results of one "
            "model, layer, position, definition and list of thresholds. Give such results."
        )
    for result in results:
        result.row(protocol, result.thresholds[0])


def _curves(results: Sequence[ErfResult], x: Sequence[float], protocol: str) -> dict[float, _Curve]:
    """The ratios of several results for each threshold, at the places ``x``."""
    curves = {}
    for threshold in results[0].thresholds:
        rows = [result.row(protocol, threshold) for result in results]
        low, high = zip(*(row.ci95 or (math.nan, math.nan) for row in rows), strict=True)
        curves[threshold] = _Curve(x, [row.ratio for row in rows], low, high)
    return curves


def panels(
    result: ErfResult, facts: str, count: int, *, bottom: float = _BOTTOM, has_weights: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with a heading and panels side by side."""
    height = _TOP + _PANEL_HEIGHT + bottom
    page = page_width()
    figure = new_figure(page, height)
    width = (page - _LEFT - _RIGHT - (count - 1) * _GAP) / count
    axes = [
        figure.add_axes(
            ((_LEFT + index * (width + _GAP)) / page, bottom / height, width / page, _PANEL_HEIGHT / height)
        )
        for index in range(count)
    ]
    weights = [weights_line(result.run.weights)] if has_weights else []
    add_heading(figure, [title_line(result.run.model), *weights, Line(facts)], _LEFT)
    return figure, axes


def _draw(ax: Axes, curves: Mapping[Any, _Curve], *, bands: bool) -> None:
    """Draw a curve for each threshold, or for None, with bands or bars of its intervals."""
    # A number has one curve, without a threshold.
    colors: dict[Any, tuple[float, ...]] = {None: threshold_colors([0.0, 1.0])[1.0]}
    colors |= threshold_colors(threshold for threshold in curves if threshold is not None)
    for threshold, curve in curves.items():
        color = colors[threshold]
        label = None if threshold is None else percent(threshold)
        ax.plot(curve.x, curve.values, "-o", markersize=3.0, linewidth=1.0, color=color, zorder=3, label=label)
        if bands:
            ax.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.22, linewidth=0, zorder=2)
        else:
            ax.vlines(curve.x, curve.low, curve.high, color=color, linewidth=2.4, alpha=0.45, zorder=2)
    ax.grid(color=GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    sns.despine(ax=ax)  # type: ignore[no-untyped-call]


def _percent_axis(ax: Axes, protocol: str) -> None:
    """A logarithmic axis of area ratios, over the values that are drawn."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    low, high = max(float(np.nanmin(drawn)) / 1.7, 1e-7), 1.25
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    log_ticks(ax.yaxis, low, high, scale=100)
    ax.set_ylabel(f"Area ratio, % ('{protocol}')")


def _legend(ax: Axes, thresholds: Sequence[float]) -> None:
    ax.legend(ncols=len(thresholds), **LEGEND)
