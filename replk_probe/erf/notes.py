"""Notes about a network or a run, one or two sentences each; None if there is nothing to note."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from replk_probe.models.layers.response_norm import GeluResponseNorm
from replk_probe.runtime.formatting import dimensions

from .convention import Convention
from .target_layer import TargetLayer

# A norm or layer scale of this size makes its branch negligible compared with the shortcut.
_CLOSED = 1e-4


def interval_note(counts: Sequence[int]) -> str | None:
    """Why there are no intervals despite two or more images; ``counts`` holds the number of images in each block."""
    if sum(counts) < 2:
        return None
    if sum(count > 0 for count in counts) < 2:
        return (
            f"No 95 % intervals: all {sum(counts)} usable images are in one of the {len(counts)} blocks over which "
            "intervals are computed."
        )
    return "No 95 % intervals: without one of the blocks of images the map is zero everywhere."


def trained_size_note(trained: Sequence[int], measured: Sequence[int]) -> str:
    """A note on whether a small model of this package is measured at the image size on which it was trained."""
    size, other = (f"{dimensions(size)} px" for size in (trained, measured))
    if trained == measured:
        return f"Measured at {size}, the size of the training images of this small model."
    return f"Measured at {other}; trained on images of {size}."


def constant_sum_note(model: nn.Module, target: TargetLayer, convention: Convention) -> str | None:
    """A note if a convention adds the channels after a norm that makes their sum a constant."""
    if convention.relu or target.path is not None:
        return None
    for name, module in model.named_children():
        weight = module.weight if isinstance(module, nn.LayerNorm) and "norm" in name else None
        if weight is not None and bool((weight == weight.flatten()[0]).all()):
            return (
                f"The weights of the final norm {name!r} are all equal, so that the sum of its channels is a constant "
                "and the map is rounding error. Choose a convention with ReLU or a layer before this norm."
            )
    return None


def closed_branches_note(model: nn.Module) -> str | None:
    """A note if random weights suppress residual branches, as in networks that initialize their scales to zero."""
    # A response norm is an identity if its parameters are zero.
    norms = [module for module in model.modules() if isinstance(module, GeluResponseNorm)]
    open_ones = {id(parameter) for norm in norms for parameter in norm.parameters()}
    closed = [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 1
        and parameter.numel() == max(parameter.shape)  # one scale for each channel
        and not name.endswith("bias")
        and id(parameter) not in open_ones
        and bool((parameter.detach().abs() <= _CLOSED).all())
    ]
    if not closed:
        return None
    return (
        f"The initialization of this network suppresses {len(closed)} of its branches (scales of at most {_CLOSED:g}, "
        f"such as {closed[0]}): with random weights the map shows mainly the shortcuts."
    )
