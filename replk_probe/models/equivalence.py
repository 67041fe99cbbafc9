"""Comparing the outputs of two networks, and of some of their layers, on one random image."""

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
from replk_probe.ops import is_same_depthwise

from .inference.check import evaluating
from .layers.depthwise import PLAIN_CONVS, activation_of


@dataclass(frozen=True)
class Difference:
    """The largest difference between two sets of outputs.

    Attributes:
        absolute: Largest absolute difference.
        relative: Largest difference divided by the largest magnitude of the same output.
        layer: Path of the layer where ``relative`` was found, or "" for the network itself.
    """

    absolute: float
    relative: float
    layer: str


def outputs_of(
    model: nn.Module, image: Tensor, layers: Sequence[str], done: Callable[[], object] = lambda: None
) -> dict[str, Tensor]:
    """Compute the outputs of a network (at the path "") and of some of its layers for an image, in eval mode.

    Layers are compared separately because a small residual scale can hide their error in the network's output. ``done``
    is called after each layer and at the end.

    Raises:
        InvalidInputError: The forward pass raises, or does not return a tensor.
    """
    try:
        found, output = run_with_layers(model, image, layers, done)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"{type(model).__name__} cannot be verified. On a random image of {list(image.shape)} in {image.dtype}, "
            f"the forward pass raised: {reason[:200]}. Use a model that can be run in this dtype."
        ) from error
    if not isinstance(output, Tensor):
        raise InvalidInputError(
            f"{type(model).__name__} cannot be verified. It returns an object of type {type(output).__name__} "
            "instead of one tensor of class scores. Use a model that returns a tensor."
        )
    done()
    return {**found, "": output}


@torch.no_grad()
def run_with_layers(
    model: nn.Module, image: Tensor, layers: Sequence[str], done: Callable[[], object] = lambda: None
) -> tuple[dict[str, Tensor], Any]:
    """Run a network in eval mode, and return the tensors that some of its layers return, by path, and its own output.

    Layers that return something else are left out. ``done`` is called after each layer. Errors of the forward pass are
    not caught.
    """
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[path] = output.clone()  # later layers may overwrite it in place
            done()

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(keep(path)) for path in layers]
    try:
        with evaluating(model), _by_fft(model):
            return found, model(image)
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def _by_fft(model: nn.Module) -> Iterator[None]:
    """Compute depthwise convolutions by FFT: in float64, torch copies each pixel for every tap (7 GB for SLaK-T)."""
    convs = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
        and type(layer) in PLAIN_CONVS
        and is_same_depthwise(layer)
        and max(layer.kernel_size) > 3  # for smaller ones, the copies are faster
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
    """``conv.forward(x)``, ``[N, C, H, W]``, to the precision of ``x`` relative to the largest output."""
    kernel, plane = conv.weight.shape[-2:], x.shape[-2:]
    size = [side + taps - 1 for side, taps in zip(plane, kernel, strict=True)]
    spectrum = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(conv.weight[:, 0].flip(-2, -1), s=size)
    full = torch.fft.irfft2(spectrum, s=size)
    y: Tensor = full[..., kernel[0] // 2 :, kernel[1] // 2 :][..., : plane[0], : plane[1]]
    return y if conv.bias is None else y + conv.bias[:, None, None]


def largest_difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Difference:
    """The largest difference between two results of :func:`outputs_of`; not finite if an output is not."""
    found = []
    for path, expected in before.items():
        distance = (after[path] - expected).abs().max()
        relative = float(distance / expected.abs().max()) if distance else 0.0
        found.append(Difference(float(distance), relative, path))
    broken = [one for one in found if not math.isfinite(one.relative)]
    worst = broken[0] if broken else max(found, key=lambda one: one.relative)
    return replace(worst, absolute=max(one.absolute for one in found))
