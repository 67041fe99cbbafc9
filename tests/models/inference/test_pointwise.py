"""Pairs of pointwise layers: the same numbers as the separate layers, and what is fused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.activations import GELU
from torch import Tensor, nn

from replk_probe import ops
from replk_probe.models.inference import pointwise
from replk_probe.models.inference.fold_bn import traced
from replk_probe.models.inference.fuse_pointwise import fuse_pointwise, prefers_planes
from replk_probe.models.inference.input_gradient import freeze_layers, reduce_precision
from replk_probe.models.inference.pointwise import PointwiseBlock

pytestmark = pytest.mark.skipif(not ops.native_info().loaded, reason="the native library was not built")

ACTS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "timm": GELU, "relu": nn.ReLU, "relu6": nn.ReLU6}
# Largest difference in units of the largest value: float32 products of up to 24 terms, and a derivative in 16 bits.
CLOSE = 2e-6
SLOPE = 3e-5


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs in several steps, the last of which is shorter."""
    for name in ("_LEAST_ACTIVATIONS", "_LEAST_WITH_ONEDNN"):
        monkeypatch.setattr(pointwise, name, 0)
    monkeypatch.setattr(pointwise, "_FEWEST", 7)
    monkeypatch.setattr(pointwise, "_STEP_BYTES", 0)


def layer(kind: str, channels: int, outputs: int) -> nn.Module:
    return nn.Linear(channels, outputs) if kind == "linear" else nn.Conv2d(channels, outputs, 1)


def both_passes(network: nn.Module, x: Tensor, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = network(leaf)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)) if grad is None else grad
    (found,) = torch.autograd.grad(output, leaf, grad.to(output))
    return output.detach(), found


def drawn(kind: str) -> list[Tensor]:
    """Inputs with six channels, in every layout that occurs."""
    torch.manual_seed(0)
    if kind == "linear":
        planes = torch.randn(2, 6, 33, 35).permute(0, 2, 3, 1)
        return [
            torch.randn(40, 6),
            torch.randn(2, 9, 6),
            torch.randn(2, 5, 4, 6),
            planes,
            torch.randn(6, 3, 5).permute(1, 2, 0),
        ]
    maps = torch.randn(2, 6, 9, 5)
    return [maps, maps.contiguous(memory_format=torch.channels_last), torch.randn(1, 6, 1, 1), maps[:, :, ::2]]


def near(found: Tensor, expected: Tensor, bound: float) -> bool:
    return found.shape == expected.shape and bool(
        (found.double() - expected).abs().max() <= bound * expected.abs().max()
    )


@pytest.mark.parametrize("second", [True, False], ids=["pair", "single"])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.usefixtures("product_library")
def test_equals_the_separate_layers(kind: str, act: str, second: bool) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [layer(kind, 6, 24), ACTS[act](), *([layer(kind, 24, 5)] if second else [])]
    block = PointwiseBlock(*copy.deepcopy(layers))  # type: ignore[arg-type]
    freeze_layers(block)
    exact = nn.Sequential(*layers).double()
    for x in drawn(kind):
        output, gradient = both_passes(block, x)
        expected, slope = both_passes(exact, x.double())
        assert near(output, expected, CLOSE) and near(gradient, slope, SLOPE)
        assert output.dtype == torch.float32
        if kind == "conv" and x.shape[2] > 1:
            assert ops.is_channels_last(output) == ops.is_channels_last(x)


@pytest.mark.usefixtures("product_library")
def test_a_layer_alone_and_without_bias() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, 1, bias=False)
    block = PointwiseBlock(copy.deepcopy(conv))
    freeze_layers(block)
    for x in drawn("conv"):
        output, gradient = both_passes(block, x)
        expected, slope = both_passes(copy.deepcopy(conv).double(), x.double())
        assert near(output, expected, CLOSE) and near(gradient, slope, CLOSE)


