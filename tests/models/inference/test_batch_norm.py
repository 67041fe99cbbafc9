"""Gradients of batch norms whose CPU kernel torch calls with ambiguous strides."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from replk_probe.models.inference.batch_norm import correct_batch_norms


def decomposed(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """The norm by elementary operations, which have gradients of their own."""
    if norm.training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, var = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("images", [1, 2])
def test_gradients_are_those_of_a_decomposed_norm_in_every_layout(images: int, training: bool) -> None:
    torch.manual_seed(0)
    layouts = (torch.contiguous_format, torch.channels_last)
    for channels, height, width, layout, way in itertools.product(
        (1, 4), (1, 3), (1, 5), layouts, (*layouts, "transposed")
    ):
        if training and images * height * width == 1:
            continue  # refused by torch
        norm = nn.BatchNorm2d(channels).double().train(training)
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            nn.init.uniform_(values, 0.5, 2.0)
        x = torch.randn(images, channels, height, width, dtype=torch.float64).to(memory_format=layout)
        factors = torch.randn_like(x)
        found = norm(x.requires_grad_())
        if isinstance(way, str):
            total = (found.flatten(2).transpose(1, 2) * factors.flatten(2).transpose(1, 2).contiguous()).sum()
        else:
            total = (found * factors.to(memory_format=way)).sum()
        correct_batch_norms(total)
        (wanted,) = torch.autograd.grad((decomposed(norm, x) * factors).sum(), x)
        torch.testing.assert_close(torch.autograd.grad(total, x)[0], wanted, rtol=1e-9, atol=1e-12)
