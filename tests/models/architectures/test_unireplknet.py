"""UniRepLKNet: the published counts and names, the block's formula, and merging."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replk_probe import measure_kernels, measure_shape_bias
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.models import UniRepLKNet, load_checkpoint, reparam_checkpoint
from replk_probe.models.architectures.unireplknet import UniRepLKNetBlock
from replk_probe.models.checkpoints.detect import Fingerprint, fingerprint
from replk_probe.models.checkpoints.rename_keys import in_scheme
from replk_probe.models.inference import input_gradient
from replk_probe.models.inference.check import check_on, random_image
from replk_probe.models.inference.input_gradient import FrozenDepthwiseConv2d, FrozenGeluResponseNorm, freeze_layers
from replk_probe.models.inference.prepare import prepared_copy
from replk_probe.models.layers.large_kernel import DILATED_BRANCHES, LargeKernelConv
from replk_probe.models.layers.response_norm import GeluResponseNorm
from replk_probe.models.summary import count_parameters, describe
from replk_probe.ops import native_info

TOLERANCE = 1e-12  # relative, in float64
# Parameters and number of keys, before and after merging.
PUBLISHED = {
    "a": (4_649_060, 4_437_300, 626, 156),
    "f": (6_489_328, 6_235_216, 626, 156),
    "p": (11_080_520, 10_741_704, 626, 156),
    "n": (18_818_880, 18_318_560, 738, 178),
    "t": (31_693_420, 31_037_980, 1116, 321),
    "s": (56_456_704, 55_645_984, 1305, 420),
    "b": (99_089_416, 98_008_456, 1305, 420),
    "l": (220_076_056, 218_454_616, 1305, 420),
    "xl": (388_690_984, 386_529_064, 1305, 420),
}
KERNELS = ((3,), (13,), (13, 3), (7,))
SMALL: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (4, 8, 8, 12), "kernel_sizes": KERNELS, "num_classes": 5}


def randomized(model: nn.Module, seed: int = 0) -> Any:
    """The model in eval mode and float64, with no parameter or buffer at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(0, 1 if tensor.dim() < 2 else tensor[0].numel() ** -0.5, generator=generator)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.1)
    return model.eval()


def small(seed: int = 0, **changes: Any) -> Any:
    return randomized(UniRepLKNet(**{**SMALL, **changes}), seed)


