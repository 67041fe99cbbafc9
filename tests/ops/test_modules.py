"""`DepthwiseConv2d` is an `nn.Conv2d`."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from replk_probe.errors import InvalidInputError
from replk_probe.ops import DepthwiseConv2d, conv_input_gradient, depthwise_conv2d, to_torch

Close = Callable[..., None]


def layer(kernel: int = 5, bias: bool = True, activation: Any = None, **more: Any) -> DepthwiseConv2d:
    made = DepthwiseConv2d(3, 3, kernel, **{"padding": kernel // 2, "groups": 3, "bias": bias, **more})
    made.activation = activation
    return made


def test_attributes_and_state_are_those_of_a_convolution() -> None:
    ours, theirs = layer(), nn.Conv2d(3, 3, 5, padding=2, groups=3)
    assert isinstance(ours, nn.Conv2d) and list(ours.state_dict()) == list(theirs.state_dict()) == ["weight", "bias"]
    public = set(vars(theirs)) | {"weight", "bias"}
    assert all(hasattr(ours, name) for name in public)
    assert (ours.kernel_size, ours.padding, ours.stride, ours.groups) == ((5, 5), (2, 2), (1, 1), 3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 9, 8)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), theirs(x))
    ours.eval()(x)
    assert list(ours.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [2, (2, 2), "same"])
def test_covered_geometries(mode: bool, bias: bool, padding: Any, close: Close) -> None:
    conv = layer(bias=bias, padding=padding).train(mode)
    x = torch.randn(2, 3, 9, 8)
    close(conv(x), x, conv.weight, conv.bias)
    conv.activation = "relu"
    close(conv(x), x, conv.weight, conv.bias, relu=True)
    assert "activation='relu'" in repr(conv) and "activation" not in repr(layer())


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 2},
        {"dilation": 2, "padding": 4},
        {"dilation": 2, "padding": "same"},
        {"padding": 0},
        {"padding": "valid"},
        {"padding": (2, 1)},
        {"padding_mode": "circular"},
        {"kernel_size": 4, "padding": 2},
        {"groups": 1},
        {"out_channels": 6},
    ],
)
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("mode", [True, False])
def test_every_other_geometry_is_computed_by_torch(arguments: dict[str, Any], activation: Any, mode: bool) -> None:
    geometry = {"in_channels": 3, "out_channels": 3, "kernel_size": 5, "padding": 2, "groups": 3, **arguments}
    ours, theirs = DepthwiseConv2d(**geometry).train(mode), nn.Conv2d(**geometry)
    theirs.load_state_dict(ours.state_dict())
    ours.activation = activation
    x = torch.randn(2, 3, 12, 11)
    want = theirs(x) if activation is None else theirs(x).relu()
    assert torch.equal(ours(x), want)


def test_an_image_without_batch_is_computed_by_torch() -> None:
    conv = layer().eval()
    x = torch.randn(3, 9, 8)
    torch.testing.assert_close(conv(x), conv(x[None])[0])


def test_other_dtypes_are_computed_by_torch() -> None:
    conv = layer().double().eval()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, conv.weight, conv.bias, padding=2, groups=3))


def test_geometry_may_change_after_construction(close: Close) -> None:
    conv = layer().eval()
    x = torch.randn(2, 3, 9, 8)
    conv(x)
    conv.stride = (2, 2)
    assert conv(x).shape == (2, 3, 5, 4)


def test_from_conv_shares_parameters(close: Close) -> None:
    conv = nn.Conv2d(3, 3, 5, padding=2, groups=3).eval()
    conv.weight.requires_grad_(False)
    made = DepthwiseConv2d.from_conv(conv, activation="relu")
    assert made.weight is conv.weight and made.bias is conv.bias and not made.training
    assert list(made.state_dict()) == list(conv.state_dict()) and made.kernel_size == conv.kernel_size
    x = torch.randn(2, 3, 9, 8)
    close(made(x), x, conv.weight, conv.bias, relu=True)
    made.register_buffer("more", torch.zeros(1))
    made.weight = nn.Parameter(torch.zeros(3, 1, 5, 5))
    assert not hasattr(conv, "more") and conv.weight.any()


def test_from_conv_keeps_hooks() -> None:
    conv = nn.Conv2d(3, 3, 5, padding=2, groups=3)
    seen: list[int] = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    DepthwiseConv2d.from_conv(conv)(torch.randn(1, 3, 5, 5))
    assert seen == [1]


def test_copies_and_pickles(fft: None, close: Close) -> None:
    conv = layer(31).eval()
    conv.activation = "relu"
    x = torch.randn(1, 3, 40, 40)
    conv(x)
    assert conv._prepared is not None and conv._prepared.size > 0
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert other._prepared is None or other._prepared.size == 0
        assert other.activation == "relu" and torch.equal(other(x), conv(x))
    # A shallow copy shares the weights, and may share what is made of them.
    shallow = copy.copy(conv)
    shallow.weight = nn.Parameter(torch.randn_like(conv.weight))
    for _ in range(2):
        close(shallow(x), x, shallow.weight, shallow.bias, relu=True)
        close(conv(x), x, conv.weight, conv.bias, relu=True)
    assert len(pickle.dumps(conv)) < 3 * 31 * 31 * 4 + 8000


def test_parametrized_and_pruned_weights(close: Close) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    x = torch.randn(2, 3, 9, 8)
    conv = layer().eval()
    weight = conv.weight.detach().clone()
    parametrize.register_parametrization(conv, "weight", Doubled())
    close(conv(x), x, 2 * weight, conv.bias)
    pruned = prune.l1_unstructured(layer().eval(), "weight", amount=0.5)
    close(pruned(x), x, pruned.weight, pruned.bias)
    assert (pruned.weight == 0).sum() > 30
    # Without a history, a copy is allowed again.
    prune.remove(pruned, "weight")
    close(copy.deepcopy(pruned)(x), x, pruned.weight, pruned.bias)


# Newer versions of torch warn of TorchScript's end.
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("arguments", [{"activation": None}, {"activation": "relu"}, {"stride": 2, "padding": 1}])
@pytest.mark.parametrize("way", ["script", "trace"])
def test_torchscript(way: str, arguments: dict[str, Any], mode: bool, close: Close) -> None:
    conv = layer(**arguments).train(mode)
    x = torch.randn(2, 3, 9, 8)
    model = nn.Sequential(conv)
    made = torch.jit.script(model) if way == "script" else torch.jit.trace(model, x)
    memory = io.BytesIO()
    torch.jit.save(made, memory)
    memory.seek(0)
    assert "aten::_convolution" in str(made.inlined_graph) or "aten::conv2d" in str(made.inlined_graph)
    for found in (made, torch.jit.load(memory)):
        torch.testing.assert_close(found(x), conv(x))
        assert found(x).requires_grad


def test_it_trains_as_a_convolution_does() -> None:
    ours, theirs = layer(), nn.Conv2d(3, 3, 5, padding=2, groups=3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 9, 8)
    for conv in (ours, theirs):
        optimizer = torch.optim.SGD(conv.parameters(), lr=1e-3, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            conv(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize("trained", [True, False])
def test_gradients_in_eval_mode(trained: bool, fft: None) -> None:
    conv = layer(13).eval()
    conv.activation = "relu"
    conv.requires_grad_(trained)
    x = torch.randn(2, 3, 20, 21, requires_grad=True)
    wanted = [x, *(p for p in conv.parameters() if p.requires_grad)]
    y = conv(x)
    want = depthwise_conv2d(x, conv.weight, conv.bias, activation="relu", backend="aten")
    dy = torch.randn_like(y)
    found = torch.autograd.grad(y, wanted, dy, create_graph=True)
    wants = torch.autograd.grad(want, wanted, dy, create_graph=True)
    torch.testing.assert_close(found, wants, rtol=1e-4, atol=1e-3)
    second = torch.autograd.grad(sum(g.square().sum() for g in found), wanted, allow_unused=True)
    seconds = torch.autograd.grad(sum(g.square().sum() for g in wants), wanted, allow_unused=True)
    for one, other in zip(second, seconds, strict=True):
        if other is not None and other.any():
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_a_weight_that_changes_between_forward_and_backward_is_an_error() -> None:
    conv = layer().eval()
    y = conv(torch.randn(1, 3, 9, 8, requires_grad=True))
    with torch.no_grad():
        conv.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kernel", [3, 7, 9])
def test_channels_last_without_gradients(kernel: int, dtype: torch.dtype) -> None:
    plain = nn.Conv2d(5, 5, kernel, padding=kernel // 2, groups=5).to(dtype).eval()
    ours = DepthwiseConv2d.from_conv(plain, activation="relu")
    x = torch.randn(2, 5, 8, 7, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        found, want = ours(x), plain(x).relu()
    torch.testing.assert_close(found, want, rtol=2e-2 if dtype.itemsize == 2 else 1e-4, atol=1e-2)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("native")
def test_a_forced_method_is_taken_for_channels_last_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = DepthwiseConv2d(5, 5, 3, padding=1, groups=5).eval()
    x = torch.randn(2, 5, 8, 7)
    monkeypatch.setenv("REPLK_PROBE_METHOD", "fft")
    with torch.no_grad():
        assert torch.equal(ours(x.to(memory_format=torch.channels_last)), ours(x))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ["plain", "channels_last", "bfloat16", "strided", "frozen"])
def test_to_torch_keeps_everything_except_the_type(kind: str, mode: bool) -> None:
    conv = layer(**({"stride": 2} if kind == "strided" else {}))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(conv), nn.BatchNorm2d(3)).train(mode)
    model = model.to(torch.bfloat16) if kind == "bfloat16" else model
    model = model.to(memory_format=torch.channels_last) if kind == "channels_last" else model
    conv.weight.requires_grad_(kind != "frozen")
    x = torch.randn(2, 3, 9, 8, dtype=conv.weight.dtype)
    seen: list[int] = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    want, weight, names = model(x), conv.weight, dict(model.named_modules()).keys()
    state = {name: value.clone() for name, value in model.state_dict().items() if "batches" not in name}
    assert to_torch(model) is model
    assert type(model[1][0]) is nn.Conv2d and model[1][0] is conv and conv.weight is weight
    assert weight.requires_grad == (kind != "frozen") and conv.training == mode
    assert vars(conv).keys() == vars(nn.Conv2d(3, 3, 5)).keys() and repr(conv).startswith("Conv2d(3, 3, ")
    assert dict(model.named_modules()).keys() == names
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items() if "running" not in name)
    torch.testing.assert_close(model(x), want, rtol=2e-2 if kind == "bfloat16" else 1e-4, atol=2e-2)
    assert seen == [1, 1]
    torch.testing.assert_close(DepthwiseConv2d.from_conv(conv)(x), conv(x), rtol=2e-2, atol=2e-2)


def test_to_torch_of_one_convolution_and_of_a_parametrized_one() -> None:
    conv = to_torch(layer())
    assert type(conv) is nn.Conv2d

    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    x, conv = torch.randn(2, 3, 9, 8), layer().eval()
    parametrize.register_parametrization(conv, "weight", Doubled())
    want = conv(x)
    to_torch(conv)
    assert not isinstance(conv, DepthwiseConv2d) and isinstance(conv, nn.Conv2d)
    torch.testing.assert_close(conv(x), want)
    torch.testing.assert_close(copy.deepcopy(conv)(x), want)
    parametrize.remove_parametrizations(conv, "weight")
    torch.testing.assert_close(conv(x), want)


# Quantization in torch itself is deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")
def test_to_torch_allows_fusion_by_type() -> None:
    model = nn.Sequential(layer(), nn.BatchNorm2d(3), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9, 8)
    fused = torch.ao.quantization.fuse_modules(to_torch(model), [["0", "1", "2"]])
    assert type(fused[0]).__name__ == "ConvReLU2d"
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


def test_to_torch_refuses_what_a_convolution_cannot_be() -> None:
    model = nn.Sequential(layer(), nn.Sequential(layer(activation="relu")))
    with pytest.raises(InvalidInputError, match=r"convolution '1.0' has the activation 'relu'"):
        to_torch(model)
    assert type(model[0]) is DepthwiseConv2d
    with pytest.raises(InvalidInputError, match="model is of type str"):
        to_torch("resnet18")  # type: ignore[arg-type]


# Torch warns of sparse CSR tensors.
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("convert", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_sparse_tensors_are_refused(convert: Callable[..., torch.Tensor]) -> None:
    x, w = torch.randn(1, 3, 9, 8), torch.randn(3, 1, 5, 5)
    for backend in ("auto", "native", "aten"):
        with pytest.raises(InvalidInputError, match=r"input has the layout sparse_\w+. .* Convert it with to_dense"):
            depthwise_conv2d(convert(x[0, 0]), w, backend=backend)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="weight has the layout sparse"):
            depthwise_conv2d(x, convert(w[0, 0]), backend=backend)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="grad has the layout sparse"):
        conv_input_gradient(convert(x[0, 0]), w)
    for mode in (True, False):
        with torch.no_grad(), pytest.raises(InvalidInputError, match="input has the layout sparse"):
            layer().train(mode)(x.to_sparse())
