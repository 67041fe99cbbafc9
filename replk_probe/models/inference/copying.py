"""Copies of networks that ``copy.deepcopy`` cannot copy, and networks on the meta device."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from replk_probe.runtime.nested import instances_in

from ..records import attach_weights_info, record_of
from .reentrant import without_reentrant_checkpoints

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Numbers of weights and of values of images up to which a pass on the CPU takes a few hundredths of a second. The first
# pass on the meta device imports sympy and the compiler of torch, which takes one to three seconds.
_SMALL_NETWORK = 2**21
_SMALL_IMAGES = 2 * 3 * 256**2


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
        # torch.empty_like on the meta device runs in Python, and imports sympy, which takes a second.
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy_of(model, memo)


def tracing_copy_of(model: ModuleT, shape: Sequence[int]) -> ModuleT:
    """A copy in which a forward pass is followed, in the context :func:`on_device_of`, for images of ``shape``.

    It is on the meta device, where nothing is computed. If the network is one of this package's and so small that a
    pass on the CPU is faster than importing what torch needs on the meta device, it is on the CPU. Not so for other
    networks: on the meta device, a pass that depends on values fails, and is not followed.
    """
    tensors = [*model.parameters(), *model.buffers()]
    small = sum(tensor.numel() for tensor in tensors) <= _SMALL_NETWORK and math.prod(shape) <= _SMALL_IMAGES
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    own = type(model).__module__.startswith("replk_probe.") and packages <= {"replk_probe", "timm", "torch"}
    if small and own and all(tensor.device.type == "cpu" for tensor in tensors):
        return copy_of(model)
    return meta_copy_of(model)


@contextmanager
def on_device_of(copied: nn.Module) -> Iterator[None]:
    """Context for a pass of a :func:`tracing_copy_of`: no gradients, and new tensors are on its device as well."""
    device = next((tensor.device for tensor in (*copied.parameters(), *copied.buffers())), torch.device("meta"))
    with without_reentrant_checkpoints(), torch.inference_mode(False), torch.no_grad(), device:
        yield


def device_and_dtype(model: nn.Module) -> dict[str, Any]:
    """Device and floating-point type of a network, as keywords of ``Tensor.to``; empty for one without weights."""
    weight = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
