"""Which layers a user means."""

from __future__ import annotations

from functools import cache

import pytest
import timm
import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.kernels import find_layers
from replk_probe.models import create_model


@cache
def skeleton(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name) if name.startswith("torchvision:") else timm.create_model(name)


@pytest.fixture(scope="module")
def replknet() -> nn.Module:
    return skeleton("replknet31b")


def names(model: nn.Module, *specs: str | nn.Module) -> list[str]:
    return [layer.name for layer in find_layers(model, specs)]


def paths(model: nn.Module, *specs: str | nn.Module) -> list[str]:
    return [layer.path for layer in find_layers(model, specs)]


def test_all_are_the_large_kernels_of_a_family(replknet: nn.Module) -> None:
    assert names(replknet, "all") == [
        f"stage{stage}.{block}" for stage, count in enumerate((2, 2, 18, 2), 1) for block in range(count)
    ]
    assert paths(replknet, "all")[-2:] == ["stages.3.blocks.0.large_kernel", "stages.3.blocks.2.large_kernel"]


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        (["stage4.0"], ["stage4.0"]),
        (["stage4"], ["stage4.0", "stage4.1"]),
        (["stage?.0"], ["stage1.0", "stage2.0", "stage3.0", "stage4.0"]),
        (["stages.3.*"], ["stage4.0", "stage4.1"]),
        (["stages.[01]"], ["stage1.0", "stage1.1", "stage2.0", "stage2.1"]),
        (["stages.3.blocks.2.large_kernel"], ["stage4.1"]),
        (["stages.3.blocks.2"], ["stage4.1"]),
        (["stage4.1", "stage1.0", "stage4"], ["stage4.1", "stage1.0", "stage4.0"]),
        (["paper"], ["stage4.0"]),
        (["stem"], ["stem.1.conv", "stem.3.conv"]),  # depthwise ones, where there are some
        (["stem.0"], ["stem.0.conv"]),
        (["stages.3.blocks.0.large_kernel.small_conv"], ["stages.3.blocks.0.large_kernel.small_conv.conv"]),
        ([" stage4.0 "], ["stage4.0"]),
        (["*.1"], ["stage1.1", "stage2.1", "stage3.1", "stage4.1"]),  # names before paths
        (["stem.*"], ["stem.1.conv", "stem.3.conv"]),
    ],
)
def test_ways_to_name_a_layer(replknet: nn.Module, specs: list[str], found: list[str]) -> None:
    assert names(replknet, *specs) == found


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("mobilenetv2_k13_rep", "features.15.conv.1.0"),
        ("mobilenetv2_k13", "features.15.conv.1.0"),
        ("mobilenetv2_k3", "features.15.conv.1.0"),
        ("torchvision:mobilenet_v2", "features.15.conv.1.0"),
        ("mobilenetv2_100", "blocks.5.1.conv_dw"),
        ("convnext_tiny", "stages.3.blocks.0.conv_dw"),
        ("slak_tiny", "stages.3.0.large_kernel"),
    ],
)
def test_the_layer_of_the_paper(name: str, path: str) -> None:
    assert paths(skeleton(name), "paper") == [path]


def test_elsewhere_all_are_the_depthwise_convolutions_by_their_paths() -> None:
    model = skeleton("mobilenetv2_100")
    found = find_layers(model, ["all"])
    assert len(found) == 17 and all(layer.name == layer.path for layer in found)
    assert all(isinstance(layer.module, nn.Conv2d) and layer.module.groups > 1 for layer in found)
    assert names(model, "stage6.1") == ["blocks.5.1.conv_dw"]
    convnext = skeleton("convnext_tiny")
    assert len(names(convnext, "all")) == len(names(convnext, "*")) == 18
    assert names(convnext, "stage4.*") == names(convnext, "stages.3.*") == names(convnext, "stage4")
    assert len(names(skeleton("slak_tiny"), "all")) == 18
    assert len(names(skeleton("mobilenetv2_k13_rep"), "all")) == 17


