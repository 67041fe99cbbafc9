"""Hook of mkdocs: one page for each public package, with every name in its ``__all__``.

Also an extension of griffe, which reads the docstrings: roles such as ``:func:`area_ratio``` become links or code.
"""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from public_names import constant_texts, public_modules, public_names

PACKAGE = "replk_probe"
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)\.*([\w.]+)`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    package = importlib.import_module(PACKAGE)
    modules = public_modules(package)
    for name in modules:
        files.append(File.generated(config, f"api/{name}.md", content=_page(f"{PACKAGE}.{name}")))
    files.append(File.generated(config, "api/index.md", content=_index(package, modules)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn names in code, such as ``replk_probe.erf.prepare``, into links to the reference."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    return re.sub(r"(?<![`\[])`((?:replk_probe\.)[\w.]+)(\([^`]*\))?`(?![`\]])", _link, markdown)


class DocstringRoles(griffe.Extension):
    """Replaces the roles of Sphinx in all docstrings."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace those of one object."""
        if obj.docstring:
            package = ".".join(obj.path.split(".")[:2])
            obj.docstring.value = _ROLE.sub(lambda match: _as_markdown(*match.groups(), package), obj.docstring.value)


def _as_markdown(short: str, name: str, package: str) -> str:
    shown = name.rpartition(".")[2] if short else name
    home = _home(name) or _home(f"{package}.{name}") or _home(f"{PACKAGE}.{name}")
    return f"[`{shown}`][{home}]" if home else f"`{shown}`"


def _link(match: re.Match[str]) -> str:
    full = _home(match[1])
    return f"[{match[0]}][{full}]" if full else match[0]


def _home(name: str) -> str | None:
    """Name of a public object in the package that documents it."""
    package = importlib.import_module(PACKAGE)
    root, *parts = name.split(".")
    if root != PACKAGE:
        return None
    modules = public_modules(package)
    if len(parts) == 2 and parts[0] in modules and parts[1] in public_names(getattr(package, parts[0])):
        return name
    if len(parts) == 1 and parts[0] in package.__all__ and parts[0] not in modules:
        for module in modules:
            if parts[0] in public_names(getattr(package, module)):
                return f"{PACKAGE}.{module}.{parts[0]}"
    return None


def _page(name: str) -> str:
    module = importlib.import_module(name)
    names = public_names(module)
    summaries = "".join(f"| [`{one}`][{name}.{one}] | {_summary(module, one)} |\n" for one in names)
    entries = "".join(f"::: {name}.{one}\n\n" for one in names)
    text = inspect.getdoc(module) or ""
    return f"# {name}\n\n{text}\n\n| Name | |\n|---|---|\n{summaries}\n{entries}"


def _summary(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    text = (inspect.getdoc(value) if callable(value) else _constants()[name]) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return _ROLE.sub(r"`\2`", first).replace("|", r"\|")


@cache
def _constants() -> dict[str, str]:
    return constant_texts(Path(importlib.import_module(PACKAGE).__path__[0]))


def _index(package: ModuleType, modules: list[str]) -> str:
    rows = []
    for name in package.__all__:
        if home := _home(f"{PACKAGE}.{name}"):
            rows.append(f"| [`{name}`][{home}] | {_summary(package, name)} |")
    packages = []
    for name in modules:
        first = (inspect.getdoc(getattr(package, name)) or "").split("\n\n")[0]
        packages.append(f"| [`{PACKAGE}.{name}`]({name}.md) | {' '.join(first.split())} |")
    head, line = "| Name | |", "|---|---|"
    parts = [f"# {PACKAGE}", inspect.getdoc(package) or "", "\n".join([head, line, *rows])]
    return "\n\n".join([*parts, "## Packages", "\n".join([head, line, *packages])]) + "\n"
