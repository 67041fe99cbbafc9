"""What the Markdown files refer to exists: files, headings, commands, options, Python names."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import replk_probe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "csrc/README.md", *PAGES)
# What users read.
GUIDES = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *PAGES))


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Fragments that GitHub derives from the headings of a file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[str]:
    """Every command line of ours in the guides: in shell blocks, and in code spans that begin with it."""
    lines = [line for block in blocks(GUIDES, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(replk-probe [^`]+)`", GUIDES)
    parts = [part.strip() for line in lines for part in re.split(r"&&|;", line.partition("  #")[0])]
    return sorted({part for part in parts if part.startswith("replk-probe ")})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_within_the_repository_exist(name: str) -> None:
    document = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if link.startswith(("https://", "http://")):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not fragment or fragment in anchors(target), link


def test_there_are_commands() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_commands_have_the_options_that_the_guides_give_them(command: str, replk_probe: Callable[..., Result]) -> None:
    # --help runs nothing, but click refuses unknown commands and options before it prints anything.
    done = replk_probe(*shlex.split(command)[1:], "--help")
    assert done.exit_code == 0 and done.stdout.startswith("Usage: "), done.output


@pytest.mark.parametrize("code", blocks(GUIDES, "python"))
def test_python_examples_compile_and_import_what_exists(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "replk_probe":
            assert hasattr(replk_probe, node.attr)


def test_the_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {replk_probe.__version__}\n" in citation
