"""Text from outside the package, made safe to print."""

from __future__ import annotations

import unicodedata


def printable(text: object) -> str:
    r"""The text on one line, with everything escaped that a terminal would not show as a character.

    Control characters, line breaks, bidirectional marks, other invisible characters (not spaces) and lone surrogates
    become escape sequences of Python (``\x1b``, ``\n``, ``\u202e``). Every text from outside this package, such as a
    file name, the name of a tensor or the phrase of an HTTP response, passes through this function before it is
    printed or drawn.
    """
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )
