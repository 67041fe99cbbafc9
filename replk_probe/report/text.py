"""Words of the tables: how wide a line is, and what becomes of text that is longer. Free of torch."""

from __future__ import annotations

import textwrap

WIDTH = 100


def cut(text: str, letters: int) -> str:
    """``text``, with its beginning left out where it is longer than ``letters``: names differ at their ends."""
    return text if len(text) <= letters else "..." + text[len(text) - letters + 3 :]


def wrapped(text: str, prefix: str = "") -> list[str]:
    """``text`` as lines of at most :data:`WIDTH` letters; ``prefix`` begins the first, the others are indented."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=prefix, subsequent_indent=" " * len(prefix), break_on_hyphens=False
    )