@pytest.mark.parametrize("kind", ["conv", "channels_last", "linear"])
@pytest.mark.usefixtures("product_library")
def test_a_gradient_that_is_zero_outside_a_box(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pair = nn.Sequential(layer(kind, 6, 24), nn.GELU(), layer(kind, 24, 5))
    block = PointwiseBlock(*copy.deepcopy(pair))  # type: ignore[arg-type]
    freeze_layers(block)
    x, grad = torch.randn(2, 6, 12, 10), torch.zeros(2, 5, 12, 10)
    grad[:, :, 3:7, 2:9] = torch.randn(2, 5, 4, 7)
    if kind == "linear":
        x, grad = x.permute(0, 2, 3, 1).contiguous(), grad.permute(0, 2, 3, 1).contiguous()
    elif kind == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    sizes = []
    found = pointwise.times_derivative
    monkeypatch.setattr(pointwise, "times_derivative", lambda g, d, o: (sizes.append(g.numel()), found(g, d, o)))
    _, gradient = both_passes(block, x, grad)
    _, slope = both_passes(pair.double(), x.double(), grad.double())
    assert near(gradient, slope, SLOPE)
    assert torch.equal(gradient != 0, slope != 0)
    assert sum(sizes) == 2 * 24 * 4 * 7  # nothing outside of the box is computed


@pytest.mark.parametrize("kind", ["conv", "channels_last", "linear"])
def test_bfloat16_products(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replk_probe.models.inference.input_gradient._LEAST_PRODUCTS", 0)
    monkeypatch.setattr("replk_probe.models.inference.input_gradient._LEAST_REUSE", 0)
    torch.manual_seed(0)
    pair = nn.Sequential(layer(kind, 64, 128), nn.GELU(), layer(kind, 128, 32))
    block = PointwiseBlock(*copy.deepcopy(pair))  # type: ignore[arg-type]
    freeze_layers(block)
    x = torch.randn(1, 64, 8, 8)
    x = x.permute(0, 2, 3, 1).contiguous() if kind == "linear" else x
    x = x.contiguous(memory_format=torch.channels_last) if kind == "channels_last" else x
    expected, slope = both_passes(copy.deepcopy(pair).double(), x.double())
    errors = {}
    for forward, backward in ((False, False), (False, True), (True, True)):
        reduce_precision(block, forward=forward, backward=backward)
        output, gradient = both_passes(block, x)
        assert output.dtype == gradient.dtype == torch.float32
        errors[forward, backward] = [
            float((one.double() - other).norm() / other.norm())
            for one, other in ((output, expected), (gradient, slope))
        ]
    # Each of the three roundings of a pass has a relative error of at most 2^-8; random errors add up to less.
    assert errors[False, False][0] < CLOSE and errors[False, False][1] < SLOPE
    assert errors[False, True][0] < CLOSE and 1e-4 < errors[False, True][1] < 3 * 2**-8
    assert 1e-4 < errors[True, True][0] < 3 * 2**-8


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_weights_are_converted_to_bfloat16_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replk_probe.models.inference.input_gradient._LEAST_PRODUCTS", 0)
    monkeypatch.setattr("replk_probe.models.inference.input_gradient._LEAST_REUSE", 0)
    block = PointwiseBlock(layer(kind, 64, 128), nn.GELU(), layer(kind, 128, 32))  # type: ignore[arg-type]
    freeze_layers(block)
    x = torch.randn(1, 64, 8, 8) if kind == "conv" else torch.randn(1, 8, 8, 64)
    both_passes(block, x)
    assert not block._converted  # nothing is kept for float32
    reduce_precision(block, forward=True, backward=True)
    both_passes(block, x)
    kept = {key: [matrix.data_ptr() for matrix in matrices] for key, matrices in block._converted.items()}
    # Planes need the transposed matrices for the backward pass, rows do not.
    assert set(kept) == ({False, True} if kind == "conv" else {False})
    both_passes(block, x)
    assert kept == {key: [matrix.data_ptr() for matrix in matrices] for key, matrices in block._converted.items()}


@pytest.mark.parametrize(("positions", "sizes"), [(21, [7, 7, 7]), (22, [8, 8, 6]), (8, [8]), (15, [8, 7]), (3, [3])])
def test_steps_have_nearly_the_same_size(positions: int, sizes: list[int]) -> None:
    rows = torch.randn(positions, 6)
    steps = pointwise._Steps(rows, pointwise._ROWS, [torch.randn(4, 6)])
    assert [len(part) for part, _, _ in steps.parts(torch.empty(positions, 4), None)] == sizes


def test_what_is_kept_for_the_backward_pass() -> None:
    pair = nn.Sequential(nn.Conv2d(6, 24, 1), nn.GELU(), nn.Conv2d(24, 5, 1))
    block = PointwiseBlock(*pair)  # type: ignore[arg-type]
    freeze_layers(block)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        block(torch.randn(1, 6, 9, 5, requires_grad=True))
    assert [(one.dtype, one.numel()) for one in kept] == [(torch.int16, 24 * 9 * 5)]


def test_uses_the_layers_where_the_library_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = nn.Sequential(nn.Conv2d(6, 24, 1), nn.ReLU(), nn.Conv2d(24, 5, 1))
    block = PointwiseBlock(*copy.deepcopy(pair))  # type: ignore[arg-type]
    x = torch.randn(1, 6, 9, 5)
    torch.testing.assert_close(block(x), pair(x))  # not frozen
    freeze_layers(block)
    monkeypatch.setattr(pointwise._Pointwise, "apply", None)
    monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
    torch.testing.assert_close(both_passes(block, x), both_passes(pair, x))
    monkeypatch.delenv("REPLK_PROBE_METHOD")
    with torch.autocast("cpu", torch.bfloat16):
        assert block(x).dtype == torch.bfloat16
    for name in ("_LEAST_ACTIVATIONS", "_LEAST_WITH_ONEDNN"):
        monkeypatch.setattr(pointwise, name, 2**20)
    torch.testing.assert_close(both_passes(block, x), both_passes(pair, x))


def fused(network: nn.Module, keep: str = "") -> list[str]:
    """Paths of the blocks that replace layers of a network."""
    graph = traced(network.eval())
    assert graph is not None
    fuse_pointwise(network, graph, keep)
    return [path for path, module in network.named_modules() if isinstance(module, PointwiseBlock)]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.a(x))
        return self.b(y) + y.mean()


class Weighted(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x))) * self.a.weight.mean()


