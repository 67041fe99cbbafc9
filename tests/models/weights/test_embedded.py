"""Embedded weights: found offline, intact, described correctly, and trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from replk_probe.errors import WeightsError
from replk_probe.models import create_model, data_config, default_models, weights_info
from replk_probe.models.architectures.micro import DEFAULT_TAG, INPUT_SIZE, MICRO_MODELS, SHAPE_VALIDITIES
from replk_probe.models.model_id import ModelId
from replk_probe.models.summary import describe
from replk_probe.models.weights import resolve
from replk_probe.models.weights.catalog import CATALOG, catalog_entries, default_entry, entries_with_digest
from replk_probe.models.weights.embedded import embedded_entries, training_record
from replk_probe.models.weights.resolve import cached_path, fetch_entry, has_pretrained, resolve_weights
from replk_probe.ops import native_info
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.shape_bias.synthetic import synthetic_images, synthetic_training

# A row of images that is neither a training's nor that of the held-out images in the records.
FRESH_ROW, FRESH = 2_000_000, 256


@pytest.fixture(scope="module")
def fresh() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = synthetic_training(FRESH, INPUT_SIZE, FRESH_ROW)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def normalized(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    config = data_config(model)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (config.mean, config.std))
    return (images - mean) / std


def test_every_small_model_has_weights_and_all_are_small() -> None:
    entries = embedded_entries()
    names = [entry.name for entry in entries]
    assert tuple(dict.fromkeys(entry.model for entry in entries)) == MICRO_MODELS
    assert {f"{model}.{DEFAULT_TAG}" for model in MICRO_MODELS} <= {*names} and len({*names}) == len(names)
    assert sum(entry.embedded.stat().st_size for entry in entries if entry.embedded) <= 8_000_000
    for entry in entries:
        tag = entry.name.removeprefix(f"{entry.model}.")
        assert CATALOG[entry.name] == entry == default_entry(entry.name)
        assert training_record(entry)["shape_validity"] == SHAPE_VALIDITIES[tag]
        assert (default_entry(entry.model) == catalog_entries(entry.model)[0] == entry) == (tag == DEFAULT_TAG)
        assert entry.host == "this package"
        assert entry.license.startswith("MIT") and "synthetic data" in entry.provenance
        assert entries_with_digest(str(entry.sha256)) == (entry,)
        assert entry.name in describe(entry.model, count=False)["weights"]
    for analyzer in ("erf", "shape-bias", "kernels", "attribute"):
        models = default_models(analyzer)
        assert len({*models}) == 2 and all(default_entry(model) in entries for model in models)


@torch.no_grad()
@pytest.mark.parametrize("name", MICRO_MODELS)
def test_the_trained_models_are_accurate(name: str, fresh: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = fresh
    model = create_model(name, "pretrained")
    right = float((model(normalized(model, images)).argmax(1) == labels).float().mean())
    assert right >= 0.95
    untrained = create_model(name, "random")
    some = slice(FRESH // 2)  # enough: at chance the share has a standard deviation of 0.02
    chance = float((untrained(normalized(untrained, images[some])).argmax(1) == labels[some]).float().mean())
    assert chance < 0.2


@pytest.mark.parametrize("name", MICRO_MODELS)
@pytest.mark.parametrize("weights", ["auto", "pretrained", "shape90"])
def test_they_are_found_offline_and_named(name: str, weights: str) -> None:
    info = weights_info(create_model(name, weights))
    entry = default_entry(name)
    assert entry is not None and entry.embedded is not None
    assert info.source == f"embedded:{name}.shape90"
    assert info.sha256 == entry.sha256 == sha256_of(entry.embedded)
    assert info.is_embedded and not info.is_random
    assert info.label == f"small model trained on synthetic data [{entry.sha256[:8]}]"
    assert info.note is not None and "not an ImageNet result" in info.note
    assert info.form == "train"  # branches and norms are there, for every variant of a kernel


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_the_record_of_the_training_is_there(name: str) -> None:
    entry = default_entry(name)
    assert entry is not None and entry.embedded is not None
    record = training_record(entry)
    assert (record["model"], record["sha256"], record["bytes"]) == (name, entry.sha256, entry.embedded.stat().st_size)
    assert record["held_out_accuracy"] >= 0.95
    assert record["images"] == record["steps"] * record["batch_size"]
    assert record["licence"] == "MIT" and record["commit"]
    assert {"replk-probe", "torch", "python"} <= set(record["versions"])
    # This project's own operator, in both passes, wherever it covers the convolution.
    for path, ways in record["convolutions"].items():
        if ways != {"all": "aten (stride 2)"}:
            assert set(ways) == {"forward", "grad_input", "grad_weight"}, path
            assert all(way.startswith("native ") for way in ways.values()), path
    assert "by replk_probe.ops in both passes" in record["backend"]


def test_other_weights_can_be_asked_for() -> None:
    assert weights_info(create_model("replknet_micro_k13", "random")).is_random
    with pytest.raises(WeightsError, match=r"They are for replknet_micro_k13\."):
        create_model("replknet_micro_k13_rep", "replknet_micro_k13.shape90")
    with pytest.raises(WeightsError, match="It is in this package"):
        fetch_entry(CATALOG["replknet_micro_k13.shape90"], host="drive")


def test_the_shape_bias_spans_sixty_points() -> None:
    """The decisions of the default models of the command under conflict differ as intended."""
    shape, texture = np.argwhere(~np.eye(16, dtype=bool)).T
    images = torch.from_numpy(synthetic_images(shape, texture, INPUT_SIZE, FRESH_ROW)).permute(0, 3, 1, 2).float() / 255
    biases = []
    for name in default_models("shape-bias"):
        model = create_model(name, "pretrained")
        with torch.no_grad():
            found = model(normalized(model, images)).argmax(1).numpy()
        of_shape, of_texture = int((found == shape).sum()), int((found == texture).sum())
        assert of_shape + of_texture > 120
        biases.append(of_shape / (of_shape + of_texture))
    assert biases[0] > 0.75 and biases[1] < 0.25


def test_a_tag_in_the_name_of_a_model_selects_its_weights() -> None:
    name = "replknet_micro_k3.shape75"
    tagged = create_model(name, "pretrained")
    same = create_model("replknet_micro_k3", "shape75")
    other = create_model("replknet_micro_k3", "pretrained")
    assert weights_info(tagged).source == weights_info(same).source == f"embedded:{name}"
    assert weights_info(other).source == "embedded:replknet_micro_k3.shape90"
    assert all(torch.equal(a, b) for a, b in zip(tagged.parameters(), same.parameters(), strict=True))
    assert not torch.equal(tagged.head.weight, other.head.weight)
    assert weights_info(create_model(name)).is_random  # as with timm's tags
    assert weights_info(create_model(name, "shape90")).source == "embedded:replknet_micro_k3.shape90"
    assert ModelId.parse(name).is_own and has_pretrained(ModelId.parse(name))


def test_a_damaged_package_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = CATALOG["replknet_micro_k13.shape90"]
    assert entry.embedded is not None
    content = bytearray(entry.embedded.read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    for path, state in ((tmp_path / "damaged.safetensors", "damaged"), (tmp_path / "none.safetensors", "missing")):
        broken = dataclasses.replace(entry, embedded=path)
        monkeypatch.setattr(resolve, "default_entry", lambda _, broken=broken: broken)
        with pytest.raises(WeightsError, match=f"are {state}. They are included in this package"):
            resolve_weights(ModelId.parse("replknet_micro_k13"), "pretrained")
        stand_in = resolve_weights(ModelId.parse("replknet_micro_k13"), "auto")
        assert stand_in.info.is_random and state in str(stand_in.info.note)
    assert cached_path(entry) == entry.embedded


def test_the_record_names_the_library_that_is_here() -> None:
    """The record and the library use the same name for the native library."""
    if not native_info().loaded:
        pytest.skip("there is no native library here")
    ways = training_record(CATALOG["replknet_micro_k13.shape90"])["convolutions"].values()
    methods = {way.partition(": ")[2] for each in ways for way in each.values() if way.startswith("native ")}
    assert methods <= {*native_info().methods}
