"""Text for the terminal: escaping, tables, wrapped paragraphs. rich is imported when a table is drawn."""

from __future__ import annotations

import io
import itertools
import math
import os
import re
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
READABLE = 24  # columns are omitted before a name is cut to less than this
_TRAILING = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$")


class Layout(NamedTuple):
    """Layout of terminal output."""

    width: int = WIDTH  # maximum number of columns; numbers are never cut, so a table may exceed a very narrow terminal
    color: bool = False  # whether to use ANSI colors
    cut_tables: bool = True  # whether ``width`` also applies to tables; otherwise, they are as wide as their cells

    @property
    def table_width(self) -> int:
        """Maximum width of a table."""
        return self.width if self.cut_tables else _UNLIMITED


PLAIN = Layout()


def terminal_layout() -> Layout:
    """Layout of standard output: as wide as ``COLUMNS`` if it is set, or else as the terminal.

    If standard output is not a terminal and ``COLUMNS`` is not set, tables are not cut, as another program reads them.
    ``NO_COLOR``, ``FORCE_COLOR`` and ``TERM`` are respected.
    """
    from rich.console import Console

    console = Console(file=sys.stdout)
    color = console.color_system is not None and not console.no_color
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").strip("0").isdecimal():
        return Layout(max(console.width, _NARROWEST), color)
    return Layout(color=color, cut_tables=False)


def wrapped(text: str, prefix: str = "", layout: Layout = PLAIN, *, break_words: bool = True) -> list[str]:
    """Escape ``text`` and wrap it into lines; ``prefix`` starts the first line and indents the others.

    ``break_words`` selects whether words that are longer than a line are broken.
    """
    return textwrap.wrap(
        printable(text), layout.width, initial_indent=prefix, subsequent_indent=" " * len(prefix),
        break_on_hyphens=False, break_long_words=break_words,
    )  # fmt: skip


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str] | str],
    layout: Layout = PLAIN,
    left: Collection[str] = (),
    optional: Sequence[str] = (),
) -> list[str]:
    """Format a table as lines, with escaped cells.

    If the table is too wide, columns are omitted, and left-aligned columns are cut in the middle. The cells of the
    first column remain different from each other, and numbers are never cut.

    Args:
        head: Column titles. The first column is left-aligned, the others are right-aligned.
        rows: Cells of each row; a plain string is a heading across all columns.
        layout: Width and colors.
        left: Titles of further left-aligned columns.
        optional: Titles of the columns that may be omitted, in this order, before names become hard to read.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    body = [row if isinstance(row, str) else [printable(cell) for cell in row] for row in rows]
    cells = [row for row in body if not isinstance(row, str)]
    widths = {column: max(cell_len(row[column]) for row in [head, *cells]) for column in range(len(head))}
    aligned = [column for column, title in enumerate(head) if column == 0 or title in left]
    for title in optional:
        least = sum(min(width, READABLE) if column in aligned else width for column, width in widths.items())
        if least + len(widths) - 1 > layout.table_width:
            del widths[head.index(title)]
    gap = 2 if sum(widths.values()) + 2 * (len(widths) - 1) <= layout.table_width else 1
    excess = sum(widths.values()) + gap * (len(widths) - 1) - layout.table_width
    names = {row[0] for row in cells}
    flexible = [column for column in aligned if column in widths]

    def rank(column: int) -> tuple[bool, int]:
        """The names of rows are cut last, because users copy them."""
        return column != 0, widths[column]

    while excess > 0 and (flexible := [column for column in flexible if widths[column] > _NARROWEST]):
        widest = max(flexible, key=rank)
        if widest == 0 and len({shortened(name, widths[0] - 1, mark=OMITTED) for name in names}) < len(names):
            flexible.remove(0)  # no two names of rows may be alike
            continue
        widths[widest] -= 1
        excess -= 1

    drawn = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    for column, width in widths.items():
        justify: Literal["left", "right"] = "left" if column in aligned else "right"
        drawn.add_column(Text(head[column]), justify=justify, width=width, no_wrap=True)
    for row in cells:
        random, secondary = any("RANDOM" in cell for cell in row), row[0].startswith(" ")
        drawn.add_row(
            *(Text(shortened(row[column], width, mark=OMITTED)) for column, width in widths.items()),
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


def decimals(value: float, count: int = 3) -> str:
    """A number with ``count`` decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{count}f}"


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
    return [_TRAILING.sub(r"\1", line) for line in stream.getvalue().splitlines()]
