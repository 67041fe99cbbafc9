"""Values with which a network gives no meaningful output."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def is_finite(value: Tensor) -> bool:
    """Whether no value of a tensor of any type is NaN or infinite."""
    if not value.is_floating_point() or not value.numel():
        return True
    for axis, stride in enumerate(value.stride()):
        if stride == 0:  # An expanded axis repeats the same elements.
            value = value.narrow(axis, 0, 1)
    wide = value.float() if value.element_size() == 1 else value  # aminmax does not support float8.
    # In one pass without a mask: aminmax propagates NaN.
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(wide))


def is_negative_variance(name: str, value: Tensor) -> bool:
    """Whether a tensor has the name of a running variance and a value below zero."""
    return name.rpartition(".")[2] == "running_var" and value.numel() > 0 and bool((value.double() < 0).any())
