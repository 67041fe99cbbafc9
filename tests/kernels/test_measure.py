"""Kernels of networks: folding, merging and aggregation, and the tensors of a file that are read."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

import replk_probe
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.kernels import KernelResult, measure_kernels
from replk_probe.models import create_model
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.architectures.slak import SLaK
from replk_probe.models.layers.large_kernel import LargeKernelConv
from replk_probe.ops import DepthwiseConv2d

MICRO = "replknet_micro_k13_rep"


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms as after some training, so that folding one in changes the kernel, some channels by their sign."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, -1, 2), (module.running_var, 0.1, 3), (module.bias, -1, 1)):
                tensor.data = low + (high - low) * torch.rand(tensor.shape, generator=generator)
    return model.eval()


def small(**options: object) -> RepLKNet:
    config = {"kernel_sizes": (13, 7), "layers": (1, 2), "channels": (8, 16), "small_kernel": 5} | options
    torch.manual_seed(0)
    return with_statistics(RepLKNet(**config))


def scale_of(norm: nn.Module) -> torch.Tensor:
    return (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()).detach()


def test_merged_large_and_small_with_known_values() -> None:
    model = small()
    block = model.stages[1].blocks[0].large_kernel
    large = block.large_conv.conv.weight.detach().double()[:, 0] * scale_of(block.large_conv.bn)[:, None, None]
    little = block.small_conv.conv.weight.detach().double()[:, 0] * scale_of(block.small_conv.bn)[:, None, None]
    both = large.clone()
    both[:, 1:6, 1:6] += little
    result = measure_kernels(model, "stage2.0", "all")
    assert [kernel.variant for kernel in result.kernels] == ["large", "small", "merged"]
    for kernel, weight in zip(result.kernels, (large, little, both), strict=True):
        assert kernel.magnitude.dtype == np.float64
        np.testing.assert_allclose(kernel.magnitude, weight.abs().sum(0).numpy(), rtol=1e-14)
        assert kernel.layer == "stage2.0" and kernel.path == "stages.1.blocks.0.large_kernel"
        assert (kernel.channels, kernel.operation, kernel.zero_fraction) == (16, "depthwise", 0.0)
        share = little.abs().sum() / (little.abs().sum() + large.abs().sum())
        assert kernel.small_branch_share == pytest.approx(float(share), rel=1e-14)
    # Not the sum of the two magnitudes: branches of opposite sign cancel.
    assert both.abs().sum() < 0.999 * (large.abs().sum() + little.abs().sum())
    assert result.kernels[2].batch_norm == (
        "stages.1.blocks.0.large_kernel.large_conv.bn",
        "stages.1.blocks.0.large_kernel.small_conv.bn",
    )
    for variant in ("merged", "large", "small"):
        (alone,) = measure_kernels(model, "stage2.0", variant).kernels
        np.testing.assert_array_equal(alone.magnitude, result.kernel("stage2.0", variant).magnitude)


def test_merged_is_what_the_merged_network_convolves_with() -> None:
    model = small().double()
    before = measure_kernels(model, "all")
    merged = copy.deepcopy(model).reparameterize()
    after = measure_kernels(merged, "all")
    assert [kernel.layer for kernel in before.kernels] == ["stage1.0", "stage2.0", "stage2.1"]
    for first, second in zip(before.kernels, after.kernels, strict=True):
        np.testing.assert_allclose(first.magnitude, second.magnitude, rtol=1e-14)
        assert first.small_branch_share is not None and second.small_branch_share is None
    assert after.notes and "cannot be separated" in after.notes[0]


def test_a_mean_is_the_sum_over_the_channels() -> None:
    model = small()
    (total,) = measure_kernels(model, "stage1.0").kernels
    (mean,) = measure_kernels(model, "stage1.0", aggregate="mean").kernels
    np.testing.assert_allclose(mean.magnitude * 8, total.magnitude, rtol=1e-14)
    assert mean.center3x3_share == pytest.approx(total.center3x3_share, rel=1e-13)


def test_the_strongest_channels() -> None:
    model = small()
    conv = model.stages[0].blocks[0].large_kernel.large_conv
    conv.conv.weight.data[5] *= 100
    conv.conv.weight.data[2] *= 50
    (kernel,) = measure_kernels(model, "stage1.0", "large", strongest=3).kernels
    assert kernel.strongest.shape == (3, 13, 13) and kernel.strongest_channels[:2] == ((5,), (2,))
    wanted = conv.conv.weight.detach().double()[5, 0] * scale_of(conv.bn)[5]
    np.testing.assert_allclose(kernel.strongest[0], wanted.numpy(), rtol=1e-14)
    assert (kernel.strongest < 0).any()
    masses = np.abs(kernel.strongest).sum((1, 2))
    assert (np.diff(masses) <= 0).all()
    assert measure_kernels(model, "stage1.0", strongest=0).kernels[0].strongest.shape == (0, 13, 13)
    assert len(measure_kernels(model, "stage1.0", strongest=99).kernels[0].strongest) == 8


def test_slaks_strips_and_their_sum() -> None:
    torch.manual_seed(0)
    model = with_statistics(SLaK((17, 9), (1, 1), (8, 16), width_factor=1.0))
    block = model.stages[0][0].large_kernel
    column = block.column_conv.conv.weight.detach().double()[:, 0] * scale_of(block.column_conv.bn)[:, None, None]
    row = block.row_conv.conv.weight.detach().double()[:, 0] * scale_of(block.row_conv.bn)[:, None, None]
    both = torch.zeros(8, 17, 17, dtype=torch.float64)
    both[:, :, 6:11] += column
    both[:, 6:11] += row
    result = measure_kernels(model, "stage1.0", "all")
    sizes = {kernel.variant: kernel.kernel_size for kernel in result.kernels}
    assert sizes == {"column": (17, 5), "row": (5, 17), "large": (17, 17), "small": (5, 5), "merged": (17, 17)}
    np.testing.assert_allclose(result.kernel("stage1.0", "large").magnitude, both.abs().sum(0).numpy(), rtol=1e-14)
    np.testing.assert_allclose(result.kernel("stage1.0", "row").magnitude, row.abs().sum(0).numpy(), rtol=1e-14)
    # Outside of the two strips there is nothing: that is structure, no sparsity.
    assert (result.kernel("stage1.0", "merged").magnitude == 0).sum() == 12 * 12
    assert result.kernel("stage1.0", "merged").zero_fraction == 0.0


def test_slaks_sparsity() -> None:
    model = SLaK(kernel_sizes=(51, 49, 47, 13), depths=(1, 1, 2, 1), dims=(24, 32, 48, 64))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "large_kernel" in name and name.endswith("conv.weight"):
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.data.view(-1)[order[: round(0.4 * parameter.numel())]] = 0.0
    result = measure_kernels(model, "all", "all")
    assert len(result.kernels) == 5 * 5
    for kernel in result.kernels:
        assert kernel.zero_fraction == pytest.approx(0.4, abs=1e-3), (kernel.layer, kernel.variant)


def test_a_model_trained_without_the_small_branch() -> None:
    model = small(small_kernel=None)
    (kernel,) = measure_kernels(model, "stage1.0", "all").kernels
    assert kernel.variant == "merged" and kernel.small_branch_share is None
    (large,) = measure_kernels(model, "stage1.0", "large").kernels
    np.testing.assert_array_equal(large.magnitude, kernel.magnitude)
    with pytest.raises(InvalidInputError, match=r"stage1\.0 has no small branch"):
        measure_kernels(model, "stage1.0", "small")


def test_what_a_merged_network_cannot_know() -> None:
    model = small().reparameterize()
    for variant in ("small", "large"):
        with pytest.raises(InvalidInputError, match=rf"The {variant} kernel of stage1\.0 is unknown"):
            measure_kernels(model, "stage1.0", variant)
    (merged,) = measure_kernels(model, "stage1.0", "all").kernels
    assert merged.variant == "merged" and not any("strips" in note for note in merged.notes)
    strips = SLaK((17, 9), (1, 1), (8, 16), width_factor=1.0).reparameterize()
    assert any("corners around the strips" in note for note in measure_kernels(strips, "stage1.0").notes)


def test_mobilenet_with_and_without_a_branch() -> None:
    for name, variants in (("mobilenetv2_k13_rep", ["large", "small", "merged"]), ("mobilenetv2_k13", ["merged"])):
        model = with_statistics(create_model(name))
        kernels = measure_kernels(model, "paper", "all").kernels
        assert [kernel.variant for kernel in kernels] == variants
        assert {kernel.layer for kernel in kernels} == {"stage6.1"}
        assert {(kernel.path, kernel.channels) for kernel in kernels} == {("features.15.conv.1.0", 960)}
        merged = model.reparameterize().features[15].conv[1][0]
        conv = merged.reparam_conv if isinstance(merged, LargeKernelConv) else merged
        wanted = conv.weight.detach().double().abs().sum((0, 1)).numpy()
        # The network's own merged weight is rounded to float32.
        np.testing.assert_allclose(kernels[-1].magnitude, wanted, rtol=960 * 2**-24)


def test_norms_are_folded_in_any_network() -> None:
    model = with_statistics(timm.create_model("efficientnet_b0"))
    (kernel,) = measure_kernels(model, "blocks.1.0").kernels
    conv, norm = model.blocks[1][0].conv_dw, model.blocks[1][0].bn2
    wanted = (conv.weight.detach().double()[:, 0] * scale_of(norm)[:, None, None]).abs().sum(0)
    np.testing.assert_allclose(kernel.magnitude, wanted.numpy(), rtol=1e-14)
    assert kernel.batch_norm == ("blocks.1.0.bn2",)
    (plain,) = measure_kernels(timm.create_model("convnext_atto"), "stage4.0").kernels
    assert plain.batch_norm == () and "not directly followed by a batch norm" in plain.notes[0]


def test_a_network_whose_norms_cannot_be_found_is_noted() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, groups=4)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    model = with_statistics(Branching())
    (kernel,) = measure_kernels(model, "all").kernels
    assert kernel.batch_norm == () and "cannot be traced" in kernel.notes[0]
    np.testing.assert_allclose(kernel.magnitude, model.conv.weight.detach().double().abs().sum((0, 1)).numpy())


def test_dense_convolutions_are_aggregated_over_both_channel_axes_with_a_note() -> None:
    model = with_statistics(timm.create_model("resnet18", channels=(8, 16, 24, 32)))
    result = measure_kernels(model, "layer2.0.conv2")
    (kernel,) = result.kernels
    weight = model.layer2[0].conv2.weight.detach().double() * scale_of(model.layer2[0].bn2)[:, None, None, None]
    np.testing.assert_allclose(kernel.magnitude, weight.abs().sum((0, 1)).numpy(), rtol=1e-13)
    assert kernel.operation == "dense" and kernel.channels == 16
    assert kernel.to_json()["aggregated_over"] == "output and input channels"
    assert "layer2.0.conv2 is a dense convolution: aggregated over output and input channels." in result.notes
    best = weight.abs().sum((2, 3))
    assert kernel.strongest_channels[0] == divmod(int(best.argmax()), 16)


def test_grouped_dilated_even_and_unusual_convolutions() -> None:
    class Doubled(nn.Conv2d):
        """A kind of its own."""

    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(8, 16, 3, groups=8, dilation=2),
        nn.Conv2d(16, 16, (2, 4), groups=16),
        Doubled(16, 16, 3, groups=16),
        DepthwiseConv2d.from_conv(nn.Conv2d(16, 16, 3, padding=1, groups=16), "relu"),
        nn.BatchNorm2d(16),
    )
    result = measure_kernels(model, ["all", "0"])
    assert [(kernel.layer, kernel.operation) for kernel in result.kernels] == [
        ("1", "depthwise"), ("2", "depthwise"), ("3", "depthwise"), ("4", "depthwise"), ("0", "grouped"),
    ]  # fmt: skip
    assert result.kernels[1].kernel_size == (2, 4)
    assert result.kernels[3].batch_norm == ()  # there is a ReLU in between
    text = " ".join(result.notes)
    assert "1 is dilated by 2" in text and "Doubled may transform its weights" in text and "0 is a grouped" in text
    assert "2 has an even side" in text and text.count("even side") == 1


def test_channels_of_a_grouped_convolution_are_those_of_the_network() -> None:
    conv = nn.Conv2d(8, 16, 3, groups=4)
    nn.init.zeros_(conv.weight)
    conv.weight.data[6, 1] = 1.0  # the second group: outputs 4 to 7 read inputs 2 and 3
    conv.weight.data[8, 0] = 0.5
    (kernel,) = measure_kernels(nn.Sequential(conv), "0").kernels
    assert kernel.strongest_channels[:2] == ((6, 3), (8, 4))


def repvit() -> nn.Module:
    return timm.create_model("repvit_m0_9", embed_dim=(16, 16, 24, 24), depth=(1, 1, 1, 1))


def mobileone() -> nn.Module:
    return create_model(f"{Path(__file__).parents[1] / 'models' / 'small_timm_networks.py'}:mobileone")


@pytest.mark.parametrize(("build", "block"), [(mobileone, "stages.0.0"), (repvit, "stages.0.blocks.0.token_mixer")])
def test_branches_that_another_package_merges_are_added(build: Callable[[], nn.Module], block: str) -> None:
    model = with_statistics(build().double())
    (kernel,) = measure_kernels(model, block).kernels
    assert (kernel.layer, kernel.variant) == (block, "merged") and len(kernel.branches) > 2 and not kernel.notes
    (merged,) = measure_kernels(timm.utils.reparameterize_model(model), block).kernels
    assert merged.branches == ("large",)
    np.testing.assert_allclose(kernel.magnitude, merged.magnitude, rtol=1e-6)  # timm's result is rounded to float32


def test_one_branch_is_never_called_merged() -> None:
    model = repvit()
    block = "stages.0.blocks.0.token_mixer"
    variants = measure_kernels(model, block, "all").kernels
    assert [kernel.variant for kernel in variants] == ["conv1", "input", "large", "small", "merged"]
    assert [kernel.kernel_size for kernel in variants] == [(1, 1), (1, 1), (3, 3), (1, 1), (3, 3)]
    first, second, _, both, _ = (float(kernel.magnitude.sum()) for kernel in variants)
    assert abs(first - second) <= both <= first + second  # the small kernel is the sum of the two small branches
    (alone,) = measure_kernels(model, f"{block}.conv").kernels
    assert (alone.variant, alone.branches) == ("conv", ("conv",))
    assert f"is the conv branch of {block}" in alone.notes[0]


class Gated(nn.Module):
    """Two convolutions of one input that are added and differ in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(x) + self.narrow(x)


