"""Hook of mkdocs: formulas between dollar signs become MathML, which browsers show without a script."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\(?:\(|\[)(.*?)\\(?:\)|\])</\1>', re.DOTALL)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert all formulas of a page."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(match: re.Match[str]) -> str:
    kind, source = match[1], html.unescape(match[2]).strip()
    formula = convert(source, display="block" if kind == "div" else "inline")
    return f'<div class="formula">{formula}</div>' if kind == "div" else formula
