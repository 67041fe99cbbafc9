"""What decides the shapes of the features of a network, to recognize that it has changed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import nn

_PLAIN = frozenset((type(None), bool, int, float, str))


def structure_of(model: nn.Module) -> Hashable:
    """Everything that may change the shapes of a network's features: its modules, their code and their settings."""
    found: list[Any] = []
    waiting = [model]
    seen: set[nn.Module] = set()
    while waiting:
        module = waiting.pop()
        hooks = len(module._forward_pre_hooks), len(module._forward_hooks)
        found += (type(module), id(type(module).forward), hooks)
        if module in seen:
            continue
        seen.add(module)
        for setting, value in vars(module).items():
            if setting in ("_parameters", "_buffers"):
                found += (name if tensor is None else (name, tensor.shape) for name, tensor in value.items())
            elif setting == "_modules":
                found += value
                waiting += [child for child in value.values() if child is not None]
            elif setting[0] != "_" and setting != "training":  # the measurement sets the modes itself
                found.append(setting)
                found.append(value if type(value) in _PLAIN else _identity(value))
    return tuple(found)


def _identity(value: Any) -> Any:
    """For objects that may be large or refer to the network, only what identifies them."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple | list):
        return type(value), *map(_identity, value)
    return (type(value), id(value)) if callable(value) else type(value)
