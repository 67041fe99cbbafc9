"""The table of effective receptive fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from replk_probe.erf.labels import distinct_labels, row_names
from replk_probe.erf.position_rule import CENTER
from replk_probe.erf.published import TABLE_10, PublishedErf, published_rows
from replk_probe.erf.result import IMPORTED, ErfResult, RatioRow
from replk_probe.runtime.formatting import counted, dimensions, percent
from replk_probe.runtime.provenance import UNKNOWN

from .erf_occlusion_table import occlusion_lines
from .erf_positions_table import position_lines
from .text import PLAIN, READABLE, Layout, note_lines, notes_of, table, wrapped

# A comparison of models omits "linear", which differs from "paper" only by the logarithm.
_COMPARED = ("paper", "centred", "pixels")
_GAP = 2

Rows = list[list[str] | str]
# A result, its label, and the published rows of its model by protocol.
Known = Sequence[tuple[ErfResult, str, dict[str, PublishedErf]]]


def erf_table(
    results: Sequence[ErfResult], published: Sequence[PublishedErf] | None = TABLE_10, layout: Layout = PLAIN
) -> str:
    """Table of area ratios with 95 % intervals: every protocol for one model, or a comparison of several models.

    If a comparison would be too wide, only its first protocol has intervals. Values in ``published`` are shown below
    the rows of their models and protocols.
    """
    labels_of = distinct_labels(results)
    known: Known = [
        (result, label, _published(result, published or ())) for result, label in zip(results, labels_of, strict=True)
    ]
    lines: list[str] = []
    for detail, group in groupby(known, lambda one: _detail(one[0])):
        for result, label, _ in group:
            lines += wrapped(f"{label}: {result.run.weights.label}", "", layout)
        lines += wrapped(detail, "  ", layout)
    several = len(results) > 1
    short: Known = [
        (result, name, printed) for (result, _, printed), name in zip(known, row_names(results), strict=True)
    ]
    thresholds = tuple(dict.fromkeys(threshold for result in results for threshold in result.thresholds))
    if several:
        labels, rows = [f"{results[0].ratio_name}, %"], _comparison(short, thresholds)
        if _fitting(labels, rows, layout) < len(thresholds):
            labels, rows = [f"{results[0].ratio_name}, %", "protocol"], _narrow_comparison(short, thresholds)
    else:
        lines += wrapped(f"convolutions: {results[0].run.backend}", "  ", layout)
        labels, rows = ["protocol"], _details(results[0], known[0][2])
    lines += [*_blocks(labels, rows, thresholds, layout), ""]
    lines += [line for result, label, _ in known for line in position_lines(result, label, layout)]
    lines += [line for result, label, _ in known for line in occlusion_lines(result, label, layout)]
    for result, label, printed in known:
        which = f" ({label})" if several else ""
        for text in dict.fromkeys(_comparability(result, row) for row in printed.values()):
            lines += wrapped(f"published{which}: {text}", "", layout)
    lines += note_lines([(label, notes_of(result.run.weights, result.notes)) for result, label, _ in known], layout)
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
    if result.is_imported:
        digest = f" [{run.config['sha256'][:8]}]" if "sha256" in run.config else ""
        return f"imported from {run.config[IMPORTED]}{digest}, {dimensions(result.input_size)}{unit}"
    images = f"unknown {kind}s" if result.n_images is None else counted(result.n_images, kind)
    size = "of unknown size" if result.feature_size is None else dimensions(result.feature_size)
    skipped = f" ({result.n_skipped} skipped)" if result.n_skipped else ""
    position = "" if result.position == CENTER else f", position {result.position}"
    return (
        f"{images}{skipped} of {run.image_source}, {dimensions(result.input_size)}{unit}; "
        f"layer {result.layer}, map {size}{position}; "
        f"{f'{result.definition}; ' if result.definition else ''}{run.precision} on {run.device}"
    )


def _details(result: ErfResult, printed: dict[str, PublishedErf]) -> Rows:
    """Rows of sides, ratios and intervals for every protocol."""
    rows: Rows = []
    for protocol in result.protocols:
        ratios = [result.row(protocol, threshold) for threshold in result.thresholds]
        rows.append([protocol, *(f"{_side(row.side)} px {_percent(row.ratio):>7} %" for row in ratios)])
        if any(row.ci95 for row in ratios):
            rows.append(
                ["  95 %", *(f"{interval} %" if (interval := _interval(row, " to ")) else "-" for row in ratios)]
            )
        if protocol in printed:
            rows.append(["  published", *(_printed(printed[protocol], t, " %") for t in result.thresholds)])
    return rows


def _comparison(known: Known, thresholds: Sequence[float]) -> Rows:
    """Rows of ratios and intervals for every model, with a heading for each protocol."""
    rows: Rows = []
    for protocol, group in groupby(_compared(known, thresholds), lambda item: item[0]):
        members = [*group]
        has_intervals = protocol == _COMPARED[0] and any(any(map(_interval, ratios)) for _, _, ratios, _ in members)
        rows.append(f"{protocol}, with 95 % intervals" if has_intervals else protocol)
        for _, name, ratios, printed in members:
            rows.append(
                [name, *(f"{_ratio(row)} ({_interval(row)})" if _interval(row) else _ratio(row) for row in ratios)]
            )
            rows += [["  published", *printed]] if printed else []
    return rows


def _narrow_comparison(known: Known, thresholds: Sequence[float]) -> Rows:
    """Rows of ratios for every model and protocol, with rows of intervals for the first protocol."""
    rows: Rows = []
    for protocol, name, ratios, printed in _compared(known, thresholds):
        rows.append([name, protocol, *map(_ratio, ratios)])
        if protocol == _COMPARED[0] and any(map(_interval, ratios)):
            rows.append(["  95 %", "", *(_interval(row) or "-" for row in ratios)])
        rows += [["  published", "", *printed]] if printed else []
    return rows


def _compared(known: Known, thresholds: Sequence[float]) -> Iterator[tuple[str, str, list[RatioRow | None], list[str]]]:
    """Protocol, label, ratios and published ratios of every row of a comparison."""
    has_published = {protocol for _, _, printed in known for protocol in printed}
    for protocol in (*_COMPARED, *({"linear"} & has_published)):
        if all(protocol in result.protocols for result, _, _ in known):
            for result, label, printed in known:
                own = {row.threshold: row for row in result.ratios if row.protocol == protocol}
                random = " (RANDOM)" if result.run.weights.is_random else ""
                row = printed.get(protocol)
                yield (
                    protocol,
                    label + random,
                    [own.get(threshold) for threshold in thresholds],
                    [] if row is None else [_printed(row, threshold) for threshold in thresholds],
                )


def _published(result: ErfResult, table: Sequence[PublishedErf]) -> dict[str, PublishedErf]:
    run = result.run
    return published_rows(
        run.model, result.layer, run.weights, table, is_default_layer=not run.config.get("given_layer", False)
    )


def _comparability(result: ErfResult, row: PublishedErf) -> str:
    """Differences between the conditions of a published and of a measured value."""
    run, weights = result.run, result.run.weights
    size = "an unknown size" if row.input_size is None else f"{dimensions(row.input_size)} px"
    text = f"{row.title}, {row.source}, measured with {row.weights} at {size}"
    if not row.used(weights):
        is_plain = weights.is_random or weights.source == UNKNOWN
        text += f"; these are {weights.label if is_plain else 'other weights, ' + weights.label}"
    if tuple(result.input_size) != row.input_size:
        text += f"; this input is {dimensions(result.input_size)} px"
    attribution, convention = (run.config.get(name) for name in ("attribution", "convention"))
    other = attribution or (convention["name"] if convention else "replknet") != row.convention
    if other and not result.is_imported:
        text += f"; this map is defined otherwise ({result.definition or 'replknet convention'})"
    if run.config.get("target"):
        text += "; this is the map of one logit"
    if result.position != CENTER:
        text += f"; this is position {result.position}"
    return f"{text}."


def _printed(row: PublishedErf, threshold: float, unit: str = "") -> str:
    """A published ratio as printed: one decimal in percent, or more where it is small."""
    ratio = row.ratios.get(threshold)
    return percent(ratio, 1 if ratio is None or ratio == round(ratio, 3) else 2, unit)


def _ratio(row: RatioRow | None) -> str:
    return "-" if row is None else _percent(row.ratio)


def _interval(row: RatioRow | None, between: str = "-") -> str:
    return "" if row is None or row.ci95 is None else between.join(map(_percent, row.ci95))


def _percent(fraction: float) -> str:
    """A fraction in percent with three significant digits."""
    return f"{100 * fraction:#.3g}".rstrip(".")


def _side(side: float) -> str:
    return f"{side:.1f}" if side != int(side) else f"{int(side)}"
