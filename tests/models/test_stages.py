"""Layers by stage and block, and by path."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
import torchvision
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import final_layer, large_kernel_layers, reparameterize, resolve_layer


@functools.cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        if name.startswith("torchvision:"):
            return torchvision.models.get_model(name.removeprefix("torchvision:"))
        return timm.create_model(name)


@pytest.mark.parametrize(
    ("name", "spec", "path"),
    [
        ("replknet31b", "stage3.5", "stages.2.blocks.10"),
        ("replknet31b", "stage3", "stages.2"),
        ("replknet31b", "stages.3.blocks.0.large_kernel", "stages.3.blocks.0.large_kernel"),
        ("slak_tiny", "stage4.2", "stages.3.2"),
        ("unireplknet_a", "stage3.5", "stages.2.5"),
        ("mobilenetv2_k13_rep", "stage6.1", "features.15"),
        ("mobilenetv2_k13", "stage6", "features.16"),
        ("resnet50", "stage1.0", "layer1.0"),
        ("convnext_tiny", "stage3.8", "stages.2.blocks.8"),
        ("swin_tiny_patch4_window7_224", "stage3.5", "layers.2.blocks.5"),
        ("deit_tiny_patch16_224", "stage1.11", "blocks.11"),
        ("deit_tiny_patch16_224", "stage1", "blocks"),
        ("efficientnet_b0", "stage6.1", "blocks.5.1"),
        ("torchvision:resnet18", "stage4.1", "layer4.1"),
        ("torchvision:convnext_tiny", "stage3.8", "features.5.8"),
        ("torchvision:vit_b_16", "stage1.3", "encoder.layers.encoder_layer_3"),
    ],
)
def test_layers_by_name(name: str, spec: str, path: str) -> None:
    model = on_meta(name)
    ref = resolve_layer(model, spec)
    assert (ref.path, ref.side) == (path, "output")
    assert ref.module is model.get_submodule(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("stage5.0", "stages 1 to 4, with 2, 2, 18, 2 blocks"),
        ("stage0.0", "stages 1 to 4"),
        ("stage4.2", "stages 1 to 4"),
        ("stages.3.block.0", "Similar names: stages.3.blocks.0"),
        ("conv9", "top-level modules: stem, stages"),
        ("", "Layer '' does not exist in RepLKNet"),
    ],
)
def test_unknown_layers_are_errors_that_list_the_valid_ones(spec: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        resolve_layer(on_meta("replknet31b"), spec)


def test_networks_without_known_stages() -> None:
    with pytest.raises(InvalidInputError, match="stages are not known"):
        resolve_layer(on_meta("torchvision:squeezenet1_0"), "stage1.0")
    with pytest.raises(InvalidInputError, match="no submodules"):
        resolve_layer(nn.ReLU(), "conv")


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("replknet31b", ("stages.3", "output")),
        ("slak_tiny", ("stages.3", "output")),
        ("unireplknet_a", ("stages.3", "output")),
        ("mobilenetv2_k3", ("features", "output")),
        ("resnet50", ("layer4", "output")),
        ("convnext_tiny", ("stages", "output")),
        ("swin_tiny_patch4_window7_224", ("norm", "input")),
        ("deit_tiny_distilled_patch16_224", ("norm", "input")),
        ("torchvision:swin_t", ("norm", "input")),
        ("torchvision:squeezenet1_0", None),
    ],
)
def test_last_map_before_the_final_norm(name: str, want: tuple[str, str] | None) -> None:
    ref = final_layer(on_meta(name))
    assert (ref and (ref.path, ref.side)) == want


@pytest.mark.parametrize(
    ("name", "count", "last", "path"),
    [
        ("replknet31b", 24, "stage4.1", "stages.3.blocks.2.large_kernel"),
        ("slak_tiny", 18, "stage4.2", "stages.3.2.large_kernel"),
        ("unireplknet_t", 27, "stage4.2", "stages.3.2.dwconv"),
        ("mobilenetv2_k13_rep", 17, "stage7.0", "features.17.conv.1.0"),
        ("mobilenetv2_k13", 17, "stage7.0", "features.17.conv.1.0"),
        ("convnext_tiny", 18, "stage4.2", "stages.3.blocks.2.conv_dw"),
        ("deit_tiny_patch16_224", 0, None, None),
    ],
)
def test_large_kernels(name: str, count: int, last: str | None, path: str | None) -> None:
    model = on_meta(name)
    layers = large_kernel_layers(model)
    assert len(layers) == count
    if last is not None:
        assert list(layers.items())[-1] == (last, path)
    assert large_kernel_layers(reparameterize(copy.deepcopy(model))) == layers
