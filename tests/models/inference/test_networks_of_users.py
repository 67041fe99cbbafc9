"""Networks that are right by themselves, and that a prepared copy must not change."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import replk_probe
from replk_probe.erf import contribution_scores, prepare
from replk_probe.errors import InvalidInputError


class Autocast(nn.Module):
    """The layers between the first and the last are computed in bfloat16."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Sequential(*middle), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        with torch.autocast("cpu", torch.bfloat16):
            x = self.middle(x)
        return self.last(x.float())


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Checkpointed(nn.Module):
    """A block in a reentrant checkpoint, between other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.block, self.first(x), use_reentrant=True))


class Masked(nn.Module):
    """One convolution whose kernel is masked by a method of the object, which its class does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.Conv2d(8, 8, 1)
        )
        mask = torch.ones(5, 5)
        mask[2, 2] = 0
        self.layers[2]._conv_forward = lambda x, weight, bias: F.conv2d(x, weight * mask, bias, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Energy(nn.Module):
    """The output is itself a gradient: a layer must be differentiable twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = self.first(x if x.requires_grad else x.detach().requires_grad_())
            energy = self.second(y).square().sum()
            (gradient,) = torch.autograd.grad(energy, y, create_graph=True)
        return gradient


def with_norm() -> nn.Module:
    """Folding the norm into the convolution would round other values to bfloat16."""
    norm = nn.BatchNorm2d(16)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    return Autocast(nn.Conv2d(16, 16, 3, padding=1), norm, nn.ReLU())


def expected(model: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    output = model.eval()(images)
    output[:, :, output.shape[2] // 2, output.shape[3] // 2].relu().sum().backward()
    assert images.grad is not None
    return images.grad.clamp_min(0).sum(1)


def relative(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())


NETWORKS: dict[str, tuple[Any, str]] = {
    "1x1": (lambda: Autocast(nn.Conv2d(16, 16, 1)), ""),
    "strided": (lambda: Autocast(nn.Conv2d(16, 16, 3, 2, 1)), ""),
    "depthwise": (lambda: Autocast(nn.Conv2d(16, 16, 13, padding=6, groups=16)), ""),
    "linear": (lambda: Autocast(Tokens()), ""),
    "norm": (with_norm, "batch norms not folded"),
    "depthwise and relu": (lambda: Autocast(nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.ReLU()), ""),
    "checkpoint": (Checkpointed, ""),
    "masked": (Masked, "layers as they are: layers.2"),
    "energy": (Energy, "layers as they are"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_autograd(name: str) -> None:
    torch.manual_seed(0)
    build, left_out = NETWORKS[name]
    model, images = build().eval(), torch.randn(2, 3, 48, 48)
    right = expected(model, images)
    model.zero_grad()
    assert relative(contribution_scores(model, images), right) < 1e-6
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    prepared = prepare(model)
    assert relative(contribution_scores(prepared, images), right) < 1e-6
    if left_out:
        assert prepared.left_out == left_out
    result = replk_probe.measure_erf(model, images)
    assert relative(torch.from_numpy(result.contribution.copy()), right.double().mean(0)) < 1e-6


def test_a_layer_inside_of_a_reentrant_checkpoint_can_be_measured() -> None:
    torch.manual_seed(0)
    model, images = Checkpointed().eval(), torch.randn(2, 3, 48, 48)
    inner = nn.Sequential(model.first, *model.block)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        networks = (model, prepare(model, layer="block"))
        replk_probe.measure_erf(model, images)
    for network in networks:
        assert relative(contribution_scores(network, images, "block"), expected(inner, images)) < 1e-6
    # Torch's own checkpoints work as before.
    images.requires_grad_(True)
    model(images).sum().backward()
    with pytest.raises(RuntimeError, match="checkpoint"):
        torch.autograd.grad(model(images).sum(), images)


@pytest.mark.parametrize("change", ["data", "in place", "state", "parameter"])
@pytest.mark.parametrize("kernel", [1, 5, 13])
def test_weights_of_a_prepared_model_may_change(kernel: int, change: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, kernel, padding=kernel // 2, groups=16 if kernel > 1 else 1)
    )
    images = torch.randn(1, 3, 32, 32)
    for network in (model, prepare(model, layer="1")):
        contribution_scores(network, images, "1")
        module = network if isinstance(network, nn.Module) else network.module
        weight = torch.randn_like(model[1].weight)
        if change == "data":
            module[1].weight.data.copy_(weight)
        elif change == "in place":
            with torch.no_grad():
                module[1].weight.copy_(weight)
        elif change == "state":
            module.load_state_dict({**module.state_dict(), "1.weight": weight})
        else:
            module[1].weight = nn.Parameter(weight)
        other = nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, kernel, padding=kernel // 2, groups=model[1].groups)
        )
        other.load_state_dict({**model.state_dict(), "1.weight": weight})
        assert relative(contribution_scores(network, images, "1"), expected(other, images)) < 1e-6


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_refused_in_one_line() -> None:
    script = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)).eval())
    for call in (
        lambda: replk_probe.measure_erf(script, images=1, size=32),
        lambda: contribution_scores(script, torch.zeros(1, 3, 32, 32)),
        lambda: prepare(script),
        lambda: replk_probe.measure_kernels(script),
        lambda: replk_probe.measure_shape_bias(script),
    ):
        with pytest.raises(
            InvalidInputError, match=r"is a TorchScript module.*Give the nn\.Module that it was made from"
        ):
            call()
