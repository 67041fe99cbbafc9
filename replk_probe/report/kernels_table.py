"""The plain-text table of kernels, at most 100 columns wide. Free of torch and of anything that draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from replk_probe.kernels.kernel import Kernel, folding_words
from replk_probe.kernels.published import SOURCE, find_published
from replk_probe.kernels.result import KernelResult, names_apart

from .text import WIDTH, cut, wrapped

_HEADS = ("variant", "K", "C", "3x3 %", "cross %", "50/90/99 %", "entropy", "mirror", "zeros %", "small %")
_WIDTHS = (8, 6, 6, 6, 8, 11, 8, 7, 8, 8)


def kernels_table(results: Sequence[KernelResult]) -> str:
    """The numbers of every kernel of every model.

    Args:
        results: One per model, in the order to print them.

    Returns:
        Lines without a newline at the end.
    """
    blocks = [list(_model_lines(name, result)) for name, result in zip(names_apart(results), results, strict=True)]
    return "\n\n".join("\n".join(block) for block in [*blocks, list(_legend_lines(results))])


def _model_lines(name: str, result: KernelResult) -> Iterator[str]:
    run = result.run
    yield from wrapped(f"{name}: {run.weights.label}")
    yield _line("layer", _HEADS)
    yield "-" * WIDTH
    for kernel in result.kernels:
        yield _line(kernel.layer, _cells(kernel))
        printed = find_published(run.model, kernel.path, kernel.variant)
        if printed is not None:
            shares = (f"{100 * printed.centre3x3_share:.1f}", f"{100 * printed.skeleton_share:.1f}")
            yield _line(
                "  published, trained" if run.weights.is_random else "  published",
                ("", "", "", *shares, "", "", "", "", ""),
            )
    if run.weights.is_random:
        yield from wrapped("Nothing here is trained: these are RANDOM WEIGHTS.", "note: ")
    for note in dict.fromkeys([*filter(None, [run.weights.note]), *result.notes]):
        yield from wrapped(note, "note: ")


def _legend_lines(results: Sequence[KernelResult]) -> Iterator[str]:
    ways = " and ".join(dict.fromkeys(result.run.aggregate for result in results))
    folding = folding_words([kernel for result in results for kernel in result.kernels])
    yield from wrapped(
        f"Absolute weights, {folding}{ways} over C channels. 3x3, cross: share of the mass in "
        "the centre 3 x 3, and in the centre row and column. 50/90/99: side of the smallest centred square with that "
        "share. Entropy relative to that of a uniform kernel; mirror: overlap with the kernel mirrored left to right; "
        "zeros: exact zeros among the stored weights; small: share of the small branch in the sum of all branches."
    )
    if any(
        find_published(result.run.model, kernel.path, kernel.variant) for result in results for kernel in result.kernels
    ):
        yield from wrapped(f"published: {SOURCE}.")


def _cells(kernel: Kernel) -> tuple[str, ...]:
    height, width = kernel.kernel_size
    sides = "/".join("-" if side is None else str(side) for side in kernel.effective_size.values())
    return (
        kernel.variant,
        str(height) if height == width else f"{height}x{width}",
        str(kernel.channels),
        _percent(kernel.centre3x3_share),
        _percent(kernel.skeleton_share),
        sides,
        _share(kernel.relative_entropy),
        _share(kernel.symmetry["left_right"]),
        _percent(kernel.zero_fraction),
        "-" if kernel.small_branch_share is None else _percent(kernel.small_branch_share),
    )


def _line(name: str, cells: Sequence[str]) -> str:
    padded = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    room = WIDTH - sum(_WIDTHS)
    return f"{cut(name, room - 1):<{room}}{padded}".rstrip()


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