def test_branches_that_are_not_one_convolution_say_so() -> None:
    (kernel,) = measure_kernels(nn.Sequential(Gated())).kernels
    assert kernel.branches == ("one of several",) and kernel.layer == "0.wide"
    assert any("they are not one convolution: their groups differ (4, 1)." in note for note in kernel.notes)


class OwnConvolution(nn.Module):
    """A convolution of its own type, which computes by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, 5, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight, padding=(2, 3), groups=4)


class Deformed(nn.Module):
    """A deformable convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(4, 18, 1)
        self.conv = torchvision.ops.DeformConv2d(4, 4, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x, self.offsets(x)))


def test_convolutions_of_other_types_are_found_by_the_shape_of_their_weights() -> None:
    model = with_statistics(nn.Sequential(OwnConvolution(), nn.BatchNorm2d(4), Deformed(), nn.LayerNorm((4, 8, 8))))
    (own,) = measure_kernels(model).kernels
    assert (own.layer, own.kernel_size, own.operation, own.batch_norm) == ("0", (5, 7), "depthwise", ("1",))
    wanted = (model[0].weight.detach().double()[:, 0] * scale_of(model[1])[:, None, None]).abs().sum(0)
    np.testing.assert_allclose(own.magnitude, wanted.numpy(), rtol=1e-14)
    (deformed,) = measure_kernels(model, "2").kernels
    assert (deformed.layer, deformed.operation, deformed.batch_norm) == ("2.conv", "grouped", ("2.norm",))
    assert any("DeformConv2d may transform its weights" in note for note in deformed.notes)


