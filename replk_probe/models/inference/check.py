"""Comparison of a copy of a network with the original on one random image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from replk_probe.models.inference.cudnn_passes import with_engines
from replk_probe.runtime.devices import as_float64, strict_arithmetic, without_autocast

from .batch_norm import correct_batch_norms
from .reentrant import without_reentrant_checkpoints

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_TOLERANCE_HALF = 5e-2


def tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference that folding or merging may cause by rounding to ``dtype``.

    Errors (folding a norm that another branch reads, overwriting a value) were measured as 0.07 and more.
    """
    return _TOLERANCE.get(dtype, _TOLERANCE_HALF)


@dataclass(frozen=True)
class Check:
    """Comparison of copies of a network with the original.

    Attributes:
        run: Function that computes the tensors to compare.
        expected: Its result for the original.
    """

    run: Callable[[nn.Module], tuple[Tensor, ...]]
    expected: tuple[Tensor, ...]

    def passes(self, copied: nn.Module) -> bool:
        """Whether the results of the copy equal those of the original except for rounding."""
        try:
            found = self.run(copied)
        except Exception:  # the original did not fail, so the copy differs
            return False
        return len(found) == len(self.expected) and all(map(is_near, found, self.expected))


def check_on(
    image: Tensor, model: nn.Module, outputs: Callable[[nn.Module, Tensor], Tensor], *, gradient: bool = False
) -> Check:
    """Compute ``outputs`` of a network for an image, ``[1, C, H, W]``, with which those of copies are compared.

    Args:
        image: The image.
        model: The network.
        outputs: Function of a network and an image.
        gradient: Whether to compare the gradient of the image as well, if there is one.
    """

    def computed(network: nn.Module) -> tuple[Tensor, ...]:
        leaf = image.clone().requires_grad_(gradient)
        output = outputs(network, leaf.clone())
        found = output.detach().clone()
        return (found, *input_gradient(output, leaf)) if output.requires_grad else (found,)

    def run(network: nn.Module) -> tuple[Tensor, ...]:
        with strict_arithmetic(), evaluating(network), without_autocast(image.device):
            with torch.set_grad_enabled(gradient):
                return with_engines(partial(computed, network), image.device)

    return Check(run, run(model))


def input_gradient(output: Tensor, image: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the image for a random weighting of the middle of the output; empty if there is none."""
    weights = random_image(output.shape[1:], 1, output.dtype)[0].to(output.device)
    # Zero except in the middle of all axes but that of the images and the next one, as in a measurement.
    middle = [slice(None)] * min(output.dim(), 2) + [size // 2 for size in output.shape[2:]]
    sparse = torch.zeros_like(output)
    sparse[tuple(middle)] = weights[tuple(middle)]
    correct_batch_norms(output)
    # Given grad_outputs, torch imports sympy to compare their shapes, which takes a second.
    (found,) = torch.autograd.grad((output * sparse).sum(), image, allow_unused=True)
    return () if found is None else (found,)


def is_near(found: Tensor, expected: Tensor, within: float | None = None) -> bool:
    """Whether two tensors are equal except for rounding: their relative difference is at most ``within``.

    By default, that is the :func:`tolerance` of the type of ``expected``.
    """
    if found.shape != expected.shape:
        return False
    exact = as_float64(expected)
    limit = tolerance(expected.dtype) if within is None else within
    return bool((as_float64(found) - exact).norm() <= limit * exact.norm())


def random_image(
    size: Sequence[int], channels: int = 3, dtype: torch.dtype = torch.float32, *, seed: int = 0
) -> Tensor:
    """One image of standard normal numbers, ``[1, channels, H, W]``, the same in every call with this seed."""
    return torch.randn(1, channels, *size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def input_channels(model: nn.Module) -> int:
    """Number of input channels of a network, from its first convolution; 3 if there is none."""
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode without reentrant checkpoints, and restore the mode of every module on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Not model.eval(), which networks override (to freeze norms for good, to merge branches).
        _set_modes((module, False) for module, _ in modes)
        with without_reentrant_checkpoints():
            yield
    finally:
        _set_modes(modes)


def _set_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    """Set the modes of modules that have another one, because writing takes much longer than reading."""
    for module, mode in modes:
        if module.training != mode:
            module.training = mode
