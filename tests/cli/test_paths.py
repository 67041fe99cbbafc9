"""Paths that cannot be used, for every option and argument that takes one: one line and status 1."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from replk_probe.erf import ErfResult, measure_erf
from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.images import sample_images
from replk_probe.models import reparam_checkpoint
from replk_probe.models.checkpoints.load import inspect_checkpoint
from replk_probe.runtime.atomic_files import atomic_path, atomic_write_text
from replk_probe.shape_bias import open_stimuli
from replk_probe.shape_bias.decision_mapping import load_mapping

Run = Callable[..., Result]

MODEL = ("--model", "replknet_micro_k13")
LONG = "x" * 300
# The commands with a path at the end, and whether an existing folder is a valid path there.
OUTPUTS = {
    "bench": ("bench", "--shape", "1,1,4,4,3,3", "--output"),
    "erf": ("erf", *MODEL, "-o"),
    "erf of two models": ("erf", *MODEL, "--model", "resnet18", "-o"),
    "kernels": ("kernels", *MODEL, "-o"),
    "shape-bias": ("shape-bias", *MODEL, "-o"),
    "reparam": ("reparam", "weights.safetensors", *MODEL, "-o"),
}
INPUTS = {
    "erf data": ("erf", *MODEL, "--data"),
    "erf weights": ("erf", *MODEL, "--weights"),
    "kernels weights": ("kernels", *MODEL, "--weights"),
    "shape-bias stimuli": ("shape-bias", *MODEL, "--stimuli"),
    "shape-bias mapping": ("shape-bias", *MODEL, "--stimuli", "folder", "--mapping"),
    "shape-bias import": ("shape-bias", "--import"),
    "reparam checkpoint": ("reparam", *MODEL, "-o", "out.safetensors"),
    "data verify": ("data", "verify", "cue-conflict"),
    "weights verify": ("weights", "verify"),
}
NEVER_VALID = ("", LONG, "y/" * 2100, "a\0b", "~nouser/x")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file and a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "closed").mkdir(mode=0o500)
    return tmp_path


def fails(done: Result, *words: str) -> None:
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == "" and all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("path", NEVER_VALID)
@pytest.mark.parametrize("command", [*OUTPUTS, *INPUTS])
def test_paths_that_no_system_accepts(replk_probe: Run, command: str, path: str) -> None:
    fails(replk_probe(*(OUTPUTS | INPUTS)[command], path))
    assert sorted(path.name for path in Path().iterdir()) == ["closed", "file", "folder"]


@pytest.mark.parametrize("path", ["file", "file/below", "/dev/null", "/dev/full", "/proc/x", "/sys/x/y"])
@pytest.mark.parametrize("command", [name for name in OUTPUTS if name != "reparam"])
def test_outputs_that_cannot_be_created(replk_probe: Run, command: str, path: str) -> None:
    fails(replk_probe(*OUTPUTS[command], path), "Cannot write to", path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", OUTPUTS)
def test_a_read_only_folder(replk_probe: Run, command: str) -> None:
    fails(replk_probe(*OUTPUTS[command], "closed/out.safetensors"), "Cannot write")


@pytest.mark.parametrize(
    "path", [".", "..", "/", "folder", "file", "new", "file/out.safetensors", "/proc/x.safetensors"]
)
def test_outputs_of_reparam(replk_probe: Run, path: str) -> None:
    fails(replk_probe(*OUTPUTS["reparam"], path), "Cannot write")


@pytest.mark.parametrize("path", ["nowhere", "file", "folder", "file/below"])
@pytest.mark.parametrize("command", [name for name in INPUTS if name != "erf data"])
def test_inputs_that_are_not_there(replk_probe: Run, command: str, path: str) -> None:
    fails(replk_probe(*INPUTS[command], path))


def test_a_home_folder_is_expanded(replk_probe: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "folder"))
    fails(replk_probe("kernels", *MODEL, "--weights", "random", "-o", "~/../file"), f"{folder}/folder/../file")


@pytest.mark.parametrize("cache", ["~nouser/x", LONG, "file/below"])
@pytest.mark.parametrize("command", [("data", "fetch", "cue-conflict"), ("weights", "fetch", "replknet31b.in1k_224")])
def test_caches_that_cannot_be_used(
    replk_probe: Run, command: tuple[str, ...], cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLK_PROBE_CACHE", cache)
    fails(replk_probe(*command), "REPLK_PROBE_CACHE")


@pytest.mark.parametrize("path", NEVER_VALID)
def test_functions_raise_errors_of_this_package(path: str) -> None:
    for call in (
        lambda: sample_images(path, 1),
        lambda: open_stimuli(path),
        lambda: load_mapping(path),
        lambda: inspect_checkpoint(path),
        lambda: reparam_checkpoint(path, "out.safetensors", "replknet_micro_k13"),
        lambda: reparam_checkpoint("file", path, "replknet_micro_k13"),
        lambda: ErfResult.load(path),
        lambda: measure_erf("replknet_micro_k13", images=1, checkpoint=path),
        lambda: atomic_write_text(path, "x"),
    ):
        with pytest.raises(ReplkProbeError):
            call()


def test_a_name_that_is_as_long_as_possible_is_written(folder: Path) -> None:
    path = folder / ("x" * 243 + ".safetensors")
    with atomic_path(path) as temporary:
        temporary.write_text("x")
    assert path.read_text() == "x"
    with pytest.raises(InvalidInputError, match="File name too long"):
        atomic_write_text(folder / ("x" * 256), "x")
