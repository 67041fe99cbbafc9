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
from replk_probe import plot_style
from replk_probe.attribution import result as attribution
from replk_probe.behaviour import result as behaviour
from replk_probe.bench import result as bench
from replk_probe.erf import result as erf
from replk_probe.kernels import result as kernels
from replk_probe.reliance import result as reliance
from replk_probe.shape_bias import result as shape_bias

ROOT = Path(__file__).resolve().parent.parent
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs" / "tutorials").glob("*.py"))]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "csrc/README.md", *PAGES, *TUTORIALS)


def markdown(path: Path) -> str:
    """A Markdown file, or the cells of Markdown of a notebook that is a Python file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = re.findall(r"^# %% \[markdown\]\n((?:#(?! %%).*\n?)*)", text, re.MULTILINE)
    return "\n\n".join(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells)


# What users read.
GUIDES = "\n".join(markdown(ROOT / name) for name in ("README.md", *PAGES, *TUTORIALS))


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Fragments that GitHub derives from the headings of a file."""
    headings = re.findall(r"^#+ (.+)$", markdown(path), re.MULTILINE)
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
    for link in re.findall(r"\]\(([^)\s]+)\)", markdown(document)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not fragment or fragment in anchors(target), link


def test_there_are_commands() -> None:
    assert len(commands()) > 10


def test_every_column_of_a_table_is_defined() -> None:
    defined = (ROOT / "docs" / "definitions.md").read_text(encoding="utf-8")
    columns = {
        *erf._CSV_COLUMNS,
        *shape_bias._CSV_COLUMNS,
        *behaviour._CSV_COLUMNS,
        *shape_bias.SCORE_COLUMNS,
        *kernels._COLUMNS,
        *attribution._COLUMNS,
        *reliance._COLUMNS,
        *bench._CSV_COLUMNS,
    }
    names = {re.sub(r"_ci95_(low|high)$", "", name) for name in columns}
    assert len(names) > 80 and [name for name in sorted(names) if f"`{name}`" not in defined] == []


def test_the_site_has_the_colors_of_the_figures() -> None:
    style = (ROOT / "docs" / "assets" / "style.css").read_text(encoding="utf-8")
    logo = (ROOT / "docs" / "assets" / "logo.svg").read_text(encoding="utf-8")
    assert f"--md-accent-fg-color: {plot_style.COLORS[0]};" in style and plot_style.COLORS[0] in logo


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    # A strict build of the site checks the pages that it writes itself: the reference and the tutorials.
    entries = set(re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    shown = {name.removeprefix("docs/") for name in PAGES}
    shown |= {re.sub(r"^docs/(.*)\.py$", r"\1.md", name) for name in TUTORIALS}
    assert shown - entries == set()


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
