"""The table of kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replk_probe.kernels.kernel import Kernel, folding_text
from replk_probe.kernels.published import SOURCE, find_published
from replk_probe.kernels.result import KernelResult, distinct_names
from replk_probe.runtime.formatting import dimensions, percent

from .text import PLAIN, Layout, decimals, note_lines, notes_of, table, wrapped

_HEAD = (
    "layer", "variant", "K", "C", "3x3 %", "skeleton %", "50/90/99 %", "entropy", "mirror", "zero %", "small %",
)  # fmt: skip


def kernels_table(results: Sequence[KernelResult], layout: Layout = PLAIN) -> str:
    """Table of the statistics of every kernel of every model."""
    named = list(zip(distinct_names(results), results, strict=True))
    rows = [row for name, result in named for row in _rows(name, result)]
    notes = [(name, notes_of(result.run.weights, result.notes)) for name, result in named]
    lines = table(_HEAD, rows, layout, optional=("mirror", "zero %"))
    return "\n".join([*lines, "", *_legend(results, lines[0], layout), *note_lines(notes, layout)])


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
