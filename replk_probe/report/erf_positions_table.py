"""The table of the positions of one result."""

from __future__ import annotations

from replk_probe.erf.result import ErfResult
from replk_probe.runtime.formatting import percent

from .text import PLAIN, Layout, table, wrapped

_PROTOCOL = "pixels"
# More positions are only in the files.
_MOST = 25


def position_lines(result: ErfResult, label: str, layout: Layout = PLAIN) -> list[str]:
    """The area ratios of every position of a result of several positions, as lines; none for other results."""
    if result.position_maps is None or _PROTOCOL not in result.protocols:
        return []
    heading = f"{label}: {result.ratio_name} of each position, %, '{_PROTOCOL}' protocol"
    if len(result.positions) > _MOST:
        return [*wrapped(f"{heading}: {len(result.positions)} positions, see erf.csv.", "", layout), ""]
    rows = []
    for one in result.positions:
        ratios = {row.threshold: row.ratio for row in one.ratios if row.protocol == _PROTOCOL}
        center = ", ".join(f"{value:g}" for value in one.center)
        shown = [percent(ratios.get(threshold), 2, "") for threshold in result.thresholds]
        rows.append([",".join(map(str, one.place)), center, str(one.border_distance), *shown])
    head = ["position", "center, px", "from the border", *(percent(threshold) for threshold in result.thresholds)]
    return [*wrapped(heading, "", layout), *table(head, rows, layout), ""]
