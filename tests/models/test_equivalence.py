"""Comparison of the outputs of two networks and their layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models.architectures.slak import SLaK
from replk_probe.models.equivalence import Difference, largest_difference, outputs_of
from replk_probe.ops import DepthwiseConv2d


def network() -> nn.Module:
    torch.manual_seed(0)
    return SLaK((11, 9), (1, 2), (8, 12), 5, num_classes=10, layer_scale=1.0).double().eval()


@torch.no_grad()
def test_outputs_are_those_of_the_network() -> None:
    model = network()
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    seen: dict[str, Tensor] = {}
    layers = ["stages.0.0.large_kernel", "stages.1.1.large_kernel"]
    for path in layers:
        model.get_submodule(path).register_forward_hook(lambda module, inputs, y, path=path: seen.update({path: y}))
    seen[""] = model(x)
    expected, steps = dict(seen), []
    found = outputs_of(model, x, layers, lambda: steps.append(1))
    assert found.keys() == expected.keys() and len(steps) == 3
    for path, output in found.items():
        assert float((output - expected[path]).abs().max()) < 1e-13 * float(expected[path].abs().max())


@pytest.mark.parametrize("size", [(5, 5), (1, 7), (51, 5), (3, 31)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_depthwise_convolutions_of_any_size(size: tuple[int, int], bias: bool) -> None:
    padding = (size[0] // 2, size[1] // 2)
    conv = nn.Conv2d(6, 6, size, padding=padding, groups=6, bias=bias).double()
    x = torch.randn(2, 6, 9, 14, dtype=torch.float64)
    for layer in (conv, DepthwiseConv2d.from_conv(conv)):
        assert float((outputs_of(layer, x, [])[""] - conv(x)).abs().max()) < 1e-14


@pytest.mark.parametrize("layer", ["relu", "stride"])
@torch.no_grad()
def test_other_layers_are_left_alone(layer: str) -> None:
    conv: Any = DepthwiseConv2d(6, 6, 7, padding=3, groups=6).double()
    conv.activation = "relu" if layer == "relu" else None
    if layer == "stride":
        conv = nn.Conv2d(6, 6, 7, stride=2, padding=3, groups=6).double()
    x = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    assert torch.equal(outputs_of(conv, x, [])[""], conv(x))


def test_nothing_is_left_behind_after_an_error() -> None:
    model = network()
    before = {path: dict(module.__dict__) for path, module in model.named_modules()}
    with pytest.raises(InvalidInputError, match=r"SLaK cannot be verified. On a random image of \[1, 5, 8, 8\]"):
        outputs_of(model, torch.zeros(1, 5, 8, 8, dtype=torch.float64), ["stages.0.0"])
    for path, module in model.named_modules():
        assert module.__dict__.keys() == before[path].keys() and not module._forward_hooks


def test_networks_that_return_something_else() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(InvalidInputError, match="It returns an object of type tuple instead of one tensor"):
        outputs_of(Pair(), torch.zeros(1, 3, 4, 4), [])


def test_the_largest_difference() -> None:
    before = {"a": torch.tensor([1.0, -100.0]), "b": torch.tensor([0.5, 1.0]), "": torch.zeros(2)}
    after = {"a": torch.tensor([1.0, -101.0]), "b": torch.tensor([0.5, 1.25]), "": torch.zeros(2)}
    assert largest_difference(before, after) == Difference(1.0, 0.25, "b")
    assert largest_difference(before, before) == Difference(0.0, 0.0, "a")
    broken = largest_difference(before, {**after, "b": torch.tensor([math.nan, 1.0])})
    assert broken.layer == "b" and math.isnan(broken.relative)
    assert largest_difference({"": torch.zeros(1)}, {"": torch.ones(1)}).relative == math.inf
