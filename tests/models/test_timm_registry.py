"""The registry, also where only the modules that define the models are imported."""

from __future__ import annotations

import timm

from replk_probe.models import timm_registry
from replk_probe.models.summary import own_models


def test_the_names_in_the_source_code_are_those_of_timm() -> None:
    assert timm_registry.list_models() == timm.list_models()
    assert set(timm_registry._modules()) == set(timm.list_models()) - set(own_models())
    assert timm_registry.list_models("resnet1*t") == timm.list_models("resnet1*t") != []


def test_tags_and_weights() -> None:
    for pattern in ("resnet18.*", "vit_tiny*.augreg*", "replknet31b.*", "no_such_model.*"):
        assert timm_registry.list_tagged(pattern) == timm.list_models(pattern, include_tags=True)
        assert timm_registry.list_tagged(pattern, pretrained=True) == timm.list_models(pattern, pretrained=True)
    assert timm_registry.pretrained_cfg("resnet18.a1_in1k") == timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert timm_registry.pretrained_cfg("no_such_model") is None