def test_a_network_that_can_merge_is_no_block_of_branches() -> None:
    inside = measure_kernels(nn.Sequential(small()), "0.stem").kernels
    assert inside and all(kernel.branches == ("large",) for kernel in inside)


def test_the_callers_model_stays_as_it_is() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_kernels(model, "all", "all")
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_half_precision_weights_are_fused_in_float64() -> None:
    model = small().to(torch.bfloat16)
    (kernel,) = measure_kernels(model, "stage1.0").kernels
    (wide,) = measure_kernels(copy.deepcopy(model).double(), "stage1.0").kernels
    np.testing.assert_allclose(kernel.magnitude, wide.magnitude, rtol=1e-14)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small RepLKNet with names of the authors, as trained and merged, and without the last stage."""
    folder = tmp_path_factory.mktemp("weights")
    model = with_statistics(create_model(MICRO))
    names = {"large_conv": "lkb_origin", "reparam_conv": "lkb_reparam"}

    def official(network: nn.Module) -> dict[str, torch.Tensor]:
        pattern = re.compile(r"(?<=\.large_kernel\.)(large_conv|reparam_conv)")
        return {pattern.sub(lambda found: names[found[1]], key): value for key, value in network.state_dict().items()}

    found = {name: folder / f"{name}.pth" for name in ("trained", "merged", "short")}
    state = official(model)
    torch.save({"model": state}, found["trained"])
    torch.save({key: value for key, value in state.items() if not key.startswith("stages.3.")}, found["short"])
    torch.save(official(model.reparameterize()), found["merged"])
    return found


def test_a_checkpoint_and_the_network_loaded_from_it_agree(files: dict[str, Path]) -> None:
    by_file = measure_kernels(MICRO, "stage[34].*", "all", weights=str(files["trained"]))
    by_model = measure_kernels(create_model(MICRO, files["trained"]), "stage[34].*", "all")
    assert len(by_file.kernels) == 2 * 3 and by_file.run.weights == by_model.run.weights
    assert by_file.run.weights.form == "train" and len(by_file.run.weights.sha256 or "") == 64
    for first, second in zip(by_file.kernels, by_model.kernels, strict=True):
        np.testing.assert_array_equal(first.magnitude, second.magnitude)
        assert first.to_json() == second.to_json()


def test_a_merged_checkpoint(files: dict[str, Path]) -> None:
    merged = measure_kernels(MICRO, "all", weights=str(files["merged"]))
    trained = measure_kernels(MICRO, "all", weights=str(files["trained"]))
    for first, second in zip(merged.kernels, trained.kernels, strict=True):
        np.testing.assert_allclose(first.magnitude, second.magnitude, rtol=1e-6)  # rounded to float32 in the file
    with pytest.raises(InvalidInputError, match="is unknown"):
        measure_kernels(MICRO, "stage4.0", "small", weights=str(files["merged"]))


def test_a_checkpoint_without_the_layer(files: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match=r"missing keys \(stages\.3\.blocks\.0\.large_kernel\."):
        measure_kernels(MICRO, "stage4.0", weights=str(files["short"]))


def test_random_weights_depend_on_the_seed() -> None:
    first, second, other = (measure_kernels(MICRO, "stage4.0", weights="random", seed=s) for s in (0, 0, 1))
    assert first.run.weights.is_random and first.run.weights.seed == 0
    np.testing.assert_array_equal(first.kernels[0].magnitude, second.kernels[0].magnitude)
    assert not np.array_equal(first.kernels[0].magnitude, other.kernels[0].magnitude)


def test_names_of_models() -> None:
    model = small()
    assert measure_kernels(model, "all").run.model == "RepLKNet"
    assert measure_kernels(model, "all", name="mine").run.model == "mine"
    assert measure_kernels(model, "all").run.weights.source == "user-module"
    assert replk_probe.measure_kernels is measure_kernels and replk_probe.KernelResult is KernelResult


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "both"}, "Unknown variant 'both'"),
        ({"aggregate": "max"}, "Unknown aggregate 'max'"),
        ({"layer": []}, "Layers cannot be given as []"),
        ({"layer": [3]}, "Layers cannot be given as [3]"),
        ({"layer": None}, "Layers cannot be given as None"),
        ({"strongest": 2.5}, "The number of strongest channels cannot be 2.5"),
        ({"layer": ""}, "Layers cannot be given as ''"),
        ({"strongest": -1}, "The number of strongest channels cannot be -1"),
        ({"layer": "stage9.0"}, "It has stages 1 to 2"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        measure_kernels(small(), **arguments)
    assert message in str(caught.value)


def test_a_layer_given_as_a_module_is_recorded_by_its_path() -> None:
    model = timm.create_model("resnet18", channels=(8, 16, 24, 32))
    by_module = measure_kernels(model, model.layer4[0].conv1)
    by_path = measure_kernels(model, "layer4.0.conv1")
    np.testing.assert_array_equal(by_module.kernels[0].magnitude, by_path.kernels[0].magnitude)
    assert by_module.run.layers == by_path.run.layers == ("layer4.0.conv1",)
    assert len(measure_kernels(model, [model.layer4, model.conv1]).kernels) == 5
    with pytest.raises(InvalidInputError, match="not part of ResNet"):
        measure_kernels("test_resnet", model.conv1, weights="random")


def test_a_norm_that_starts_at_zero_leaves_no_mass() -> None:
    model = small()
    for branch in (
        model.stages[0].blocks[0].large_kernel.large_conv,
        model.stages[0].blocks[0].large_kernel.small_conv,
    ):
        torch.nn.init.zeros_(branch.bn.weight)
    (empty,) = measure_kernels(model, "stage1.0").kernels
    assert not empty.magnitude.any() and math.isnan(empty.center3x3_share)
    assert "stage1.0 has no mass: every weight is zero after folding batch norms." in empty.notes
    assert not any("no mass" in note for note in measure_kernels(small(), "stage1.0").notes)


def test_models_that_cannot_be_used() -> None:
    model = small()
    variances = model.stages[0].blocks[0].large_kernel.large_conv.bn.running_var
    name = r"stages\.0\.blocks\.0\.large_kernel\.large_conv\.bn\.running_var"
    for value, defect in ((float("nan"), "values that are not finite"), (-1e-9, "negative variances")):
        variances.data[0] = value
        with pytest.raises(InvalidInputError, match=rf"{name} has {defect}"):
            measure_kernels(model, "stage1.0")
        measure_kernels(model, "stage2.0")
    model = small()
    block = model.stages[0].blocks[0].large_kernel.large_conv
    block.double()
    block.conv.weight.data[0] = block.bn.weight.data[0] = 1e300
    with pytest.raises(InvalidInputError, match=r"stage1\.0, with batch norms folded in, are not all finite"):
        measure_kernels(model, "stage1.0")
    with torch.device("meta"):
        empty = RepLKNet(kernel_sizes=(7,), layers=(1,), channels=(8,))
    with pytest.raises(InvalidInputError, match="meta device"):
        measure_kernels(empty)
    with pytest.raises(InvalidInputError, match="object of type int"):
        measure_kernels(3)


def test_complex_weights_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, dtype=torch.complex64))
    with pytest.raises(InvalidInputError, match="The weights of 0 are complex"):
        measure_kernels(model)


def test_a_branch_named_by_its_path_is_called_that() -> None:
    model = small()
    (kernel,) = measure_kernels(model, "stages.0.blocks.0.large_kernel.small_conv").kernels
    (whole,) = measure_kernels(model, "stage1.0", "small").kernels
    assert (kernel.variant, kernel.branches) == ("small", ("small",)) and kernel.kernel_size == (5, 5)
    assert "is the small branch of stage1.0" in kernel.notes[0]
    np.testing.assert_array_equal(kernel.magnitude, whole.magnitude)
    with pytest.raises(InvalidInputError, match=r"Use layer 'stage1\.0' and variant 'large'"):
        measure_kernels(model, "stages.0.blocks.0.large_kernel.small_conv", "large")


@pytest.mark.parametrize("conv", [nn.Conv1d(4, 4, 7, groups=4), nn.Conv3d(4, 4, 3), nn.ConvTranspose2d(4, 4, 7)])
def test_other_convolutions_are_named_as_what_they_are(conv: nn.Module) -> None:
    with pytest.raises(InvalidInputError, match="only kernels of two-dimensional convolutions can be measured"):
        measure_kernels(nn.Sequential(conv), "0")
    with pytest.raises(InvalidInputError, match=r"without a convolution larger than 1 x 1"):
        measure_kernels(small(), "stages.0.blocks.0.pw1")


def test_weights_that_a_hook_makes_are_noted_and_can_be_loaded(tmp_path: Path) -> None:
    def pruned() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
        prune.random_unstructured(model[0], "weight", 0.5)
        return model

    saved = pruned()
    torch.save(saved.state_dict(), tmp_path / "pruned.pth")
    model = pruned()
    replk_probe.load_checkpoint(model, tmp_path / "pruned.pth")
    assert any("recomputed by a hook" in note for note in measure_kernels(model).kernels[0].notes)
    model(torch.zeros(1, 4, 8, 8))
    np.testing.assert_array_equal(
        measure_kernels(model).kernels[0].magnitude, saved[0].weight.detach().double().abs().sum((0, 1)).numpy()
    )
