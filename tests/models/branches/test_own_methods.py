"""Merging by methods of the modules of other packages: timm, the authors of RepVGG and OverLoCK, users."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from replk_probe.erf import measure_erf, prepare
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.kernels import measure_kernels
from replk_probe.models import create_model, load_checkpoint, reparam_checkpoint
from replk_probe.models.branches.own_methods import OwnMerging, merge_by_own_methods, merge_method
from replk_probe.models.inference.copying import meta_copy_of

NETWORKS = Path(__file__).parents[1] / "networks_of_others.py"
SMALL = NETWORKS.with_name("small_timm_networks.py")
# Options that leave few blocks in each stage of timm's networks, with few channels.
FEW_BLOCKS: dict[str, dict[str, Any]] = {
    "fastvit_t8": {"layers": (1, 1), "embed_dims": (8, 16), "num_classes": 5},
    "repvit_m0_9": {"depth": (1, 1), "embed_dim": (8, 16), "num_classes": 5},
    "iformer_t": {"depths": (1, 1, 4, 3), "attn_groups": (0, 0, 1, 1), "dims": (8, 16, 32, 64), "num_classes": 5},
}
# Number of modules that these networks merge, and of kernels larger than 1 x 1 that "all" selects in them.
TIMM = {
    f"{SMALL}:mobileone": (3, 1),
    f"{SMALL}:repvgg": (4, 4),
    "fastvit_t8": (8, 7),
    "repvit_m0_9": (16, 4),
    f"{SMALL}:shvit": (17, 5),
    "iformer_t": (30, 5),
}


def of_others(name: str) -> nn.Module:
    return create_model(f"{NETWORKS}:{name}")


def trained(name: str) -> nn.Module:
    """A network with random parameters and buffers."""
    # The weights must not depend on the tests that ran before: the bound of a prepared copy holds for most weights
    # only, because rounding can change the sign of a feature before a ReLU.
    torch.manual_seed(0)
    model = (create_model(name) if ":" in name else timm.create_model(name, **FEW_BLOCKS[name])).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm1d)):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean += 0.1 * torch.randn(norm.running_mean.shape, generator=generator)
            norm.running_var += torch.rand(norm.running_var.shape, generator=generator)
    return model


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert [*after] == [*before] and all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.no_cover
@pytest.mark.parametrize("name", TIMM, ids=lambda name: name.rpartition(":")[2])
def test_networks_of_timm(name: str) -> None:
    model = trained(name)
    before, random_state = state_of(model), torch.random.get_rng_state()
    own = merge_by_own_methods(model)
    assert_same(model, before)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert own.network is not None and own.difference is not None and own.note == ""
    assert own.difference.relative < 1e-11 and len(own.layers) == len(own.blocks) == TIMM[name][0]
    merged = timm.utils.reparameterize_model(model)
    assert [*own.network.state_dict()] == [*merged.state_dict()]

    # Kernels are those of timm's merging, under the names of the original.
    kernels = measure_kernels(model).kernels
    for kernel, other in zip(kernels, measure_kernels(merged).kernels, strict=True):
        np.testing.assert_allclose(kernel.magnitude, other.magnitude, rtol=1e-4, atol=1e-5 * other.maximum)
    assert len(kernels) == TIMM[name][1]

    prepared = prepare(model)
    assert prepared.left_out == "" and len([*prepared.module.modules()]) < len([*model.modules()])


@pytest.mark.parametrize(("network", "layers"), [("repvgg", 4), ("shvit", 17)])
def test_files_of_timm(network: str, layers: int, tmp_path: Path) -> None:
    name = f"{SMALL}:{network}"
    model = trained(name)
    kernels = measure_kernels(model).kernels
    torch.save(model.state_dict(), tmp_path / "trained.pth")
    out = tmp_path / "merged.safetensors"
    report = reparam_checkpoint(tmp_path / "trained.pth", out, name)
    assert report.merging is not None and report.merging.relative < 1e-9 and report.unmerged == ""
    assert report.own_methods == report.layers == layers
    for path in (tmp_path / "trained.pth", out):  # read in part, on the meta device
        for kernel, other in zip(kernels, measure_kernels(name, weights=str(path)).kernels, strict=True):
            np.testing.assert_allclose(kernel.magnitude, other.magnitude, rtol=1e-4, atol=1e-5 * other.maximum)
    timm.utils.reparameterize_model(model).load_state_dict(load_file(out))  # under timm's own names
    assert load_checkpoint(create_model(name), out).form == "merged"
    with pytest.raises(WeightsError, match="is already merged"):
        reparam_checkpoint(out, tmp_path / "again.safetensors", name)


@pytest.mark.no_cover
def test_an_identity_that_a_method_adds_belongs_to_the_kernel() -> None:
    model = trained(f"{SMALL}:shvit")
    block = "stages.0.blocks.0.conv"
    branch, merged = measure_kernels(model, block, "all").kernels
    assert (branch.variant, branch.branches, merged.variant) == ("m.c", ("m.c",), "merged")
    assert branch.batch_norm == merged.batch_norm == (f"{block}.m.bn",)
    conv, norm = model.get_submodule(f"{block}.m.c"), model.get_submodule(f"{block}.m.bn")
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = (conv.weight.double() * scale[:, None, None, None]).detach()
    np.testing.assert_allclose(branch.magnitude, weight.abs().sum((0, 1)).numpy(), rtol=1e-12)
    weight[:, :, 1, 1] += 1
    np.testing.assert_allclose(merged.magnitude, weight.abs().sum((0, 1)).numpy(), rtol=1e-12)
    assert "such as identities" in " ".join(merged.notes)
    (alone,) = measure_kernels(model, f"{block}.m.c").kernels
    assert (alone.variant, alone.layer) == ("m.c", f"{block}.m.c") and "is the m.c branch of" in alone.notes[0]
    with pytest.raises(InvalidInputError, match="has no small kernel"):
        measure_kernels(model, block, "small")


@pytest.mark.parametrize(
    ("name", "convolutions", "dtype"),
    [
        ("repvgg", 4, torch.float64),
        ("overlock", 12, torch.float32),
        ("dilated_of_any_type", 12, torch.float64),
        ("repnext", 10, torch.float64),
    ],
)
def test_networks_in_the_manner_of_other_authors(
    name: str, convolutions: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = of_others(name)
    before = state_of(model)
    own = merge_by_own_methods(model)
    assert_same(model, before)
    assert own.blocks == own.layers == ("blocks.0", "blocks.1") and own.convolutions == convolutions
    assert own.difference is not None and own.dtype == dtype
    if dtype == torch.float32:
        assert 1e-9 < own.difference.relative < 1e-6
        assert own.note.startswith("The network's own methods merge branches in float32: the outputs differ by")
    else:
        assert own.difference.relative < 1e-13 and own.note == ""
    torch.save(before, tmp_path / "trained.pth")
    out = tmp_path / "merged.safetensors"
    model_name = f"{NETWORKS}:{name}"
    report = reparam_checkpoint(tmp_path / "trained.pth", out, model_name)
    assert report.unmerged == own.note and (report.layers, report.own_methods) == (2, 2)
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        expected, found = model(x), create_model(model_name, str(out))(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    # A merged file has the kernels of the network in training form.
    for merged, parallel in zip(
        measure_kernels(model_name, ["blocks.0", "blocks.1"], weights=str(out)).kernels,
        measure_kernels(model_name, ["blocks.0", "blocks.1"], weights=str(tmp_path / "trained.pth")).kernels,
        strict=True,
    ):
        np.testing.assert_allclose(merged.magnitude, parallel.magnitude, rtol=1e-5)


def test_convolutions_in_series_that_a_method_merges() -> None:
    model = of_others("repnext")
    *branches, merged = measure_kernels(model, "blocks.0", "all").kernels
    assert [kernel.variant for kernel in branches] == ["branch large", "wide", "tall", "row", "column"]
    fused: Any = model.double().get_submodule("blocks.0")
    weight = fused.fuse().weight.detach()
    np.testing.assert_allclose(merged.magnitude, weight.abs().sum((0, 1)).numpy(), rtol=1e-6)
    assert merged.kernel_size == (7, 7) and merged.batch_norm == ()


class Block(nn.Module):
    """A large and a small convolution, which the subclasses merge."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = (nn.Conv2d(4, 4, size, padding=size // 2, groups=4) for size in (7, 3))
        self.more: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if self.small is None else self.large(x) + self.small(x)

    def merge(self, factor: float = 1.0) -> None:
        if self.small is not None:
            self.large.weight.data += factor * nn.functional.pad(self.small.weight, [2] * 4)
            self.large.bias.data += self.small.bias.data
            self.small = None


