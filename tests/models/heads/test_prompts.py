"""Zero-shot classifiers of open_clip: embeddings of class names against float64, names, templates, weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from replk_probe.errors import InvalidInputError, UnknownModelError, WeightsError
from replk_probe.models import HeadedClassifier, create_model, data_config, save_head, weights_info
from replk_probe.models.heads.prompts import DEFAULT_TEMPLATES, choose_prompts
from replk_probe.models.model_id import ModelId
from replk_probe.models.weights.resolve import has_pretrained, resolve_weights

open_clip = pytest.importorskip("open_clip")

from . import small_clip  # noqa: E402 - needs open_clip

NAMES = ["cat", "dog", "an elephant in the grass"]
TEMPLATES = ["a photo of a {}.", "{}"]


@pytest.fixture(autouse=True, scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    small_clip.register(tmp_path_factory.mktemp("configs"))


def create(name: str = small_clip.CLIP, **options: Any) -> HeadedClassifier:
    model = create_model(f"open_clip:{name}", options.pop("weights", "random"), **options)
    assert isinstance(model, HeadedClassifier)
    return model


@pytest.mark.parametrize("name", [small_clip.CLIP, small_clip.SIGLIP])
def test_logits_equal_those_of_float64(name: str) -> None:
    model = create(name, class_names=NAMES, templates=TEMPLATES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip: Any = open_clip.create_model(name, pretrained=None).eval()
    batch = torch.randn(4, 3, small_clip.IMAGE_SIZE, small_clip.IMAGE_SIZE)
    unit = nn.functional.normalize
    tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
        images = unit(clip.encode_image(batch).double(), dim=1)
        texts = [
            unit(clip.encode_text(tokenizer([template.format(one) for template in TEMPLATES])).double(), dim=1)
            for one in NAMES
        ]
        embeddings = unit(torch.stack([each.mean(0) for each in texts]), dim=1)
        bias = 0.0 if clip.logit_bias is None else clip.logit_bias.item()
        scale = clip.logit_scale.double().exp().item()
    assert (bias == -10) == (name == small_clip.SIGLIP)
    logits = model(batch).double()
    # The towers themselves compute in float32, in batches of other sizes: 100 eps.
    bound = (1.5 * small_clip.DIM + 6 + 100) * torch.finfo(torch.float32).eps * (scale + abs(bias))
    assert (logits - (scale * images @ embeddings.T + bias)).abs().max() <= bound


def test_the_record_is_whole() -> None:
    head = weights_info(model := create(class_names=NAMES, templates=TEMPLATES)).head
    assert head is not None
    assert (head.class_names, head.templates, head.source) == (tuple(NAMES), tuple(TEMPLATES), "text tower")
    assert len(head.sha256) == 64 and head.logit_scale == pytest.approx(math.log(1 / 0.07), rel=1e-6)
    assert model.class_names == NAMES
    others = (weights_info(create(class_names=NAMES, templates=[one])).head for one in TEMPLATES)
    assert len({head.sha256, *(other.sha256 for other in others if other is not None)}) == 3
    data = data_config(model)
    assert data.mean == open_clip.OPENAI_DATASET_MEAN and data.input_size == (32, 32)


def test_default_names_and_templates() -> None:
    prompts = choose_prompts(None, None)
    assert len(prompts.class_names) == 1000 and prompts.class_names[:2] == ("tench", "goldfish")
    assert prompts.templates == DEFAULT_TEMPLATES == ("a photo of a {}.",)
    assert prompts == choose_prompts("imagenet-1k", None)
    assert prompts.texts[1] == "a photo of a goldfish."
    assert len({*choose_prompts(["cat"], "imagenet-80").texts}) == 80


def test_names_and_templates_of_files(tmp_path: Path) -> None:
    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("cat\n\n great white shark \n", encoding="utf-8")
    templates.write_text("a {}\nthe {}\n", encoding="utf-8")
    prompts = choose_prompts(names, str(templates))
    assert prompts.texts == ["a cat", "the cat", "a great white shark", "the great white shark"]


@pytest.mark.parametrize(
    ("names", "templates", "says"),
    [
        ([], None, "There is no class name"),
        (["cat", "cat"], None, "'cat' is given twice"),
        (["cat", 5], None, "5 is not a class name"),
        (["cat", "a\nb"], None, "printable"),
        (5, None, "5 are no class names"),
        ("missing.txt", None, "Cannot read the class names from missing.txt. No such file or directory"),
        (["cat"], ["a photo"], "The template 'a photo' cannot be used. It must contain {} once"),
        (["cat"], ["{} and {}"], "It must contain {} once"),
        (["cat"], [], "There is no template"),
    ],
)
def test_texts_that_cannot_be_used(names: Any, templates: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says.replace("{}", r"\{\}")):
        choose_prompts(names, templates)


def test_braces_in_a_name_are_not_replaced() -> None:
    assert choose_prompts(["{0} {x}"], ["a {}"]).texts == ["a {0} {x}"]


def test_embeddings_are_reused_from_a_file(tmp_path: Path) -> None:
    model = create(class_names=NAMES, templates=TEMPLATES)
    save_head(model, tmp_path / "names.safetensors")
    again = create(head=tmp_path / "names.safetensors")
    batch = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(batch), model(batch), rtol=0, atol=1e-5)
    # Only the image tower remains.
    assert not hasattr(again, "encode_text") and hasattr(again.visual, "conv1")


def test_weights_of_a_file(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        clip = open_clip.create_model(small_clip.CLIP, pretrained=None)
    path = tmp_path / "open_clip_model.safetensors"
    save_file(clip.state_dict(), path)
    model, other = create(weights=path, class_names=NAMES), create(seed=5, class_names=NAMES)
    batch = torch.randn(2, 3, 32, 32)
    assert model(batch).equal(other(batch))
    assert weights_info(model).source == "file:open_clip_model.safetensors" and weights_info(model).sha256


def test_published_weights_need_the_activation_they_were_trained_with() -> None:
    plain, quick = ModelId.parse("open_clip:ViT-B-32"), ModelId.parse("open_clip:ViT-B-32-quickgelu")
    assert has_pretrained(plain) and not has_pretrained(ModelId.parse(f"open_clip:{small_clip.CLIP}"))
    with pytest.raises(WeightsError, match=r"trained with QuickGELU, .*Use the model open_clip:ViT-B-32-quickgelu"):
        resolve_weights(plain, "openai")
    for model, tag in ((quick, "openai"), (quick, "pretrained"), (plain, "laion2b_s34b_b79k"), (plain, "pretrained")):
        # The weights match; tests have no access to the hub.
        with pytest.raises(WeightsError, match=r"Cannot (reach|fetch)"):
            resolve_weights(model, tag)


def test_automatic_weights_without_the_hub_are_random_with_a_note() -> None:
    resolved = resolve_weights(ModelId.parse("open_clip:ViT-B-32"), "auto")
    assert resolved.info.is_random and "no pretrained weights available" in str(resolved.info.note)
    assert resolved.data is not None and resolved.data.input_size == (224, 224)


def test_siglip_is_normalized_as_it_was_trained() -> None:
    from replk_probe.models.heads.open_clip_models import open_clip_file

    repository, _, data = open_clip_file(ModelId.parse("open_clip:ViT-B-16-SigLIP"), "webli")
    assert repository == "timm/ViT-B-16-SigLIP" and data.mean == data.std == (0.5, 0.5, 0.5)


def test_a_tokenizer_on_the_hub_that_cannot_be_reached() -> None:
    with pytest.raises(WeightsError, match=r"Cannot (reach|fetch)"):
        create_model("open_clip:ViT-B-16-SigLIP", "random")


def test_names_that_open_clip_does_not_have() -> None:
    with pytest.raises(UnknownModelError, match=r"open_clip has no model of that name.*ViT-B-32"):
        create_model("open_clip:ViT-B32")
    with pytest.raises(WeightsError, match="No weights 'laion' for open_clip:ViT-B-32"):
        create_model("open_clip:ViT-B-32", "laion")


def test_names_need_a_text_tower() -> None:
    with pytest.raises(InvalidInputError, match=r"Only models of open_clip have a text tower\. Give head,"):
        create_model("resnet18", class_names=["cat"])
    with pytest.raises(InvalidInputError, match="Cannot combine a head with class names"):
        create_model("open_clip:ViT-B-32", head="head.safetensors", templates=["{}"])


def test_without_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UnknownModelError, match=r"not installed. Run: pip install 'replk-probe\[clip\]'"):
        create_model("open_clip:ViT-B-32")
