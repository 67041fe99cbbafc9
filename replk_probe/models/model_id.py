"""Whose model a name stands for, and that a name is no model yet."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from replk_probe.errors import InvalidInputError

TORCHVISION = "torchvision:"


def is_own_model(name: str) -> bool:
    """Whether the registry's entry (a tag in ``name`` is not looked at) is one of this package's families."""
    return timm.is_model(name) and str(timm.models.model_entrypoint(name).__module__).startswith(f"{__package__}.")


def is_factory(name: str) -> bool:
    """Whether the name is ``package.module:factory`` or ``path/to/file.py:factory``."""
    return ":" in name and not name.startswith(TORCHVISION)


def check_network(model: Any) -> None:
    """An ``nn.Module``, where a name would be as likely.

    Raises:
        InvalidInputError: It is something else.
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, str):
        raise InvalidInputError(
            f"The model is given as the name {model!r}. A network is needed here. Build it with "
            f"replk_probe.create_model({model!r})."
        )
    kind = model.__name__ if isinstance(model, type) else type(model).__name__
    what = f"the class {kind}" if isinstance(model, type) else f"an object of type {kind}"
    raise InvalidInputError(f"The model is {what}. A network is needed here. Give an nn.Module.")


def name_of(model: nn.Module) -> str:
    """The name that a registered model was created by, else that of its class."""
    config = getattr(model, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, dict) else None
    return str(architecture or type(model).__name__)
