"""The number of images at once that is chosen automatically."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from replk_probe import measure_erf
from replk_probe.erf import batch_size
from replk_probe.erf.config import ErfConfig
from replk_probe.erf.plan import plan_erf


class Tiny(nn.Module):
    """A convolution; ``mixed`` adds the mean over the batch."""

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mixed = nn.Conv2d(3, 4, 3, padding=1), mixed
        nn.init.constant_(self.conv.bias, 5.0)  # type: ignore[arg-type]  # no ReLU is closed

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.conv(images)
        return found + found.mean(0, keepdim=True) if self.mixed else found


class ForOneImage(Tiny):
    """A network that does not accept batches."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.reshape(1, *images.shape[1:]))


def size_of(model: nn.Module | str, side: int, **options: object) -> int:
    return plan_erf(model, torch.randn(1, 3, side, side), ErfConfig(**options)).batch_size  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "expected"), [(32, 4), (224, 4), (256, 3), (317, 1), (1024, 1)])
def test_large_images_are_measured_one_by_one(side: int, expected: int) -> None:
    assert size_of(Tiny(), side) == expected


def test_a_given_size_is_kept() -> None:
    assert size_of(Tiny(), 32, batch_size=7) == 7
    assert size_of(Tiny(mixed=True), 32, batch_size=2) == 2


@pytest.mark.parametrize("model", [Tiny(mixed=True), ForOneImage()])
def test_images_that_influence_each_other_are_not_put_together(model: nn.Module) -> None:
    images = torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert size_of(model, 16) == 1
    found = measure_erf(model, images).contribution
    alone = sum(measure_erf(model, image).contribution for image in torch.split(images, 1)) / len(images)
    assert found == pytest.approx(alone, rel=1e-12)


def test_the_values_fit_into_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # One layer, one float32 map of 4 x 32 x 32 values.
    one_image = 4 * 4 * 32 * 32
    for images in (1, 2, 3, 100):
        monkeypatch.setattr(batch_size, "memory_of", lambda _, images=images: 2 * images * one_image)
        assert size_of(Tiny(), 32) == min(images, 4)
    monkeypatch.setattr(batch_size, "memory_of", lambda _: one_image)
    assert size_of(Tiny(), 32) == 1


class Elsewhere(Tiny):
    """A network whose forward pass must not run before the network is moved to the device of the measurement."""

    is_moved = False

    def forward(self, images: Tensor) -> Tensor:
        assert self.is_moved or images.is_meta
        return super().forward(images)


def test_features_are_compared_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(model: nn.Module, device: torch.device) -> nn.Module:
        copied = copy.deepcopy(model)
        copied.is_moved = True  # type: ignore[assignment]
        return copied

    monkeypatch.setattr(batch_size, "on_device", moved, raising=False)
    assert size_of(Elsewhere(), 32) == 4


def test_the_map_does_not_depend_on_the_size_except_for_rounding() -> None:
    images = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = {"weights": "random", "seed": 0}
    together = measure_erf("resnet10t", images, **options)  # type: ignore[arg-type]
    alone = measure_erf("resnet10t", images, batch_size=1, **options)  # type: ignore[arg-type]
    assert together.run.config["batch_size"] == 4
    difference = abs(together.contribution - alone.contribution).sum() / alone.contribution.sum()
    assert difference < 1e-5
