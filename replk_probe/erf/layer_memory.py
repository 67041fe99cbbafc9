"""Layers and layouts found by a pass through a network, remembered for as long as the network exists unchanged."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from .feature_layout import Layout
from .probe_layer import find_layer, find_layout
from .target_layer import LayerPoint, TargetLayer

FoundT = TypeVar("FoundT")

# For each network its structure when the entries were found, and the entries.
_memory: WeakKeyDictionary[nn.Module, tuple[Hashable, dict[Hashable, Any]]] = WeakKeyDictionary()

_PLAIN = frozenset((type(None), bool, int, float, str))

# Networks are measured at few sizes; beyond this number the entries of a network are cleared.
_MOST_ENTRIES = 64


def remembered_layer(model: nn.Module, shape: Sequence[int], layer: LayerPoint | None) -> LayerPoint:
    """:func:`~.probe_layer.find_layer`, once for each network, shape and layer."""
    if isinstance(layer, TargetLayer):
        return layer
    return _remembered(model, (tuple(shape), layer), lambda: find_layer(model, shape, layer))


def remembered_layout(
    model: nn.Module, point: LayerPoint, shape: Sequence[int], size: tuple[int, int], channels: int
) -> Layout:
    """:func:`~.probe_layer.find_layout`, once for each network and its arguments.

    Args:
        model: The network.
        point: The layer.
        shape: Shape of its output for one image, without the batch axis.
        size: (H, W) of the images in pixels.
        channels: Channels of the images.
    """
    key = (LayerPoint(point.path, point.side), tuple(shape), size, channels)
    return _remembered(model, key, lambda: find_layout(model, point, (1, *shape), size, channels))


def _remembered(model: nn.Module, key: Hashable, find: Callable[[], FoundT]) -> FoundT:
    structure = _structure_of(model)
    known, entries = _memory.get(model, (None, {}))
    if known != structure or len(entries) >= _MOST_ENTRIES:
        entries = {}
        _memory[model] = structure, entries
    if key not in entries:
        entries[key] = find()
    found: FoundT = entries[key]
    return found


def _structure_of(model: nn.Module) -> Hashable:
    """Everything that may change the shapes of a network's features: its modules, their code and their settings."""
    found: list[Any] = []
    waiting = [model]
    seen: set[nn.Module] = set()
    while waiting:
        module = waiting.pop()
        found += (type(module), id(type(module).forward))
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
