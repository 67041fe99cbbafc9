"""`prepare`: the same map, faster, in less memory, and the caller's model left alone."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from replk_probe.erf import area_ratio, contribution_scores, prepare
from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model
from replk_probe.models.architectures.convnext import LargeKernelConvNeXt
from replk_probe.models.architectures.mobilenet_v2 import LargeKernelMobileNetV2
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.architectures.slak import SLaK
from replk_probe.models.architectures.unireplknet import UniRepLKNet
from replk_probe.models.inference.fold_bn import fold_neighbors
from replk_probe.models.inference.input_gradient import (
    FrozenBatchNormAct2d,
    FrozenConv2d,
    FrozenDepthwiseConv2d,
    FrozenReLU,
    MethodLog,
    freeze_layers,
)
from replk_probe.ops import native_info


def trained_looking(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with statistics and weights of either sign, as if the model had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            if not module.affine:
                continue
            with torch.no_grad():
                module.weight.normal_(1.0, 0.3, generator=generator)
                module.bias.normal_(generator=generator)
    return model.eval()


def image(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


class Oddities(nn.Module):
    """A batch norm before a padded convolution, one read twice, a shared layer, a ReLU whose input is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.before, self.padded = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.shared, self.twice = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.strided, self.relu = nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding=1, groups=2), nn.ReLU()
        self.norm = nn.BatchNorm2d(8)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.padded(self.before(self.first(x)))
        x = self.shared(self.shared(x))
        y = self.twice(x)
        y = self.strided(y + y * x)
        return self.relu(y) + 0.1 * y

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.forward_features(x)).mean((2, 3))


SMALL_TIMM = Path(__file__).parents[1] / "models" / "small_timm_networks.py"
SMALL: dict[str, Any] = {
    "replknet": lambda: RepLKNet(kernel_sizes=(31, 13), layers=(2, 1), channels=(8, 16)),
    "replknet-no-branch": lambda: RepLKNet(
        kernel_sizes=(27, 13), layers=(1, 1), channels=(8, 16), small_kernel=None, dw_ratio=1.5
    ),
    # A layer scale of one, as at 1e-6 the blocks would hardly count and nothing in them could be found wrong.
    "slak": lambda: SLaK(kernel_sizes=(51, 49, 13), depths=(1, 1, 1), dims=(8, 8, 16), layer_scale=1.0),
    "unireplknet": lambda: UniRepLKNet((1, 2, 1), (8, 16, 16), ((3,), (17, 13), (7,)), layer_scale=1.0),
    "mobilenet": lambda: LargeKernelMobileNetV2(
        13, small_kernel=3, setting=((1, 8, 1, 1), (6, 16, 2, 2)), stem_width=8, last_width=32
    ),
    "convnext": lambda: LargeKernelConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), layer_scale=1.0),
    "resnet": lambda: timm.create_model("resnet18", layers=(2, 1, 1, 1), channels=(8, 12, 16, 24), num_classes=10),
    "timm-convnext": lambda: timm.create_model(
        "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=10, ls_init_value=1.0
    ),
    "timm-mobilenet": lambda: create_model(f"{SMALL_TIMM}:mobilenet_v3"),
    "timm-regnet": lambda: create_model(f"{SMALL_TIMM}:regnet"),
    "oddities": Oddities,
}


@pytest.mark.parametrize("name", SMALL)
def test_same_map_in_float64(name: str) -> None:
    torch.manual_seed(0)
    model = trained_looking(SMALL[name]()).double()
    batch = image(2, 3, 64, 96)
    expected = contribution_scores(model, batch)
    assert expected.norm() > 0
    assert relative(contribution_scores(prepare(model), batch), expected) < 1e-9


@pytest.mark.parametrize("precision, bound", [("fp32", 3e-2), ("fast", 3e-2), ("bf16", 0.2)])
def test_float32_map_and_sides_are_near_those_of_float64(precision: str, bound: float) -> None:
    torch.manual_seed(0)
    model = trained_looking(SMALL["replknet"]())
    batch = image(1, 3, 128, 128)
    expected = contribution_scores(copy.deepcopy(model).double(), batch)
    found = contribution_scores(prepare(model, precision), batch.float())
    assert relative(found, expected) < bound
    for threshold in (0.2, 0.3, 0.5, 0.99):
        sides = [area_ratio(scores[0].double().numpy(), threshold, "linear").side for scores in (expected, found)]
        assert abs(sides[0] - sides[1]) <= 2


