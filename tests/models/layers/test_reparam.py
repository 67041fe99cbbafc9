"""Merging and folding change the structure, not the function."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import fuse_bn, fuse_conv_bn, merge_branches, reparameterize
from replk_probe.models.architectures.convnext import LargeKernelConvNeXt
from replk_probe.models.architectures.mobilenet_v2 import LargeKernelMobileNetV2
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.architectures.slak import SLaK
from replk_probe.models.architectures.unireplknet import UniRepLKNet
from replk_probe.models.layers.large_kernel import ConvBN, LargeKernelConv
from replk_probe.ops import DepthwiseConv2d, depthwise_conv2d, native_info

TOLERANCE = 1e-12  # relative, in float64


def replknet(small_kernel: int | None = 5, dw_ratio: float = 1.0) -> nn.Module:
    return RepLKNet((9, 7), (1, 2), (8, 12), small_kernel, dw_ratio)


def slak(decomposed: bool, small_kernel: int | None = 5, kernels: tuple[int, int] = (11, 9)) -> nn.Module:
    # With the usual scale of 1e-6 the blocks would not be seen at all.
    return SLaK(kernels, (1, 2), (8, 12), small_kernel, decomposed, layer_scale=1.0)


def mobilenet(small_kernel: int | None = None, shortcut: bool = True) -> nn.Module:
    return LargeKernelMobileNetV2(9, small_kernel, shortcut=shortcut, setting=((1, 16, 1, 1), (6, 24, 2, 2)))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "replknet": replknet,
    "replknet, no branch": lambda: replknet(None),
    "replknet, wide depthwise": lambda: replknet(None, 1.5),
    "slak": lambda: slak(True),
    "slak, large kernel as narrow as the small one": lambda: slak(True, 5, (5, 7)),
    "slak, whole kernels": lambda: slak(False),
    "slak, whole kernels, no branch": lambda: slak(False, None),
    "convnext": lambda: LargeKernelConvNeXt((11, 9), depths=(1, 2), dims=(8, 12), layer_scale=1.0),
    "unireplknet": lambda: UniRepLKNet((2, 2), (8, 12), ((3, 7), (5, 9)), layer_scale=1.0),
    "mobilenet": mobilenet,
    "mobilenet, branch": lambda: mobilenet(3),
    "mobilenet, branch, no shortcut": lambda: mobilenet(3, shortcut=False),
}


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as after training: no default values, scales of both signs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    assert tensor is not None
                    tensor.normal_(generator=generator)
                assert module.running_var is not None
                module.running_var.uniform_(0.05, 4, generator=generator)
    return model.eval()


def distance(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return randomized(FAMILIES[request.param]().double())


@torch.no_grad()
def test_merging_and_folding_are_exact(model: nn.Module) -> None:
    x = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    features, logits = model.forward_features(x), model(x)
    for change in (model.reparameterize, model.reparameterize, model.fuse_bn, model.fuse_bn, model.reparameterize):
        before = list(model.state_dict())
        assert change() is model
        assert distance(model.forward_features(x), features) < TOLERANCE
        assert distance(model(x), logits) < TOLERANCE
    assert list(model.state_dict()) == before  # the last three changed nothing any more


@torch.no_grad()
def test_folding_alone_merges_first(model: nn.Module) -> None:
    both = copy.deepcopy(model).reparameterize().fuse_bn()
    assert list(model.fuse_bn().state_dict()) == list(both.state_dict())


def test_no_branches_remain(model: nn.Module) -> None:
    model.reparameterize()
    names = [name for name, _ in model.named_modules()]
    assert not [name for name in names if name.endswith(("large_conv", "small_conv", "row_conv", "column_conv"))]
    model.fuse_bn()
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(name.endswith(("prelkb_bn", "preffn_bn")) or name == "norm" for name in norms)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "small", "width"), [(7, 3, None), (7, None, None), (9, 5, 5), (5, 5, 5), (1, 3, None)]
)
def test_geometry_of_the_merged_convolution(size: int, small: int | None, width: int | None, stride: int) -> None:
    layer = randomized(LargeKernelConv(6, size, stride, small, width).double())
    x = torch.randn(2, 6, 13, 16, dtype=torch.float64)
    want = layer(x)
    layer.reparameterize()
    conv = layer.reparam_conv
    assert type(conv) is (DepthwiseConv2d if stride == 1 else nn.Conv2d)
    assert list(dict(layer.named_children())) == ["reparam_conv"]
    assert (conv.kernel_size, conv.stride, conv.padding) == ((size, size), (stride, stride), (size // 2, size // 2))
    assert (conv.dilation, conv.groups, conv.in_channels, conv.out_channels) == ((1, 1), 6, 6, 6)
    # From the attributes alone, as another backend would compute it.
    again = nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    assert distance(again, want) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_dtypes_round_once(dtype: torch.dtype) -> None:
    layer = randomized(LargeKernelConv(4, 7, small_kernel=3).to(dtype))
    exact = copy.deepcopy(layer).double()
    layer.reparameterize()
    exact.reparameterize()
    assert layer.reparam_conv.weight.dtype == layer.reparam_conv.bias.dtype == dtype
    assert torch.equal(layer.reparam_conv.weight, exact.reparam_conv.weight.to(dtype))
    assert torch.equal(layer.reparam_conv.bias, exact.reparam_conv.bias.to(dtype))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_state_of_the_parameters_is_kept(training: bool, requires_grad: bool) -> None:
    model = replknet().train(training).requires_grad_(requires_grad)
    state = torch.random.get_rng_state()
    model.fuse_bn()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.requires_grad is requires_grad for parameter in model.parameters())
    assert all(parameter.is_leaf for parameter in model.parameters())
    assert all(module.training is training for module in model.modules())


def test_functions_do_not_change_networks_whose_structure_is_uncertain() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    foreign = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Standardized(4, 4, 3), nn.BatchNorm2d(4)
    )
    randomized(foreign.double())
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    want = foreign(x)
    assert fuse_bn(reparameterize(foreign)) is foreign
    assert distance(foreign(x), want) < TOLERANCE
    assert [type(layer) for layer in foreign] == [nn.Conv2d, nn.Identity, nn.ReLU, Standardized, nn.BatchNorm2d]


def test_norms_without_scale_and_convolutions_with_bias() -> None:
    conv, bn = nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), groups=2).double(), nn.BatchNorm2d(6, affine=False)
    randomized_bn = bn.double().eval()
    assert randomized_bn.running_mean is not None
    randomized_bn.running_mean.normal_()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    fused = fuse_conv_bn(conv, randomized_bn)
    assert distance(fused(x), randomized_bn(conv(x))) < TOLERANCE
    assert (fused.kernel_size, fused.stride, fused.padding, fused.groups) == ((3, 5), (2, 2), (1, 2), 2)


def test_synchronized_norms_merge_too() -> None:
    plain = randomized(LargeKernelConv(4, 5, small_kernel=3))
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    plain.reparameterize()
    synchronized.reparameterize()
    assert torch.equal(plain.reparam_conv.weight, synchronized.reparam_conv.weight)


def test_what_cannot_be_merged_is_refused() -> None:
    branch = ConvBN(4, 4, 5, groups=4)
    crooked = nn.Conv2d(4, 4, 3, padding=0, groups=4)
    with pytest.raises(InvalidInputError, match="one center"):
        merge_branches([(branch.conv, branch.bn), (crooked, nn.Identity())])
    with pytest.raises(InvalidInputError, match="GroupNorm cannot be folded"):
        fuse_conv_bn(crooked, nn.GroupNorm(2, 4))
    with pytest.raises(InvalidInputError, match="running statistics"):
        fuse_conv_bn(crooked, nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(InvalidInputError, match="odd"):
        LargeKernelConv(4, 30)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenetv2_k9_rep", "mobilenetv2_k9"])
def test_timm_merges_them_as_well(name: str) -> None:
    model = randomized(timm.create_model(name))
    by_timm = timm.utils.reparameterize_model(model)
    assert [*by_timm.state_dict()] == [*copy.deepcopy(model).reparameterize().state_dict()]
    assert [*model.state_dict()] == [*timm.create_model(name).state_dict()]


@torch.no_grad()
@pytest.mark.parametrize("backend", ["native", "aten"])
@pytest.mark.parametrize(("small", "width"), [(5, None), (None, None), (5, 5)])
@pytest.mark.parametrize("size", [13, 51])
def test_merged_equals_branches_on_every_backend(
    backend: str, size: int, small: int | None, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "native" and not native_info().loaded:
        pytest.skip("no native library here")
    torch.manual_seed(0)
    layer = randomized(LargeKernelConv(6, size, 1, small, width))
    x = torch.randn(2, 6, 28, 35)
    want = copy.deepcopy(layer).double()(x.double())
    merged = copy.deepcopy(layer)
    merged.reparameterize()
    if backend == "aten":
        monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
        assert distance(layer(x), want) < 1e-6 and distance(merged(x), want) < 1e-6
        return
    assert distance(layer(x), want) < 1e-6 and distance(merged(x), want) < 1e-6
    conv = merged.reparam_conv
    assert distance(depthwise_conv2d(x, conv.weight, conv.bias, backend="native"), want) < 1e-6


def test_every_depthwise_convolution_of_stride_one_has_native_kernels(model: nn.Module) -> None:
    def check() -> None:
        for name, conv in model.named_modules():
            if isinstance(conv, nn.Conv2d):
                covered = conv.groups > 1 and conv.stride == conv.dilation == (1, 1)
                assert type(conv) is (DepthwiseConv2d if covered else nn.Conv2d), name

    check()
    model.reparameterize()
    check()
    model.fuse_bn()
    check()


def test_an_activation_is_never_folded_across() -> None:
    conv = DepthwiseConv2d(4, 4, 3, padding=1, groups=4)
    conv.activation = "relu"
    pair = randomized(nn.Sequential(conv, nn.BatchNorm2d(4)).double())
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    want = pair(x)
    assert torch.equal(fuse_bn(pair)(x), want) and isinstance(pair[1], nn.BatchNorm2d)
    with pytest.raises(InvalidInputError, match="with the activation 'relu'"):
        merge_branches([(conv, nn.Identity())])


def test_initial_weights_are_those_of_torchs_own_convolution() -> None:
    torch.manual_seed(3)
    block = ConvBN(6, 6, 7, groups=6)
    after = torch.rand(1)
    torch.manual_seed(3)
    plain = nn.Conv2d(6, 6, 7, padding=3, groups=6, bias=False)
    assert torch.equal(block.conv.weight, plain.weight) and torch.equal(torch.rand(1), after)
    assert list(block.conv.state_dict()) == list(plain.state_dict())
    block.conv.load_state_dict(plain.state_dict())
    assert repr(block.conv).removeprefix("Depthwise") == repr(plain)
