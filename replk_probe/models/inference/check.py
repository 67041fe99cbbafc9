"""Comparison of a copy of a network with the original on one random image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# What folding may change by rounding, relative L2. What it must not change (a norm that another branch reads, a value
# that was overwritten) was seen as 0.07 and more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_TOLERANCE_HALF = 5e-2


@dataclass(frozen=True)
class Check:
    """How to find out whether a copy of a network gives the same as the original.

    Attributes:
        run: Function that computes what is compared.
        expected: What it returns for the original.
    """

    run: Callable[[nn.Module], Tensor]
    expected: Tensor

    def passes(self, copied: nn.Module) -> bool:
        """Whether the copy gives the same except for rounding."""
        try:
            found = self.run(copied)
        except Exception:  # whatever fails in the copy did not fail in the original
            return False
        if found.shape != self.expected.shape:
            return False
        difference = (found.double() - self.expected.double()).norm()
        tolerance = _TOLERANCE.get(self.expected.dtype, _TOLERANCE_HALF)
        return bool(difference <= tolerance * self.expected.double().norm())


def check_on(image: Tensor, model: nn.Module, outputs: Callable[[nn.Module, Tensor], Tensor]) -> Check:
    """Compute what a network gives for an image, to compare copies with it.

    Args:
        image: ``[1, C, H, W]``.
        model: The original, which is not changed.
        outputs: What is compared, as a function of a network and an image.
    """

    def run(network: nn.Module) -> Tensor:
        with evaluating(network), torch.no_grad():
            return outputs(network, image.clone()).detach().clone()

    return Check(run, run(model))


def random_image(size: tuple[int, int], channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """One image of standard normal numbers, ``[1, channels, H, W]``: the same at every call."""
    return torch.randn(1, channels, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a network takes, from its first convolution; 3 where there is none."""
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode; on leaving, every module is back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Not model.eval(), which networks override (to freeze norms for good, to merge branches).
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
