"""The table of the numbers of contribution maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from replk_probe.erf.labels import row_names
from replk_probe.erf.map_numbers import ALL_LABELS, NUMBER_LABELS
from replk_probe.erf.result import ErfResult
from replk_probe.errors import InvalidInputError

from .text import PLAIN, Layout, table

_RADII = "threshold_radii"
# Names that select several numbers at once.
_GROUPS = (
    "center_of_mass",
    "center_offset",
    "standard_deviation",
    "peak",
    "gaussian",
    "gaussian_center",
    "gaussian_sigma",
)
_ALL = "all"

Number = tuple[str, str, float, tuple[float, float] | None]  # label, unit, value, interval


def parse_numbers(text: str) -> tuple[str, ...]:
    """Names in a list separated by commas: those of numbers, of groups of numbers, or ``all``.

    Raises:
        InvalidInputError: A name is unknown.
    """
    names = tuple(name.strip() for name in text.split(","))
    known = (_ALL, _RADII, *_GROUPS, *NUMBER_LABELS)
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"The number {name!r} is unknown. A contribution map has other numbers. Choose among "
                f"{', '.join(known)}."
            )
    return names


def erf_numbers_table(results: Sequence[ErfResult], names: Sequence[str], layout: Layout = PLAIN) -> str:
    """Table of the chosen numbers with 95 % intervals, one number a line, for each model."""
    rows: list[list[str] | str] = []
    for result, label in zip(results, row_names(results), strict=True):
        if len(results) > 1:
            rows.append(label)
        for label, unit, value, interval in _chosen(result, names):
            scale = 100.0 if unit == "%" else 1.0
            ends = "-" if interval is None else " to ".join(_shown(scale * end) for end in interval)
            rows.append([label, _shown(scale * value), ends, unit])
    return "\n".join(table(["number", "value", "95 %", "unit"], rows, layout, left=["unit"]))


def _chosen(result: ErfResult, names: Sequence[str]) -> Iterator[Number]:
    numbers = result.numbers
    named = {} if numbers is None else numbers.named()
    if numbers is not None and not {_ALL, _RADII}.isdisjoint(names):
        for threshold, radius, interval in numbers.radii():
            yield f"radius, {100 * threshold:g} %", "px", radius, interval
    known = NUMBER_LABELS if len(result.input_size) == 2 else {name: ALL_LABELS[name] for name in named}
    for name, (label, unit) in known.items():
        if any(one in (_ALL, name) or (one in _GROUPS and name.startswith(f"{one}_")) for one in names):
            yield label, unit, *named.get(name, (math.nan, None))


def _shown(value: float) -> str:
    """A number with four significant digits, or a dash where it is undefined."""
    return "-" if math.isnan(value) else f"{value:#.4g}".rstrip(".")
