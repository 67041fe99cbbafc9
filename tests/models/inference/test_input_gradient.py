"""Layers whose parameters no longer change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from replk_probe import ops
from replk_probe.models.inference.input_gradient import (
    FrozenDepthwiseConv2d,
    MethodLog,
    freeze_layers,
    reduce_precision,
    use_autograd,
)

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


@pytest.mark.parametrize("kind", ["planes", "channels_last", "linear", "linear-of-planes"])
def test_products_of_both_libraries(kind: str, product_library: str) -> None:
    torch.manual_seed(0)
    # An activation in place must be able to follow.
    if kind.startswith("linear"):
        network = nn.Sequential(nn.Linear(6, 10), nn.ReLU6(inplace=True), nn.Linear(10, 4))
        x = torch.randn(2, 40, 30, 6)
    else:
        network = nn.Sequential(nn.Conv2d(6, 10, 1), nn.ReLU6(inplace=True), nn.Conv2d(10, 4, 1, bias=False))
        x = torch.randn(2, 6, 40, 30)
    if kind == "linear-of-planes":
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    elif kind == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    frozen, exact = copy.deepcopy(network), network.double()
    freeze_layers(frozen)
    use_autograd(frozen)
    leaf, reference = x.requires_grad_(), x.detach().double().requires_grad_()
    output, expected = frozen(leaf), exact(reference)
    torch.testing.assert_close(output, expected.float())
    grad = torch.randn_like(output)
    slope = torch.autograd.grad(expected, reference, grad.double())[0]
    torch.testing.assert_close(torch.autograd.grad(output, leaf, grad)[0], slope.float())
    is_own = output.grad_fn is not None and "_InputGradient" in output.grad_fn.name()
    # oneDNN also computes the small layers that are left to autograd otherwise; torch's convolution needs no product.
    assert is_own == (product_library == "onednn" and kind in ("channels_last", "linear"))


def test_a_closed_relu_of_a_convolution_blocks_the_gradient() -> None:
    conv = depthwise(9, "relu")
    freeze_layers(conv)
    x = torch.randn(1, 4, 12, 12, requires_grad=True)
    y = conv(x)
    (found,) = torch.autograd.grad(y, x, torch.where(y > 0, 1.0, INF))
    assert found.isfinite().all() and found.any()


@pytest.mark.skipif(not ops.native_info().loaded, reason="the native library was not built")
def test_a_forced_method_computes_small_kernels_of_channels_last_too(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, log = depthwise(3), MethodLog()
    freeze_layers(conv, log)
    x = torch.randn(1, 4, 12, 12).contiguous(memory_format=torch.channels_last)
    for method, want in (
        (None, "aten: torch is faster for small channels-last kernels"),
        ("auto", "aten: torch is faster for small channels-last kernels"),
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


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("geometry", [
    {"kernel_size": 1}, {"kernel_size": 1, "stride": 2}, {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "dilation": 2, "groups": 2},
])  # fmt: skip
def test_input_gradients_of_convolutions_are_those_of_autograd(
    memory_format: Any, images: int, geometry: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 10, **geometry).double().eval().to(memory_format=memory_format)
    x = torch.randn(images, 6, 12, 9, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    frozen = copy.deepcopy(conv)
    freeze_layers(frozen)
    want, found = conv(x), frozen(x)
    grad = torch.randn_like(want)
    torch.testing.assert_close(found, want)
    for sparse in (grad, grad * (torch.arange(want.shape[3]) == 2)):
        wanted, given = (torch.autograd.grad(output, x, sparse, retain_graph=True)[0] for output in (want, found))
        torch.testing.assert_close(given, wanted)
        assert given.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), (1, 4, 8, 8)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 8, 8)),
        (nn.Linear(4, 4), (1, 4)),
        (nn.Sequential(nn.Identity(), nn.ReLU()), (1, 4)),
    ],
)
def test_layers_with_small_inputs_are_left_to_autograd(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer = layer.eval().to(memory_format=torch.channels_last) if len(shape) == 4 else layer
    x = torch.randn(shape).requires_grad_()
    x = x if len(shape) == 2 else x.contiguous(memory_format=torch.channels_last)
    freeze_layers(layer)
    want = layer(x)
    assert want.grad_fn.name().startswith(("_InputGradient", "_Depthwise", "_ReluSigns"))
    use_autograd(layer)
    found = layer(x)
    assert found.grad_fn.name().startswith(("Convolution", "Addmm", "Relu"))
    assert torch.equal(found, want)
    torch.testing.assert_close(*(torch.autograd.grad(output.sum(), x)[0] for output in (found, want)))


@pytest.mark.skipif(not ops.native_info().loaded, reason="the native library was not built")
def test_native_convolutions_are_not_left_to_autograd() -> None:
    conv, log = depthwise(13), MethodLog()
    freeze_layers(conv, log)
    use_autograd(conv)
    assert conv(torch.randn(1, 4, 12, 12, requires_grad=True)).grad_fn.name().startswith("_Depthwise")


@pytest.mark.parametrize(("channels", "size", "is_reduced"), [(128, 64, True), (128, 8, False), (8, 512, False)])
def test_products_are_reduced_only_where_this_saves_more_than_the_conversions_cost(
    channels: int, size: int, is_reduced: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 1).eval()
    x = torch.randn(1, channels, size, size)
    want = conv(x)
    freeze_layers(conv)
    reduce_precision(conv, forward=True, backward=True)
    use_autograd(conv)
    assert ((conv(x) - want).abs().max() > 1e-4).item() is is_reduced
