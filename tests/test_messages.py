"""Messages of the library, which Python callers read as well: no options of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import replk_probe

ROOT = Path(replk_probe.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] != "cli")

# A whole command line may be quoted in a message, with its options.
COMMANDS = re.compile(r"'(?:replk-probe|ray) [^']*'|pip install [^.]*")


def options(source: str) -> Iterator[str]:
    """Options that strings of a source file name outside of documentation and quoted command lines."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from re.findall(r"(?<![\w-])--[a-z][a-z-]*", COMMANDS.sub("", node.value))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_messages_name_no_options_of_the_command_line(path: Path) -> None:
    assert list(options(path.read_text(encoding="utf-8"))) == []


def test_an_option_in_a_message_is_found() -> None:
    assert list(options("raise E(f'{x} is bad. Use --device cpu.')")) == ["--device"]
    assert list(options("E(\"Run 'replk-probe erf --resume' again.\")")) == []
