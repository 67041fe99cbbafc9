"""The training of the small models: seeded, resumable, by this project's operator, and recorded."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from replk_probe.errors import ResumeError
from replk_probe.models import create_model
from replk_probe.ops import native_info
from replk_probe.shape_bias.synthetic import synthetic_training

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
NAME = "replknet_micro_k3"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("_micro_training")
    monkeypatch.setattr(module, "HELD_OUT_IMAGES", 64)
    monkeypatch.setattr(module, "_WATCHED", 16)
    return module


@pytest.fixture
def few_conflicts(training: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth of the conflicting images, on which each line of the log is computed."""
    images, shape, texture = (values[::10] for values in training.conflicting())
    monkeypatch.setattr(training, "conflicting", lambda: (images, shape, texture))


def short(training: ModuleType, **changes: Any) -> Any:
    return training.Recipe(**{"images": 48, "batch_size": 8, "log_every": 2, **changes})


@pytest.mark.usefixtures("few_conflicts")
def test_a_resumed_training_gives_the_same_bytes(training: ModuleType, tmp_path: Path) -> None:
    recipe = short(training)
    whole = training.train(NAME, 1, recipe, progress=False)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        training.train(NAME, 1, recipe, state=state, progress=False, stop_at=3)
    again = training.train(NAME, 1, recipe, state=state, resume=True, progress=False)
    assert training.weights_of(again) == training.weights_of(whole)
    assert again.log == whole.log
    assert [row["step"] for row in whole.log] == [2, 4, 6]
    with pytest.raises(ResumeError, match="seed 1"):
        training.train(NAME, 2, recipe, state=state, resume=True, progress=False)
    anew = training.train(NAME, 2, recipe, state=state, progress=False)
    assert training.weights_of(anew) != training.weights_of(whole)


@pytest.mark.usefixtures("few_conflicts")
def test_the_first_step_is_that_of_adamw_on_the_first_images(training: ModuleType) -> None:
    recipe = short(training, images=8, weight_decay=0.5, kernel_decay=3.0)
    run = training.train(NAME, 5, recipe, progress=False)
    model = create_model(NAME, "random", seed=5).train()
    images, labels = synthetic_training(8, 64, 5, shape_validity=recipe.shape_validity)
    # With channels last: another layout adds up in another order, and a ReLU at zero may open.
    model.to(memory_format=torch.channels_last)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    x = x.contiguous(memory_format=torch.channels_last)
    loss = torch.nn.functional.cross_entropy(model(x), torch.from_numpy(labels))
    loss.backward()
    assert run.log[-1]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    before, after = dict(model.named_parameters()), dict(run.model.named_parameters())
    # The first step of Adam is the sign of the gradient, times the rate; where there is hardly one it is smaller.
    rate = recipe.rate(0)
    seen = set()
    for name, parameter in before.items():
        depthwise = name in ("stem.1.conv.weight", "stem.3.conv.weight") or ".large_conv.conv." in name
        depthwise = depthwise or (name.startswith("transitions.") and name.endswith(".1.conv.weight"))
        decay = 3.0 if depthwise else 0.5 if parameter.dim() > 1 else 0.0
        seen.add(decay)
        clear = parameter.grad.abs() > 1e-5
        expected = parameter.detach() * (1 - rate * decay) - rate * parameter.grad.sign()
        torch.testing.assert_close(after[name].detach()[clear], expected[clear], rtol=0, atol=2e-3 * rate + 1e-6)
    assert seen == {3.0, 0.5, 0.0}


def test_the_rate_rises_and_falls(training: ModuleType) -> None:
    recipe = training.Recipe(images=1000, batch_size=10, learning_rate=1.0, warm_up=0.1)
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[55] == pytest.approx(0.5)  # half of the way down
    assert 0 < rates[-1] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_training_and_held_out_images_are_of_different_rows(training: ModuleType) -> None:
    images, labels = training.held_out(32)
    for seed in range(3):
        seen, of_seen = synthetic_training(32, 64, seed)
        assert (labels.numpy() == of_seen).all()  # the classes take turns in every row
        assert not (images.permute(0, 2, 3, 1).numpy() == seen).all(axis=(1, 2, 3)).any()


def test_accuracy_is_the_fraction_of_correct_answers(training: ModuleType) -> None:
    images, labels = training.held_out(32)
    model = create_model(NAME, "random").train()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[3] = 1.0
    assert training.accuracy(model, images, labels) == 2 / 32
    assert model.training


