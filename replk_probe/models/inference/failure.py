"""Why a network fails on images of some shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

_CONVOLUTION = re.compile(r"to have (?P<takes>\d+) channels, but got (?P<given>\d+) channels instead")
# The first layer of a network that cuts images into patches itself.
_PATCHES = (
    re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<given>\d+) and (?P<takes>\d+)x"),
    re.compile(r"normalized_shape=\[(?P<takes>\d+)\].* got input of size ?\[(?:\d+, )*(?P<given>\d+)\]"),
)
_MISSING = re.compile(r"missing \d+ required (positional|keyword-only) argument")
_ERRORS_OF_CODE = (AttributeError, ImportError, LookupError, NameError, NotImplementedError, TypeError)
_LONGEST = 300


@dataclass(frozen=True)
class ForwardFailure:
    """An explanation of a failing forward pass.

    Attributes:
        message: What failed, why, and what to do.
        cause: What has to change.
        channels: Number of channels that the network takes, if that is the cause.
    """

    message: str
    cause: Literal["channels", "arguments", "code", "size"]
    channels: int | None = None


def explain(error: Exception, model: nn.Module, shape: Sequence[int]) -> ForwardFailure:
    """Explain the error that the forward pass of a network raised for images of ``shape``, ``[N, C, H, W]``.

    Inputs may also have one or three axes instead of H and W.
    """
    kind = "images" if len(shape) == 4 else "inputs"
    name, images = type(model).__name__, f"{kind} of shape {[int(side) for side in shape[1:]]}"
    reason = next(iter(str(error).strip().splitlines()), "")[:_LONGEST].rstrip(".")
    raised = f"The forward pass raised: {reason or type(error).__name__}."
    channels = _channels(str(error), model, int(shape[1]))
    if channels is not None:
        return ForwardFailure(
            f"{name} does not accept {images}. Its first layer takes {channels} channel{'s' * (channels > 1)}, not "
            f"{shape[1]}. Give images with {channels}, or set channels to {channels}.",
            "channels",
            channels,
        )
    if isinstance(error, TypeError) and _MISSING.search(reason):
        return ForwardFailure(
            f"{name} cannot be run on images alone. {raised} Wrap it in a module whose forward takes only the images.",
            "arguments",
        )
    if isinstance(error, _ERRORS_OF_CODE) and not isinstance(error, IndexError):
        return ForwardFailure(
            f"{name} cannot be run on {images}. The forward pass raised {type(error).__name__}: {reason}. Correct the "
            "model, or wrap it in a module that takes images.",
            "code",
        )
    # A single image [C, H, W] looks like a batch of sequences.
    advice = "add a batch dimension to a single image" if len(shape) == 3 else "a model built for this one"
    return ForwardFailure(f"{name} does not accept {images}. {raised} Choose another size, or {advice}.", "size")


def _channels(reason: str, model: nn.Module, given: int) -> int | None:
    """Number of channels that the first layer takes, if it is another one than ``given``."""
    found = _CONVOLUTION.search(reason)
    if found is not None:
        return int(found["takes"]) if int(found["given"]) == given else None
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return None
    for pattern in _PATCHES:
        found = pattern.search(reason)
        if found is not None:
            takes, rest = divmod(int(found["takes"]) * given, int(found["given"]) or 1)
            return takes if rest == 0 and 0 < takes <= 16 and takes != given else None
    return None
