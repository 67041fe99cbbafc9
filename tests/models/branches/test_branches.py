"""Parallel convolutions of any network: which are found, what their sum is, and merging them."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.kernels import measure_kernels
from replk_probe.models import create_model, load_checkpoint, merge_parallel_branches, reparam_checkpoint
from replk_probe.models.branches.find import find_parallel_branches
from replk_probe.models.branches.recording import stored_tensors
from replk_probe.models.inference.copying import meta_copy_of

CHANNELS = 6


def conv(size: int | tuple[int, int], dilation: int = 1, groups: int = CHANNELS, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size of the map at stride 1."""
    height, width = (size, size) if isinstance(size, int) else size
    padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
    return nn.Conv2d(CHANNELS, CHANNELS, (height, width), stride, padding, dilation, groups)


class ChannelScale(nn.Module):
    """A scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(CHANNELS) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None]


class FunctionalNorm(nn.Module):
    """A convolution and its norm in one module, by functions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(CHANNELS, 1, size, size))
        for name, value in (("mean", torch.randn(CHANNELS)), ("var", torch.rand(CHANNELS) + 0.5)):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.kernel, padding=self.kernel.shape[-1] // 2, groups=CHANNELS)
        return F.batch_norm(y, self.mean, self.var)


class Large(nn.Module):
    """Large and small kernel, each with a norm, in a list; a dropout and an identity between."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(conv(size), nn.BatchNorm2d(CHANNELS), nn.Dropout(0.5), nn.Identity()) for size in (9, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return sum(path(x) for path in self.paths)  # type: ignore[return-value]


class Dilations(nn.Module):
    """Dilated kernels summed in place, which a decision about the size of the map keeps from torch.fx."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.wide_norm = conv(11), nn.BatchNorm2d(CHANNELS)
        self.holes = nn.ModuleDict({f"r{rate}": conv(3, rate) for rate in (1, 2, 4)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide_norm(self.wide(x))
        if x.shape[-1] > 2:
            for hole in self.holes.values():
                y += hole(x)
        return y


class Strips(nn.Module):
    """Rectangular kernels, a norm of the input itself, scales, and a norm of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.tall, self.flat = conv((7, 3)), conv((3, 7))
        self.tall_scale, self.flat_scale = ChannelScale(), ChannelScale()
        self.skip, self.after = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.tall_scale(self.tall(x)) + self.skip(x) + self.flat_scale(self.flat(x)) * 0.5)


class Dense(nn.Module):
    """Dense, grouped by two and of stride two, a difference, and one convolution by functions."""

    def __init__(self, groups: int = 1, stride: int = 2) -> None:
        super().__init__()
        self.a, self.b = conv(5, groups=groups, stride=stride), conv(1, groups=groups, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) - self.b(x)


class OfWeights(nn.Module):
    """Convolutions by functions in modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = FunctionalNorm(7), FunctionalNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.second(x), self.first(x))


class Residual(nn.Module):
    """Branches, the input itself, and a path that is no convolution of the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.tiny, self.mix = conv(7), conv(3), conv(1, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.relu(x)) + (self.big(x) + self.tiny(x) + x)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "list": Large,
    "dilated": Dilations,
    "strips": Strips,
    "dense": Dense,
    "grouped": lambda: Dense(2, 1),
    "functions": OfWeights,
    "residual": Residual,
}


class Net(nn.Module):
    """A stem, one block, a head."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, 2, 1), nn.ReLU())
        self.block = block
        self.head = nn.Linear(CHANNELS, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.block(self.stem(x))).mean((2, 3)))


def network(block: str | nn.Module, seed: int = 0) -> nn.Module:
    """A network with this block, norms as after training, float64, eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net(BLOCKS[block]() if isinstance(block, str) else block).double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight.data, module.bias.data, module.running_mean):
                    assert tensor is not None
                    tensor.normal_()
                assert module.running_var is not None
                module.running_var.uniform_(0.3, 3)
    return net.eval()


def large() -> nn.Module:
    """For the command line."""
    return network("list").float()


def strips() -> nn.Module:
    """For the command line."""
    return network("strips").float()


def gated() -> nn.Module:
    """Branches that cannot be merged: their convolutions differ in groups."""
    block = Residual()
    block.tiny = conv(3, groups=2)
    return network(block).float()


FOUND = {
    "list": (["paths.0", "paths.1"], 0),
    "dilated": (["wide", "holes.r1", "holes.r2", "holes.r4"], 0),
    "strips": (["tall", "skip", "flat"], 0),
    "dense": (["a", "b"], 0),
    "grouped": (["a", "b"], 0),
    "functions": (["second", "first"], 0),
    "residual": (["big", "tiny", "input"], 1),
}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_the_sum_of_the_kernels_computes_the_block(name: str) -> None:
    net = network(name)
    (found,) = find_parallel_branches(net)
    assert ([branch.name for branch in found.branches], found.others) == FOUND[name]
    assert (found.path, found.problem) == ("block", None)
    weight, bias = found.total(found.branches, stored_tensors(net))
    assert weight.dtype == torch.float64 and tuple(weight.shape[2:]) == found.kernel_size
    x = torch.randn(2, CHANNELS, 17, 23, dtype=torch.float64)
    padding = [side // 2 for side in found.kernel_size]
    merged = F.conv2d(x, weight, bias, found.stride, padding, 1, found.groups)
    expected = net.block(x) - (net.block.mix(F.relu(x)) if name == "residual" else 0)
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-13 * float(expected.abs().max()))


def test_nothing_is_computed_or_changed() -> None:
    net = network("strips").train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.random.get_rng_state()
    assert len(find_parallel_branches(net)) == len(find_parallel_branches(meta_copy_of(net))) == 1
    assert torch.equal(state, torch.random.get_rng_state())
    assert net.training and not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


class Activated(nn.Module):
    """An activation in one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(5), conv(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x)) + self.b(x)


