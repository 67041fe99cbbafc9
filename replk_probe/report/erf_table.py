"""The table of effective receptive fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from replk_probe.erf.position_rule import CENTER
from replk_probe.erf.published import TABLE_10, PublishedErf, find_published
from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.runtime.formatting import counted, dimensions, percent

from .erf_positions_table import position_lines
from .text import PLAIN, READABLE, Layout, note_lines, notes_of, table, wrapped

# A comparison of models omits "linear", which differs from "paper" only by the logarithm.
_COMPARED = ("paper", "centred", "pixels")
_GAP = 2

Rows = list[list[str] | str]


def erf_table(
    results: Sequence[ErfResult], published: Sequence[PublishedErf] | None = TABLE_10, layout: Layout = PLAIN
) -> str:
    """Table of area ratios with 95 % intervals: every protocol for one model, or a comparison of several models.

    If a comparison would be too wide, only its first protocol has intervals. Values in ``published`` are shown below
    the ``paper`` rows of their models.
    """
    known = [(result, find_published(result.run.model, published or ())) for result in results]
    lines: list[str] = []
    for detail, group in groupby(results, _detail):
        for result in group:
            lines += wrapped(f"{result.run.model}: {result.run.weights.label}", "", layout)
        lines += wrapped(detail, "  ", layout)
    several = len(results) > 1
    thresholds = tuple(dict.fromkeys(threshold for result in results for threshold in result.thresholds))
    if several:
        labels, rows = [f"{results[0].ratio_name}, %"], _comparison(known, thresholds)
        if _fitting(labels, rows, layout) < len(thresholds):
            labels, rows = [f"{results[0].ratio_name}, %", "protocol"], _narrow_comparison(known, thresholds)
    else:
        lines += wrapped(f"convolutions: {results[0].run.backend}", "  ", layout)
        labels, rows = ["protocol"], _details(*known[0])
    lines += [*_blocks(labels, rows, thresholds, layout), ""]
    lines += [line for result in results for line in position_lines(result, layout)]
    for result, row in known:
        if row is not None:
            which = f" ({result.run.model})" if several else ""
            lines += wrapped(f"published{which}: {_comparability(result, row)}", "", layout)
    lines += note_lines([(result.run.model, notes_of(result.run.weights, result.notes)) for result in results], layout)
    return "\n".join(lines).rstrip()


def _blocks(labels: list[str], rows: Rows, thresholds: Sequence[float], layout: Layout) -> Iterator[str]:
    """The rows as a table, or as several if not all thresholds fit the width."""
    fitting = _fitting(labels, rows, layout)
    for start in range(0, len(thresholds), fitting):
        place = slice(len(labels) + start, len(labels) + start + fitting)
        head = [*labels, *(f"{100 * threshold:g} %" for threshold in thresholds[start : start + fitting])]
        shown = [row if isinstance(row, str) else [*row[: len(labels)], *row[place]] for row in rows]
        yield from ["", *table(head, shown, layout, left=labels)]


def _fitting(labels: list[str], rows: Rows, layout: Layout) -> int:
    """Number of thresholds whose columns fit the width."""
    cells = [labels, *(row for row in rows if not isinstance(row, str))]
    taken = sum(min(max(len(row[column]) for row in cells), READABLE) + _GAP for column in range(len(labels)))
    widest = max(len(text) for row in cells for text in row[len(labels) :])
    return max((layout.table_width - taken + _GAP) // (widest + _GAP), 1)


def _detail(result: ErfResult) -> str:
    """Images, layer and precision of a measurement."""
    run = result.run
    kind, unit = ("image", " px") if len(result.input_size) == 2 else ("input", "")
    skipped = f" ({result.n_skipped} skipped)" if result.n_skipped else ""
    position = "" if result.position == CENTER else f", position {result.position}"
    return (
        f"{counted(result.n_images, kind)}{skipped} of {run.image_source}, {dimensions(result.input_size)}{unit}; "
        f"layer {result.layer}, map {dimensions(result.feature_size)}{position}; {run.precision} on {run.device}"
    )


def _details(result: ErfResult, printed: PublishedErf | None) -> Rows:
    """Rows of sides, ratios and intervals for every protocol."""
    rows: Rows = []
    for protocol in result.protocols:
        ratios = [result.row(protocol, threshold) for threshold in result.thresholds]
        rows.append([protocol, *(f"{_side(row.side)} px {_percent(row.ratio):>7} %" for row in ratios)])
        if any(row.ci95 for row in ratios):
            rows.append(
                ["  95 %", *(f"{interval} %" if (interval := _interval(row, " to ")) else "-" for row in ratios)]
            )
        if protocol == "paper" and printed is not None:
            rows.append(["  published", *(percent(printed.ratios.get(t), 1) for t in result.thresholds)])
    return rows


def _comparison(known: Sequence[tuple[ErfResult, PublishedErf | None]], thresholds: Sequence[float]) -> Rows:
    """Rows of ratios and intervals for every model, with a heading for each protocol."""
    rows: Rows = []
    for protocol, group in groupby(_compared(known, thresholds), lambda item: item[0]):
        rows.append(f"{protocol}, with 95 % intervals" if protocol == _COMPARED[0] else protocol)
        for _, name, ratios, printed in group:
            rows.append(
                [name, *(f"{_ratio(row)} ({_interval(row)})" if _interval(row) else _ratio(row) for row in ratios)]
            )
            rows += [["  published", *printed]] if printed else []
    return rows


def _narrow_comparison(known: Sequence[tuple[ErfResult, PublishedErf | None]], thresholds: Sequence[float]) -> Rows:
    """Rows of ratios for every model and protocol, with rows of intervals for the first protocol."""
    rows: Rows = []
    for protocol, name, ratios, printed in _compared(known, thresholds):
        rows.append([name, protocol, *map(_ratio, ratios)])
        if protocol == _COMPARED[0] and any(map(_interval, ratios)):
            rows.append(["  95 %", "", *(_interval(row) or "-" for row in ratios)])
        rows += [["  published", "", *printed]] if printed else []
    return rows


def _compared(
    known: Sequence[tuple[ErfResult, PublishedErf | None]], thresholds: Sequence[float]
) -> Iterator[tuple[str, str, list[RatioRow | None], list[str]]]:
    """Protocol, model, ratios and published ratios of every row of a comparison."""
    for protocol in _COMPARED:
        if all(protocol in result.protocols for result, _ in known):
            for result, printed in known:
                own = {row.threshold: row for row in result.ratios if row.protocol == protocol}
                random = " (RANDOM)" if result.run.weights.is_random else ""
                shown = printed.ratios if printed is not None and protocol == "paper" else {}
                yield (
                    protocol,
                    result.run.model + random,
                    [own.get(threshold) for threshold in thresholds],
                    [percent(shown.get(threshold), 1, "") for threshold in thresholds] if shown else [],
                )


def _comparability(result: ErfResult, row: PublishedErf) -> str:
    """Differences between the conditions of a published and of a measured value."""
    weights = result.run.weights
    text = f"{row.title}, {row.source}, measured with {row.weights} at {dimensions(row.input_size)} px"
    if not row.used(weights):
        text += f"; these are {weights.label if weights.is_random else 'other weights, ' + weights.label}"
    if tuple(result.input_size) != row.input_size:
        text += f"; this input is {dimensions(result.input_size)} px"
    return f"{text}."


def _ratio(row: RatioRow | None) -> str:
    return "-" if row is None else _percent(row.ratio)


def _interval(row: RatioRow | None, between: str = "-") -> str:
    return "" if row is None or row.ci95 is None else between.join(map(_percent, row.ci95))


def _percent(fraction: float) -> str:
    """A fraction in percent with three significant digits."""
    return f"{100 * fraction:#.3g}".rstrip(".")


def _side(side: float) -> str:
    return f"{side:.1f}" if side != int(side) else f"{int(side)}"
