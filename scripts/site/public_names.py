"""The public names of the package and the texts of its constants, for the reference and for its test."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from types import ModuleType


def public_modules(package: ModuleType) -> list[str]:
    """The names of the public modules of a package."""
    return [name for name in package.__all__ if isinstance(getattr(package, name), ModuleType)]


def public_names(module: ModuleType) -> list[str]:
    """The names in ``__all__``, or else the public classes and functions that a module defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    names = [name for name in vars(module) if not name.startswith("_")]
    return [name for name in names if getattr(getattr(module, name), "__module__", "") == module.__name__]


def constant_texts(root: Path) -> dict[str, str]:
    """The texts after the assignments of the constants in all modules below a folder, by name."""
    texts = {}
    for path in sorted(root.rglob("*.py")):
        for statement, after in itertools.pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
                target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
                if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                    texts[ast.unparse(target)] = after.value.value
    return texts
