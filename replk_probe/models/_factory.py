"""Networks from the user's own code: ``package.module:factory`` and ``path/to/file.py:factory``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from replk_probe.errors import InvalidInputError, UnknownModelError


def build_from_factory(name: str, overrides: dict[str, Any]) -> nn.Module:
    """Import the code, call the factory, and see that a network comes out.

    Args:
        name: ``"package.module:factory"`` or ``"path/to/file.py:factory"``. Modules are looked for in the current
            folder as well, and a file may import its neighbours. The factory may be an attribute of an attribute.
        overrides: Keyword arguments of the factory.

    Raises:
        UnknownModelError: No such file, module or attribute, or the code cannot be imported.
        InvalidInputError: The factory raises, or returns something else.
    """
    source, _, attribute = name.rpartition(":")
    path = Path(source).expanduser()
    is_file = source.endswith(".py")
    if not source or not attribute:
        raise UnknownModelError(
            f"Unknown model {name!r}. One side of the colon is empty. Write package.module:factory or "
            "path/to/file.py:factory."
        )
    if is_file and not path.is_file():
        raise UnknownModelError(f"Unknown model {name!r}. There is no file {source}. Check the path.")
    with _importable(path.resolve().parent if is_file else Path.cwd()):
        try:
            module = _import_file(path) if is_file else importlib.import_module(source)
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise UnknownModelError(f"Unknown model {name!r}. Importing {source} fails: {_reason(error)}") from error
        factory = _attribute(module, attribute, name)
        if isinstance(factory, nn.Module) and not overrides:
            return factory
        if not callable(factory):
            raise InvalidInputError(
                f"{name} is {_kind(factory)}, which cannot be called. Name a function that returns an nn.Module."
            )
        try:
            model = factory(**overrides)
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise InvalidInputError(f"{name} fails to build the model: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{name} returns {_kind(model)}. It has to return an nn.Module.")
    return model


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let ``import`` look into a folder, after everything that is installed."""
    before = list(sys.path)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _import_file(path: Path) -> ModuleType:
    # A name of its own: the file must not stand in for an installed package of the same name.
    spec = importlib.util.spec_from_file_location(f"_replk_probe_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [key for key in dir(found) if not key.startswith("_")]
            close = difflib.get_close_matches(part, names, n=3)
            hint = f" (close: {', '.join(close)})" if close else ""
            kind = _kind(found)
            raise UnknownModelError(
                f"Unknown model {name!r}. {kind[0].upper()}{kind[1:]} has no attribute {part!r}{hint}."
            )
        found = getattr(found, part)
    return found


def _kind(value: object) -> str:
    if isinstance(value, ModuleType):
        return f"the module {value.__name__.removeprefix('_replk_probe_file_')}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {text}." if text else f"{type(error).__name__}."
