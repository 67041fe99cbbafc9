"""Networks with a head: logits against float64, features, provenance, and heads that do not match."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.models import (
    HeadedClassifier,
    create_model,
    data_config,
    final_layer,
    resolve_layer,
    save_head,
    weights_info,
)
from replk_probe.models.heads.head_file import read_head
from replk_probe.models.heads.headed import CosineClassifier
from replk_probe.runtime.atomic_files import sha256_of

VIT = "test_vit"  # timm's small vision transformer, with 64 features, for images of 160 px
FEATURES = 64
EPSILON = torch.finfo(torch.float32).eps


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(tensors: dict[str, Tensor], path: str = "head.safetensors", **lists: list[str]) -> str:
    save_file(tensors, path, metadata={name: json.dumps(values) for name, values in lists.items()} or None)
    return path


def images(count: int = 2, size: int = 160) -> Tensor:
    return torch.randn(count, 3, size, size)


def test_cosine_logits_equal_a_float64_product() -> None:
    embeddings = nn.functional.normalize(torch.randn(7, 512).double(), dim=1)
    features = 3 * torch.randn(5, 512)
    for scale, bias in ((100.0, 0.0), (117.0, -12.9)):
        classifier = CosineClassifier(embeddings.float(), math.log(scale), bias)
        exact = scale * (nn.functional.normalize(features.double(), dim=1) @ embeddings.T) + bias
        # A dot product of unit vectors of length n has an error of at most n eps; the rounding of the embeddings, of
        # the length and of the quotient, n / 2 + 3, and the product and the sum, 3 more.
        bound = (1.5 * 512 + 6) * EPSILON * (scale + abs(bias))
        assert (classifier(features).double() - exact).abs().max() <= bound
        assert classifier(features).argmax(1).equal(exact.argmax(1))


def test_cosine_logits_do_not_depend_on_the_length_of_features() -> None:
    classifier = CosineClassifier(torch.eye(3), math.log(10), -1.0)
    logits = classifier(torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 4.0]]))
    torch.testing.assert_close(logits, torch.tensor([[9.0, -1.0, -1.0], [-1.0, 5.0, 7.0]]))


def test_a_linear_head_takes_the_features_before_the_classifier(folder: Path) -> None:
    weight, bias = torch.randn(16, FEATURES), torch.randn(16)
    model = create_model(VIT, head=write({"weight": weight, "bias": bias}))
    plain, batch = create_model(VIT), images()
    plain.reset_classifier(0)  # type: ignore[operator]
    features = plain(batch)
    exact = features.double() @ weight.double().T + bias.double()
    bound = (FEATURES + 2) * EPSILON * (features.double().abs() @ weight.double().abs().T + bias.double().abs())
    assert ((model(batch).double() - exact).abs() <= bound).all()
    assert not model.training and isinstance(model, HeadedClassifier)


def test_a_head_twice_as_wide_takes_the_class_token_and_the_mean_of_the_patches(folder: Path) -> None:
    weight = torch.randn(4, 2 * FEATURES)
    model = create_model(VIT, head=write({"weight": weight}))
    plain, batch = create_model(VIT), images()
    tokens = plain.forward_features(batch)  # type: ignore[operator]
    features = torch.cat([tokens[:, 0], tokens[:, plain.num_prefix_tokens :].mean(1)], 1)  # type: ignore[misc]
    torch.testing.assert_close(model(batch), features @ weight.T)
    head = weights_info(model).head
    assert head is not None and head.features == "class token and mean of the patch tokens"


def test_text_embeddings_are_compared_with_the_output(folder: Path) -> None:
    given = torch.randn(3, 12).double()
    tensors = {"embeddings": given, "logit_scale": torch.tensor(2.0), "logit_bias": torch.tensor([-5.0])}
    model = create_model(VIT, num_classes=12, head=write(tensors, class_names=["a", "b", "c"]))
    output = create_model(VIT, num_classes=12)(batch := images()).double()
    unit = nn.functional.normalize
    exact = math.exp(2) * (unit(output, dim=1) @ unit(given, dim=1).T) - 5
    torch.testing.assert_close(model(batch).double(), exact, rtol=0, atol=(1.5 * 12 + 6) * EPSILON * (math.exp(2) + 5))
    head = weights_info(model).head
    assert head is not None and (head.logit_scale, head.logit_bias) == (2.0, -5.0)


def test_templates_are_averaged_after_normalization(folder: Path) -> None:
    # Of very different lengths: without normalization, the mean would have the direction of the first.
    embeddings = torch.tensor([[[100.0, 0.0], [0.0, 1.0]], [[-3.0, 0.0], [-4.0, 0.0]]])
    head = read_head(write({"embeddings": embeddings}, class_names=["a", "b"], templates=["a {}", "the {}"]))
    torch.testing.assert_close(head.weight, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [-1.0, 0.0]]))
    assert head.info.templates == ("a {}", "the {}") and head.info.logit_scale == math.log(100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_heads(folder: Path, dtype: torch.dtype) -> None:
    weight = torch.randn(3, 5).to(dtype)
    assert read_head(write({"weight": weight})).weight.equal(weight.float())


def test_the_record(folder: Path) -> None:
    names = ["cat", "dog"]
    path = write({"weight": torch.randn(2, FEATURES)}, class_names=names)
    model = create_model(VIT, seed=3, head=path)
    info, head = weights_info(model), weights_info(model).head
    assert head is not None and (head.kind, head.source, head.sha256) == ("linear", f"file:{path}", sha256_of(path))
    assert head.class_names == ("cat", "dog") and model.class_names == names and head.classes == 2
    assert (info.source, info.seed) == ("random-init", 3)
    assert info.label == f"RANDOM WEIGHTS (seed 3), linear head file:{path} [{head.sha256[:8]}]"
    assert data_config(model) == data_config(create_model(VIT))


def test_layers_have_the_names_of_the_network(folder: Path) -> None:
    model = create_model("test_resnet", head=write({"weight": torch.randn(2, 96)}))
    plain = create_model("test_resnet")
    assert resolve_layer(model, "stage2.0").path == f"visual.{resolve_layer(plain, 'stage2.0').path}"
    layer = final_layer(create_model(VIT, head=write({"weight": torch.randn(2, FEATURES)})))
    assert layer is not None and (layer.path, layer.side) == ("visual.norm", "input")


def test_a_checkpoint_without_a_classifier_can_classify_with_a_head(folder: Path) -> None:
    state = create_model(VIT, num_classes=0, seed=5).state_dict()
    save_file(state, "features.safetensors")
    assert weights_info(create_model(VIT, "features.safetensors")).lacks_classifier
    model = create_model(VIT, "features.safetensors", head=write({"weight": torch.eye(FEATURES)}))
    info = weights_info(model)
    assert not info.lacks_classifier and info.note is None and info.source == "file:features.safetensors"
    batch = images()
    torch.testing.assert_close(model(batch), create_model(VIT, num_classes=0, seed=5)(batch))


@pytest.mark.parametrize(
    ("tensors", "lists"),
    [
        ({"weight": torch.randn(3, FEATURES)}, {}),
        ({"weight": torch.randn(3, FEATURES), "bias": torch.randn(3)}, {"class_names": ["a", "b", "c"]}),
        ({"embeddings": torch.randn(2, 4, FEATURES)}, {"class_names": ["a", "ä"], "templates": list("wxyz")}),
    ],
)
def test_a_saved_head_gives_the_same_logits(folder: Path, tensors: Any, lists: Any) -> None:
    model = create_model(VIT, num_classes=0, head=write(tensors, **lists))
    save_head(model, "saved.safetensors")
    again = create_model(VIT, num_classes=0, head="saved.safetensors")
    batch = images()
    torch.testing.assert_close(again(batch), model(batch), rtol=1e-5, atol=1e-5)
    first, second = weights_info(model).head, weights_info(again).head
    assert first is not None and second is not None
    assert (first.class_names, first.templates) == (second.class_names, second.templates)


def test_only_heads_can_be_saved(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="VisionTransformer has no head to save"):
        save_head(create_model(VIT), "head.safetensors")


@pytest.mark.parametrize(
    ("tensors", "lists", "says"),
    [
        ({"weight": torch.ones(3, 7)}, {}, "It takes 7 features, and the network returns 64"),
        ({"embeddings": torch.ones(3, 128)}, {"class_names": ["a", "b", "c"]}, "takes 128 features, .* returns 64"),
    ],
)
def test_a_head_of_another_width(folder: Path, tensors: Any, lists: Any, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        create_model(VIT, num_classes=0, head=write(tensors, **lists))


@pytest.mark.parametrize(
    ("tensors", "lists", "says"),
    [
        ({"embeddings": torch.ones(2, 4)}, {}, "metadata has no class_names"),
        ({"embeddings": torch.ones(2, 4)}, {"class_names": ["a"]}, "It has 1 class names for 2 classes"),
        ({"embeddings": torch.ones(2, 4)}, {"class_names": ["a", " "]}, "' ' is not a class name of printable"),
        ({"embeddings": torch.ones(1, 2, 4)}, {"class_names": ["a"], "templates": ["{}"]}, "2 embeddings of each"),
        ({"embeddings": torch.zeros(1, 4)}, {"class_names": ["a"]}, "is zero and has no direction"),
        ({"embeddings": torch.ones(4)}, {"class_names": ["a"]}, r"embeddings has shape \[4\]"),
        ({"embeddings": torch.ones(1, 4), "logit_scale": torch.ones(2)}, {"class_names": ["a"]}, "it is one number"),
        ({"embeddings": torch.ones(1, 4), "bias": torch.ones(1)}, {"class_names": ["a"]}, "It has bias, which is not"),
        ({"weight": torch.ones(2, 4, dtype=torch.int8)}, {}, "weight is of type int8, not of floats"),
        ({"weight": torch.full((2, 4), math.nan)}, {}, "weight has NaN or infinite values"),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(3)}, {}, r"bias has shape \[3\], its weight \[2, 4\]"),
        ({"weight": torch.ones(0, 4)}, {}, r"weight has shape \[0, 4\]"),
        ({"weight": torch.ones(2, 4)}, {"templates": ["{}"]}, "templates, which belong to text embeddings"),
        ({"fc.weight": torch.ones(2, 4)}, {}, "It has fc.weight, which is not part of one head"),
        (
            {f"layer{index}": torch.ones(2) for index in range(5)},
            {},
            "It has layer0, layer1, layer2 and 2 more tensors, which is not part",
        ),
    ],
)
def test_files_that_are_no_heads(folder: Path, tensors: Any, lists: Any, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        create_model(VIT, head=write(tensors, **lists))


def test_metadata_that_is_no_list(folder: Path) -> None:
    for text in ("[", '"cat"', "[1, 2]", "{}"):
        save_file({"weight": torch.ones(2, 4)}, "head.safetensors", metadata={"class_names": text})
        with pytest.raises(WeightsError, match="The class_names of its metadata cannot be used"):
            read_head("head.safetensors")


def test_files_that_cannot_be_read(folder: Path) -> None:
    Path("head.pth").write_bytes(b"not a safetensors file")
    for path in ("head.pth", "missing.safetensors", "."):
        with pytest.raises(WeightsError, match=r"Cannot read the head .*Give a safetensors file"):
            read_head(path)


def test_networks_without_pooled_features(folder: Path) -> None:
    Path("nets.py").write_text("import torch\ndef conv():\n    return torch.nn.Conv2d(3, 4, 3)\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"Conv2d returns an output of shape \[1, 4, 222, 222\]"):
        create_model("nets.py:conv", head=write({"weight": torch.ones(2, 4)}))
    with pytest.raises(InvalidInputError, match="does not accept images"):
        create_model(VIT, img_size=64, patch_size=8, in_chans=1, head=write({"weight": torch.ones(2, FEATURES)}))
