"""Comparison of a copy of a network with the original on one random image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        run: Function that computes the outputs to compare.
        expected: Its result for the original.
    """

    run: Callable[[nn.Module], Tensor]
    expected: Tensor

    def passes(self, copied: nn.Module) -> bool:
        """Whether the outputs of the copy equal those of the original except for rounding."""
        try:
            found = self.run(copied)
        except Exception:  # the original did not fail, so the copy differs
            return False
        if found.shape != self.expected.shape:
            return False
        difference = (found.double() - self.expected.double()).norm()
        return bool(difference <= tolerance(self.expected.dtype) * self.expected.double().norm())


def check_on(image: Tensor, model: nn.Module, outputs: Callable[[nn.Module, Tensor], Tensor]) -> Check:
    """Compute ``outputs`` of a network for an image, ``[1, C, H, W]``, with which those of copies are compared."""

    def run(network: nn.Module) -> Tensor:
        with evaluating(network), torch.no_grad():
            return outputs(network, image.clone()).detach().clone()

    return Check(run, run(model))


def random_image(size: tuple[int, int], channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """One image of standard normal numbers, ``[1, channels, H, W]``, the same in every call."""
    return torch.randn(1, channels, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def input_channels(model: nn.Module) -> int:
    """Number of input channels of a network, from its first convolution; 3 if there is none."""
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and restore the mode of every module on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Not model.eval(), which networks override (to freeze norms for good, to merge branches).
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
