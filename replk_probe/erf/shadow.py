"""A copy of a network without its weights: it computes shapes, in milliseconds and in no memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from replk_probe.models.inference.copying import copy_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)


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
