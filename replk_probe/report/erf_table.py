"""The table of effective receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from replk_probe.erf.published import TABLE_10, PublishedErf, find_published
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.runtime.formatting import counted, percent

from .text import PLAIN, Layout, note_lines, notes_of, table, wrapped

# A comparison of models omits "linear", which differs from "paper" only by the logarithm.
_COMPARED = ("paper", "centred", "pixels")
_GAP = 2

Rows = list[list[str] | str]


def erf_table(
    results: Sequence[ErfResult], published: Sequence[PublishedErf] | None = TABLE_10, layout: Layout = PLAIN
) -> str:
    """Table of area ratios with 95 % intervals: every protocol for one model, or a comparison of several models.

    Values in ``published`` are shown below the ``paper`` rows of their models.
    """
    known = [(result, find_published(result.run.model, published or ())) for result in results]
    lines: list[str] = []
    for detail, group in groupby(results, _detail):
        for result in group:
            lines += wrapped(f"{result.run.model}: {result.run.weights.label}", "", layout)
        lines += [line for text in detail for line in wrapped(text, "  ", layout)]
    several = len(results) > 1
    thresholds = tuple(dict.fromkeys(threshold for result in results for threshold in result.thresholds))
    rows = _comparison(known, thresholds) if several else _details(*known[0])
    cell = max(len(text) for row in rows if not isinstance(row, str) for text in row[1:])
    fitting = max((layout.width - (26 if several else 12)) // (cell + _GAP), 1)
    for start in range(0, len(thresholds), fitting):
        place = slice(start, start + fitting)
        head = ["area ratio, %" if several else "protocol", *(f"{100 * t:g} %" for t in thresholds[place])]
        shown = [row if isinstance(row, str) else [row[0], *row[1:][place]] for row in rows]
        lines += ["", *table(head, shown, layout)]
    lines.append("")
    for result, row in known:
        if row is not None:
            which = f" ({result.run.model})" if several else ""
            lines += wrapped(f"published{which}: {_comparability(result, row)}", "", layout)
    lines += note_lines([(result.run.model, notes_of(result.run.weights, result.notes)) for result in results], layout)
    return "\n".join(lines).rstrip()


def _detail(result: ErfResult) -> tuple[str, str]:
    """Images, layer, precision and backend of a measurement."""
    run = result.run
    skipped = f" ({result.n_skipped} skipped)" if result.n_skipped else ""
    return (
        f"{counted(result.n_images, 'image')}{skipped} of {run.image_source}, {_size(result.input_size)} px; "
        f"layer {result.layer}, map {_size(result.feature_size)}; {run.precision} on {run.device}",
        f"convolutions: {run.backend}",
    )


def _details(result: ErfResult, printed: PublishedErf | None) -> Rows:
    """Rows of sides, ratios and intervals for every protocol."""
    rows: Rows = []
    for protocol in result.protocols:
        ratios = [result.row(protocol, threshold) for threshold in result.thresholds]
        rows.append([protocol, *(f"{_side(row.side)} px {_percent(row.ratio):>7} %" for row in ratios)])
        if any(row.ci95 for row in ratios):
            rows.append(["  95 %", *(f"{interval} %" if (interval := _interval(row)) else "-" for row in ratios)])
        if protocol == "paper" and printed is not None:
            rows.append(["  published", *(percent(printed.ratios.get(t), 1) for t in result.thresholds)])
    return rows


def _comparison(known: Sequence[tuple[ErfResult, PublishedErf | None]], thresholds: Sequence[float]) -> Rows:
    """Rows of ratios and intervals for every model, grouped by protocol."""
    rows: Rows = []
    for protocol in _COMPARED:
        if not all(protocol in result.protocols for result, _ in known):
            continue
        rows.append(f"{protocol}, with 95 % intervals" if protocol == _COMPARED[0] else protocol)
        for result, printed in known:
            own = {row.threshold: row for row in result.ratios if row.protocol == protocol}
            random = " (RANDOM WEIGHTS)" if result.run.weights.is_random else ""
            rows.append([result.run.model + random, *(_compared(own.get(threshold)) for threshold in thresholds)])
            if protocol == "paper" and printed is not None:
                rows.append(["  published", *(percent(printed.ratios.get(t), 1, "") for t in thresholds)])
    return rows


def _comparability(result: ErfResult, row: PublishedErf) -> str:
    """Differences between the conditions of a published and of a measured value."""
    weights = result.run.weights
    text = f"{row.title}, {row.source}, measured with {row.weights} at {_size(row.input_size)} px"
    if not row.used(weights):
        text += f"; these are {weights.label if weights.is_random else 'other weights, ' + weights.label}"
    if tuple(result.input_size) != row.input_size:
        text += f"; this input is {_size(result.input_size)} px"
    return f"{text}."


def _compared(row: RatioRow | None) -> str:
    if row is None:
        return "-"
    interval = _interval(row, "-")
    return _percent(row.ratio) + (f" ({interval})" if interval else "")


def _interval(row: RatioRow, between: str = " to ") -> str:
    return "" if row.ci95 is None else between.join(map(_percent, row.ci95))


def _percent(fraction: float) -> str:
    """A fraction in percent with three significant digits."""
    return f"{100 * fraction:#.3g}".rstrip(".")


def _side(side: float) -> str:
    return f"{side:.1f}" if side != int(side) else f"{int(side)}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