def distance(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("size", PUBLISHED)
def test_counts_of_both_forms(size: str) -> None:
    name = f"unireplknet_{size}"
    with torch.device("meta"):
        model = timm.create_model(name)
    before = count_parameters(model), shapes(model.state_dict())
    form = fingerprint(before[1])
    model.fuse_bn()
    after = count_parameters(model), shapes(model.state_dict())
    assert (before[0], after[0], len(before[1]), len(after[1])) == PUBLISHED[size]
    title = f"UniRepLKNet-{size.upper()}"
    assert form == Fingerprint(title, name, "train")
    assert fingerprint(after[1]) == Fingerprint(title, name, "merged+fused")


def test_the_list_of_models_counts_the_published_merged_form() -> None:
    row = describe("unireplknet_a")
    assert (row["family"], row["kernel_sizes"]) == ("UniRepLKNet", [3, 13, 13, 13])
    assert (row["parameters"], row["parameters_merged"]) == PUBLISHED["a"][:2]
    assert row["macs"] < row["macs_unmerged"]


@pytest.mark.parametrize(
    ("depth", "pattern"), [((2, 2, 8, 2), (13,)), ((3, 3, 18, 3), (13, 3)), ((3, 3, 27, 3), (13, 3, 3))]
)
def test_kernels_of_the_published_models(depth: tuple[int, ...], pattern: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = UniRepLKNet(depth, (4, 4, 4, 4))
    sizes = [[block.dwconv.kernel_size[0] for block in stage] for stage in model.stages]
    assert sizes == [[3] * depth[0], [13] * depth[1], [*pattern] * (depth[2] // len(pattern)), [13] * depth[3]]


def test_initialization() -> None:
    torch.manual_seed(0)
    model = UniRepLKNet((1,), (64,), ((13,),))
    block = model.stages[0][0]
    assert 0.018 < block.pwconv1.weight.std() < 0.022 and block.pwconv1.weight.abs().max() <= 2
    assert not block.pwconv1.bias.any() and not block.act.gamma.any() and not block.act.beta.any()
    assert torch.equal(block.gamma, torch.full((64,), 1e-6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_sizes": KERNELS[:3]}, "one entry for each stage"),
        ({"kernel_sizes": ((3,), (13,), (13,), (7,))}, "one entry for each block"),
        ({"kernel_sizes": ((3,), (19,), (13, 3), (7,))}, "must be among"),
        ({"kernel_sizes": (13, 13, 13, 13)}, "Each stage has a list"),
        ({"kernel_sizes": None}, "no published UniRepLKNet with depths"),
        ({"dims": (4, 6, 8, 8)}, "multiples of 4"),
    ],
)
def test_invalid_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        UniRepLKNet(**{**SMALL, **changes})


def normalized(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Batch norm with running statistics, from its definition."""
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].reshape(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def reference(x: Tensor, state: dict[str, Tensor], kernel_size: int) -> Tensor:
    """The block according to the paper, from the names in the authors' files."""
    if kernel_size == 3:
        y = F.conv2d(x, state["dwconv.weight"], padding=1, groups=x.shape[1])
    else:
        convolve = {"groups": x.shape[1]}
        y = F.conv2d(x, state["dwconv.lk_origin.weight"], padding=kernel_size // 2, **convolve)
        y = normalized(y, state, "dwconv.origin_bn")
        for name in state:
            if found := re.fullmatch(r"dwconv\.dil_conv_k(\d+)_(\d+)\.weight", name):
                side, rate = int(found[1]), int(found[2])
                padding = (rate * (side - 1) + 1) // 2
                branch = F.conv2d(x, state[name], padding=padding, dilation=rate, **convolve)
                y = y + normalized(branch, state, f"dwconv.dil_bn_k{side}_{rate}")
    y = normalized(y, state, "norm")
    squeezed = torch.relu(state["se.down.weight"][:, :, 0, 0] @ y.mean((2, 3)).T + state["se.down.bias"][:, None])
    excited = state["se.up.weight"][:, :, 0, 0] @ squeezed + state["se.up.bias"][:, None]
    y = y * torch.sigmoid(excited).T[:, :, None, None]
    y = torch.einsum("nchw,dc->ndhw", y, state["pwconv1.1.weight"]) + state["pwconv1.1.bias"][:, None, None]
    y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
    spatial = (y**2).sum((2, 3), keepdim=True).sqrt()
    gamma, beta = (state[f"act.1.{name}"].reshape(-1, 1, 1) for name in ("gamma", "beta"))
    y = (gamma * spatial / (spatial.mean(1, keepdim=True) + 1e-6) + 1) * y + beta
    y = torch.einsum("nchw,dc->ndhw", y, state["pwconv2.0.weight"])
    return x + state["gamma"][:, None, None] * normalized(y, state, "pwconv2.2")


def official_block(block: nn.Module) -> dict[str, Tensor]:
    """State of a block by the names in the authors' files."""
    state = in_scheme("official", {f"stages.0.0.{name}": value for name, value in block.state_dict().items()})
    return {name.removeprefix("stages.0.0."): value for name, value in state.items()}


@pytest.mark.parametrize("kernel_size", [3, 7, 13])
def test_block_and_its_gradient_against_the_formula(kernel_size: int) -> None:
    block = randomized(UniRepLKNetBlock(8, kernel_size, 0.0, 1.0)).requires_grad_(False)
    state = official_block(block)
    x = torch.randn(2, 8, 15, 14, dtype=torch.float64, requires_grad=True)
    expected = reference(x, state, kernel_size)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, weights)
    folded, frozen = copy.deepcopy(block), copy.deepcopy(block)
    folded.fold_norms()
    frozen.fold_norms()
    freeze_layers(frozen)
    for changed in (block, folded, frozen):
        y = changed(x)
        assert distance(y, expected) < TOLERANCE
        assert distance(torch.autograd.grad(y, x, weights)[0], gradient) < TOLERANCE


@pytest.mark.parametrize("pattern", [(13,), (13, 3), (13, 3, 3)])
@torch.no_grad()
def test_merging_is_exact(pattern: tuple[int, ...]) -> None:
    kernels = (3,), (13,), (*pattern, *pattern), (13,)
    model = small(1, depths=tuple(map(len, kernels)), kernel_sizes=kernels)
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    features, logits = model.forward_features(x), model(x)
    for change in (model.reparameterize, model.fuse_bn, model.fuse_bn):
        change()
        assert distance(model.forward_features(x), features) < TOLERANCE
        assert distance(model(x), logits) < TOLERANCE
    assert not [name for name in model.state_dict() if "running" in name or name.endswith((".gamma.0", "beta"))]


@pytest.mark.parametrize("kernel_size", DILATED_BRANCHES)
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_merging_of_dilated_branches(kernel_size: int, stride: int) -> None:
    branches = DILATED_BRANCHES[kernel_size]
    block = randomized(LargeKernelConv(4, kernel_size, stride, small_kernel=3, dilated_branches=branches))
    assert len(block.branches()) == 2 + len(branches)
    x = torch.randn(2, 4, 19, 22, dtype=torch.float64)
    expected = block(x)
    block.reparameterize()
    assert block.reparam_conv.weight.shape[-2:] == (kernel_size, kernel_size)
    assert distance(block(x), expected) < TOLERANCE


@pytest.mark.parametrize("branches", [((3, 4),), ((3, 0),), ((3, 2), (3, 2)), ((4, 1),)])
def test_invalid_dilated_branches(branches: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"Dilated branches must|Kernel sizes must be odd"):
        LargeKernelConv(4, 7, dilated_branches=branches)


@pytest.mark.parametrize("shape", [(2, 5, 7, 12), (1, 40, 33, 8), (1, 1, 1, 4)])
def test_frozen_response_norm(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    # Several chunks, the last of which is shorter.
    monkeypatch.setattr("replk_probe.models.inference.input_gradient._CHUNK", 1000)
    layer = randomized(GeluResponseNorm(shape[-1]))
    x = torch.randn(shape, dtype=torch.float64)
    x[..., 0] = 0  # a channel whose norm is zero
    x.requires_grad_(True)
    y = layer(x)
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, weights)
    freeze_layers(layer)
    assert type(layer) is FrozenGeluResponseNorm
    found = layer(x)
    assert distance(found, y) < TOLERANCE
    # In another layout than the input.
    layout = weights.transpose(1, 2).contiguous().transpose(1, 2)
    assert distance(torch.autograd.grad(found, x, layout)[0], gradient) < TOLERANCE
    assert torch.autograd.gradcheck(layer, x.detach()[..., 1:2, :].clone().requires_grad_(True)) or shape[2] == 1


@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (1, 8, 40, 33), (1, 4, 1, 2)])
def test_frozen_layers_of_contiguous_planes(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The native GELU and the products of planes, forward and backward, against torch's own layers in float64."""
    monkeypatch.setattr(input_gradient, "_LEAST_POSITIONS", 1)
    channels = shape[1]
    layers = [nn.Linear(channels, 2 * channels), GeluResponseNorm(2 * channels), nn.Linear(2 * channels, channels)]
    branch = randomized(nn.Sequential(*layers))
    planes = torch.randn(shape)
    weights = torch.randn(shape).permute(0, 2, 3, 1)

    def outputs(x: Tensor, of_output: Tensor) -> tuple[Tensor, Tensor]:
        x.requires_grad_(True)
        y = branch(x.permute(0, 2, 3, 1))
        return y.detach(), torch.autograd.grad(y, x, of_output)[0]

    expected = outputs(planes.double(), weights.double())
    freeze_layers(branch.float())
    called = []
    names = ("gelu_with_squares", "gelu_products", "gelu_grad_input")
    for name in names:
        function = getattr(input_gradient, name)
        monkeypatch.setattr(input_gradient, name, lambda *args, f=function: called.append(f.__name__) or f(*args))
    # The second gradient is in another layout than the input.
    for of_output in (weights, weights.contiguous()):
        found = outputs(planes.clone(), of_output)
        for one, other in zip(found, expected, strict=True):
            assert (one.double() - other).norm() / other.norm() < 2e-6
        assert found[0].permute(0, 3, 1, 2).is_contiguous() and found[1].is_contiguous()
    assert called == (list(names) * 2 if native_info().loaded else [])
    monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
    called.clear()
    for one, other in zip(outputs(planes.clone(), weights), expected, strict=True):
        assert (one.double() - other).norm() / other.norm() < 2e-6
    assert not called


@pytest.mark.skipif(not native_info().loaded, reason="the native library was not built")
def test_prepared_blocks_compute_contiguous_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_gradient, "_LEAST_POSITIONS", 1)
    prepared = small().float()
    prepared.fuse_bn()
    freeze_layers(prepared)
    layouts: list[bool] = []
    for stage in prepared.stages:
        for block in stage:
            block.pwconv2.register_forward_hook(lambda _, args, out: layouts.append(args[0].is_contiguous()))
            block.dwconv.register_full_backward_hook(
                lambda _, found, given: layouts.append(not given[0].is_contiguous())
            )
    x = torch.randn(1, 3, 96, 96, requires_grad=True)
    prepared.forward_features(x).sum().backward()
    assert len(layouts) == 10 and not any(layouts)


def test_prepared_copy_folds_everything() -> None:
    model = small().float()
    check = check_on(random_image((64, 64)), model, lambda net, x: net.forward_features(x), gradient=True)
    prepared = prepared_copy(model, "fp32", check, backward=True)
    assert prepared.left_out == ""
    layers = [type(module) for module in prepared.module.modules()]
    assert nn.BatchNorm2d not in layers and GeluResponseNorm not in layers and layers.count(FrozenDepthwiseConv2d) == 5
    kept = prepared_copy(model, "fp32", check, keep="stages.2.0.norm", backward=True).module
    blocks = [kept.stages[stage][index] for stage, index in ((0, 0), (2, 0), (2, 1))]  # type: ignore[index]
    assert [block.gamma is None for block in blocks] == [True, False, True]
    assert isinstance(blocks[1].norm, nn.BatchNorm2d) and blocks[1].dwconv.is_merged


def test_kernels_of_every_form_are_those_of_the_merged_file() -> None:
    model = small()
    found = measure_kernels(model)
    assert [kernel.layer for kernel in found.kernels] == ["stage1.0", "stage2.0", "stage3.0", "stage3.1", "stage4.0"]
    assert found.kernels[1].batch_norm[0] == "stages.1.0.dwconv.large_conv.bn"
    assert found.kernels[1].batch_norm[-1] == "stages.1.0.norm"
    branches = measure_kernels(model, "stage2.0", variant="all")
    sides = {"5x5 dilation 1": 5, "7x7 dilation 2": 13, "3x3 dilation 3": 7, "3x3 dilation 4": 9, "3x3 dilation 5": 11}
    sides |= dict.fromkeys(("large", "small", "merged"), 13)
    assert {kernel.variant: len(kernel.magnitude) for kernel in branches.kernels} == sides
    # The 3 x 3 kernel with dilation 5 has zeros in its gaps.
    spread = branches.kernels[4].magnitude
    assert (spread[::5, ::5] > 0).all() and spread.sum() == pytest.approx(spread[::5, ::5].sum(), rel=1e-12)
    for change in (model.reparameterize, model.fuse_bn):
        change()
        again = measure_kernels(model)
        for before, after in zip(found.kernels, again.kernels, strict=True):
            assert after.magnitude == pytest.approx(before.magnitude, rel=1e-12)
    weight = model.stages[1][0].dwconv.reparam_conv.weight
    assert found.kernels[1].magnitude == pytest.approx(weight.detach().abs().sum((0, 1)).numpy(), rel=1e-12)


# Files


def official(model: nn.Module) -> dict[str, Tensor]:
    return in_scheme("official", model.state_dict())


@pytest.mark.parametrize("naming", [official, nn.Module.state_dict])
@pytest.mark.parametrize("form", ["train", "merged", "merged+fused"])
def test_files_of_every_form(tmp_path: Path, form: str, naming: Any) -> None:
    trained = small(1)
    if form != "train":
        (trained.reparameterize if form == "merged" else trained.fuse_bn)()
    file = tmp_path / "weights.pth"
    torch.save({"model": naming(trained)}, file)
    model = small(2)
    report = load_checkpoint(model, file)
    assert (report.form, report.head, report.num_classes) == (form, "loaded", 5)
    assert report.naming == ("official" if naming is official else "own")
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model(x), trained(x))


def test_backbones_of_detectors_have_no_classifier(tmp_path: Path) -> None:
    state = {name: value for name, value in official(small(1)).items() if not name.startswith(("norm.", "head."))}
    added = {f"norm{stage}.{name}": torch.ones(4) for stage in range(4) for name in ("weight", "bias")}
    for number, content in enumerate((state | added, {f"backbone.{name}": value for name, value in state.items()})):
        file = tmp_path / f"{number}.pth"
        torch.save({"state_dict": content}, file)
        report = load_checkpoint(small(2), file)
        assert (report.head, report.form, len(report.dropped)) == ("missing", "train", 8 if number == 0 else 0)
        assert (
            report.note == "The file has no classifier and no final norm: features are trained, class scores are not."
        )


def test_class_scores_need_a_classifier(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    file = tmp_path / "backbone.pth"
    torch.save({name: value for name, value in official(small(1)).items() if not name.startswith("head.")}, file)
    with pytest.raises(InvalidInputError) as caught:
        measure_shape_bias(f"{tmp_path / 'net.py'}:small", "synthetic", weights=str(file))
    assert re.search(r"cannot classify with .*backbone\.pth\. The file has no classifier: features", str(caught.value))
    assert "\n" not in str(caught.value)


def refused(file: Path, state: dict[str, Tensor]) -> str:
    """The message for a file that does not match UniRepLKNet-A."""
    torch.save(state, file)
    with torch.device("meta"):
        model = timm.create_model("unireplknet_a")
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(model, file)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_that_do_not_match(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    with torch.device("meta"):
        sizes = {size: official(timm.create_model(f"unireplknet_{size}")) for size in ("a", "n")}
    states = {
        size: {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}
        for size, state in sizes.items()
    }
    message = refused(file, states["n"])
    assert "The file appears to be UniRepLKNet-N, train form: use the model unireplknet_n" in message
    lacking = {name: value for name, value in states["a"].items() if not re.search(r"dil_(conv|bn)_k3_4\.", name)}
    assert "The file lacks dilated_conv_k3_d4 in stages 2, 3, 4" in refused(file, lacking)
    lacking = {name: value for name, value in states["a"].items() if not re.search(r"3\.1.*dil_(conv|bn)_k7", name)}
    message = refused(file, lacking)
    assert "5 missing keys (stages.3.1.dwconv.dilated_conv_k7_d2.conv.weight" in message
    assert "The file lacks dilated_conv_k7_d2 in stage 4" in message


NET = """
from replk_probe.models import UniRepLKNet

def small():
    return UniRepLKNet((1, 1, 2, 1), (4, 8, 8, 12), ((3,), (13,), (13, 3), (7,)), num_classes=5)
"""


def test_conversion_between_forms_and_names(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    name = f"{tmp_path / 'net.py'}:small"
    trained = small(1).float()
    source, merged, back = tmp_path / "trained.pth", tmp_path / "merged.safetensors", tmp_path / "back.safetensors"
    torch.save({"model": official(trained)}, source)
    report = reparam_checkpoint(source, merged, name, scheme="official")
    assert (report.source.form, report.written.form) == ("train", "merged+fused")
    assert (report.layers, report.convolutions) == (5, 18)
    assert report.merging is not None and report.merging.relative < TOLERANCE
    assert report.parameters == (count_parameters(trained), count_parameters(copy.deepcopy(trained).fuse_bn()))
    names = set(safetensors.torch.load_file(merged))
    assert names == set(official(copy.deepcopy(trained).fuse_bn()))
    assert {"stages.1.0.dwconv.lk_origin.bias", "stages.0.0.dwconv.bias", "stages.0.0.pwconv2.0.bias"} <= names
    with pytest.raises(WeightsError, match="already merged"):
        reparam_checkpoint(merged, back, name)
    reparam_checkpoint(merged, back, name, merge=False)
    assert set(safetensors.torch.load_file(back)) == set(trained.fuse_bn().state_dict())
    # A file whose norms are not folded yet is finished.
    partly = tmp_path / "partly.safetensors"
    safetensors.torch.save_file(small(1).float().reparameterize().state_dict(), partly)
    again = reparam_checkpoint(partly, merged, name, scheme="official", force=True)
    assert (again.source.form, again.written.form) == ("merged", "merged+fused")
    with pytest.raises(InvalidInputError, match="timm has no UniRepLKNet"):
        reparam_checkpoint(source, back, name, scheme="timm", force=True)
