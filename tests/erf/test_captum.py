"""The gradient of the contribution scores equals captum's neuron gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from captum.attr import NeuronGradient
from torch import nn

from replk_probe.erf import contribution_scores, input_gradient


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 7, stride=2, padding=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.Tanh()
    )


@pytest.mark.parametrize(
    ("build", "layer"),
    [(small_cnn, "4"), (partial(timm.create_model, "resnet10t"), "layer2.0")],
    ids=["small", "resnet"],
)
def test_gradient_before_its_relu_equals_captums_neuron_gradient(build: Callable[[], nn.Module], layer: str) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    batch = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def neuron(features: torch.Tensor) -> torch.Tensor:
        y, x = features.shape[2] // 2, features.shape[3] // 2
        return features[:, :, y, x].relu().sum(dim=1)

    theirs = NeuronGradient(model, model.get_submodule(layer)).attribute(batch.clone().requires_grad_(), neuron)
    with input_gradient(model, layer) as gradient:
        ours = gradient(batch)
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-14 * float(theirs.abs().max()))
    assert (ours < 0).any(), "a gradient without signs would prove little"
    torch.testing.assert_close(contribution_scores(model, batch, layer), theirs.detach().clamp_min(0).sum(1))
