"""Copies of networks that ``copy.deepcopy`` cannot copy, and networks on the meta device."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from replk_probe.runtime.nested import instances_in

from ..records import attach_weights_info, record_of
from .reentrant import without_reentrant_checkpoints

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def copy_of(model: ModuleT, replaced: dict[int, Any] | None = None) -> ModuleT:
    """A deep copy, also of a network that caches results of earlier passes.

    The copy keeps the record of the network's weights and preprocessing. Torch does not copy tensors that are part of
    an autograd graph (a cached attention bias, a pruned or normalized weight). The copy contains their values,
    detached.

    Args:
        model: The network, which is not changed.
        replaced: Replacements for objects of the original, by the ``id`` of the object that they replace.
    """
    memo = dict(replaced or {})
    for module in model.modules():
        for tensor in instances_in(Tensor, vars(module)):
            if tensor.grad_fn is not None and id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
    copied = copy.deepcopy(model, memo)
    record = record_of(model)
    if record is not None:
        attach_weights_info(copied, record.weights, record.data)
    return copied


def on_device(model: ModuleT, device: torch.device) -> ModuleT:
    """The network itself if it is on ``device`` already, otherwise a copy on it."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.device == device for tensor in tensors):
        return model
    return copy_of(model).to(device)


def meta_copy_of(model: ModuleT) -> ModuleT:
    """A copy whose parameters and buffers are on the meta device: they have shapes but no values."""
    memo: dict[int, object] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        empty = torch.empty_like(tensor.detach(), device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy_of(model, memo)


@contextmanager
def on_meta() -> Iterator[None]:
    """Context for running a copy on the meta device: no gradients, and new tensors are on that device as well."""
    with without_reentrant_checkpoints(), torch.inference_mode(False), torch.no_grad(), torch.device("meta"):
        yield


def device_and_dtype(model: nn.Module) -> dict[str, Any]:
    """Device and floating-point type of a network, as keywords of ``Tensor.to``; empty for one without weights."""
    weight = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
