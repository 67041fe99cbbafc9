"""`replk-probe shape-bias`: its files, its words, its errors."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from replk_probe.shape_bias import CATEGORIES
from replk_probe.shape_bias.result import ShapeBiasResult

Run = Callable[..., Result]

FILES = {
    "shape_bias.json",
    "decisions.csv",
    "decisions.npz",
    "shape_bias.csv",
    "shape_bias.png",
    "shape_bias.pdf",
    "contact_sheet.png",
    "contact_sheet.pdf",
}

NETWORKS = '''
import torch
from torch import nn

class Red(nn.Module):
    """Output k is the higher, the closer the red of the picture is to k sixteenths: sees nothing but that."""
    OUTPUTS = 16
    at = None
    calls = 0

    def __init__(self):
        super().__init__()
        self.colour = nn.Parameter(torch.linspace(-2, 2, self.OUTPUTS))

    def forward(self, x):
        # Batches alone count, not the calls that look at the network.
        if torch.is_tensor(x) and x.shape[0] > 1:
            if Red.calls == Red.at:
                raise KeyboardInterrupt
            Red.calls += 1
        return -(x[:, 0].mean((1, 2))[:, None] - self.colour).square()

class Wide(Red):
    OUTPUTS = 1000

class Odd(Red):
    OUTPUTS = 17

def red(): return Red()
def wide(): return Wide()
def odd(): return Odd()
'''


@pytest.fixture
def networks(tmp_path: Path) -> str:
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return str(path)


@pytest.fixture
def stimuli(tmp_path: Path) -> Path:
    """Four stimuli of each category, every fourth without a conflict; red tells the texture."""
    folder = tmp_path / "stimuli"
    for index, shape in enumerate(CATEGORIES):
        for step in range(4):
            texture = (index + 5 * step) % 16
            pixels = np.full((40, 40, 3), 128, dtype=np.uint8)
            pixels[..., 0] = 8 + 16 * texture
            path = folder / shape / f"{shape}{step + 1}-{CATEGORIES[texture]}1.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def test_one_model(replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path) -> None:
    out = tmp_path / "out"
    done = replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == FILES
    record = json.loads((out / "shape_bias.json").read_text())
    assert record["schema_version"] == 1
    assert record["run"]["image_source"] == "folder:stimuli"
    numbers = record["shape_bias"]
    assert {
        "overall", "macro", "median", "ci95", "shape", "texture", "other", "n_conflict", "cue_accuracy",
        "congruent_accuracy", "by_category", "error_consistency",
    } <= set(numbers)  # fmt: skip
    assert numbers["n_conflict"] == 48
    assert numbers["shape"] + numbers["texture"] + numbers["other"] == 48
    assert numbers["texture"] > 0
    assert set(numbers["by_category"]["cat"]) == {"shape", "texture", "other", "bias"}
    assert "observers" not in record
    assert "Humans (10), published" in done.stdout
    with (out / "decisions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["subj"] for row in rows} == {"red"}
    assert len(rows) == 64
    assert ShapeBiasResult.load(out).shape_bias == numbers["overall"]


def test_its_decisions_are_imported_again_with_the_same_numbers(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", first)
    done = replk_probe("shape-bias", "--import", first, "--output", second)
    assert done.exit_code == 0, done.output
    measured = json.loads((first / "shape_bias.json").read_text())["shape_bias"]
    record = json.loads((second / "shape_bias.json").read_text())
    assert record["shape_bias"] is None
    assert record["run"]["model"] is None
    assert set(record["observers"]) == {"red"}
    for key in ("overall", "macro", "median", "ci95", "shape", "texture", "other", "by_category", "cue_accuracy"):
        assert record["observers"]["red"][key] == measured[key]
    assert {path.name for path in second.iterdir()} == {
        "shape_bias.json", "shape_bias.csv", "shape_bias.png", "shape_bias.pdf",
    }  # fmt: skip


def test_several_models_beside_imported_observers(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    other = tmp_path / "other"
    replk_probe("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--output", other)
    out = tmp_path / "out"
    shutil.copy(other / "decisions.csv", tmp_path / "raw.csv")
    raw = tmp_path / "raw"
    raw.mkdir()
    text = (tmp_path / "raw.csv").read_bytes().replace(b"red,1,", b"subject-01,1,")
    (raw / "people.csv").write_bytes(text)
    models = ("--model", f"{networks}:red", "--model", f"{networks}:wide")
    done = replk_probe("shape-bias", *models, "--stimuli", stimuli, "--import", raw, "--output", out)
    assert done.exit_code == 0, done.output
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert len(folders) == 2
    assert all({path.name for path in folder.iterdir()} == FILES for folder in folders)
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "comparison.png", "comparison.pdf", "comparison.csv",
    }  # fmt: skip
    record = json.loads((folders[0] / "shape_bias.json").read_text())
    assert set(record["observers"]) == {"humans", "subject-01"}
    assert record["shape_bias"]["error_consistency"]["mean_human"] == 1.0  # its own decisions under another name
    assert set(record["shape_bias"]["error_consistency"]["by_observer"]) == {"subject-01", "wide"}
    assert "Differences of shape bias" in done.stdout


def test_an_interrupted_run_is_continued(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("shape-bias", "--model", f"{networks}:red", "--stimuli", stimuli, "--batch-size", 8, "--workers", 0)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert replk_probe(*run, "--output", whole).exit_code == 0
    source = NETWORKS.replace("at = None", "at = 4")
    Path(networks).write_text(source)
    stopped = replk_probe(*run, "--output", out)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert not (out / "shape_bias.json").exists()
    Path(networks).write_text(NETWORKS)
    done = replk_probe(*run, "--output", out, "--resume")
    assert done.exit_code == 0, done.output
    assert (out / "decisions.csv").read_bytes() == (whole / "decisions.csv").read_bytes()
    assert (out / "decisions.npz").read_bytes() == (whole / "decisions.npz").read_bytes()
    again = replk_probe(*run, "--output", out, "--resume")
    assert "already measured" in again.stderr


def test_nothing_asked_for_offline(replk_probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model, random weights on drawn stimuli are announced with the two commands for the real thing."""
    from replk_probe.cli import shape_bias

    chosen = shape_bias._without_model(("auto",), None)
    assert chosen == (("replknet31b",), ("random",), "synthetic", 16)


