"""The table of kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from replk_probe.kernels.channel_statistics import ChannelStatistics, KernelChange
from replk_probe.kernels.kernel import Kernel, folding_text
from replk_probe.kernels.published import SOURCE, find_published
from replk_probe.kernels.result import KernelResult, distinct_names
from replk_probe.runtime.formatting import dimensions, percent

from .text import PLAIN, Layout, decimals, note_lines, notes_of, table, wrapped

_HEAD = (
    "layer", "variant", "K", "C", "3x3 %", "skeleton %", "50/90/99 %", "entropy", "mirror", "zero %", "small %",
)  # fmt: skip
_METRICS = ("low/mid/high %", "angle", "aniso", "dist", "rank")
_CHANGE = ("change", "cosine")


def kernels_table(results: Sequence[KernelResult], layout: Layout = PLAIN) -> str:
    """Table of the statistics of every kernel of every model."""
    named = list(zip(distinct_names(results), results, strict=True))
    rows = [row for name, result in named for row in _rows(name, result)]
    notes = [(name, notes_of(result.run.weights, result.notes)) for name, result in named]
    lines = table(_HEAD, rows, layout, optional=("mirror", "zero %"))
    return "\n".join([*lines, "", *_legend(results, lines[0], layout), *note_lines(notes, layout)])


def channels_table(results: Sequence[KernelResult], layout: Layout = PLAIN, *, metrics: bool = True) -> str:
    """Table of the statistics of single channels, and of the change against another checkpoint.

    Args:
        results: One result per model.
        layout: Layout of the terminal.
        metrics: Whether to include the statistics of single channels; the change is included if there is any.
    """
    changed = any(result.run.against is not None for result in results)
    head = ("layer", "variant", *_METRICS * metrics, *_CHANGE * changed)
    rows: list[list[str] | str] = []
    for name, result in zip(distinct_names(results), results, strict=True):
        against = result.run.against
        rows.append(f"{name}: {result.run.weights.label}" + (f", against {against.label}" if against else ""))
        rows += [
            [kernel.layer, kernel.variant, *_metrics(kernel) * metrics, *_change(kernel) * changed]
            for kernel in result.kernels
        ]
    legend = (
        "low/mid/high %: share of the energy below 1/6, below 1/3 and above 1/3 cycle per pixel; angle: degrees along "
        "which the kernels vary least, 0 if horizontal; aniso: anisotropy of the layer and of its channels, 0 to 1; "
        "dist: mean distance from the center, 1 in the corners; rank: singular values with 90 % of the energy. "
    ) * metrics + (
        "change: norm of the difference from the other checkpoint over the norm of its kernel; cosine: of the angle "
        "between the two."
    ) * changed
    return "\n".join([*table(head, rows, layout), "", *wrapped(legend.strip(), layout=layout)])


def _metrics(kernel: Kernel) -> tuple[str, ...]:
    found = kernel.channel_statistics or ChannelStatistics()
    shares = (found.low_frequency_share, found.middle_frequency_share, found.high_frequency_share)
    return (
        "/".join(percent(share, 0, "") for share in shares),
        "-" if found.orientation is None else str(round(found.orientation) % 180),
        "/".join(_decimals(one) for one in (found.anisotropy, found.channel_anisotropy)),
        _decimals(found.distance_mean),
        "-" if found.rank_mean is None else f"{found.rank_mean:.1f}",
    )


def _change(kernel: Kernel) -> tuple[str, ...]:
    change = kernel.change or KernelChange(None, None)
    return _decimals(change.relative_norm), _decimals(change.cosine)


def _decimals(value: float | None) -> str:
    return decimals(math.nan if value is None else value)


def _rows(name: str, result: KernelResult) -> Iterator[list[str] | str]:
    run = result.run
    yield f"{name}: {run.weights.label}"
    for kernel in result.kernels:
        yield _cells(kernel)
        printed = find_published(run.model, kernel.path, kernel.variant)
        if printed is not None:
            shares = [percent(printed.center3x3_share, 1, ""), percent(printed.skeleton_share, 1, "")]
            yield ["  published, trained" if run.weights.is_random else "  published", *[""] * 3, *shares, *[""] * 5]


def _legend(results: Sequence[KernelResult], head: str, layout: Layout) -> Iterator[str]:
    ways = " and ".join(dict.fromkeys(result.run.aggregate for result in results))
    kernels = [(result.run.model, kernel) for result in results for kernel in result.kernels]
    mirror = "mirror: left-right symmetry; " if "mirror" in head else ""
    yield from wrapped(
        f"Absolute weights, {folding_text([kernel for _, kernel in kernels])}{ways} over C channels. 3x3, skeleton: "
        "share of the central 3x3, and of the central row and column; 50/90/99 %: side of the square with that "
        f"share; entropy: 1 if uniform; {mirror}small: share of the small branch.",
        layout=layout,
    )
    if any(find_published(model, kernel.path, kernel.variant) for model, kernel in kernels):
        yield from wrapped(f"published: {SOURCE}.", layout=layout)


def _cells(kernel: Kernel) -> list[str]:
    height, width = kernel.kernel_size
    return [
        kernel.layer,
        kernel.variant,
        str(height) if height == width else dimensions(kernel.kernel_size),
        str(kernel.channels),
        percent(kernel.center3x3_share, 1, ""),
        percent(kernel.skeleton_share, 1, ""),
        "/".join("-" if side is None else str(side) for side in kernel.effective_size.values()),
        decimals(kernel.relative_entropy),
        decimals(kernel.symmetry["left_right"]),
        percent(kernel.zero_fraction, 1, ""),
        percent(kernel.small_branch_share, 1, ""),
    ]
