"""The table of the differences between two results."""

from __future__ import annotations

import math

from replk_probe.comparison.differences import Comparison, Difference
from replk_probe.runtime.formatting import counted

from .text import PLAIN, Layout, table, wrapped

_HEAD = ("difference", "first", "second", "first - second", "95 % interval", "significant")
_ANALYZERS = {
    "erf": "ERF",
    "shape-bias": "Shape bias",
    "behaviour": "Behaviour",
    "reliance": "Reliance",
    "kernels": "Kernels",
    "bench": "Benchmark",
}


def differences_table(comparison: Comparison, layout: Layout = PLAIN) -> str:
    """Table of all differences, with a heading for each group."""
    lines = wrapped(f"{_ANALYZERS[comparison.analyzer]}: {comparison.first} minus {comparison.second}", "", layout)
    rows: list[list[str] | str] = []
    for index, one in enumerate(comparison.differences):
        if index == 0 or comparison.differences[index - 1].group != one.group:
            rows.append(one.group)
        rows.append(_cells(one))
    lines += ["", *table(_HEAD, rows, layout, optional=("significant",)), ""]
    if comparison.n_with_interval:
        by_chance = comparison.n_with_interval / 20
        lines += wrapped(
            f"{comparison.n_significant} of {counted(comparison.n_with_interval, 'difference')} with an interval "
            f"{'is' if comparison.n_significant == 1 else 'are'} significant: the interval excludes zero. Without any "
            f"difference, about {by_chance:.2g} would be, because the intervals are not corrected for their number.",
            "",
            layout,
        )
    lines += wrapped(comparison.method, "", layout)
    for note in comparison.notes:
        lines += wrapped(f"note: {note}", "", layout)
    return "\n".join(lines)


def _cells(one: Difference) -> list[str]:
    scale = 100.0 if one.unit == "%" else 1.0
    name = f"{one.name}, {one.unit}" if one.unit and one.unit != "%" else one.name
    ends = "-" if one.ci95 is None else " to ".join(_signed(scale * end) for end in one.ci95)
    unit = " %" if one.unit == "%" else ""
    values = [_plain(scale * value) + unit for value in (one.first, one.second)]
    significant = {True: "yes", False: "no", None: "-"}[one.is_significant]
    return [name, *values, _signed(scale * one.difference), ends, significant]


def _plain(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:#.3g}".rstrip(".")


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+#.3g}".rstrip(".")