class Exact(Block):
    def merge_kernel(self) -> None:
        self.merge()


class Wrong(Block):
    def merge_kernel(self) -> None:
        self.merge(1.001)


class Raising(Block):
    def fuse(self) -> None:
        self.small = None
        raise KeyError("no such branch")


class Unchanging(Block):
    def fuse(self) -> Block:
        return self


class Another(Block):
    def fuse(self) -> nn.Module:
        merged = copy.deepcopy(self)
        merged.merge()
        return merged.large


class Demanding(Block):
    """Its method takes arguments, and is for something else."""

    def fuse(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class Returning(Block):
    """Its method only computes."""

    def merge_kernel(self) -> tuple[Tensor, Tensor]:
        return self.large.weight, self.small.weight


class OfClass(Block):
    """Its method changes the class, so that other networks no longer work."""

    is_deployed: ClassVar[bool] = False

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if self.is_deployed else self.large(x) + self.small(x)

    def switch_to_deploy(self) -> None:
        self.merge()
        type(self).is_deployed = True


class Closure(Block):
    """A function refers to the module of which the network is a copy."""

    def __init__(self) -> None:
        super().__init__()

        def merge() -> None:
            self.small = None

        self.function = merge
        self.register_forward_hook(lambda module, args, output: output)

    def switch_to_deploy(self) -> None:
        self.function()
        self.merge()


class InFloat32(Block):
    def merge_kernel(self) -> None:
        self.large.weight.data = self.large.weight.float()
        self.small.weight.data = self.small.weight.float()
        self.merge()


class Holder(nn.Module):
    """A child has the name of a method."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(x)


def net(*blocks: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *blocks, nn.Flatten(), nn.LazyLinear(2))
    with torch.no_grad():
        model(torch.zeros(1, 3, 96, 96))
    return model.eval()


CASES: list[tuple[Callable[[], nn.Module], int, str]] = [
    (Exact, 1, ""),
    (Another, 1, ""),
    (Closure, 1, ""),
    (Unchanging, 0, ""),
    (Demanding, 0, ""),
    (Returning, 0, ""),
    (Holder, 0, ""),
    (InFloat32, 1, "merge branches in float32: the outputs differ by"),
    (Wrong, 0, "would differ by "),
    (OfClass, 0, "the merged copy raises 'NoneType' object is not callable"),
    (Raising, 0, "fuse of 1 raised KeyError: 'no such branch'."),
]


@pytest.mark.parametrize(("kind", "count", "note"), CASES)
def test_methods_of_all_kinds(kind: Callable[[], nn.Module], count: int, note: str) -> None:
    model = net(kind())
    before, x = state_of(model), torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = model(x)
        own = merge_by_own_methods(model)
        assert_same(model, before)
        assert torch.equal(model(x), expected)
    assert len(own.blocks if own.network else ()) == count and note in own.note and bool(note) == bool(own.note)
    assert OfClass.is_deployed is False
    # Following the forward pass merges what the methods leave.
    prepared = prepare(model)
    is_left = bool(own.reason)
    assert ("branches not merged by the network's own methods" in prepared.left_out) == is_left
    with torch.no_grad():
        torch.testing.assert_close(prepared.module(x), expected, rtol=1e-4, atol=1e-5)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in prepared.module.modules())
    assert convolutions == 2


def test_the_note_states_the_difference() -> None:
    model = net(Wrong())
    own = merge_by_own_methods(model)
    assert own.network is None and own.difference is not None and 1e-6 < own.difference.relative < 1e-2
    assert f"{own.difference.relative:.1e} of the largest" in own.note and "methods were not used" in own.note
    left_out = prepare(model).left_out
    assert f"differ by {own.difference.relative:.1e}" in left_out


class Skipping(Block):
    """An identity, which the method adds wrongly, so that following the forward pass finds one convolution only."""

    def __init__(self) -> None:
        super().__init__()
        self.small = None

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if self.more else self.large(x) + x

    def fuse(self) -> None:
        self.large.weight.data[:, :, 2, 3] += 1
        self.more = nn.Identity()


def test_results_contain_the_difference() -> None:
    model = net(Skipping())
    images = torch.randn(1, 3, 96, 96)
    relative = f"{merge_by_own_methods(model).difference.relative:.1e}"  # type: ignore[union-attr]
    (kernel,) = measure_kernels(model).kernels
    assert any(f"would differ by {relative} of the largest" in note for note in kernel.notes)
    weight = model.get_submodule("1.large").weight.detach().double()
    np.testing.assert_array_equal(kernel.magnitude, weight.abs().sum((0, 1)).numpy())  # type: ignore[operator]
    result = measure_erf(model, images, layer="1")
    assert f"would differ by {relative} of the largest" in str(result.run.to_json())


class Root(Exact):
    """The network itself has the method."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 3, 7, padding=3, groups=3), nn.Conv2d(3, 3, 3, padding=1, groups=3)


def test_the_networks_own_method_is_called_if_its_modules_have_none() -> None:
    own = merge_by_own_methods(Root().eval())
    assert own.network is not None and own.blocks == ("",) and own.layers == ()
    assert sum(isinstance(layer, nn.Conv2d) for layer in own.network.modules()) == 1
    (kernel,) = measure_kernels(Root().eval()).kernels
    assert kernel.kernel_size == (7, 7)


def test_a_module_that_is_used_twice_is_merged_once() -> None:
    block = Another()
    model = net(block, nn.Tanh(), block)
    own = merge_by_own_methods(model)
    assert own.blocks == ("1",) and own.network is not None
    assert own.network.get_submodule("1") is own.network.get_submodule("3")


def test_nothing_is_merged_across_the_layer_that_is_measured() -> None:
    model = net(Exact(), Another())
    for layer, kept in (("1.large", 3), ("2.small", 3), ("1", 2), (None, 2)):
        prepared = prepare(model, layer=layer)
        convolutions = sum(isinstance(conv, nn.Conv2d) for conv in prepared.module.modules())
        assert (prepared.left_out, convolutions) == ("", kept + 1), layer
        assert layer is None or prepared.module.get_submodule(layer) is not None


class OnGpu(Exact):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("needs a GPU")


def test_a_network_that_cannot_be_run_is_left_as_it_is() -> None:
    own = merge_by_own_methods(nn.Sequential(nn.Conv2d(3, 4, 1), OnGpu()))
    assert own.network is None and "cannot be verified, because the network raises needs a GPU" in own.note


def test_weights_are_those_of_the_original_type() -> None:
    model = net(Another()).half()
    merged = prepare(model)
    assert {parameter.dtype for parameter in merged.module.parameters()} == {torch.float16}


def test_networks_without_methods_and_those_of_this_package() -> None:
    replknet = create_model("replknet_micro_k13")
    assert not any(map(merge_method, replknet.modules()))
    for model in (replknet, timm.create_model("resnet18"), meta_copy_of(net(Exact()))):
        own = merge_by_own_methods(model)
        assert vars(own) == vars(OwnMerging())


def test_a_file_is_loaded_if_the_methods_need_values(tmp_path: Path) -> None:
    """A network by name is built on the meta device, where these methods cannot compute anything."""
    name = f"{NETWORKS}:repvgg"
    torch.save(of_others("repvgg").state_dict(), tmp_path / "trained.pth")
    out = tmp_path / "merged.safetensors"
    reparam_checkpoint(tmp_path / "trained.pth", out, name)
    empty = meta_copy_of(of_others("repvgg"))
    assert load_checkpoint(empty, out).form == "merged"
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = of_others("repvgg")(x)
        torch.testing.assert_close(empty(x), expected, rtol=1e-4, atol=1e-5)
