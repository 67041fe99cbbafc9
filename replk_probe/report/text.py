"""Text for the terminal: escaping, tables, wrapped paragraphs. rich is imported when a table is drawn."""

from __future__ import annotations

import io
import itertools
import math
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from replk_probe.runtime.escaping import printable
from replk_probe.runtime.formatting import shortened

if TYPE_CHECKING:
    from rich.console import RenderableType

    from replk_probe.runtime.provenance import WeightsInfo

WIDTH = 100
OMITTED = "..."  # in ASCII, for any terminal
_UNLIMITED = 10_000
_NARROWEST = 12  # minimum width of a column of names, on any terminal


class Layout(NamedTuple):
    """Layout of terminal output."""

    width: int = WIDTH  # maximum number of columns; numbers are never cut, so a table may exceed a very narrow terminal
    color: bool = False  # whether to use ANSI colors


PLAIN = Layout()


def terminal_layout() -> Layout:
    """Layout of standard output; :data:`PLAIN` if it is not a terminal.

    ``NO_COLOR``, ``FORCE_COLOR``, ``COLUMNS`` and ``TERM`` are respected.
    """
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        return PLAIN
    return Layout(console.width, console.color_system is not None and not console.no_color)


def wrapped(text: str, prefix: str = "", layout: Layout = PLAIN) -> list[str]:
    """Escape ``text`` and wrap it into lines; ``prefix`` starts the first line and indents the others."""
    return textwrap.wrap(
        printable(text), layout.width, initial_indent=prefix, subsequent_indent=" " * len(prefix),
        break_on_hyphens=False,
    )  # fmt: skip


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str] | str],
    layout: Layout = PLAIN,
    left: Collection[str] = (),
    fit: bool = True,
) -> list[str]:
    """Format a table as lines, with escaped cells.

    Args:
        head: Column titles. The first column is left-aligned, the others are right-aligned.
        rows: Cells of each row; a plain string is a heading across all columns.
        layout: Width and colors.
        left: Titles of further left-aligned columns.
        fit: Whether to cut left-aligned columns in the middle so that the table fits the width, the first only as far
            as its cells remain different.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    body = [row if isinstance(row, str) else [printable(cell) for cell in row] for row in rows]
    cells = [row for row in body if not isinstance(row, str)]
    widths = [max(cell_len(row[column]) for row in [head, *cells]) for column in range(len(head))]
    flexible = [column for column, title in enumerate(head) if column == 0 or title in left]
    gap = 2 if not fit or sum(widths) + 2 * (len(head) - 1) <= layout.width else 1
    excess = sum(widths) + gap * (len(head) - 1) - layout.width
    names = {row[0] for row in cells}
    while fit and excess > 0 and widths[widest := max(flexible, key=widths.__getitem__)] > _NARROWEST:
        if widest == 0 and len({shortened(name, widths[0] - 1, mark=OMITTED) for name in names}) < len(names):
            if len(flexible) == 1:
                break
            flexible = flexible[1:]  # no two names of rows may be alike
            continue
        widths[widest] -= 1
        excess -= 1

    drawn = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    for column, (title, width) in enumerate(zip(head, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if column in flexible else "right"
        drawn.add_column(Text(title), justify=justify, width=width, no_wrap=True)
    for row in cells:
        random, secondary = any("RANDOM" in cell for cell in row), row[0].startswith(" ")
        drawn.add_row(
            *(Text(shortened(cell, width, mark=OMITTED)) for cell, width in zip(row, widths, strict=True)),
            style="yellow" if random else "dim" if secondary else "",
        )
    lines = iter(_drawn(drawn, layout))
    return [
        next(lines),
        *itertools.chain.from_iterable(
            (_drawn(Text(line, style="cyan"), layout)[0] for line in wrapped(row, layout=layout))
            if isinstance(row, str)
            else [next(lines)]
            for row in body
        ),
    ]


def decimals(value: float) -> str:
    """A number with three decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def notes_of(weights: WeightsInfo | None, notes: Sequence[str]) -> list[str]:
    """The note on the weights, if any, before the notes of a result."""
    return [*([weights.note] if weights is not None and weights.note else []), *notes]


def note_lines(notes: Iterable[tuple[str, Sequence[str]]], layout: Layout = PLAIN) -> list[str]:
    """The notes of all models, given by name, each once, with the names of the models that it applies to."""
    concerned: dict[str, list[str]] = {}
    names = []
    for name, own in notes:
        names.append(name)
        for note in dict.fromkeys(own):
            concerned.setdefault(note, []).append(name)
    lines = []
    for note, models in concerned.items():
        which = "" if models == names else f" ({', '.join(models)})"
        lines += wrapped(f"note{which}: {note}", "", layout)
    return lines


def _drawn(renderable: RenderableType, layout: Layout) -> list[str]:
    """Render with rich, as lines without trailing spaces."""
    from rich.console import Console

    stream = io.StringIO()
    Console(
        file=stream,
        width=_UNLIMITED,
        force_terminal=layout.color,
        color_system="standard" if layout.color else None,
        legacy_windows=False,
    ).print(renderable, crop=False, highlight=False)
    return [line.rstrip() for line in stream.getvalue().splitlines()]