def test_decisions_under_conflict_are_logged_by_cue(training: ModuleType) -> None:
    images, shape, texture = training.conflicting()
    assert images.shape == (240, 3, 64, 64) and len({*zip(shape.tolist(), texture.tolist(), strict=True)}) == 240
    assert not (shape == texture).any()
    run = training.train(NAME, 1, short(training, images=16), progress=False)
    found = training.decisions(run.model, images)
    assert run.log[-1]["shape"] == pytest.approx(int((found == shape).sum()) / 240, abs=1e-6)
    assert run.log[-1]["texture"] == pytest.approx(int((found == texture).sum()) / 240, abs=1e-6)


@pytest.mark.usefixtures("few_conflicts")
def test_the_validity_of_the_shape_decides_the_images(training: ModuleType) -> None:
    losses = set()
    for validity in (1.0, 0.0):
        recipe = short(training, images=8, shape_validity=validity)
        losses.add(training.train(NAME, 1, recipe, progress=False).log[-1]["loss"])
        assert recipe.tag == f"shape{100 * validity:g}"
    assert len(losses) == 2


@pytest.mark.usefixtures("few_conflicts")
def test_everything_is_written_down(training: ModuleType, tmp_path: Path) -> None:
    run = training.train("mobilenetv2_micro_k13_rep", 2, short(training, images=16), progress=False)
    record = training.write(run, tmp_path, "it", "abc123")
    assert json.loads((tmp_path / "it.json").read_text()) == record
    weights = (tmp_path / "it.safetensors").read_bytes()
    assert record["sha256"] == hashlib.sha256(weights).hexdigest()
    assert record["bytes"] == len(weights)
    assert (record["tag"], record["shape_validity"]) == ("shape90", 0.9)
    assert (record["seed"], record["images"], record["steps"], record["commit"]) == (2, 16, 2, "abc123")
    assert "synthetic data" in record["what"] and "ImageNet" in record["what"]
    assert record["held_out_accuracy"] == training.accuracy(run.model, *training.held_out(64))
    with safe_open(tmp_path / "it.safetensors", "pt") as file:
        assert "trained on synthetic data (16 images, seed 2); license: MIT" in file.metadata()["description"]
    rows = list(csv.DictReader((tmp_path / "it.csv").read_text().splitlines()))
    assert [row["images"] for row in rows] == ["16"]
    ways = record["convolutions"]
    strided = {path for path, way in ways.items() if way == {"all": "aten (stride 2)"}}
    assert all(path.startswith(("features.2.", "features.3.")) for path in strided) and len(strided) == 4
    if native_info().loaded:
        native = [way for path, way in ways.items() if path not in strided]
        assert native and all(set(way) == {"forward", "grad_input", "grad_weight"} for way in native)
        assert all(how.startswith("native ") for way in native for how in way.values())
        assert record["backend"].startswith(f"{len(native)} of {len(ways)} depthwise convolutions by replk_probe.ops")


def test_recipes_differ_in_their_config(training: ModuleType) -> None:
    recipe = training.Recipe()
    run = training._new_run(NAME, 0, recipe)
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        other = dataclasses.replace(recipe, **{field.name: type(value)(value / 2)})
        assert training._new_run(NAME, 0, other).config != run.config


@pytest.mark.usefixtures("few_conflicts")
def test_the_script_trains_and_draws_and_trains_nothing_twice(training: ModuleType, tmp_path: Path) -> None:
    main = importlib.import_module("train_micro").main
    out, figure = tmp_path / "out", tmp_path / "figure"
    command = ["--model", NAME, "--tag", "shape90", "--images", "64", "--output", str(out), "--figure", str(figure)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert f"{NAME}.shape90: " in done.stdout and "accuracy on held-out images after 64 images" in done.stdout
    files = {f"{NAME}.shape90.{suffix}" for suffix in ("safetensors", "json", "csv")}
    assert {path.name for path in out.iterdir()} == files
    assert (figure / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (figure / "data.csv").read_text().startswith("model,tag,seed,step,images,")
    written = (out / f"{NAME}.shape90.json").stat().st_mtime_ns
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0 and "already trained" in again.stderr
    assert (out / f"{NAME}.shape90.json").stat().st_mtime_ns == written
    other = CliRunner().invoke(main, [*command, "--seed", "1"])
    assert other.exit_code == 1
    assert "is from another run" in other.stderr
