"""Public names of packages (PEP 562): what ``dir()`` lists, and names that are looked up on first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, home: Mapping[str, str], subpackages: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and the ``__dir__`` of a package whose import loads nothing heavy.

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

    return look_up, public_names(package)


def public_names(package: str) -> Callable[[], list[str]]:
    """The ``__dir__`` of a package: the names in ``__all__``, for instance for tab completion."""
    return lambda: sorted(sys.modules[package].__all__)
