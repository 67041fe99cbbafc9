"""The structure of the small models: names, planes and sizes follow from their kernels."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import default_models, large_kernel_layers, probe_spec, reparameterize, resolve_layer
from replk_probe.models.architectures.micro import INPUT_SIZE, MICRO_MODELS, is_micro
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.checkpoints.detect import fingerprint
from replk_probe.models.layers.large_kernel import LargeKernelConv
from replk_probe.models.summary import count_parameters

REPLKNETS = [name for name in MICRO_MODELS if name.startswith("replknet")]
WIDTHS = (16, 32, 64, 96)
SIDES = {"k3": (3,) * 4, "k7": (7,) * 4, "k13": (13,) * 4, "k31": (31, 31, 13, 13)}


def kernels(name: str) -> tuple[int, ...]:
    return SIDES[name.split("_")[2]]


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
    return model.eval()


def test_there_is_one_model_for_each_kernel_with_and_without_a_branch_where_it_fits() -> None:
    assert set(REPLKNETS) == {f"replknet_micro_{side}" for side in SIDES} | {
        f"replknet_micro_{side}_rep" for side in SIDES if side != "k3"
    }
    assert default_models("kernels") == ("replknet_micro_k13_rep", "replknet_micro_k13")
    assert default_models("erf") == ("replknet_micro_k31_rep", "replknet_micro_k3")
    assert all(is_micro(name) for analyzer in ("erf", "shape-bias", "kernels") for name in default_models(analyzer))
    assert not is_micro("replknet31b") and not is_micro("micro.shape90")


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_the_last_map_has_eight_by_eight_places_and_there_are_sixteen_classes(name: str) -> None:
    model = on_meta(name)
    images = torch.empty(2, 3, INPUT_SIZE, INPUT_SIZE, device="meta")
    assert model.forward_features(images).shape[2:] == (8, 8)
    assert model.pretrained_cfg["pool_size"] == (8, 8)
    assert [info["reduction"] for info in model.feature_info][-1] == 8
    assert model(images).shape == (2, 16)
    assert model.pretrained_cfg["num_classes"] == 16


@pytest.mark.parametrize("name", REPLKNETS)
def test_replknets_differ_in_their_kernels_alone(name: str) -> None:
    model = on_meta(name)
    branches = [5 if name.endswith("_rep") else 0] * 4
    found = [model.get_submodule(path) for path in large_kernel_layers(model).values()]
    assert [conv.kernel_size for conv in found] == [(side, side) for side in kernels(name)]
    assert [len(conv.branches()) for conv in found] == [2 if side else 1 for side in branches]
    # A branch has its kernel and its batch norm; the rest is that of the smallest model.
    more = sum(c * (k * k - 9) for c, k in zip(WIDTHS, kernels(name), strict=True))
    more += sum(c * (b * b + 2) for c, b in zip(WIDTHS, branches, strict=True) if b)
    assert count_parameters(model) == count_parameters(on_meta("replknet_micro_k3")) + more


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_it_has_four_stages_that_layers_are_named_by(name: str) -> None:
    model = on_meta(name)
    assert len(probe_spec(model).stages) == 4
    conv = resolve_layer(model, large_kernel_layers(model)["stage4.0"]).module
    if name != "mobilenetv2_micro_k13":
        assert isinstance(conv, LargeKernelConv)
    assert conv.kernel_size == (3, 3) if name == "replknet_micro_k3" else (13, 13)


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_the_model_of_a_state_dict_is_detected(name: str) -> None:
    model = on_meta(name)
    seen = fingerprint({key: tuple(value.shape) for key, value in model.state_dict().items()})
    assert (seen.model, seen.form) == (name, "train")
    merged = fingerprint({key: tuple(value.shape) for key, value in reparameterize(model).state_dict().items()})
    assert merged.form == "merged"


def test_planes_follow_the_strides() -> None:
    model = RepLKNet((5, 5), (1, 1), (8, 8), strides=(2, 1), num_classes=2).eval()
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape[2:] == (16, 16)
    assert [info["reduction"] for info in model.feature_info] == [2, 2]


@pytest.mark.parametrize("strides", [(1, 2), (4,), (4, 3), (8, 2)])
def test_invalid_strides_are_refused(strides: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="stem needs a stride of 2 or 4"):
        RepLKNet((5, 5), (1, 1), (8, 8), strides=strides)