def test_dense_kernels_are_found_where_nothing_else_is() -> None:
    model = skeleton("resnet18")
    assert names(model, "stage4.0") == ["layer4.0.conv1"]
    assert names(model, "layer4.0") == ["layer4.0.conv1", "layer4.0.conv2"]  # not the 1 x 1 of the shortcut
    assert names(model, "conv1") == ["conv1"]


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("resnet18", 17, "conv1"),
        ("regnety_002", 14, "stem.conv"),
        ("dla34", 27, "base_layer.0"),
        ("vit_tiny_patch16_224", 1, "patch_embed.proj"),
        ("swin_tiny_patch4_window7_224", 1, "patch_embed.proj"),
    ],
)
def test_all_are_the_dense_convolutions_where_none_is_depthwise(name: str, count: int, first: str) -> None:
    model = skeleton(name)
    found = find_layers(model, "all")
    assert (len(found), found[0].name) == (count, first)
    spatial = [one for one in model.modules() if isinstance(one, nn.Conv2d) and max(one.kernel_size) > 1]
    assert [layer.module for layer in found] == spatial
    note = f"{type(model).__name__} has no depthwise convolution: its {count} convolutions larger than 1 x 1 are "
    assert {layer.note for layer in found} == {f"{note}aggregated over output and input channels."}


def test_a_network_that_is_one_convolution() -> None:
    assert names(nn.Conv2d(4, 4, 3, groups=4), "all") == ["Conv2d"]


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("replknet31b", "stage9.0", "It has stages 1 to 4, with 2, 2, 18, 2 blocks, which count from 0."),
        ("replknet31b", "stage4.2", "It has stages 1 to 4, with 2, 2, 18, 2 blocks"),
        ("replknet31b", "stages.9", "does not exist in RepLKNet. Similar names: stages"),
        ("replknet31b", "stage9.*", "matches the pattern 'stage9.*'"),
        (
            "replknet31b",
            "stages.0.blocks.0.pw1.conv",
            "It is a 1 x 1 convolution. Choose one of its kernels: stage1.0,",
        ),
        ("replknet31b", "norm", "It is a module of type BatchNorm2d, without a convolution larger than 1 x 1"),
        ("swin_tiny_patch4_window7_224", "norm", "aggregated over both channel axes: patch_embed.proj."),
        (
            "swin_tiny_patch4_window7_224",
            "stage1.0",
            "It is a module of type SwinTransformerBlock, without a convolution",
        ),
        ("resnet18", "paper", "has no layer that corresponds to the paper's"),
    ],
)
def test_errors_list_the_valid_choices(name: str, spec: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_layers(skeleton(name), [spec])
    assert message in str(caught.value)


def test_a_network_without_any_convolution() -> None:
    with pytest.raises(InvalidInputError, match="no two-dimensional convolution larger than 1 x 1"):
        find_layers(nn.Sequential(nn.Linear(3, 3)), ["all"])


def test_a_layer_may_be_a_module() -> None:
    model = skeleton("resnet18")
    assert paths(model, model.layer4[0].conv1) == ["layer4.0.conv1"]
    assert paths(model, model.layer4) == [
        "layer4.0.conv1", "layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2",
    ]  # fmt: skip
    assert find_layers(model, model.conv1) == find_layers(model, "conv1")
    assert find_layers(model, [model.conv1, "layer1.0.conv1"]) == find_layers(model, ["conv1", "layer1.0.conv1"])
    assert len(find_layers(model, model)) == len(find_layers(model, "*"))


def test_a_module_of_the_package(replknet: nn.Module) -> None:
    block = replknet.get_submodule("stages.3.blocks.0.large_kernel")
    assert names(replknet, block) == ["stage4.0"]
    assert names(replknet, replknet.get_submodule("stages.3")) == ["stage4.0", "stage4.1"]
    assert find_layers(replknet, block.get_submodule("small_conv"))[0].branch_of == ("stage4.0", "small_conv")


def test_a_module_of_another_model_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Conv2d that is not part of ResNet"):
        find_layers(skeleton("resnet18"), nn.Conv2d(3, 3, 3))
    with pytest.raises(InvalidInputError, match=r"'fc' of ResNet has no kernel"):
        model = skeleton("resnet18")
        find_layers(model, model.fc)
