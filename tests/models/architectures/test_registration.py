"""The models live in timm's registry and keep its conventions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import data_config
from replk_probe.models.architectures.mobilenet_v2 import LargeKernelMobileNetV2
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.architectures.slak import SLaK
from replk_probe.models.architectures.unireplknet import UniRepLKNet
from replk_probe.models.summary import own_models

SMALL = [
    lambda **more: RepLKNet((7, 5), (1, 2), (8, 12), **more),
    lambda **more: SLaK((7, 5), (1, 2), (8, 12), **more),
    lambda **more: LargeKernelMobileNetV2(5, 3, **more),
    lambda **more: UniRepLKNet((1, 2), (8, 12), ((3,), (7, 5)), **more),
]


def test_names() -> None:
    assert timm.list_models("replknet*") == [
        "replknet3",
        "replknet7",
        "replknet13",
        "replknet25",
        "replknet31b",
        "replknet31l",
        "replknet_micro_k3",
        "replknet_micro_k7",
        "replknet_micro_k7_rep",
        "replknet_micro_k13",
        "replknet_micro_k13_rep",
        "replknet_micro_k31",
        "replknet_micro_k31_rep",
        "replknetxl",
    ]
    assert timm.list_models("mobilenetv2_micro*") == ["mobilenetv2_micro_k13", "mobilenetv2_micro_k13_rep"]
    assert timm.list_models("slak_*") == ["slak_base", "slak_small", "slak_tiny"]
    assert timm.list_models("unireplknet_*") == [f"unireplknet_{size}" for size in [*"abflnpst", "xl"]]
    assert len(own_models()) == 41


def test_the_package_alone_stays_light_and_registers_silently() -> None:
    code = (
        "import sys, replk_probe; assert 'torch' not in sys.modules\n"
        "import replk_probe.models, timm, torch\n"
        "with torch.device('meta'): assert type(timm.create_model('replknet31b')).__name__ == 'RepLKNet'\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_preprocessing_is_that_of_the_published_weights() -> None:
    with torch.device("meta"):
        base, large = data_config(timm.create_model("replknet31b")), data_config(timm.create_model("replknet31l"))
        xl = data_config(timm.create_model("replknetxl"))
    assert base.mean == (0.485, 0.456, 0.406) and base.std == (0.229, 0.224, 0.225)
    assert xl.mean == xl.std == (0.5, 0.5, 0.5)
    assert (base.input_size, large.input_size, xl.input_size) == ((224, 224), (384, 384), (320, 320))


@pytest.mark.parametrize(
    "name", ["replknet31b", "slak_tiny", "convnext_tiny_k31", "mobilenetv2_k9_rep", "unireplknet_a"]
)
def test_names_in_the_configuration_exist(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    cfg = model.pretrained_cfg
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert isinstance(model.get_submodule(cfg["first_conv"]), nn.Conv2d)
    assert model.get_classifier().out_features == model.num_classes == 7


@torch.no_grad()
@pytest.mark.parametrize("build", SMALL)
def test_features_head_and_classifier(build) -> None:  # type: ignore[no-untyped-def]
    model = build(num_classes=5).eval()
    x = torch.randn(2, 3, 64, 96)
    features = model.forward_features(x)
    stride = model.feature_info[-1]["reduction"]
    assert features.shape == (2, model.num_features, 64 // stride, 96 // stride)
    assert torch.equal(model(x), model.forward_head(features))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled) and model.num_classes == 0
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)
    assert build(num_classes=0).eval()(x).shape == pooled.shape
    with pytest.raises(InvalidInputError, match="only supports mean pooling"):
        model.reset_classifier(9, "max")


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "few"),
    [
        ("replknet3", {"layers": (1, 1, 1, 1)}),
        ("mobilenetv2_k3", {}),
        ("unireplknet_a", {"depths": (1, 1, 1, 1), "kernel_sizes": ((3,), (13,), (13,), (13,))}),
    ],
)
def test_features_only(name: str, few: dict[str, Any]) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(name, features_only=True, **few)
        maps = backbone(torch.empty(1, 3, 64, 64))
    assert [tuple(m.shape[1:2]) for m in maps] == [(channels,) for channels in backbone.feature_info.channels()]
    assert [64 // m.shape[-1] for m in maps] == backbone.feature_info.reduction()


def test_stochastic_depth_grows_to_the_rate_given() -> None:
    with torch.device("meta"):
        model = timm.create_model("replknet31b", drop_path_rate=0.3)
        rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
        slak = timm.create_model("slak_tiny", drop_path_rate=0.1)
        unireplknet = timm.create_model("unireplknet_a", drop_path_rate=0.1)
        unireplknet_rates = [
            getattr(block.drop_path, "drop_prob", 0.0) for stage in unireplknet.stages for block in stage
        ]
        slak_rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in slak.stages for block in stage]
    # A large-kernel block and its feed-forward block share a rate.
    assert rates[::2] == rates[1::2] == pytest.approx(torch.linspace(0, 0.3, 24).tolist())
    assert slak_rates == pytest.approx(torch.linspace(0, 0.1, 18).tolist())
    assert unireplknet_rates == pytest.approx(torch.linspace(0, 0.1, 12).tolist())


def test_initialization_is_that_of_torch() -> None:
    torch.manual_seed(3)
    block = RepLKNet((7,), (1,), (16,)).stages[0].blocks[0]
    weight = block.large_kernel.large_conv.conv.weight
    bound = 1 / 7  # kaiming_uniform_(a=sqrt(5)) of 49 inputs
    assert 0.95 * bound < weight.abs().max() <= bound
    gamma = SLaK((7,), (1,), (8,)).stages[0][0].gamma
    assert torch.equal(gamma, torch.full_like(gamma, 1e-6))


def test_widths_of_slak() -> None:
    with torch.device("meta"):
        model = SLaK(dims=(96, 192, 384, 768))
    assert [info["num_chs"] for info in model.feature_info] == [124, 249, 499, 998]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RepLKNet((31, 29), (2, 2), (8,)), "one entry for each stage"),
        (lambda: SLaK((31, 29), (2, 2), (8,)), "one entry for each stage"),
        (lambda: SLaK((31,), (1,), (8,), small_kernel=None), "short side"),
        (lambda: RepLKNet((30,), (1,), (8,)), "odd"),
        (lambda: LargeKernelMobileNetV2(4), "odd"),
    ],
)
def test_impossible_networks_are_refused(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInputError, match=message):
        build()
