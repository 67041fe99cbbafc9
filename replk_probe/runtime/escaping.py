"""Text from outside the package, made safe to print."""

from __future__ import annotations

import unicodedata


def printable(text: object) -> str:
    r"""The text on one line, with all characters escaped that a terminal does not display.

    Control characters, line breaks, bidirectional marks, other invisible characters (not spaces) and lone surrogates
    become Python escape sequences (``\x1b``, ``\n``, ``\u202e``). Every text from outside this package, such as a file
    name, a tensor name or the reason phrase of an HTTP response, is passed through this function before it is printed
    or drawn.
    """
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )
