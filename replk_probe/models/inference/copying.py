"""Copies of networks that ``copy.deepcopy`` alone cannot copy."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
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


def shadow_of(model: ModuleT) -> ModuleT:
    """A copy on the meta device in eval mode; no weight is copied.

    Args:
        model: Left as it is.

    Returns:
        The copy. Forward hooks are left out, since they may write results where their owner keeps them.
    """
    memo: dict[int, object] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        empty = torch.empty_like(tensor.detach(), device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    shadow = copy_of(model, memo)
    for module in shadow.modules():
        module._forward_hooks.clear()
        module._backward_hooks.clear()
        module.training = False
    return shadow


@contextmanager
def on_meta() -> Iterator[None]:
    """Run a shadow under this: no gradients, and tensors made on the way are without values too."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("meta"):
        yield


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)
