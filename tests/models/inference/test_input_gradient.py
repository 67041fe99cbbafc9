"""Layers whose parameters no longer change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from replk_probe import ops
from replk_probe.models.inference.input_gradient import FrozenDepthwiseConv2d, MethodLog, freeze_layers

INF = float("inf")


def depthwise(kernel: int, activation: Any = None) -> ops.DepthwiseConv2d:
    torch.manual_seed(0)
    conv = ops.DepthwiseConv2d(4, 4, kernel, padding=kernel // 2, groups=4).eval()
    conv.activation = activation
    return conv


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_closed_relu_blocks_the_gradient_as_in_autograd(dtype: torch.dtype, inplace: bool) -> None:
    x = torch.tensor([[-1.0, -2.0, -0.0, 3.0, float("nan"), -INF, INF]], dtype=dtype)
    grad = torch.tensor([[INF, float("nan"), -INF, 5.0, 7.0, INF, INF]], dtype=dtype)
    relu = nn.Sequential(nn.Identity(), nn.ReLU(inplace))
    frozen = nn.Sequential(nn.Identity(), nn.ReLU(inplace))
    freeze_layers(frozen)
    found, want = (
        torch.autograd.grad(layers(leaf * 1), leaf, grad)[0]
        for layers, leaf in ((frozen, x.clone().requires_grad_()), (relu, x.clone().requires_grad_()))
    )
    assert found.dtype == dtype and torch.equal(found.nan_to_num(), want.nan_to_num())
    assert found.tolist()[0][:4] == [0, 0, 0, 5]


def test_a_closed_relu_of_a_convolution_blocks_the_gradient() -> None:
    conv = depthwise(9, "relu")
    freeze_layers(conv)
    x = torch.randn(1, 4, 12, 12, requires_grad=True)
    y = conv(x)
    (found,) = torch.autograd.grad(y, x, torch.where(y > 0, 1.0, INF))
    assert found.isfinite().all() and found.any()


@pytest.mark.skipif(not ops.native_info().loaded, reason="the native library was not built")
def test_a_forced_method_computes_small_kernels_of_channels_last_too(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, log = depthwise(5), MethodLog()
    freeze_layers(conv, log)
    x = torch.randn(1, 4, 12, 12).contiguous(memory_format=torch.channels_last)
    for method, want in (
        (None, "aten: kernels below 9x9 are faster channels-last"),
        ("auto", "aten: kernels below 9x9 are faster channels-last"),
        ("fft", ": fft"),
        ("aten", "aten: REPLK_PROBE_METHOD=aten forces torch's convolution"),
    ):
        if method is None:
            monkeypatch.delenv("REPLK_PROBE_METHOD", raising=False)
        else:
            monkeypatch.setenv("REPLK_PROBE_METHOD", method)
        conv(x)
        (found,) = log.take()
        assert found.endswith(want)


@pytest.mark.parametrize("padding", [15, 0])
def test_nothing_is_left_of_what_a_layer_had_prepared(padding: int) -> None:
    conv = ops.DepthwiseConv2d(4, 4, 31, padding=padding, groups=4).eval()
    x = torch.randn(1, 4, 40, 40)
    want = conv(x)
    conv._prepared = conv._prepared or ops.PreparedKernel()
    freeze_layers(conv)
    assert "_prepared" not in vars(conv) and isinstance(conv, FrozenDepthwiseConv2d) == (padding == 15)
    torch.testing.assert_close(conv(x), want)
