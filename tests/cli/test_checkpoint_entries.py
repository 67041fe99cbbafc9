"""``--entry`` and ``--prefix`` of all commands that read a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result
from PIL import Image

from replk_probe.erf.result import ErfResult
from replk_probe.kernels.result import KernelResult
from replk_probe.models import create_model
from replk_probe.shape_bias import CATEGORIES
from replk_probe.shape_bias.result import ShapeBiasResult

Run = Callable[..., Result]

MODEL = "replknet_micro_k7_rep"
SEEDS = {"teacher": 1, "student": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with two networks under one prefix, and other objects."""
    entries = {
        entry: {f"module.backbone.{name}": value for name, value in create_model(MODEL, seed=seed).state_dict().items()}
        for entry, seed in SEEDS.items()
    }
    torch.save({**entries, "log": Path("run")}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds."""
    for function in ("erf.plot_all.save_all_figures", "kernels.plot.save_figures", "shape_bias.plot.save_figures"):
        monkeypatch.setattr(f"replk_probe.{function}", lambda *_, **__: None)


@pytest.mark.parametrize("command", ["erf", "shape-bias", "kernels", "reparam", "weights verify"])
def test_several_entries_are_listed(replk_probe: Run, file: Path, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    arguments = ("--model", MODEL, "--weights", file, "-o", out)
    if command == "reparam":
        arguments = (file, "--model", MODEL, "-o", out.with_suffix(".safetensors"))
    done = replk_probe(*command.split(), *((file,) if command == "weights verify" else arguments))
    assert done.exit_code == 1
    assert "entry='teacher'" in done.stderr and "entry='student'" in done.stderr
    assert "options entry and prefix" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("entry", SEEDS)
@pytest.mark.parametrize("prefix", [(), ("--prefix", "module.backbone.")])
def test_kernels(
    replk_probe: Run, undrawn: None, file: Path, tmp_path: Path, entry: str, prefix: tuple[str, ...]
) -> None:
    found, expected = tmp_path / "found", tmp_path / "expected"
    run = ("kernels", "--model", MODEL, "--layer", "stage1.0", "--strongest", 0)
    done = replk_probe(*run, "--weights", file, "--entry", entry, *prefix, "-o", found)
    assert done.exit_code == 0, done.output
    replk_probe(*run, "--weights", "random", "--seed", SEEDS[entry], "-o", expected)
    results = [KernelResult.load(folder) for folder in (found, expected)]
    magnitudes = [result.kernels[0].magnitude for result in results]
    assert np.array_equal(*magnitudes)
    weights = results[0].run.weights
    assert (weights.wrapper, weights.prefix) == (entry, "module.backbone.")
    assert f"weights.pth, {entry} [" in weights.label


def test_erf_resumes_only_the_same_entry(replk_probe: Run, undrawn: None, file: Path, tmp_path: Path) -> None:
    # The seed of random weights is also that of the images.
    run = ("erf", "--model", MODEL, "--images", 1, "--size", 32, "--seed", SEEDS["student"], "--resume", "-o")
    contributions = {}
    for entry in SEEDS:
        done = replk_probe(*run, tmp_path / entry, "--weights", file, "--entry", entry)
        assert done.exit_code == 0, done.output
        result = ErfResult.load(tmp_path / entry)
        assert result.run.weights.wrapper == entry
        contributions[entry] = result.contribution
    assert not np.array_equal(*contributions.values())
    refused = replk_probe(*run, tmp_path / "student", "--weights", file, "--entry", "teacher")
    assert refused.exit_code == 1 and "this run has entry of the weights" in " ".join(refused.output.split())
    replk_probe(*run, tmp_path / "expected", "--weights", "random")
    assert np.array_equal(ErfResult.load(tmp_path / "expected").contribution, contributions["student"])


def test_shape_bias(replk_probe: Run, undrawn: None, file: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(16):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        path = tmp_path / "stimuli" / f"{CATEGORIES[index]}1-{CATEGORIES[index - 1]}1.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({category: [index] for index, category in enumerate(CATEGORIES)}))
    run = ("shape-bias", "--model", MODEL, "--stimuli", tmp_path / "stimuli", "--mapping", labels, "-o")
    done = replk_probe(*run, tmp_path / "out", "--weights", file, "--entry", "student")
    assert done.exit_code == 0, done.output
    result = ShapeBiasResult.load(tmp_path / "out")
    assert (result.run.weights.wrapper, result.run.weights.prefix) == ("student", "module.backbone.")
    replk_probe(*run, tmp_path / "expected", "--weights", "random", "--seed", 2)
    assert np.array_equal(result.probabilities, ShapeBiasResult.load(tmp_path / "expected").probabilities)


def test_reparam_and_verify(replk_probe: Run, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.safetensors"
    done = replk_probe("reparam", file, "--model", MODEL, "-o", out, "--entry", "student")
    assert done.exit_code == 0, done.output
    expected = create_model(MODEL, seed=2).double().reparameterize().float().state_dict()
    found = safetensors.torch.load_file(out)
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
    done = replk_probe("weights", "verify", file, "--json", "--entry", "student", "--prefix", "module.backbone.")
    facts = json.loads(done.stdout)
    assert (facts["wrapper"], facts["prefix"], facts["model"]) == ("student", "module.backbone.", MODEL)


def test_an_entry_or_prefix_that_does_not_exist(replk_probe: Run, file: Path) -> None:
    done = replk_probe("weights", "verify", file, "--entry", "net")
    assert done.exit_code == 1
    assert "no entry 'net'. Its entries are teacher (" in done.stderr and "student (" in done.stderr
    done = replk_probe("weights", "verify", file, "--entry", "teacher", "--prefix", "encoder.")
    assert done.exit_code == 1
    assert "no tensor with the prefix 'encoder.'. Its names start with module. (" in done.stderr
    done = replk_probe("weights", "verify", file, "--entry", "")
    assert done.exit_code == 1 and "Traceback" not in done.stderr
