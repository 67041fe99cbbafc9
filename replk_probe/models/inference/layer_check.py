"""Comparison of single layers with their frozen counterparts, on the inputs that they have in a forward pass."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .check import Check, input_gradient, is_near
from .input_gradient import frozen_class


def differing_layers(model: nn.Module, check: Check) -> tuple[str, ...]:
    """Paths of the layers whose outputs or input gradients change when they are frozen.

    Such layers compute something else than their class, for instance because a method of the object was replaced.

    Args:
        model: A copy of the network in inference mode, without frozen layers.
        check: The comparison that a copy with frozen layers did not pass.
    """
    found: dict[str, None] = {}

    def compare(path: str, module: nn.Module, args: tuple[Any, ...], _output: Any) -> None:
        if args and isinstance(args[0], Tensor) and not _is_same_when_frozen(module, args[0]):
            found[path] = None

    hooks = [
        module.register_forward_hook(partial(compare, path))
        for path, module in model.named_modules()
        if frozen_class(module) is not None
    ]
    try:
        check.run(model)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)


def _is_same_when_frozen(module: nn.Module, given: Tensor) -> bool:
    frozen = copy.copy(module)
    frozen.__dict__.pop("_prepared", None)
    frozen.__class__ = frozen_class(module)  # type: ignore[assignment]
    try:
        with torch.enable_grad():
            # Methods are called directly, since hooks belong to the network.
            pairs = [_output_and_gradient(layer, given) for layer in (frozen, module)]
    except Exception:
        return False
    return all(map(is_near, *pairs))


def _output_and_gradient(layer: nn.Module, given: Tensor) -> tuple[Tensor, ...]:
    image = given.detach().clone().requires_grad_(True)
    output = layer.forward(image.clone())
    return output.detach().clone(), *input_gradient(output, image)
