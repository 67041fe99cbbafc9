"""Hook of mkdocs: files outside of ``docs/`` that belong to the site, and links to them as written for GitHub."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository that are pages of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "csrc/README.md": "native_library.md",
}
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
# A list of the sections of a page, which the site shows on the right.
_CONTENTS = re.compile(r"(?:^- \[[^\]]+\]\(#[^)]+\)\n)+", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the figures."""
    for source, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for path in sorted({*ROOT.glob("figures/*/*"), *ROOT.glob("scripts/*.sh")}):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to the pages and files of the site, and leave out lists of sections."""
    sources = {page: source for source, page in PAGES.items()}
    here = PurePosixPath("docs", page.file.src_uri)
    if page.file.generated_by is not None and page.file.src_uri in sources:
        here = PurePosixPath(sources[page.file.src_uri])

    def on_site(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        if re.match(r"[a-z]+:", link):
            return match[0]
        target = os.path.normpath(here.parent / link)
        found = PAGES.get(target, target.removeprefix("docs/"))
        if found.startswith("tutorials/") and found.endswith(".py"):
            found = found.removesuffix(".py") + ".md"
        if files.get_file_from_path(found) is None:
            return match[0]
        return before + os.path.relpath(found, PurePosixPath(page.file.src_uri).parent) + after

    return _LINK.sub(on_site, _CONTENTS.sub("", markdown))