class Skip(Activated):
    """A residual connection around one convolution, and a convolution in series."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(x))


class ReadTwice(Activated):
    """The output of a branch is also read elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return (y + self.b(x)) * y.mean()


class TwoInputs(Activated):
    """Branches of two inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x.flip(3))


@pytest.mark.parametrize("block", [Activated, Skip, ReadTwice, TwoInputs])
def test_what_is_no_sum_of_convolutions_of_one_input(block: type[nn.Module]) -> None:
    assert find_parallel_branches(network(block())) == ()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"tiny": conv(3, groups=2)}, "their groups differ (6, 2)"),
        ({"tiny": nn.Conv2d(CHANNELS, CHANNELS, (4, 3), 1, (1, 1), groups=CHANNELS)}, None),
        ({"big": conv(7, stride=2), "tiny": conv(3, stride=2)}, None),
    ],
)
def test_the_reason_why_a_sum_is_not_one_convolution(changed: dict[str, nn.Module], problem: str | None) -> None:
    block = Residual()
    for name, module in changed.items():
        setattr(block, name, module)
    found = find_parallel_branches(network(block))
    assert [one.problem for one in found] == ([] if problem is None else [problem])  # none: it cannot be run


def test_paddings_that_do_not_align() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(CHANNELS, CHANNELS, 4, 2, 1)
            self.b = nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    (found,) = find_parallel_branches(network(Shifted()))
    assert found.problem == (
        "their kernels and paddings do not share one center (4x4 with padding 1, 1; 3x3 with padding 1, 1)"
    )


def test_modules_are_run_alone_where_the_network_cannot_be() -> None:
    class Deciding(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x) if float(y.sum()) > 0 else super().forward(-x)

    net = Deciding(nn.Sequential(nn.ModuleDict({"inner": Residual()})["inner"])).eval()
    (found,) = find_parallel_branches(net)
    assert found.path == "block.0"


@pytest.fixture
def double() -> Iterator[None]:
    """Networks in float64, whose own code merges as exactly as their type allows."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("name", "few", "count"),
    [
        ("fastvit_t8", {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)}, 14),
        (f"{Path(__file__).parents[1] / 'small_timm_networks.py'}:mobileone", {}, 3),
        ("repvit_m0_9", {"depth": (1, 1, 1, 1), "embed_dim": (8, 16, 32, 64)}, 7),
    ],
    ids=("fastvit", "mobileone", "repvit"),
)
@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_the_sum_equals_timms_merging(name: str, few: dict[str, Any], count: int) -> None:
    model = create_model(name, **few)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
    merged = timm.utils.reparameterize_model(model)
    values, blocks = stored_tensors(model), find_parallel_branches(model)
    assert len(blocks) == count
    for found in blocks:
        theirs = merged.get_submodule(found.path)
        conv = theirs if isinstance(theirs, nn.Conv2d) else theirs.reparam_conv
        weight, bias = found.total(found.branches, values)
        assert found.problem is None
        for ours, expected in ((weight, conv.weight), (bias, conv.bias)):
            torch.testing.assert_close(ours, expected.detach(), rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv2_100"])
def test_networks_without_branches(name: str) -> None:
    assert find_parallel_branches(timm.create_model(name)) == ()


@pytest.fixture(scope="module")
def cases() -> ModuleType:
    """The networks in the folder ``cases`` next to the test data."""
    data = os.environ.get("REPLK_PROBE_TEST_DATA")
    path = Path(data or ".").resolve().parent / "cases" / "branches.py"
    if not data or not path.is_file():
        pytest.skip("REPLK_PROBE_TEST_DATA is not set, or has no folder 'cases' with branches.py next to it")
    spec = importlib.util.spec_from_file_location("cases_branches", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "share"), [("replk", 0.110), ("unirep", 0.126)])
