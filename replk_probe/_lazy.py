"""Public names that are looked up on first use (PEP 562), so that importing a package loads nothing heavy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, home: Mapping[str, str], subpackages: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and the ``__dir__`` of a package.

    Args:
        package: ``__name__`` of the package.
        home: Mapping from each public name to the module of the package that defines it.
        subpackages: Subpackages and modules that are public names themselves.
    """
    namespace = vars(sys.modules[package])

    def look_up(name: str) -> Any:
        if name in subpackages:
            return importlib.import_module(f".{name}", package)  # this adds it to the namespace
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        namespace[name] = getattr(importlib.import_module(f".{home[name]}", package), name)
        return namespace[name]

    def names() -> list[str]:
        return sorted({*namespace, *home, *subpackages})

    return look_up, names
