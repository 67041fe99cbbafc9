"""Names as users type them, and objects that are no networks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm
from torch import nn
from torchvision.models import resnet18

import replk_probe
from replk_probe.errors import InvalidInputError, UnknownModelError
from replk_probe.models import load_checkpoint
from replk_probe.models.model_id import ModelId, check_network


@pytest.mark.parametrize(
    ("text", "kind", "name", "source", "architecture", "tag"),
    [
        ("replknet31b", "registry", "replknet31b", "", "replknet31b", None),
        (" resnet18.a1_in1k ", "registry", "resnet18.a1_in1k", "", "resnet18", "a1_in1k"),
        ("timm:resnet18.a1_in1k", "registry", "resnet18.a1_in1k", "", "resnet18", "a1_in1k"),
        ("torchvision:resnet101", "torchvision", "torchvision:resnet101", "torchvision", "resnet101", None),
        ("torchvision.models:resnet101", "torchvision", "torchvision:resnet101", "torchvision", "resnet101", None),
        ("torchvision.models.resnet:resnet18", "factory", None, "torchvision.models.resnet", "resnet18", None),
        ("package.module:factory", "factory", None, "package.module", "factory", None),
        ("path/file.py:Nets.small", "factory", None, "path/file.py", "Nets.small", None),
        (r"C:\nets\file.py:build", "factory", None, r"C:\nets\file.py", "build", None),
        ("hf_hub:build", "factory", None, "hf_hub", "build", None),
        ("hf_hub:timm/resnet18.a1_in1k", "hub", None, "hf_hub", "resnet18", "a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "hub", None, "hf-hub", "resnet18", "a1_in1k"),
        ("local-dir:/models/resnet18", "hub", None, "local-dir", "resnet18", None),
        ("", "registry", "", "", "", None),
    ],
)
def test_names(text: str, kind: Any, name: str | None, source: str, architecture: str, tag: str | None) -> None:
    parsed = ModelId.parse(text)
    assert parsed == ModelId(kind, text if name is None else name, source, architecture, tag)
    assert ModelId.parse(str(parsed)) == parsed and hash(parsed) == hash(ModelId.parse(text))


@pytest.mark.parametrize("text", [":build", "package.module:", "nets.py", 5, None, b"resnet18", nn.Identity()])
def test_texts_without_a_match(text: Any) -> None:
    with pytest.raises(UnknownModelError):
        ModelId.parse(text)


@pytest.mark.parametrize(
    ("name", "is_registered", "is_own"),
    [
        ("replknet31b", True, True),
        ("replknet31b.in1k_224", False, True),
        ("resnet18", True, False),
        ("resnet18.a1_in1k", True, False),
        ("resnet18.nonsense", False, False),
        ("xqzzy", False, False),
        ("torchvision:resnet18", False, False),
        ("replknet31b:build", False, False),
    ],
)
def test_what_the_registry_knows(name: str, is_registered: bool, is_own: bool) -> None:
    parsed = ModelId.parse(name)
    assert (parsed.is_registered, parsed.is_own) == (is_registered, is_own)


NO_NETWORKS = [
    (5, "object of type int"),
    (None, "object of type NoneType"),
    (resnet18, "function resnet18. Call it"),
    (partial(resnet18), "object of type partial"),
    (timm.models.ResNet, "class ResNet. Create an instance"),
]


@pytest.mark.parametrize(
    "measure", [replk_probe.measure_erf, replk_probe.measure_shape_bias, replk_probe.measure_kernels]
)
@pytest.mark.parametrize(("model", "message"), NO_NETWORKS)
def test_the_analyzers_agree_on_what_a_model_is(measure: Any, model: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^Expected an nn.Module or a model name, but got (an|the) {message}"):
        measure(model)


@pytest.mark.parametrize(("model", "message"), NO_NETWORKS)
def test_files_are_loaded_into_networks(model: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^Expected an nn.Module, but got (an|the) {message}"):
        load_checkpoint(model, "weights.pth")


def test_names_where_a_network_is_expected() -> None:
    check_network("resnet18", or_name=True)
    with pytest.raises(
        InvalidInputError, match=r"but got the name 'resnet18'. Call replk_probe.create_model\('resnet18"
    ):
        check_network("resnet18")
