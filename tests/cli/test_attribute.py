"""`replk-probe attribute`: its files, its table, its errors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from replk_probe import AttributionResult, measure_erf

Run = Callable[..., Result]

MODEL = "replknet_micro_k3"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two images in the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("one.png", "two.png")):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return ["one.png", "two.png"]


def test_files_and_table(replk_probe: Run, pictures: list[str]) -> None:
    result = replk_probe("attribute", *pictures, "--model", MODEL, "--method", "grad-cam", "--target", 3)
    folder = Path("replk-probe-out/attribution/grad-cam") / MODEL
    assert {path.name for path in folder.iterdir()} == {
        f"attribution.{kind}" for kind in ("json", "npz", "csv", "png", "pdf")
    }
    found = AttributionResult.load(folder)
    assert [image.id for image in found.images] == pictures and found.maps.shape == (2, 64, 64)
    assert {image.target for image in found.images} == {3} and found.images[0].target_name is not None
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["image", "target", "p", "%", "bits", "area", "%"] + [
        word for share in ("20", "30", "50", "99") for word in ("in", share, "%")
    ]
    assert lines[2].startswith("one.png") and found.images[0].target_label in lines[2]
    assert "2 images in" in result.stderr


def test_random_weights_are_stated_and_one_folder_per_model(replk_probe: Run, pictures: list[str]) -> None:
    models = ("--model", MODEL, "--model", "test_resnet", "--weights", "random")
    result = replk_probe("attribute", pictures[0], *models, "-o", "out", "--size", "32", "--thresholds", "0.5")
    assert result.exit_code == 0
    assert "RANDOM WEIGHTS" in result.stdout and "The model is not trained" in result.stderr
    assert {path.name for path in Path("out").iterdir()} == {MODEL, "test_resnet"}
    found = AttributionResult.load("out/test_resnet")
    assert found.run.weights.is_random and found.images[0].target_name is None
    assert [window.threshold for window in found.images[0].windows] == [0.5]


def test_the_windows_of_a_measured_erf(replk_probe: Run, pictures: list[str]) -> None:
    measure_erf(MODEL, images=2, size=64, device="cpu").save("erf")
    assert replk_probe("attribute", pictures[0], "--model", MODEL, "--erf", "erf", "-o", "out").exit_code == 0
    found = AttributionResult.load("out")
    assert (found.erf, found.run.config["erf"]["n_images"]) == (MODEL, 2)
    other = replk_probe("attribute", pictures[0], "--model", "test_resnet", "--erf", "erf", "--weights", "random")
    assert other.exit_code == 1 and "is that of model 'replknet_micro_k3'" in other.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "No image was given."),
        (("none.png", "--model", MODEL), "Cannot use image none.png. It is unreadable: no such file."),
        (("text.jpg", "--model", MODEL), "Cannot use image text.jpg. It is unreadable: not an image"),
        (("one.png", "--model", MODEL, "--target", "16"), "There is no class 16. replknet_micro_k3 has 16 classes"),
        (("one.png", "--model", MODEL, "--target", "cat"), "has no class of this name"),
        (("one.png", "--model", MODEL, "--erf", "here"), "Cannot read here/erf.json. No such file"),
        (("one.png", "--model", "nets.py:dense", "--size", "32"), "A decision requires one number per class."),
        (("one.png", "--model", MODEL, "--layer", "head"), "in which no rows and columns of the image can be found"),
    ],
)
def test_errors_are_one_line(replk_probe: Run, pictures: list[str], options: tuple[str, ...], says: str) -> None:
    Path("text.jpg").write_text("no image")
    Path("nets.py").write_text("from torch import nn\ndef dense():\n    return nn.Conv2d(3, 4, 3)\n")
    result = replk_probe("attribute", *options)
    assert result.exit_code == 1 and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and says in last and not Path("replk-probe-out").exists()


def test_an_unknown_method_is_an_error_of_usage(replk_probe: Run, pictures: list[str]) -> None:
    result = replk_probe("attribute", pictures[0], "--method", "lime")
    assert result.exit_code == 2 and "'lime' is not one of 'saliency'" in result.stderr


NETWORK = """
from pathlib import Path
from torch import nn

class Network(nn.Sequential):
    def forward(self, x):
        if Path("stop").exists() and x.requires_grad and x.mean() < 0:
            raise KeyboardInterrupt
        return super().forward(x)

def build():
    return Network(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""


def test_an_interrupted_run_prints_the_command_that_continues_it(replk_probe: Run, pictures: list[str]) -> None:
    Path("net.py").write_text(NETWORK)
    for name, level in zip(pictures, (200, 50), strict=True):
        Image.new("RGB", (32, 32), (level, level, level)).save(name)
    Path("stop").touch()
    options = ("--weights", "random", "--size", 32, "--mean", "0.5", "--std", "0.5")
    stopped = replk_probe("attribute", *pictures, "--model", "net.py:build", *options)
    assert stopped.exit_code == 130, stopped.output
    Path("stop").unlink()
    (line,) = re.findall(r"(attribute .*--resume)", stopped.stderr)
    assert "one.png two.png" in line
    done = replk_probe(*shlex.split(line))
    assert done.exit_code == 0, done.output
    assert len(AttributionResult.load(next(Path("replk-probe-out").rglob("attribution.json")).parent).images) == 2
