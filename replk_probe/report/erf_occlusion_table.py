"""The table of the occlusion check of one result."""

from __future__ import annotations

from replk_probe.erf.occlusion_rows import ALL_FILLS, KEPT
from replk_probe.erf.result import ErfResult

from .text import PLAIN, Layout, table, wrapped

_LABELS = {KEPT[0]: "only the window", KEPT[1]: "without the window"}


def occlusion_lines(result: ErfResult, label: str, layout: Layout = PLAIN) -> list[str]:
    """Cosine and relative distance between the features with and without a part of the image, as lines.

    The mean over all fills with 95 % intervals; no lines for a result without an occlusion check.
    """
    shown = [row for row in result.occlusion if row.fill == ALL_FILLS]
    if not shown:
        return []
    thresholds = tuple(dict.fromkeys(row.threshold for row in shown))
    rows = []
    for kept, name in _LABELS.items():
        found = {row.threshold: row for row in shown if row.kept == kept}
        cosines = [(found[threshold].cosine, found[threshold].cosine_ci95) for threshold in thresholds]
        distances = [(found[threshold].distance, found[threshold].distance_ci95) for threshold in thresholds]
        for quantity, values in (("cosine", cosines), ("distance", distances)):
            rows.append([f"{name}: {quantity}", *(_number(value) for value, _ in values)])
            if any(interval for _, interval in values):
                rows.append(["  95 %", *("-" if one is None else "-".join(map(_number, one)) for _, one in values)])
    heading = f"{label}: features with a part of the image replaced, compared with those of the whole image"
    head = ["window of", *(f"{100 * threshold:g} %" for threshold in thresholds)]
    return [*wrapped(heading, "", layout), *table(head, rows, layout), ""]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
