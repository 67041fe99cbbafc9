"""LaTeX tables in the style of the package ``booktabs``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

# Characters with a meaning in LaTeX, and how they are typeset.
_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text with the special characters of LaTeX escaped."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex_number(value: float) -> str:
    """A number with four significant digits in math mode; an empty cell for NaN."""
    if math.isnan(value):
        return ""
    text = f"{value:#.4g}".rstrip(".")
    return "$" + re.sub(r"e([+-]\d+)", lambda match: rf" \times 10^{{{int(match[1])}}}", text) + "$"


def latex_interval(interval: tuple[float, float] | None, scale: float = 1.0) -> str:
    """An interval, both ends multiplied by ``scale``; an empty cell for None."""
    return "" if interval is None else f"[{', '.join(latex_number(scale * end) for end in interval)}]"


def booktabs(alignment: str, head: Sequence[str], groups: Iterable[Iterable[Sequence[str]]]) -> str:
    """A ``tabular`` with rules above, below and between the groups of rows; cells are LaTeX."""
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", _line(head)]
    for group in groups:
        lines += [r"\midrule", *map(_line, group)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
