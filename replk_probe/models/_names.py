"""Whose model a name stands for."""

from __future__ import annotations

import timm

TORCHVISION = "torchvision:"


def is_own_model(name: str) -> bool:
    """Whether the registry's entry (a tag in ``name`` is not looked at) is one of this package's families."""
    return timm.is_model(name) and str(timm.models.model_entrypoint(name).__module__).startswith(f"{__package__}.")


def is_factory(name: str) -> bool:
    """Whether the name is ``package.module:factory`` or ``path/to/file.py:factory``."""
    return ":" in name and not name.startswith(TORCHVISION)
