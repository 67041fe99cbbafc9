"""The table of attributions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from replk_probe.attribution.result import AttributedImage, AttributionResult
from replk_probe.runtime.formatting import percent

from .text import PLAIN, Layout, note_lines, notes_of, table, wrapped


def attribution_table(results: Sequence[AttributionResult], layout: Layout = PLAIN) -> str:
    """Table of the numbers of every image of every model."""
    thresholds = list(
        dict.fromkeys(window.threshold for one in results for image in one.images for window in image.windows)
    )
    head = ("image", "target", "p %", "bits", "area %", *(f"in {percent(threshold)}" for threshold in thresholds))
    rows: list[Sequence[str] | str] = []
    for result in results:
        layer = "" if result.layer is None else f", positions of {result.layer}"
        rows.append(f"{result.run.model}: {result.run.weights.label}; {result.method}{layer}")
        rows += [[*_cells(image), *_shares(image, thresholds)] for image in result.images]
    legend = (
        "p: probability of the target; bits, area: entropy and effective area of the absolute attribution. "
        + "in T %: its share inside the window with T % of the effective receptive field of the most attributed "
        "position, / share of the area." * bool(thresholds)
    )
    notes = [(result.run.model, notes_of(result.run.weights, result.notes)) for result in results]
    lines = table(head, rows, layout, left=("target",))
    return "\n".join([*lines, "", *wrapped(legend.strip(), layout=layout), *note_lines(notes, layout)])


def _cells(image: AttributedImage) -> list[str]:
    mark = "" if image.predicted == image.target else " (not predicted)"
    bits = "-" if image.entropy_bits is None else f"{image.entropy_bits:.2f}"
    area = percent(image.effective_area, 1, "")
    return [image.id, f"{image.target_label}{mark}", percent(image.probability, 1, ""), bits, area]


def _shares(image: AttributedImage, thresholds: Sequence[float]) -> Iterator[str]:
    windows = {window.threshold: window for window in image.windows}
    for threshold in thresholds:
        window = windows.get(threshold)
        shares = (math.nan, math.nan) if window is None else (window.share, window.area)
        yield "-" if window is None else "/".join(percent(share, 1, "") for share in shares)
