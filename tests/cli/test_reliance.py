"""`replk-probe reliance`: its files, its tables, its errors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from replk_probe import RelianceResult

Run = Callable[..., Result]

MODEL = ("--model", "replknet_micro_k3")
FILES = {"reliance.json", "reliance.npz", "reliance.csv"} | {
    f"{name}.{kind}" for name in ("reliance", "suppressions") for kind in ("png", "pdf")
}


@pytest.fixture
def colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images for each of two classes, in the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    for label in ("0", "1"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 99, (32, 32, 3), np.uint8)
            pixels[..., int(label)] += 100
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{index}.png")
    return tmp_path


def test_one_model(replk_probe: Run, colors: Path) -> None:
    options = ("--suppressions", "patch-shuffle,grayscale,patch-shuffle+grayscale", "--images", 32)
    result = replk_probe("reliance", *MODEL, *options)
    assert result.exit_code == 0, result.output
    folder = Path("replk-probe-out/reliance/replknet_micro_k3")
    assert {path.name for path in folder.iterdir()} == FILES
    found = RelianceResult.load(folder)
    assert found.run.image_source == "synthetic" and len(found.targets) == 32
    lines = result.stdout.splitlines()
    assert "32 generated images, 16 classes (synthetic)" in " ".join(lines[:2])
    assert ["model", "accuracy", "%", "shape", "color"] in [line.split() for line in lines]
    strengths = "  ".join(f"{one.strength:g}: {100 * one.relative_accuracy:.0f}" for one in found.single[:4])
    assert any(line.startswith("patch-shuffle (shape)") and line.endswith(strengths) for line in lines)
    assert any(line.startswith("shape + color") for line in lines)
    assert "32 images in" in result.stderr


def test_the_default_models_fit_on_a_screen(replk_probe: Run, colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = replk_probe("reliance", "--suppressions", "grayscale,gaussian-blur:2,patch-shuffle:4", "--images", 16)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= 80
    out = Path("replk-probe-out/reliance")
    models = ["replknet_micro_k3.shape100", "replknet_micro_k3.shape50"]
    assert {path.name for path in out.iterdir()} == {*models, "comparison.png", "comparison.pdf", "comparison.csv"}
    tables = [(out / model / "reliance.csv").read_text().splitlines() for model in models]
    assert (out / "comparison.csv").read_text().splitlines() == tables[0] + tables[1][1:]
    assert "measuring 2 small models" in result.stderr


def test_a_folder_with_classes(replk_probe: Run, colors: Path) -> None:
    Path("net.py").write_text(NETWORK)
    options = ("--data", "photos", "--weights", "random", "--size", 32, "--mean", "0", "--std", "1")
    result = replk_probe("reliance", "--model", "net.py:build", *options, "--suppressions", "grayscale", "-o", "out")
    assert result.exit_code == 0, result.output
    found = RelianceResult.load("out")
    assert (found.label_space, found.accuracy) == ("indices", 1) and "RANDOM WEIGHTS" in result.stdout
    assert found.suppressions[0].accuracy == 0.5  # both outputs are equal, and the first one is chosen
    assert "The model is not trained" in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--data", "photos"), "--data was given without --model."),
        ((*MODEL, "--data", "none"), "Image folder none does not exist."),
        ((*MODEL, "--data", "photos"), "The images have classes that the model does not know: 0, 1."),
        ((*MODEL, "--suppressions", "blur"), "Unknown suppression 'blur'."),
        (("--model", "test_resnet", "--weights", "random"), "There are no images for test_resnet."),
        ((*MODEL, "--size", "20x32"), "cannot be rotated by 90 degrees."),
    ],
)
def test_errors_are_one_line(replk_probe: Run, colors: Path, options: tuple[str, ...], says: str) -> None:
    result = replk_probe("reliance", *options)
    assert result.exit_code == 1 and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and says in last and not Path("replk-probe-out").exists()


NETWORK = """
from pathlib import Path
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def forward(self, x):
        if len(x) > 1 and Path("stop").exists():  # the file has the number of batches before the interrupt
            left = int(Path("stop").read_text())
            if not left:
                raise KeyboardInterrupt
            Path("stop").write_text(str(left - 1))
        return x.mean((2, 3))[:, :2]

def build():
    return Network()
"""


def test_an_interrupted_run_prints_the_command_that_continues_it(replk_probe: Run, colors: Path) -> None:
    Path("net.py").write_text(NETWORK)
    Path("stop").write_text("3")  # two of them without and with the suppression, and one of the next images
    options = ("--data", "photos", "--weights", "random", "--size", 32, "--suppressions", "grayscale")
    stopped = replk_probe("reliance", "--model", "net.py:build", *options, "--batch-size", 2)
    assert stopped.exit_code == 130, stopped.output
    assert "Interrupted. Completed work is kept. Resume with:" in stopped.stderr
    Path("stop").unlink()
    (line,) = re.findall(r"(reliance .*--resume)", stopped.stderr)
    done = replk_probe(*shlex.split(line))
    assert done.exit_code == 0, done.output
    again = replk_probe(*shlex.split(line))
    assert again.exit_code == 0 and "already measured" in again.stderr


def test_an_interrupt_before_anything_was_saved_says_so(replk_probe: Run, colors: Path) -> None:
    Path("net.py").write_text(NETWORK)
    Path("stop").write_text("0")
    options = ("--data", "photos", "--weights", "random", "--size", 32, "--suppressions", "grayscale")
    stopped = replk_probe("reliance", "--model", "net.py:build", *options)
    assert stopped.exit_code == 130 and not Path("replk-probe-out").exists()
    assert "Interrupted. Nothing was saved. Run the command again." in stopped.stderr
    assert "--resume" not in stopped.stderr