def test_the_callers_model_is_left_alone() -> None:
    model = SMALL["replknet"]().train()
    state = copy.deepcopy(model.state_dict())
    prepared = prepare(model)
    contribution_scores(prepared, image(1, 3, 64, 64).float())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert type(model.head) is nn.Linear
    with torch.no_grad():
        model.stem[0].conv.weight.zero_()
    assert prepared.module.stem[0].conv.weight.abs().sum() > 0


def test_everything_that_can_be_folded_is() -> None:
    prepared = prepare(SMALL["replknet"]())
    norms = [name for name, module in prepared.module.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["norm"]
    assert not any(parameter.requires_grad for parameter in prepared.module.parameters())
    assert not any(module.training for module in prepared.module.modules())


class NormsWithActivations(nn.Sequential):
    """Norms with an activation after a plain and a large depthwise convolution, each followed by a ReLU."""

    def __init__(self) -> None:
        super().__init__(
            OrderedDict(
                conv=nn.Conv2d(3, 6, 3, padding=1),
                norm=BatchNormAct2d(6, act_layer=nn.Hardswish),
                relu=nn.ReLU(),
                large=depthwise((9, 9)),
                large_norm=BatchNormAct2d(6, act_layer=nn.Tanh, drop_layer=nn.Dropout2d),
                large_relu=nn.ReLU(),
                kept=BatchNormAct2d(6, act_layer=nn.Identity),
                last=nn.Conv2d(6, 6, 1),
            )
        )


@pytest.mark.parametrize("layer", [None, "conv", "norm", "norm.act", "large_norm.drop", "large_norm.act", "kept.act"])
def test_norms_with_activations_become_their_activations(layer: str | None) -> None:
    model = trained_looking(NormsWithActivations()).double()
    batch = image(2, 3, 24, 20)
    prepared = prepare(model, layer=layer)
    assert relative(contribution_scores(prepared, batch, layer), contribution_scores(model, batch, layer)) < 1e-9
    if layer is None:
        kinds = {name: type(module) for name, module in prepared.module.named_children()}
        assert kinds["norm"] is kinds["large_norm"] is nn.Sequential and kinds["kept"] is FrozenBatchNormAct2d
        assert type(prepared.module.get_submodule("norm.act")) is nn.Hardswish


def test_a_norm_with_an_activation_and_a_hook_is_not_folded() -> None:
    model = trained_looking(NormsWithActivations()).double()
    model.norm.register_forward_hook(lambda module, args, output: 2 * output + 1)
    batch = image(1, 3, 24, 20)
    prepared = prepare(model)
    assert type(prepared.module.norm) is FrozenBatchNormAct2d
    assert relative(contribution_scores(prepared, batch), contribution_scores(model, batch)) < 1e-9


def test_layers_are_folded_although_the_head_cannot_be_traced() -> None:
    class Branching(nn.Sequential):
        def forward_features(self, x: Tensor) -> Tensor:
            return self[1](self[0](x))

        def forward(self, x: Tensor) -> Tensor:
            x = self.forward_features(x)
            return x if x.shape[-1] > 4 else x.mean((2, 3))

    model = trained_looking(Branching(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert isinstance(prepare(model).module[1], nn.Identity)


@pytest.mark.parametrize(
    "layer",
    [
        "stem.1.conv",
        "stem.1.bn",
        "stages.0.blocks.0.prelkb_bn",
        "stages.0.blocks.0.pw1.conv",
        "stages.1.blocks.0.large_kernel",
        "stages.1.blocks.0.large_kernel.small_conv",
        "stages.1.blocks.0.large_kernel.large_conv.conv",
    ],
)
def test_scores_of_a_named_layer_are_unchanged_by_preparation(layer: str) -> None:
    torch.manual_seed(0)
    model = trained_looking(SMALL["replknet"]()).double()
    batch = image(1, 3, 64, 64)
    expected = contribution_scores(model, batch, layer=layer)
    assert relative(contribution_scores(prepare(model, layer=layer), batch, layer=layer), expected) < 1e-9


@pytest.mark.parametrize("size", [(40, 24), (5, 7), (1, 33)])
@pytest.mark.parametrize("kernel", [(3, 3), (13, 13), (31, 31), (5, 51), (51, 9)])
def test_depthwise_convolution_and_its_adjoint(size: tuple[int, int], kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(5, 5, kernel, padding=padding, groups=5).double().eval()
    frozen = copy.deepcopy(conv)
    freeze_layers(frozen)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = image(2, 5, *size).contiguous(memory_format=memory_format).requires_grad_()
        expected, found = conv(x), frozen(x)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
        weight = image(*expected.shape, seed=2)
        gradients = [torch.autograd.grad((output * weight).sum(), x)[0] for output in (expected, found)]
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-11, atol=1e-12)


def test_a_kernels_spectrum_follows_its_weight() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 31, padding=15, groups=4)
    freeze_layers(conv)
    x = image(1, 4, 32, 32)
    before = conv(x.float())
    conv.weight.mul_(2)
    conv.bias.mul_(2)
    torch.testing.assert_close(conv(x.float()), 2 * before)
    conv.weight.data = torch.ones_like(conv.weight)
    plain = nn.functional.conv2d(x.float(), torch.ones(4, 1, 31, 31), conv.bias, padding=15, groups=4)
    torch.testing.assert_close(conv(x.float()), plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.double()(x), plain.double(), rtol=1e-4, atol=1e-4)


def kept_bytes(model: nn.Module, batch: Tensor) -> int:
    """Bytes that autograd keeps between the passes, the weights left out; each storage counts once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = model.forward_features(batch.requires_grad_())
    assert features.requires_grad
    return sum(kept.values())


def test_keeps_less_than_a_third_of_the_activations_of_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replk_probe.models.inference.input_gradient.AUTOGRAD_BELOW", 0)  # as if the image were large
    model = SMALL["replknet"]().eval()
    batch = image(1, 3, 128, 128).float()
    assert kept_bytes(prepare(model).module, batch) < kept_bytes(model, batch.clone()) / 3


def test_relu_keeps_signs_and_passes_nan_on() -> None:
    relu = nn.ReLU()
    freeze_layers(relu)
    x = torch.tensor([-1.0, 0.0, 2.0, float("nan"), float("inf")], requires_grad=True)
    (gradient,) = torch.autograd.grad(relu(x).sum(), x)
    plain = torch.autograd.grad(x.relu().sum(), x)[0]
    torch.testing.assert_close(gradient, plain, equal_nan=True)


@pytest.fixture(params=[True, False], ids=["units", "no-units"])
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    monkeypatch.setattr("replk_probe.models.inference.prepare._has_bfloat16_units", lambda device: request.param)
    yield request.param


def test_precision_records_what_the_hardware_used(units: bool) -> None:
    model = SMALL["replknet"]()
    flags = {
        precision: {
            (module.reduced_forward, module.reduced_backward)
            for module in prepare(model, precision).module.modules()
            if hasattr(module, "reduced_forward")
        }
        for precision in ("fp32", "fast", "bf16")
    }
    assert flags == {"fp32": {(False, False)}, "fast": {(False, units)}, "bf16": {(units, units)}}
    assert ("bfloat16 products" in prepare(model, "fast").arithmetic) is units
    derivatives = ", derivatives of GELU in 16 bits" * native_info().loaded
    assert prepare(model, "fp32").arithmetic == f"float32 throughout{derivatives}"


class WatchedPrecision(nn.Module):
    """Records the precision of convolutions and products in each forward pass of any copy."""

    found: ClassVar[set[tuple[str, ...]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))

    def forward(self, images: Tensor) -> Tensor:
        if not images.is_meta:
            backends: Any = torch.backends
            settings = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.conv)
            WatchedPrecision.found.add(tuple(one.fp32_precision for one in settings))
        found: Tensor = self.body(images)
        return found


def test_copies_are_checked_in_strict_float32() -> None:
    WatchedPrecision.found.clear()
    assert prepare(WatchedPrecision(), layer="body").left_out == ""
    assert WatchedPrecision.found == {("ieee",) * 4}


def test_large_depthwise_convolutions_are_reduced_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(precision: str) -> tuple[Tensor, Any]:
        prepared = prepare(model, precision, layer="1")
        return contribution_scores(prepared, image(1, 8, 128, 128).float(), layer="1"), prepared

    monkeypatch.setattr("replk_probe.models.inference.prepare._has_bfloat16_units", lambda device: True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 13, padding=6, groups=8), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    exact = scores("fp32")[0]
    for precision in ("fast", "bf16"):
        found, prepared = scores(precision)  # on a CPU
        assert torch.equal(found, exact) and "depthwise" not in prepared.arithmetic
    monkeypatch.setattr("replk_probe.models.inference.input_gradient.is_depthwise_reduced", lambda device: True)
    for precision, passes in (("fast", "float32 forward, {} backward"), ("bf16", "{}, in both passes")):
        found, prepared = scores(precision)
        assert 1e-4 < relative(found, exact.double()) < 2e-2
        products = "bfloat16 products with float32 sums in large layers and depthwise convolutions"
        assert prepared.arithmetic == passes.format(products)
        assert "depthwise" not in prepare(nn.Sequential(model[1]), precision).arithmetic
    large, small = (module for module in prepared.module.modules() if isinstance(module, FrozenDepthwiseConv2d))
    assert (large.is_reducible, small.is_reducible) == (True, False)


def test_float64_is_never_reduced() -> None:
    prepared = prepare(SMALL["replknet"]().double(), "bf16")
    assert prepared.arithmetic.startswith("float64 throughout")


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="fp16"):
        prepare(nn.Conv2d(3, 3, 3), "fp16")

    class Uncopyable(nn.Module):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("holds a handle")

    with pytest.raises(InvalidInputError, match="holds a handle"):
        prepare(Uncopyable())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", r"create_model\('resnet18'\)"),
        (nn.Conv2d, "the class Conv2d"),
        (None, "an object of type NoneType"),
    ],
)
def test_what_is_no_network_cannot_be_prepared(model: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        prepare(model)


class OneSize(nn.Module):
    """Takes no image of the sizes on which the copy could be compared with the original."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SMALL["replknet"]()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 40:
            raise ValueError("40 pixels only")
        return self.inner.forward_features(x)  # type: ignore[no-any-return, operator]


@pytest.mark.parametrize("build", [SMALL["replknet"], OneSize], ids=["any size", "one size"])
@pytest.mark.parametrize(("layer", "message"), [("nope", "'nope' does not exist"), (3, "got 3"), ("", "not exist")])
def test_an_unknown_layer_is_an_error_for_models_of_any_input_size(build: Any, layer: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        prepare(build(), layer=layer)


def test_a_named_layer_stays_where_no_size_serves_for_comparing() -> None:
    model = OneSize()
    layer = next(name for name, _ in model.named_modules() if name.endswith("large_conv"))
    prepared = prepare(model, layer=layer)
    assert layer in dict(prepared.module.named_modules())
    scores = contribution_scores(prepared, torch.ones(1, 3, 40, 40), layer)
    torch.testing.assert_close(scores, contribution_scores(model, torch.ones(1, 3, 40, 40), layer))


class Net(nn.Module):
    """Two convolutions, a norm and a place for something awkward; ``forward`` is set by the cases below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.between, self.last = nn.Identity(), nn.Conv2d(6, 6, 3, padding=1)


class ReadsBothSides(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x + self.last(self.relu(self.between(x)))


class WritesThroughAView(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.relu(x[:, :3])
        return self.last(x)


class ReadsAWeight(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.last(y) + nn.functional.conv2d(x, self.conv.weight, padding=1)


class AsksForTensors(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.last(self.norm(y) if not isinstance(y, Tensor) else self.norm(y) + y)


class NormInTheHead(Net):
    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.forward_features(x))).mean((2, 3))


class NormEndsTheFeatures(NormInTheHead):
    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.forward_features(x)).mean((2, 3))


def hooked() -> nn.Module:
    net = ReadsBothSides()
    net.conv.register_forward_hook(lambda module, args, output: 2 * output + 1)
    return net


def with_between(module: nn.Module) -> nn.Module:
    net = ReadsBothSides()
    net.between = module
    if isinstance(module, nn.Flatten):
        net.last = nn.Identity()
    return net


def inplace_through_a_view() -> nn.Module:
    net = WritesThroughAView()
    net.relu = nn.ReLU(inplace=True)
    return net


AWKWARD: dict[str, Any] = {
    "identity": lambda: with_between(nn.Identity()),
    "dropout": lambda: with_between(nn.Dropout2d()),
    "sigmoid": lambda: with_between(nn.Sigmoid()),
    "view": inplace_through_a_view,
    "weight read twice": ReadsAWeight,
    "isinstance": AsksForTensors,
    "norm in the head": NormInTheHead,
    "norm ends the features": NormEndsTheFeatures,
    "hook": hooked,
    "spectral norm": lambda: nn.Sequential(
        nn.utils.spectral_norm(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3)
    ),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3)
    ),
    "affine-free norms": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, momentum=None)
    ),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_unusual_networks_keep_their_maps(name: str) -> None:
    torch.manual_seed(0)
    model = AWKWARD[name]()
    if name not in ("spectral norm", "weight norm"):
        trained_looking(model)
    model = model.eval().double()
    batch = image(1, 3, 24, 24)
    expected = contribution_scores(model, batch)
    assert relative(contribution_scores(prepare(model), batch), expected) < 1e-9


def test_layers_that_folding_would_change_are_detected_and_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(model: nn.Module, keep: str = "") -> bool:
        model.get_submodule("stem.0.conv").weight.data.mul_(1.01)
        return True

    monkeypatch.setattr("replk_probe.models.inference.prepare.fold_neighbors", break_it)
    torch.manual_seed(0)
    model = trained_looking(SMALL["replknet"]()).double()
    prepared = prepare(model)
    assert prepared.left_out == "batch norms not folded"
    batch = image(1, 3, 64, 64)
    assert relative(contribution_scores(prepared, batch), contribution_scores(model, batch)) < 1e-9


def test_a_network_with_a_cache_of_its_last_pass_can_be_prepared() -> None:
    class Caching(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            self.cache = {"last": [self[0].weight * 2]}
            return x * self.cache["last"][0].sum()

    torch.manual_seed(0)
    model = Caching(nn.Conv2d(3, 4, 3)).double()
    batch = image(1, 3, 16, 16)
    expected = contribution_scores(model, batch)
    assert relative(contribution_scores(prepare(model), batch), expected) < 1e-9


def test_pruned_networks_can_be_prepared() -> None:
    from torch.nn.utils import prune

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)).double()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    batch = image(1, 3, 16, 16)
    expected = contribution_scores(model, batch)
    assert relative(contribution_scores(prepare(model), batch), expected) < 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_can_be_prepared(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = RepLKNet(kernel_sizes=(31, 13), layers=(1, 1), channels=(8, 16)).to(dtype)
    scores = contribution_scores(prepare(model), image(1, 3, 64, 64).to(dtype))
    assert scores.dtype == torch.float32
    assert scores.sum() > 0


def test_a_prepared_model_is_copied_without_what_it_can_make_again() -> None:
    prepared = prepare(SMALL["replknet"]())
    batch = image(1, 3, 64, 64).float()
    expected = contribution_scores(prepared, batch)
    large = prepared.module.get_submodule("stages.0.blocks.0.large_kernel.reparam_conv")
    assert large._kernel.size > 0
    for copied in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert copied.module.get_submodule("stages.0.blocks.0.large_kernel.reparam_conv")._kernel.size == 0
        assert torch.equal(contribution_scores(copied, batch), expected)


def native() -> bool:
    return native_info().loaded


def depthwise(kernel: tuple[int, int], channels: int = 6) -> nn.Conv2d:
    torch.manual_seed(0)
    half = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(channels, channels, kernel, padding=half, groups=channels).eval()


@pytest.mark.parametrize("backend", ["native", "aten"])
@pytest.mark.parametrize("kernel", [(3, 3), (9, 9), (31, 31), (5, 51)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("has_relu", [True, False])
def test_frozen_depthwise_convolutions_equal_autograd_on_every_backend(
    backend: str, kernel: tuple[int, int], memory_format: Any, has_relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "native" and not native():
        pytest.skip("no native library here")
    if backend == "aten":
        monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
    layers = nn.Sequential(depthwise(kernel), nn.BatchNorm2d(6), nn.ReLU() if has_relu else nn.Identity())
    trained_looking(layers)
    prepared = copy.deepcopy(layers)
    fold_neighbors(prepared)
    log = MethodLog()
    freeze_layers(prepared, log)
    assert [type(layer) for layer in prepared] == [FrozenDepthwiseConv2d, nn.Identity, nn.Identity]
    x = image(2, 6, 20, 31)
    weight = image(2, 6, 20, 31, seed=2)
    expected = layers.double()(x.requires_grad_())
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    y = x.detach().float().contiguous(memory_format=memory_format).requires_grad_()
    found = prepared(y)
    (gradient,) = torch.autograd.grad((found * weight.float().contiguous(memory_format=memory_format)).sum(), y)
    assert relative(found, expected) < 1e-5
    assert relative(gradient, wanted) < 1e-5
    assert found.is_contiguous(memory_format=memory_format)
    (method,) = log.take()
    is_native = backend == "native" and not (kernel == (3, 3) and memory_format is torch.channels_last)
    assert method.startswith("native" if is_native else "aten")
    assert log.take() == ()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [3, 13])
def test_a_fused_relu_passes_nan_on_and_only_where_it_is_open(memory_format: Any, size: int) -> None:
    layers = nn.Sequential(depthwise((size, size)), nn.ReLU())
    with torch.no_grad():
        layers[0].weight[1] = float("nan")
        layers[0].bias[2], layers[0].bias[3] = -1e6, float("inf")
    fused = copy.deepcopy(layers)
    fold_neighbors(fused)
    freeze_layers(fused)
    assert isinstance(fused[1], nn.Identity) and fused[0].activation == "relu"
    results = []
    for model in (layers, fused):
        x = image(1, 6, 17, 15).float().contiguous(memory_format=memory_format).requires_grad_()
        y = model(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        results.append((y.detach(), gradient))
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert results[1][0][:, 1].isnan().all() and results[1][1][:, 1].isnan().all()


class ReadTwice(nn.Module):
    """A depthwise convolution with a ReLU, and another reader of the ReLU's input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = depthwise((9, 9), 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.relu(y) + y


def test_a_relu_is_fused_only_without_other_readers_or_a_target_layer_in_between() -> None:
    assert type(prepare(ReadTwice()).module.relu) is FrozenReLU
    model = trained_looking(SMALL["replknet"]())
    block = "stages.0.blocks.0"
    assert isinstance(prepare(model).module.get_submodule(f"{block}.lk_nonlinear"), nn.Identity)
    for layer in (f"{block}.large_kernel", f"{block}.lk_nonlinear"):
        assert type(prepare(model, layer=layer).module.get_submodule(f"{block}.lk_nonlinear")) is FrozenReLU


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 9, "padding": 4, "stride": 2},
        {"kernel_size": 9, "padding": 8, "dilation": 2},
        {"kernel_size": 8, "padding": 4},
        {"kernel_size": 9, "padding": 3},
    ],
)
def test_other_geometries_stay_with_torch(geometry: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, groups=6, **geometry), nn.ReLU()).eval()
    prepared = prepare(model)
    assert type(prepared.module[1]) is FrozenConv2d and type(prepared.module[2]) is FrozenReLU
    assert prepared.backend == "torch"
    batch = image(1, 3, 40, 32)
    found = contribution_scores(prepared, batch.float())
    assert relative(found, contribution_scores(copy.deepcopy(model).double(), batch)) < 1e-5
    assert prepared.methods.take() == ()


