"""Plain-text tables of results, at most 100 columns wide. Free of torch and of anything that draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replk_probe.erf.published import TABLE_10, PublishedErf, find_published
from replk_probe.erf.result import ErfResult, RatioRow

from .text import WIDTH, cut, wrapped

_NAME, _CELL = 14, 21
_PER_LINE = (WIDTH - _NAME) // _CELL


def erf_table(results: Sequence[ErfResult], published: Sequence[PublishedErf] | None = TABLE_10) -> str:
    """Side, area ratio and its 95 % interval for every protocol and threshold of every model.

    Args:
        results: One per model, in the order to print them.
        published: Printed figures to set beside the ``paper`` rows of the models they list; None for none.

    Returns:
        Lines without a newline at the end.
    """
    blocks = ["\n".join(_model_lines(result, published or ())).rstrip() for result in results]
    if len(results) > 1:
        blocks.append("\n".join(_summary_lines(results)).rstrip())
    return "\n\n".join(blocks)


def _model_lines(result: ErfResult, published: Sequence[PublishedErf]) -> Iterator[str]:
    run = result.run
    images = "1 image" if result.n_images == 1 else f"{result.n_images} images"
    skipped = f" ({result.n_skipped} skipped)" if result.n_skipped else ""
    row = find_published(run.model, published)
    yield from wrapped(f"{run.model}: {run.weights.label}")
    yield from wrapped(
        f"{images}{skipped} of {run.image_source}, {_size(result.input_size)} px; layer {result.layer}, "
        f"map {_size(result.feature_size)}; {run.precision} on {run.device}",
        "  ",
    )
    yield from wrapped(f"convolutions: {run.backend}", "  ")
    for thresholds in _chunks(result.thresholds, _PER_LINE):
        yield ""
        yield _line("protocol", [f"{100 * threshold:g} %" for threshold in thresholds])
        yield "-" * (_NAME + _CELL * len(thresholds))
        for protocol in result.protocols:
            rows = [result.row(protocol, threshold) for threshold in thresholds]
            yield _line(protocol, [f"{_side(row.side)} px {_percent(row.ratio):>7} %" for row in rows])
            if any(row.ci95 for row in rows):
                yield _line("  95 %", [_interval(row) for row in rows])
            if protocol == "paper" and row is not None:
                yield _line("  published", [_printed(row, threshold) for threshold in thresholds])
    yield ""
    if row is not None:
        yield from wrapped(_comparability(result, row), "published: ")
    if run.weights.is_random:
        yield from wrapped("Nothing here is trained: these are RANDOM WEIGHTS.", "note: ")
    for note in dict.fromkeys([*filter(None, [run.weights.note]), *result.notes]):
        yield from wrapped(note, "note: ")


def _summary_lines(results: Sequence[ErfResult]) -> Iterator[str]:
    """One line per model, to compare them at a glance."""
    thresholds = tuple(dict.fromkeys(threshold for result in results for threshold in result.thresholds))
    name = min(max(len(_short_label(result)) for result in results) + 2, 52)
    for protocol in ("paper", "centred"):
        if not all(protocol in result.protocols for result in results):
            continue
        for chunk in _chunks(thresholds, (WIDTH - name) // 10):
            yield f"{'Area ratio, %: ' + protocol:<{name}}" + "".join(f"{f'{100 * t:g} %':>10}" for t in chunk)
            yield "-" * (name + 10 * len(chunk))
            for result in results:
                ratios = {row.threshold: _percent(row.ratio) for row in result.ratios if row.protocol == protocol}
                cells = "".join(f"{ratios.get(threshold, '-'):>10}" for threshold in chunk)
                yield f"{cut(_short_label(result), name - 2):<{name}}{cells}"
            yield ""


def _comparability(result: ErfResult, row: PublishedErf) -> str:
    """What separates a printed figure from the one measured."""
    weights = result.run.weights
    text = f"{row.title}, {row.source}, measured with {row.weights} at {_size(row.input_size)} px"
    differences = []
    if not row.used(weights):
        differences.append(f"these are {weights.label if weights.is_random else 'other weights, ' + weights.label}")
    if tuple(result.input_size) != row.input_size:
        differences.append(f"the input is {_size(result.input_size)} px here")
    return text + "".join(f"; {difference}" for difference in differences) + "."


def _short_label(result: ErfResult) -> str:
    return result.run.model + (" (RANDOM WEIGHTS)" if result.run.weights.is_random else "")


def _line(name: str, cells: Sequence[str]) -> str:
    return (f"{name:<{_NAME}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)).rstrip()


def _interval(row: RatioRow) -> str:
    if row.ci95 is None:
        return "-"
    low, high = row.ci95
    return f"{_percent(low)} to {_percent(high)} %"


def _printed(row: PublishedErf, threshold: float) -> str:
    ratio = row.ratios.get(threshold)
    return "-" if ratio is None else f"{100 * ratio:.1f} %"


def _percent(fraction: float) -> str:
    """Three significant digits."""
    return f"{100 * fraction:#.3g}".rstrip(".")


def _side(side: float) -> str:
    return f"{side:.1f}" if side != int(side) else f"{int(side)}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _chunks(values: Sequence[float], length: int) -> Iterator[Sequence[float]]:
    for start in range(0, len(values), length):
        yield values[start : start + length]