def test_published_kinds_of_blocks(cases: ModuleType, name: str, share: float) -> None:
    torch.set_default_dtype(torch.float32)
    (kernel,) = measure_kernels(getattr(cases, name)()).kernels
    assert kernel.variant == "merged" and kernel.center3x3_share == pytest.approx(share, abs=5e-4)
    torch.set_default_dtype(torch.float64)  # the merging of the networks' own code is as exact as their type
    parallel, merged = (measure_kernels(getattr(cases, f"{name}{form}")()).kernels[0] for form in ("", "_merged"))
    torch.testing.assert_close(
        torch.from_numpy(parallel.magnitude.copy()), torch.from_numpy(merged.magnitude.copy()), rtol=1e-12, atol=0
    )


MERGED = {"list": 2, "dilated": 4, "strips": 2, "dense": 2, "grouped": 2, "functions": 2, "residual": 2}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_merging_changes_the_structure_only(name: str) -> None:
    net = network(name)
    x = torch.randn(2, 3, 40, 33, dtype=torch.float64)
    expected, block = net(x), net.block(net.stem(x))
    before = sum(parameter.numel() for parameter in net.parameters())
    report = merge_parallel_branches(net)
    assert (report.blocks, report.layers, report.left) == (("block",), ("block",), ())
    assert report.convolutions == MERGED[name]
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    torch.testing.assert_close(net.block(net.stem(x)), block, rtol=0, atol=1e-12 * float(block.abs().max()))
    if name != "strips":  # the sum of 7 x 3 and 3 x 7 is 7 x 7
        assert sum(parameter.numel() for parameter in net.parameters()) < before
    assert merge_parallel_branches(net).blocks == ()  # nothing is left to merge


class OwnMethod(Large):
    """Users' own methods are never called."""

    def reparameterize(self) -> None:
        raise AssertionError("called")

    merge_kernel = fuse = switch_to_deploy = reparameterize


def test_methods_of_the_network_are_not_called() -> None:
    assert merge_parallel_branches(network(OwnMethod())).blocks == ("block",)


class Inline(nn.Module):
    """The block itself computes one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.little = conv(7), nn.Parameter(torch.randn(CHANNELS, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.big(x) + F.conv2d(x, self.little, padding=1, groups=CHANNELS)


class Shared(nn.Module):
    """One convolution is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.little = conv(7), conv(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.big(x) + self.little(x)
        return y.sigmoid() + self.little(y.tanh())


class Shifting(Shared):
    """A shift that belongs to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.big(x) + self.shift + self.little(x)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Inline, "the convolution little is not computed by a module that computes nothing else and is called once"),
        (Shared, "the convolution little is not computed by a module that computes nothing else and is called once"),
        (Shifting, "big is shifted by code that belongs to no module of its own"),
    ],
)
@torch.no_grad()
def test_what_cannot_be_merged_is_left_with_the_reason(block: type[nn.Module], reason: str) -> None:
    net = network(block())
    before = copy.deepcopy(net.state_dict())
    report = merge_parallel_branches(net)
    assert report.blocks == () and report.left == (("block", reason),)
    assert report.reasons == f"block cannot be merged: {reason}."
    assert list(net.state_dict()) == list(before)
    (kernel,) = measure_kernels(net, "block").kernels if block is not Shared else (None,)
    assert kernel is None or (kernel.variant, kernel.kernel_size) == ("merged", (7, 7))


@pytest.mark.parametrize("factory", ["large", "strips"])
def test_weights_files_of_users_networks(factory: str, tmp_path: Path) -> None:
    name = f"{__file__}:{factory}"
    trained = {"large": network("list", 5), "strips": network("strips", 5)}[factory].float()
    torch.save({"model": trained.state_dict()}, tmp_path / "trained.pth")
    out = tmp_path / "merged.safetensors"
    report = reparam_checkpoint(tmp_path / "trained.pth", out, name)
    assert (report.layers, report.convolutions, report.unmerged) == (1, 2, "")
    assert report.merging is not None and report.merging.relative < 1e-12
    assert 0 < report.rounding.relative < 1e-5 and report.written.form == "merged"
    with safe_open(out, "pt") as file:
        assert file.metadata()["merged"] == "yes"
        assert len(file.keys()) < len(trained.state_dict())
    x = torch.randn(2, 3, 31, 31)
    with torch.no_grad():
        expected, found = trained(x), create_model(name, str(out))(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    (merged,), (parallel,) = (
        measure_kernels(name, weights=str(path)).kernels for path in (out, tmp_path / "trained.pth")
    )
    np.testing.assert_allclose(merged.magnitude, parallel.magnitude, rtol=1e-5)
    with pytest.raises(WeightsError, match="is already merged"):
        reparam_checkpoint(out, tmp_path / "again.safetensors", name)
    with pytest.raises(WeightsError, match="missing keys"):
        load_checkpoint(network("dilated").float(), out)


def test_files_of_networks_that_cannot_be_merged(tmp_path: Path) -> None:
    torch.save(gated().state_dict(), tmp_path / "gated.pth")
    with pytest.raises(InvalidInputError, match=re.escape("block cannot be merged: their groups differ (6, 2)")):
        reparam_checkpoint(tmp_path / "gated.pth", tmp_path / "out.safetensors", f"{__file__}:gated")
    assert not (tmp_path / "out.safetensors").exists()
