"""Copies of networks that ``copy.deepcopy`` alone cannot copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def copy_of(model: ModuleT, replaced: dict[int, Any] | None = None) -> ModuleT:
    """A deep copy, also of a network that keeps results of earlier passes.

    Torch refuses to copy a tensor with a history: a cached attention bias, a pruned or normalised weight. The copy gets
    their values, without the history.

    Args:
        model: Left as it is.
        replaced: What shall stand in the copy in the place of some objects, by their ``id``.
    """
    memo = dict(replaced or {})
    for module in model.modules():
        for tensor in _tensors_in(vars(module)):
            if tensor.grad_fn is not None and id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


def on_device(model: ModuleT, device: torch.device) -> ModuleT:
    """The network itself if it is there already, else a copy there."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.device == device for tensor in tensors):
        return model
    return copy_of(model).to(device)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)
