"""Hook of mkdocs: ``llms.txt``, the list of all pages in the format of llmstxt.org."""

from __future__ import annotations

import html
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

NAME = "llms.txt"
_pages: list[tuple[str, Page]] = []


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Remember the pages in the order of the navigation, with the title of the top section."""
    _pages.clear()
    _pages.extend((page.ancestors[-1].title if page.ancestors else "Start", page) for page in nav.pages)
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Write the file into the root of the site."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    section = ""
    for title, page in _pages:
        if title != section:
            section = title
            lines += ["", f"## {section}", ""]
        address = (config.site_url or "") + page.url
        lines.append(f"- [{page.title}]({address or './'}){_summary(page)}")
    Path(config.site_dir, NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _summary(page: Page) -> str:
    """The first sentence of the first paragraph that is no link."""
    for paragraph in re.findall(r"<p>(?!<a )(.*?)</p>", page.content or "", re.DOTALL):
        text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", paragraph)).split())
        if sentence := re.match(r".*?[.?!](?=\s|$)", text):
            return f": {sentence[0]}"
    return ""
