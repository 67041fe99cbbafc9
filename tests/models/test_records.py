"""The records of networks: kept outside of them, passed on by our own copies, and gone with them."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from replk_probe.erf import prepare
from replk_probe.erf.input_size import resized
from replk_probe.models import (
    DataConfig,
    attach_weights_info,
    create_model,
    data_config,
    load_checkpoint,
    records,
    reparameterize,
    weights_info,
)
from replk_probe.models.inference.copying import copy_of, meta_copy_of
from replk_probe.runtime.provenance import WeightsInfo

INFO = WeightsInfo("mine", sha256="0" * 64)
DATA = DataConfig((0.25,) * 3, (0.5,) * 3, (48, 48))


def test_nothing_is_stored_on_a_network() -> None:
    before = set(vars(nn.Identity()))
    model = nn.Identity()
    attach_weights_info(model, INFO, DATA)
    assert set(vars(model)) == before
    assert (weights_info(model), data_config(model)) == (INFO, DATA)
    assert not [name for name in vars(create_model("replknet_micro_k3")) if "replk" in name]


def test_a_users_copy_is_a_users_module_and_works() -> None:
    model = create_model("test_resnet", seed=3)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    image = torch.randn(1, 3, 64, 64)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stream, weights_only=False),
    ):
        assert weights_info(other).source == "user-module"
        assert data_config(other) == data_config(model), "timm's record is part of the network"
        assert torch.equal(other(image), model(image))
        attach_weights_info(other, weights_info(model))
        assert weights_info(other) == weights_info(model)


@pytest.mark.parametrize(
    "copied",
    [
        copy_of,
        meta_copy_of,
        lambda model: prepare(model).module,
        lambda model: copy_of(model).double(),
        lambda model: reparameterize(copy_of(model)),
        lambda model: torch.compile(model, backend="eager"),  # the wrapper is the same
    ],
)
def test_our_copies_keep_the_record(copied: Any) -> None:
    model = create_model("mobilenetv2_micro_k13")
    attach_weights_info(model, INFO, DATA)
    other = copied(model)
    assert other is not model
    assert (weights_info(other), data_config(other)) == (INFO, DATA)
    del model
    gc.collect()
    assert (weights_info(other), data_config(other)) == (INFO, DATA)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "torchvision:vit_b_32"])
def test_networks_rebuilt_for_another_size_keep_the_record(name: str) -> None:
    model = create_model(name)
    attach_weights_info(model, INFO, DATA)
    others = [other for other, _ in resized(model, (256, 256))]
    assert others
    assert {(weights_info(other), data_config(other)) for other in others} == {(INFO, DATA)}


def test_equality_of_networks_does_not_matter() -> None:
    class Equal(nn.Identity):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

    first, second = Equal(), Equal()
    assert first == second and Equal.__hash__ is None
    attach_weights_info(first, INFO)
    assert weights_info(first) == INFO and weights_info(second).source == "user-module"


def test_a_record_is_gone_with_its_network() -> None:
    size = len(records._RECORDS)
    models = [create_model("mobilenetv2_micro_k13") for _ in range(3)]
    models[0].itself = [models[0]]  # a circle, which only the garbage collector frees
    attach_weights_info(models[1], INFO)
    assert len(records._RECORDS) >= size + 3
    keys = {id(model) for model in models}
    del models
    gc.collect()
    assert not keys & records._RECORDS.keys()


def test_loading_weights_later_keeps_the_preprocessing(tmp_path: Path) -> None:
    model = create_model("mobilenetv2_micro_k13")
    attach_weights_info(model, INFO, DATA)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    load_checkpoint(model, tmp_path / "mine.pth")
    assert weights_info(model).source == "file:mine.pth" and data_config(model) == DATA
