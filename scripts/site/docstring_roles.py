"""Extension of griffe: roles of Sphinx in docstrings, such as ``:func:`area_ratio```, become code or links."""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any

import griffe

PACKAGE = "replk_probe"
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


@cache
def public_names() -> dict[str, str]:
    """Every public name of the package and of its public subpackages, by the last part and by the full name."""
    found: dict[str, str] = {}
    package = importlib.import_module(PACKAGE)
    for subpackage in (name for name in package.__all__ if _is_module(name)):
        for name in getattr(importlib.import_module(f"{PACKAGE}.{subpackage}"), "__all__", ()):
            full = f"{PACKAGE}.{subpackage}.{name}"
            found[full] = full
            if name in package.__all__:
                found[f"{PACKAGE}.{name}"] = full
    return found


def _is_module(name: str) -> bool:
    return type(getattr(importlib.import_module(PACKAGE), name)).__name__ == "module"


def linked(text: str, path: str) -> str:
    """``text`` of the docstring of ``path`` with links to public names, and other names as code."""
    names = public_names()
    package = ".".join(path.split(".")[:2])

    def as_markdown(match: re.Match[str]) -> str:
        short, name = match.groups()
        shown = name.rpartition(".")[2] if short else name
        full = names.get(name) or names.get(f"{package}.{name}") or names.get(f"{PACKAGE}.{name.lstrip('.')}")
        return f"[`{shown}`][{full}]" if full else f"`{shown.lstrip('.')}`"

    return _ROLE.sub(as_markdown, text)


class DocstringRoles(griffe.Extension):
    """Replaces the roles in all docstrings."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace those of one object."""
        if obj.docstring:
            obj.docstring.value = linked(obj.docstring.value, obj.path)
