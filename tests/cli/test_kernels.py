"""`replk-probe kernels`: its files, its words, its errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from replk_probe.kernels import KernelResult, load_results, plot
from replk_probe.models import create_model, default_models

Run = Callable[..., Result]

RECORDS = {"kernels.json", "kernels.npz", "kernels.csv", "strongest.npz"}
FIGURES = {f"{name}.{kind}" for name in ("kernels", "profiles", "gallery") for kind in ("png", "pdf")}
OVERVIEW = {"overview.png", "overview.pdf"}

NETWORKS = """
from torch import nn
from replk_probe.models.architectures.replknet import RepLKNet

def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.BatchNorm2d(8))

def series():
    return nn.Sequential(
        nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), nn.Conv2d(8, 4, 1)
    )

def dense():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(4, 4))

def rep():
    return RepLKNet((9, 7), (1, 2), (8, 8), small_kernel=3)

def norep():
    return RepLKNet((9, 7), (1, 2), (8, 8), small_kernel=None)
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a file of networks, in the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.py").write_text(NETWORKS)
    return "networks.py"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures, which take most of the time."""
    monkeypatch.setattr(plot, "save_figures", lambda results, folder: ())


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_layer_of_one_model(replk_probe: Run, networks: str, tmp_path: Path) -> None:
    done = replk_probe(
        "kernels", "--model", f"{networks}:rep", "--layer", "stage1.0", "--variant", "all", "--output", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path / "out") == RECORDS | FIGURES
    record = json.loads((tmp_path / "out/kernels.json").read_text())
    assert record["schema_version"] == 1
    (model,) = record["run"]["models"]
    assert (model["model"], model["variant"], model["layers"]) == (f"{networks}:rep", "all", ["stage1.0"])
    assert [(one["layer"], one["variant"], one["kernel_size"]) for one in record["kernels"]] == [
        ("stage1.0", "large", [9, 9]), ("stage1.0", "small", [3, 3]), ("stage1.0", "merged", [9, 9]),
    ]  # fmt: skip
    assert all(one["channels"] == 8 and one["model"] == f"{networks}:rep" for one in record["kernels"])
    result = KernelResult.load(tmp_path / "out")
    with np.load(tmp_path / "out/kernels.npz") as arrays:
        assert len(arrays.files) == 3
        np.testing.assert_array_equal(arrays[record["kernels"][2]["array"]], result.kernel("stage1.0").magnitude)
    for words in ("3x3 %", "stage1.0", "merged", "origin of its weights unknown"):
        assert words in done.stdout
    assert f"{100 * result.kernel('stage1.0').center3x3_share:.1f}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_several_models_share_one_folder(replk_probe: Run, networks: str, tmp_path: Path) -> None:
    done = replk_probe("kernels", "--model", f"{networks}:rep", "--model", f"{networks}:norep", "--variant", "all")
    assert done.exit_code == 0, done.output
    out = tmp_path / "replk-probe-out/kernels"
    assert names_in(out) == RECORDS | FIGURES | OVERVIEW
    first, second = load_results(out)
    assert [kernel.variant for kernel in first.kernels] == ["large", "small", "merged"] * 3
    assert [(kernel.layer, kernel.variant) for kernel in second.kernels] == [
        ("stage1.0", "merged"), ("stage2.0", "merged"), ("stage2.1", "merged"),
    ]  # fmt: skip
    with (out / "kernels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12 and {row["model"] for row in rows} == {f"{networks}:rep", f"{networks}:norep"}


def test_default_output_of_one_model_is_named_after_it(replk_probe: Run, networks: str, tmp_path: Path) -> None:
    done = replk_probe("kernels", "--model", f"{networks}:plain")
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path / "replk-probe-out/kernels/networks.py-plain") == RECORDS | FIGURES
    (kernel,) = KernelResult.load(tmp_path / "replk-probe-out/kernels/networks.py-plain").kernels
    assert (kernel.layer, kernel.operation, kernel.batch_norm) == ("1", "depthwise", ("2",))


def test_every_option_has_an_effect(replk_probe: Run, undrawn: None, tmp_path: Path) -> None:
    def measure(*options: object, model: str = "mobilenetv2_k9_rep") -> KernelResult:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        done = replk_probe("kernels", "--model", model, "--layer", "stage4.0", "--output", out, *options)
        assert done.exit_code == 0, done.output
        return KernelResult.load(out)

    base = measure("--weights", "random")
    assert base.run.weights.is_random and base.run.aggregate == "sum"
    (kernel,) = base.kernels
    assert kernel.variant == "merged" and kernel.strongest.shape == (8, 9, 9)
    assert not np.array_equal(measure("--weights", "random", "--seed", 1).kernels[0].magnitude, kernel.magnitude)
    mean = measure("--weights", "random", "--aggregate", "mean").kernels[0].magnitude
    np.testing.assert_allclose(mean * 192, kernel.magnitude, rtol=1e-12)
    assert measure("--weights", "random", "--variant", "small").kernels[0].kernel_size == (3, 3)
    assert len(measure("--weights", "random", "--strongest", 2).kernels[0].strongest) == 2
    assert len(measure("--weights", "random", "--layer", "stage1.*").kernels) == 2
    model = create_model("mobilenetv2_k9_rep", seed=4)
    averaged = create_model("mobilenetv2_k9_rep", seed=5)
    torch.save({"model": model.state_dict(), "model_ema": averaged.state_dict()}, tmp_path / "weights.pth")
    by_file = measure("--weights", tmp_path / "weights.pth")
    assert by_file.run.weights.source == "file:weights.pth" and by_file.run.weights.wrapper == "model"
    assert measure("--weights", tmp_path / "weights.pth", "--ema").run.weights.wrapper == "model_ema"


def test_composed_kernels_and_their_figure(replk_probe: Run, networks: str, tmp_path: Path) -> None:
    done = replk_probe("kernels", "--model", f"{networks}:series", "--compose", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path / "out") == RECORDS | FIGURES | OVERVIEW | {"composed.png", "composed.pdf"}
    kernels = KernelResult.load(tmp_path / "out").kernels
    assert [(kernel.path, kernel.variant) for kernel in kernels] == [("0", "merged"), ("1", "merged"), ("", "composed")]
    assert kernels[2].kernel_size == (9, 9) and "composed" in done.stdout
    done = replk_probe("kernels", "--model", f"{networks}:plain", "--compose", "--output", tmp_path / "none")
    assert done.exit_code == 0 and "No kernels were composed: none of the" in done.stdout


def test_statistics_of_channels_are_printed_on_request(replk_probe: Run, networks: str, undrawn: None) -> None:
    run = ("kernels", "--model", "replknet_micro_k13_rep", "--layer", "stage4.0")
    plain, full = replk_probe(*run), replk_probe(*run, "--metrics")
    assert "low/mid/high %" not in plain.stdout and "relative norm" not in plain.stdout
    for words in ("low/mid/high %", "angle", "aniso", "dist", "rank"):
        assert words in full.stdout
    assert "cosine" not in full.stdout
    assert max(map(len, full.stdout.splitlines())) <= 100


def test_kernels_are_compared_with_another_checkpoint(replk_probe: Run, undrawn: None, tmp_path: Path) -> None:
    model = create_model("mobilenetv2_k9_rep", seed=1)
    torch.save(model.state_dict(), tmp_path / "one.pth")
    torch.save(create_model("mobilenetv2_k13_rep").state_dict(), tmp_path / "other.pth")
    run = ("kernels", "--model", "mobilenetv2_k9_rep", "--layer", "stage4.0", "--output", tmp_path / "out")
    done = replk_probe(*run, "--weights", "random", "--against", tmp_path / "one.pth")
    assert done.exit_code == 0, done.output
    (kernel,) = KernelResult.load(tmp_path / "out").kernels
    assert kernel.change is not None and kernel.change.relative_norm is not None
    assert f"{kernel.change.relative_norm:.3f}" in done.stdout and "against file:one.pth" in done.stdout
    done = replk_probe(*run, "--weights", "random", "--against", tmp_path / "other.pth")
    assert done.exit_code == 1
    assert done.stderr.count("Error: ") == 1 and "other.pth" in done.stderr and "Traceback" not in done.output
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == 1


def test_no_gallery_without_channels(replk_probe: Run, networks: str, tmp_path: Path) -> None:
    done = replk_probe("kernels", "--model", f"{networks}:plain", "--strongest", 0, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert not {"gallery.png", "gallery.pdf"} & names_in(tmp_path / "out")


def test_random_weights_are_reported(replk_probe: Run, undrawn: None, tmp_path: Path) -> None:
    done = replk_probe(
        "kernels", "--model", "mobilenetv2_k13_rep", "--model", "mobilenetv2_k13", "--weights", "random",
        "--layer", "paper", "--variant", "all", "--output", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stderr.count("RANDOM WEIGHTS (seed 0). The model is not trained") == 2
    assert done.stdout.count("RANDOM WEIGHTS") == 2
    lines = done.stdout.splitlines()
    # The shares of the paper's three matrices are below their kernels.
    printed = [line.split() for line in lines if line.strip().startswith("published")]
    expected = (("8.3", "25.3"), ("22.7", "33.1"), ("15.3", "27.9"))
    assert printed[: len(expected)] == [["published,", "trained", *shares] for shares in expected]
    assert "arXiv:2203.06717v1, Fig. 6" in done.stdout


def test_without_a_model_the_small_pair_is_measured(replk_probe: Run, tmp_path: Path) -> None:
    done = replk_probe("kernels", "--layer", "stage4.0", "--variant", "all", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "small models trained on synthetic data" in done.stderr and "RANDOM" not in done.output
    results = load_results(tmp_path / "out")
    assert tuple(result.run.model for result in results) == default_models("kernels")
    assert all("small model trained on synthetic data" in result.run.weights.label for result in results)
    assert [kernel.variant for kernel in results[0].kernels] == ["large", "small", "merged"]
    assert [kernel.variant for kernel in results[1].kernels] == ["merged"]
    assert names_in(tmp_path / "out") == RECORDS | FIGURES


def test_the_other_models_are_measured_if_one_fails(
    replk_probe: Run, networks: str, undrawn: None, tmp_path: Path
) -> None:
    done = replk_probe(
        "kernels", "--model", f"{networks}:norep", "--model", f"{networks}:rep", "--variant", "small",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 1
    assert f"{networks}:norep: failed. stage1.0 has no small branch." in done.stderr
    assert "1 of 2 models could not be measured" in done.stderr
    assert f"The other results are in {tmp_path / 'out'}" in done.stderr
    assert [result.run.model for result in load_results(tmp_path / "out")] == [f"{networks}:rep"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "replknet31"], "Unknown model 'replknet31'"),
        (["--layer", "stage9.0"], "It has stages 1 to 2, with 1, 2 blocks, which count from 0."),
        (["--layer", "stages.0.blocks.0.pw1.conv"], "It is a 1 x 1 convolution. Choose one of its kernels: stage1.0"),
        (["--layer", "head"], "It is a module of type Linear, without a convolution larger than 1 x 1"),
        (["--layer", "nowhere.*"], "matches the pattern 'nowhere.*'"),
        (["--model", "networks.py:dense", "--layer", "paper"], "has no layer that corresponds to the paper's"),
        (["--model", "networks.py:norep", "--variant", "small"], "stage1.0 has no small branch"),
        (["--weights", "missing.pth"], "no such file"),
        (["--weights", "a.pth", "--weights", "b.pth"], "--weights was given 2 times for 1 models"),
        (["--output", "networks.py"], "is not a folder"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    replk_probe: Run, networks: str, tmp_path: Path, options: list[str], message: str
) -> None:
    model = [] if "--model" in options else ["--model", f"{networks}:rep"]
    done = replk_probe("kernels", *model, *options)
    assert done.exit_code == 1
    assert message in done.stderr and done.stderr.count("Error: ") == 1 and "Traceback" not in done.output
    assert names_in(tmp_path) == {"networks.py"}


def test_checkpoints_that_lack_what_is_asked_for(replk_probe: Run, undrawn: None, tmp_path: Path) -> None:
    model = create_model("mobilenetv2_k9_rep")
    state = model.state_dict()
    short = {name: value for name, value in state.items() if not name.startswith("features.7.")}
    torch.save(short, tmp_path / "short.pth")
    torch.save(model.reparameterize().state_dict(), tmp_path / "merged.pth")
    run = ("kernels", "--model", "mobilenetv2_k9_rep", "--layer", "stage4.0", "--output", tmp_path / "out")
    done = replk_probe(*run, "--weights", tmp_path / "short.pth")
    assert done.exit_code == 1 and "missing keys (features.7.conv.1.0.large_conv." in done.stderr
    done = replk_probe(*run, "--weights", tmp_path / "merged.pth", "--variant", "small")
    assert done.exit_code == 1 and "The small kernel of stage4.0 is unknown." in done.stderr
    assert not (tmp_path / "out").exists()
    done = replk_probe(*run, "--weights", tmp_path / "merged.pth")
    assert done.exit_code == 0 and "cannot be separated" in " ".join(done.stdout.split())


@pytest.mark.parametrize("option", [["--variant", "both"], ["--aggregate", "max"], ["--strongest", "-1"]])
def test_wrong_usage(replk_probe: Run, option: list[str]) -> None:
    assert replk_probe("kernels", "--model", "replknet7", *option).exit_code == 2


def test_help_shows_a_readable_range_of_seeds_and_large_ones_are_errors(replk_probe: Run) -> None:
    assert "[default: 0; x>=0]" in replk_probe("kernels", "--help").stdout
    for seed in (-1, 2**63):
        done = replk_probe("kernels", "--seed", str(seed))
        assert done.exit_code == 2 and f"{seed} is not in the range" in done.stderr
