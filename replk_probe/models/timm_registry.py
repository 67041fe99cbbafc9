"""Timm's registry of models.

Where the code of timm's packages is deferred (``runtime.deferred_imports``), only the module that defines a model is
imported to look the model up, and names are listed without importing any.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import timm.models._registry as _registry

_DEFINITION = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)", flags=re.MULTILINE)


def is_model(name: str) -> bool:
    """Whether the registry, which includes the models of this package, has an architecture."""
    if _registry.is_model(name):
        return True
    if name in _modules():
        importlib.import_module(f"timm.models.{_modules()[name]}")
    else:
        # It may be a former name, all of which are only known to the whole package.
        import timm

        timm.is_model(name)
    return bool(_registry.is_model(name))


def imported_models() -> list[str]:
    """The architectures whose definitions are imported, which include those of this package, in timm's order."""
    names: list[str] = _registry.list_models()
    return names


def list_models(pattern: str = "*") -> list[str]:
    """The architectures in the registry whose names match a pattern with ``*`` and ``?``, in timm's order."""
    names = fnmatch.filter({*_modules(), *imported_models()}, pattern)
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def list_tagged(pattern: str, pretrained: bool = False) -> list[str]:
    """The names ``ARCHITECTURE.TAG`` that match a pattern with a period, in timm's order.

    Args:
        pattern: Pattern such as ``"resnet18.*"``.
        pretrained: Whether to list only names with weights.
    """
    for architecture in list_models(pattern.partition(".")[0]):
        is_model(architecture)
    names: list[str] = _registry.list_models(pattern, pretrained=pretrained, include_tags=True)
    return names


def entrypoint(architecture: str) -> Any:
    """The function that builds a model in the registry."""
    is_model(architecture)
    return _registry.model_entrypoint(architecture)


def pretrained_cfg(name: str) -> Any:
    """Timm's description of the weights ``ARCHITECTURE`` or ``ARCHITECTURE.TAG``, or None if it has none."""
    return _registry.get_pretrained_cfg(name) if is_model(name.partition(".")[0]) else None


def create(name: str, **options: Any) -> Any:
    """``timm.create_model(name, **options)``."""
    from timm.models._factory import create_model

    is_model(name.partition(".")[0])
    return create_model(name, **options)


@cache
def _modules() -> dict[str, str]:
    """The module of timm that defines each of its architectures, found in the source code."""
    spec = importlib.util.find_spec("timm.models")
    folders = spec.submodule_search_locations if spec is not None else None
    files = (file for folder in folders or () for file in sorted(Path(folder).glob("[!_]*.py")))
    return {name: file.stem for file in files for name in _DEFINITION.findall(file.read_text(encoding="utf-8"))}
