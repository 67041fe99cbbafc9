"""Numbers of the page as text, with the value itself, by which tables are sorted and the page can be read again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from replk_probe.runtime.provenance import RANDOM_INIT, UNKNOWN, USER_MODULE, WeightsInfo

Interval: TypeAlias = tuple[float, float]
MISSING = "\u2013"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The value as text.
        value: The value of the record, None if there is none; tables are sorted by it.
        interval: Its 95 % interval as text, or "".
        detail: What the value was measured with, or "".
    """

    text: str
    value: float | str | None = None
    interval: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Badge:
    """Kind of weights: its CSS class, a symbol, its name, and the full label of the weights."""

    kind: str
    symbol: str
    name: str
    label: str


NO_CELL = Cell(MISSING)


def share(fraction: float, interval: Interval | None = None, detail: str = "") -> Cell:
    """A fraction in percent."""
    if math.isnan(fraction):
        return Cell(MISSING, None, "", detail)
    return Cell(f"{percent_text(fraction)}\u00a0%", fraction, interval_text(interval), detail)


def percent_text(fraction: float) -> str:
    """A fraction in percent with three significant digits, without the unit."""
    return MISSING if math.isnan(fraction) else f"{100 * fraction:#.3g}".rstrip(".")


def interval_text(interval: Interval | None) -> str:
    """An interval of fractions in percent, without the unit; "" for none."""
    return "" if interval is None else " to ".join(map(percent_text, interval))


def number(value: float | None, digits: int = 4) -> Cell:
    """A number with a few significant digits."""
    if value is None or math.isnan(value):
        return NO_CELL
    return Cell(f"{value:.{digits}g}", value)


def side_text(side: float) -> str:
    """A side in pixels."""
    return f"{side:.1f}" if side != int(side) else f"{int(side)}"


def badge(weights: WeightsInfo | None) -> Badge:
    """The kind of weights as a symbol and a label, so that kinds do not differ in color alone."""
    if weights is None:
        return Badge("unknown", "?", "imported decisions", "decisions of other software")
    if weights.source == RANDOM_INIT:
        return Badge("random", "\u25cb", "random weights", weights.label)
    if weights.is_embedded:
        return Badge("synthetic", "\u25d0", "synthetic data", weights.label)
    if weights.source in (UNKNOWN, USER_MODULE):
        return Badge("unknown", "?", "unknown weights", weights.label)
    return Badge("trained", "\u25cf", "trained", weights.label)
