"""Names from outside do not reach the terminal as they are: a file named with ESC could forge its output."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import save_file

from replk_probe.errors import WeightsError

Run = Callable[..., Result]

EVIL = "a\x1b[2J\nError: forged \u202egnp"
ESCAPED = r"a\x1b[2J\nError: forged \u202egnp"
SMALL = ("--model", "replknet_micro_k13")


def clean(done: Result) -> str:
    """All output, which has no control character, no bidirectional mark and no forged line."""
    text = done.output
    assert all(character.isprintable() or character == "\n" for character in text)
    assert not any(line.startswith("Error: forged") for line in text.splitlines())
    return text


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    folder = tmp_path / EVIL
    folder.mkdir()
    return folder


def test_images(replk_probe: Run, evil: Path, tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    image.save(evil / "good.png")
    (evil / f"{EVIL}.png").write_bytes(b"no image")
    done = replk_probe("erf", *SMALL, "--data", evil, "--images", 2, "--size", 64, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    text = clean(done)
    assert f"skipped {ESCAPED}.png: " in text and f"of folder:{ESCAPED}" in " ".join(text.split())
    (evil / "good.png").unlink()
    done = replk_probe("erf", *SMALL, "--data", evil, "--size", 64, "--output", tmp_path / "none")
    assert done.exit_code == 1 and "\\x1b[2J" in clean(done)


def test_stimuli(replk_probe: Run, evil: Path, tmp_path: Path) -> None:
    (evil / f"{EVIL}.png").write_bytes(b"no image")
    done = replk_probe("shape-bias", *SMALL, "--stimuli", evil, "--workers", 0, "--output", tmp_path / "out")
    assert done.exit_code == 1 and "\\x1b[2J" in clean(done)


def test_output_folders_and_checkpoints(replk_probe: Run, evil: Path, tmp_path: Path) -> None:
    done = replk_probe("kernels", *SMALL, "--strongest", 0, "--layer", "stage4.0", "--output", evil)
    assert done.exit_code == 0 and f"Results in {tmp_path}/{ESCAPED}" in clean(done)
    weights = evil / f"{EVIL}.safetensors"
    save_file({EVIL: torch.ones(3), "head.weight": torch.ones(2, 3)}, weights)
    done = replk_probe("kernels", *SMALL, "--weights", weights, "--output", tmp_path / "out")
    assert done.exit_code == 1 and "\\x1b[2J" in clean(done)
    assert "\\x1b[2J" in clean(replk_probe("weights", "verify", weights))


def test_a_checkpoint_that_is_measured(replk_probe: Run, evil: Path, tmp_path: Path) -> None:
    from replk_probe.models.weights.catalog import CATALOG

    weights = evil / f"{EVIL}.safetensors"
    shutil.copyfile(CATALOG["replknet_micro_k13.shape90"].embedded, weights)
    run = ("kernels", *SMALL, "--weights", weights, "--strongest", 0, "--layer", "stage4.0")
    done = replk_probe(*run, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert f"replknet_micro_k13: file:{ESCAPED}.safetensors" in clean(done)


def test_names_of_models_and_wrong_usage(replk_probe: Run) -> None:
    assert "\\x1b[2J" in clean(replk_probe("erf", "--model", EVIL))
    assert "\\x1b[2J" in clean(replk_probe("data", "verify", "cue-conflict", "here", EVIL))


def test_phrases_of_a_server(replk_probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise WeightsError(f"Cannot download w. The server answered 404 {EVIL}. Fetch it another way.")

    monkeypatch.setattr("replk_probe.models.weights.resolve.fetch", refuse)
    done = replk_probe("weights", "fetch", "replknet31b.in1k_224")
    assert done.exit_code == 1 and "404 a\\x1b[2J Error: forged \\u202egnp" in clean(done)