@pytest.mark.parametrize("name", ["convnext_tiny", "slak_tiny"])
def test_whole_networks_run_natively(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, depths=(1, 1, 1, 1))
    prepared = prepare(model)
    prepared.methods.take()
    batch = image(1, 3, 96, 96)
    expected = contribution_scores(model, batch.float()).double()
    assert relative(contribution_scores(prepared, batch.float()), expected) < 1e-3
    methods = prepared.methods.take()
    if not native():
        assert all(method.startswith("aten: the native library") for method in methods)
    else:
        assert methods and all(method.startswith("native") for method in methods)
        assert prepared.backend == f"native {native_info().isa}"


def test_weights_of_five_axes_are_kept_as_they_are() -> None:
    class Positions(nn.Module):
        """A three-dimensional convolution over a map, as in lambda layers."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.positions = nn.Conv2d(3, 4, 3, padding=1), nn.Conv3d(1, 2, (1, 3, 3), padding=(0, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.positions(self.stem(x)[:, None]).sum(1)

    model = Positions().eval()
    batch = torch.randn(1, 3, 16, 16)
    expected = contribution_scores(model, batch)
    assert expected.norm() > 0
    scores = contribution_scores(prepare(model), batch)
    assert (scores - expected).norm() <= 1e-5 * expected.norm()