def pair(*between: nn.Module, act: nn.Module | None = None, **options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 8, 1), act or nn.GELU(), *between, nn.Conv2d(8, 4, 1, **options))


def test_what_is_fused() -> None:
    assert fused(pair()) == fused(pair(nn.Dropout(0.5), nn.Identity())) == fused(pair(act=GELU())) == ["0"]
    assert fused(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU6(), nn.Linear(4, 4))) == ["0"]
    deeper = nn.Sequential(pair(), nn.Conv2d(4, 4, 3))
    assert fused(deeper, keep="0.1") == fused(copy.deepcopy(deeper), keep="0.2") == []
    assert fused(deeper, keep="0") == ["0.0"]


def test_what_is_not_fused() -> None:
    hooked = pair()
    hooked[1].register_forward_hook(lambda *_: None)
    for network in (
        hooked,
        pair(act=nn.GELU("tanh")),
        pair(act=nn.SiLU()),
        pair(stride=2),
        pair(padding=1),
        pair(groups=2),
        pair().double(),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 1)),
        Branches(),
        Weighted(),
    ):
        before = copy.deepcopy(network)
        assert fused(network) == []
        assert [type(module) for module in network.modules()] == [type(module) for module in before.modules()]


def test_networks_of_pointwise_and_depthwise_convolutions_are_computed_in_planes() -> None:
    depthwise = ops.DepthwiseConv2d(8, 8, 7, padding=3, groups=8)
    network = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), depthwise, nn.Conv2d(8, 64, 1))
    assert prefers_planes(network)
    assert fused(network) == ["0", "3"]
    assert not prefers_planes(nn.Sequential(nn.Conv2d(4, 8, 1), depthwise, nn.Conv2d(8, 8, 3)))
    assert not prefers_planes(nn.Sequential(nn.Conv2d(4, 8, 1), depthwise, nn.Linear(8, 8)))
    assert not prefers_planes(nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)))
    assert not prefers_planes(copy.deepcopy(network).double())