def test_nothing_asked_for_with_all_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from replk_probe.cli import shape_bias

    monkeypatch.setattr("replk_probe.models._weights.cached_path", lambda entry: tmp_path)
    monkeypatch.setattr("replk_probe.shape_bias.cue_conflict.cached_cue_conflict", lambda: tmp_path)
    chosen = shape_bias._without_model(("auto",), None)
    assert chosen == (("replknet31b",), ("replknet31b.in1k_224",), "cue-conflict", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--import", "nowhere"), "Cannot import nowhere"),
        (("--stimuli", "nowhere"), "No model was named"),
        (("--weights", "random"), "No model was named"),
        (("--model", "resnet18", "--weights", "random", "--stimuli", "nowhere"), "Cannot find stimuli at 'nowhere'"),
        (("--model", "resnet18", "--mapping", "nowhere.json"), "Cannot read the mapping nowhere.json"),
        (("--model", "resnet18", "--device", "abacus"), "abacus"),
        (("--model", "resnet18", "--weights", "random", "--stimuli", "synthetic"), "--mapping"),
        (("--model", "resnet18", "--weights", "random"), "cue-conflict"),
    ],
)
def test_a_mistake_is_one_sentence(
    replk_probe: Run, arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = replk_probe("shape-bias", *arguments)
    assert done.exit_code == 1
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_measurement_without_one(replk_probe: Run, tmp_path: Path) -> None:
    done = replk_probe("shape-bias", "--import", tmp_path, "--stimuli", "synthetic")
    assert done.exit_code == 1


def test_a_head_of_another_size_names_the_mapping(
    replk_probe: Run, tmp_path: Path, networks: str, stimuli: Path
) -> None:
    run = ("shape-bias", "--model", f"{networks}:odd", "--stimuli", stimuli, "--output", tmp_path / "out")
    done = replk_probe(*run)
    assert done.exit_code == 1
    assert "17 outputs" in done.stderr
    assert "--mapping" in done.stderr
    assert not (tmp_path / "out").exists()
    mapping = tmp_path / "labels.json"
    mapping.write_text(json.dumps({category: [index + 1] for index, category in enumerate(CATEGORIES)}))
    assert replk_probe(*run, "--mapping", mapping).exit_code == 0


def test_published_decisions_reproduce_the_published_table(replk_probe: Run, data_dir: Path, tmp_path: Path) -> None:
    done = replk_probe("shape-bias", "--import", data_dir / "raw-data" / "cue-conflict", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    observers = json.loads((tmp_path / "out" / "shape_bias.json").read_text())["observers"]
    assert len(observers) == 15
    humans = observers["humans"]
    assert (humans["shape"], humans["texture"], humans["other"], humans["na"]) == (9236, 398, 2366, 118)
    assert humans["error_consistency"]["mean_human"] == pytest.approx(0.331052, abs=5e-7)
    vgg = observers["vgg"]
    assert (vgg["shape"], vgg["texture"], vgg["other"]) == (130, 625, 445)
    assert vgg["overall"] == pytest.approx(130 / 755, abs=1e-12)
