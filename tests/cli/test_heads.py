"""The options for heads and class names in the commands that take them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import save_file

from replk_probe import AttributionResult, ErfResult, ShapeBiasResult
from replk_probe.html_report.commands import shape_bias_command
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias import CATEGORIES

pytest.importorskip("open_clip")

from ..models.heads import small_clip

Run = Callable[..., Result]
MODEL = ("--model", f"open_clip:{small_clip.CLIP}", "--weights", "random", "-o", "out")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stimulus and an image."""
    small_clip.register(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("stimuli").mkdir()
    for name in ("stimuli/cat1-dog1.png", "stimuli/dog1-cat1.png"):
        Image.effect_noise((32, 32), 50).convert("RGB").save(name)
    return tmp_path


def test_shape_bias_by_the_names_of_the_categories(replk_probe: Run) -> None:
    Path("templates.txt").write_text("a {}\nthe {}\n", encoding="utf-8")
    texts = ("--classes", "categories", "--templates", "templates.txt")
    done = replk_probe("shape-bias", *MODEL, "--stimuli", "stimuli", *texts)
    assert done.exit_code == 0, done.output
    result = ShapeBiasResult.load("out")
    assert isinstance(result.run, RunInfo) and result.run.config["mapping"] == "class names"
    head = result.run.weights.head
    assert head is not None and head.class_names == CATEGORIES and head.templates == ("a {}", "the {}")
    assert result.run.model == f"open_clip:{small_clip.CLIP}"
    assert "zero-shot with 16 class names in 2 templates" in " ".join(done.output.split())
    # The same options continue the finished run, others start a new one.
    resumed = replk_probe("shape-bias", *MODEL, "--stimuli", "stimuli", *texts, "--resume")
    assert resumed.exit_code == 0, resumed.output
    other = replk_probe("shape-bias", *MODEL, "--stimuli", "stimuli", "--classes", "categories")
    assert other.exit_code == 0 and ShapeBiasResult.load("out") != result
    command = str(shape_bias_command(result))
    assert "--weights random --classes categories --templates templates.txt --stimuli stimuli" in command
    assert " --classes categories --stimuli" in str(shape_bias_command(ShapeBiasResult.load("out")))


def test_other_classes_need_a_mapping(replk_probe: Run) -> None:
    Path("names.txt").write_text("cat\ndog\n", encoding="utf-8")
    done = replk_probe("shape-bias", *MODEL, "--stimuli", "stimuli", "--classes", "names.txt")
    assert done.exit_code == 1 and "The classifier has 2 outputs. No mapping to the 16 categories" in done.output
    Path("mapping.json").write_text(json.dumps({"cat": [0], "dog": [1]}), encoding="utf-8")
    mapped = replk_probe(
        "shape-bias", *MODEL, "--stimuli", "stimuli", "--classes", "names.txt", "--mapping", "mapping.json"
    )
    assert mapped.exit_code == 0, mapped.output


def test_erf_and_attributions(replk_probe: Run) -> None:
    save_file(
        {"embeddings": torch.randn(2, small_clip.DIM)}, "pets.safetensors", metadata={"class_names": '["cat", "dog"]'}
    )
    done = replk_probe("erf", *MODEL, "--head", "pets.safetensors", "--images", "1", "--size", "32")
    assert done.exit_code == 0, done.output
    head = ErfResult.load("out").run.weights.head
    assert head is not None and head.source == "file:pets.safetensors"
    shown = replk_probe("attribute", "stimuli/cat1-dog1.png", *MODEL, "--head", "pets.safetensors", "--target", "dog")
    assert shown.exit_code == 0 and "dog (1)" in shown.output, shown.output
    attribution: Any = AttributionResult.load("out")
    assert attribution.run.weights.head == head


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--head", "missing.safetensors"), "Cannot read the head missing.safetensors"),
        (("--classes", "missing.txt"), "Cannot read the class names from missing.txt"),
        (("--classes", "categories", "--templates", "no template"), "Cannot read the templates from no template"),
        (("--head", "x.safetensors", "--classes", "categories"), "Cannot combine a head with class names"),
    ],
)
def test_mistakes(replk_probe: Run, options: tuple[str, ...], says: str) -> None:
    done = replk_probe("shape-bias", *MODEL, "--stimuli", "stimuli", *options)
    assert done.exit_code == 1 and says in done.output and "Traceback" not in done.output
