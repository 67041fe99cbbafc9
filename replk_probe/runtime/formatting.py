"""Numbers and names as text, in tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable


def percent(fraction: float | None, decimals: int | None = None, unit: str = " %") -> str:
    """A fraction as text in percent; a dash for NaN and None.

    Args:
        fraction: The fraction.
        decimals: Number of decimals; by default as many as the fraction needs (``"99 %"``).
        unit: Text after the number.
    """
    if fraction is None or math.isnan(fraction):
        return "-"
    return (f"{100 * fraction:g}" if decimals is None else f"{100 * fraction:.{decimals}f}") + unit


def counted(number: int, noun: str) -> str:
    """A number with a regular noun: ``"1 image"``, ``"2 images"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dimensions(sizes: Iterable[int]) -> str:
    """Sizes as text, such as a height and a width: ``"224x160"``."""
    return "x".join(map(str, sizes))


def shortened(text: str, letters: int, head: int | None = None, mark: str = "\u2026") -> str:
    """``text`` in at most ``letters`` characters, with ``mark`` for its middle, since names differ at both ends.

    Args:
        text: The text; unchanged if it is short enough.
        letters: Maximum number of characters. At least two are kept in addition to the mark.
        head: Number of characters to keep before the mark; by default half of those kept.
        mark: Text that represents the omitted part.
    """
    if len(text) <= letters:
        return text
    kept = max(letters - len(mark), 2)
    head = kept // 2 if head is None else head
    return text[:head] + mark + text[len(text) - (kept - head) :]
