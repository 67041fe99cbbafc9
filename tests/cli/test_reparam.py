"""`replk-probe reparam`, and reading its output with the other commands."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from replk_probe.models import create_model
from replk_probe.models.checkpoints.rename_keys import official_name

Run = Callable[..., Result]

NETS = {
    "replknet": "RepLKNet as Net; make = lambda: Net((9, 7, 7, 5), (1, 1, 2, 1), (4, 4, 8, 8), 5)",
    "slak": "SLaK as Net; make = lambda: Net((11, 9, 9, 7), (1, 1, 2, 1), (4, 4, 8, 8), layer_scale=1.0)",
    "convnext": "LargeKernelConvNeXt as Net; "
    "make = lambda: Net((11, 9, 9, 7), depths=(1, 1, 2, 1), dims=(4, 4, 8, 8), layer_scale=1.0)",
    "mobilenet": "LargeKernelMobileNetV2 as Net; make = lambda: Net(9, 3)",
    "replknet without branches": "RepLKNet as Net; make = lambda: Net((9, 7, 7, 5), (1, 1, 2, 1), (4, 4, 8, 8), None)",
}


class Case:
    """A small network in a file of its own, weights for it, and where the new ones go."""

    def __init__(self, folder: Path, family: str) -> None:
        source = folder / "net.py"
        source.write_text(f"from replk_probe.models import {NETS[family]}\n")
        self.model = f"{source}:make"
        network = create_model(self.model, seed=7)
        generator = torch.Generator().manual_seed(1)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.uniform_(-0.3, 0.1, generator=generator)  # few channels are shut by the ReLU behind
            elif name.endswith("running_var"):
                tensor.uniform_(0.1, 1, generator=generator)
        self.weights = folder / "trained.pth"
        torch.save({official_name(name): tensor for name, tensor in network.state_dict().items()}, self.weights)
        self.out = folder / "out.safetensors"
        self.arguments = ("reparam", self.weights, "--model", self.model, "-o", self.out)


@pytest.fixture
def case(tmp_path: Path, request: pytest.FixtureRequest) -> Case:
    return Case(tmp_path, getattr(request, "param", "replknet"))


@pytest.mark.parametrize("case", NETS, indirect=True)
def test_other_commands_read_the_new_file(
    replk_probe: Run, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replk_probe.erf.plot_all.save_all_figures", lambda *_, **__: None)  # which take seconds
    assert replk_probe(*case.arguments).exit_code == 0
    maps = []
    for weights in (case.weights, case.out):
        folder = tmp_path / weights.stem
        done = replk_probe(
            "erf", "--model", case.model, "--weights", weights, "--images", 1, "--size", 32, "--output", folder
        )
        assert done.exit_code == 0, done.stderr
        with np.load(folder / "erf.npz") as arrays:
            maps.append(arrays["contribution"])
    assert maps[0].max() > 0
    np.testing.assert_allclose(maps[1], maps[0], rtol=0, atol=1e-4 * maps[0].max())
    verified = replk_probe("weights", "verify", case.out)
    assert re.search(r"form: +merged\n", verified.stdout)


def test_its_output(replk_probe: Run, case: Case) -> None:
    result = replk_probe(*case.arguments, "--to", "official")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "train form, names: official" in result.stdout
    assert "10 convolutions in 5 layers, into one per layer" in result.stdout
    found = re.findall(r"largest difference (\S+), relative (\S+)", result.stdout)
    assert len(found) == 2  # in float64, and as written in float32
    assert float(found[0][1]) < 1e-12 < 1e-9 < float(found[1][1]) < 1e-5
    assert f"written:  {case.out}, names: official, sha256 " in result.stdout


@pytest.mark.parametrize("case", ["replknet without branches"], indirect=True)
def test_batch_norms_alone(replk_probe: Run, case: Case) -> None:
    assert (
        "the batch norms of 5 layers into their kernels; there are no branches" in replk_probe(*case.arguments).stdout
    )


def test_names_alone(replk_probe: Run, case: Case) -> None:
    result = replk_probe(*case.arguments, "--no-merge")
    assert result.exit_code == 0
    assert "merged:" not in result.stdout and "largest difference 0.0e+00, relative 0.0e+00" in result.stdout
    assert "names: replk-probe" in result.stdout


@pytest.mark.parametrize("case", ["slak"], indirect=True)
def test_conversion_to_timm(replk_probe: Run, case: Case) -> None:
    result = replk_probe(*case.arguments, "--to", "timm")
    assert "in timm: timm.create_model('convnext_tiny', " in result.stdout


def test_an_existing_file_is_kept(replk_probe: Run, case: Case) -> None:
    case.out.write_text("precious")
    result = replk_probe(*case.arguments)
    assert result.exit_code == 1 and "The file exists. Use --force to overwrite it." in result.stderr
    assert case.out.read_text() == "precious"
    assert replk_probe(*case.arguments, "--force").exit_code == 0
    assert case.out.stat().st_size > 1000


def test_the_input_is_never_written_over(replk_probe: Run, case: Case) -> None:
    assert replk_probe(*case.arguments, "--no-merge").exit_code == 0
    before = case.out.read_bytes()
    link = case.out.with_name("link.safetensors")
    link.symlink_to(case.out)
    for output in (case.out, link):
        result = replk_probe("reparam", case.out, "--model", case.model, "-o", output, "--force")
        assert result.exit_code == 1 and "It is the input file" in result.stderr
    assert case.out.read_bytes() == before


@pytest.mark.parametrize("name", ["out.pth", "out.pt", "out"])
def test_other_kinds_of_files(replk_probe: Run, case: Case, name: str) -> None:
    result = replk_probe("reparam", case.weights, "--model", case.model, "-o", case.out.with_name(name))
    assert result.exit_code == 1
    assert "only written as safetensors" in result.stderr and "Name it out.safetensors" in result.stderr


def test_places_that_cannot_be_written_to(replk_probe: Run, case: Case, tmp_path: Path) -> None:
    def run(output: Path) -> str:
        result = replk_probe("reparam", case.weights, "--model", case.model, "-o", output)
        assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
        return result.stderr

    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert "It is a folder" in run(folder)
    assert "is not a folder" in run(case.weights / "out.safetensors")
    if os.geteuid():
        folder.chmod(0o500)
        assert "Permission denied" in run(folder / "out.safetensors")
    if sys.platform == "linux":  # not writable, not even for root
        assert "Cannot write to /proc" in run(Path("/proc/out.safetensors"))


def test_files_that_are_no_weights(replk_probe: Run, case: Case, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    code, text = tmp_path / "code.pth", tmp_path / "text.pth"
    torch.save({"model": Code()}, code)
    text.write_text("no weights at all")
    for path, message in (
        (code, "Refused to read code.pth"),
        (text, "It appears to be a text file"),
        (tmp_path / "absent.pth", "No such file"),
        (tmp_path, "It is a folder"),
    ):
        result = replk_probe("reparam", path, "--model", case.model, "-o", case.out)
        assert result.exit_code == 1 and message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not case.out.exists() and not (tmp_path / "ran").exists()


def test_help(replk_probe: Run) -> None:
    text = replk_probe("reparam", "--help").stdout
    for word in ("CHECKPOINT", "OUT.safetensors", "[official|replk-probe|timm]", "--no-merge", "--ema", "--force"):
        assert word in text
