"""Whether two networks compute the same: their outputs, and those of some of their layers, for one random image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from .inference.check import evaluating
from .layers.depthwise import PLAIN_CONVS, activation_of, is_same_depthwise


@dataclass(frozen=True)
class Difference:
    """How far outputs are from what they were.

    Attributes:
        absolute: The largest of all.
        relative: The largest within one output over that output's largest magnitude.
        layer: Path of the layer where ``relative`` was found; "" for the network itself.
    """

    absolute: float
    relative: float
    layer: str


@torch.no_grad()
def outputs_of(
    model: nn.Module, image: Tensor, layers: Sequence[str], done: Callable[[], object] = lambda: None
) -> dict[str, Tensor]:
    """What a network and some of its layers give for an image, in eval mode.

    Layers are looked at by themselves because the scale of a residual branch can hide them from the network's output.

    Args:
        model: In the dtype of ``image``.
        image: ``[N, C, H, W]``.
        layers: Paths of modules.
        done: Called after each of them, and at the end.

    Returns:
        Outputs by path, the network's own under "".

    Raises:
        InvalidInputError: The network cannot be computed in that dtype, or gives no tensor.
    """
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[path] = output.clone()  # whatever follows may write over it
            done()

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(keep(path)) for path in layers]
    try:
        with evaluating(model), _by_fft(model):
            output = model(image)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"{type(model).__name__} cannot be verified. It fails on a random image of {list(image.shape)} in "
            f"{image.dtype}: {reason[:200]}. Give a model that can be computed so."
        ) from error
    finally:
        for handle in hooks:
            handle.remove()
    if not isinstance(output, Tensor):
        raise InvalidInputError(
            f"{type(model).__name__} cannot be verified. It returns {type(output).__name__} instead of one tensor of "
            "class scores. Give a model that returns a tensor."
        )
    done()
    return {**found, "": output}


@contextmanager
def _by_fft(model: nn.Module) -> Iterator[None]:
    """Compute depthwise convolutions by FFT for a while.

    In float64 torch copies every pixel once for each tap: SLaK-T takes 7 GB and minutes.
    """
    convs = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
        and type(layer) in PLAIN_CONVS
        and is_same_depthwise(layer)
        and activation_of(layer) is None
    ]
    try:
        for conv in convs:
            conv.forward = partial(_fft_depthwise, conv)  # type: ignore[method-assign]
        yield
    finally:
        for conv in convs:
            conv.__dict__.pop("forward", None)


def _fft_depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What ``conv.forward(x)`` gives, ``[N, C, H, W]``; to the precision of ``x``, relative to the largest output."""
    kernel, plane = conv.weight.shape[-2:], x.shape[-2:]
    size = [side + taps - 1 for side, taps in zip(plane, kernel, strict=True)]
    spectrum = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(conv.weight[:, 0].flip(-2, -1), s=size)
    full = torch.fft.irfft2(spectrum, s=size)
    y: Tensor = full[..., kernel[0] // 2 :, kernel[1] // 2 :][..., : plane[0], : plane[1]]
    return y if conv.bias is None else y + conv.bias[:, None, None]


def largest_difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Difference:
    """How far two results of :func:`outputs_of` are apart; ``relative`` is not finite where an output is not."""
    found = []
    for path, expected in before.items():
        distance = (after[path] - expected).abs().max()
        relative = float(distance / expected.abs().max()) if distance else 0.0
        found.append(Difference(float(distance), relative, path))
    broken = [one for one in found if not math.isfinite(one.relative)]
    worst = broken[0] if broken else max(found, key=lambda one: one.relative)
    return replace(worst, absolute=max(one.absolute for one in found))
