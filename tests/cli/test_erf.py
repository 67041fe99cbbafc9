"""`replk-probe erf`: its files, its words, its errors."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

from replk_probe.cli._options import check_writable
from replk_probe.cli._runs import _release
from replk_probe.erf import ErfResult
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.paths import slug

Run = Callable[..., Result]

FILES = {"erf.json", "erf.npz", "erf.csv", "erf.png", "erf.pdf"}

NETWORKS = '''
import torch
from torch import nn

class Stop:
    """Interrupts the run like Ctrl-C before image number ``at``."""
    at = None
    calls = 0

class Net(nn.Sequential):
    def forward(self, x):
        if x.requires_grad and x.shape[-1] != 96:  # the image on which copies are compared
            if Stop.calls == Stop.at:
                raise KeyboardInterrupt
            Stop.calls += 1
        return super().forward(x)

def small():
    return Net(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

class Broken(nn.Sequential):
    """Stops on a real image, as a model that needs too much memory does."""
    def forward(self, x):
        if x.requires_grad:
            raise ERROR
        return super().forward(x)

ERROR = torch.OutOfMemoryError("too much")

def broken():
    return Broken(nn.Conv2d(3, 4, 3), nn.ReLU())

def broken_too():
    return broken()

def wide():
    return Net(nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2))
'''


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a file of networks, in the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.py").write_text(NETWORKS)
    yield "networks.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.jpg", "b/3.webp", "b/4.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (24, 31, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_model_writes_its_files_into_the_output_itself(
    replk_probe: Run, networks: str, folder: Path, tmp_path: Path
) -> None:
    model = f"{networks}:small"
    done = replk_probe(
        "erf", "--model", model, "--weights", "random", "--data", folder, "--images", 3, "--size", 32,
        "--thresholds", "0.3,0.9", "--seed", 7, "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path / "out") == FILES
    record = json.loads((tmp_path / "out/erf.json").read_text())
    assert record["schema_version"] == 1
    run, erf = record["run"], record["erf"]
    assert (run["model"], run["seed"], run["device"], run["precision"]) == (model, 7, "cpu", "fp32")
    assert run["image_source"] == "folder:images" and len(run["image_ids"]) == 3
    assert {Path(image).parts[0] for image in run["image_ids"]} == {"a", "b"}
    assert (
        run["input_size"] == [32, 32]
        and run["seconds"] > 0
        and run["versions"]["torch"] == importlib.metadata.version("torch")
    )
    assert (erf["n_images"], erf["n_skipped"], erf["input_size"], erf["layer"]) == (3, 0, [32, 32], "2")
    assert (erf["feature_size"], erf["centre"], erf["centre_source"]) == ([8, 8], [17.5, 17.5], "receptive field")
    assert [(row["protocol"], row["threshold"]) for row in erf["ratios"]] == [
        (protocol, threshold) for protocol in ("paper", "linear", "centred", "pixels") for threshold in (0.3, 0.9)
    ]
    assert all(set(row) == {"protocol", "threshold", "side", "ratio", "ci95"} for row in erf["ratios"])
    result = ErfResult.load(tmp_path / "out")
    assert result.contribution.shape == (32, 32) and result.contribution.dtype == np.float64
    assert "paper" in done.stdout and "RANDOM WEIGHTS" in done.stdout
    assert "RANDOM WEIGHTS" in done.stderr and done.output.count("map that it returns") == 1


def test_numbers_are_printed_on_request(replk_probe: Run, networks: str, folder: Path, tmp_path: Path) -> None:
    arguments = (
        "erf", "--model", f"{networks}:small", "--weights", "random", "--data", folder, "--images", 3, "--size", 32,
        "--output", tmp_path / "out",
    )  # fmt: skip
    without = replk_probe(*arguments)
    done = replk_probe(*arguments, "--numbers", "effective_area,peak")
    assert without.exit_code == done.exit_code == 0, done.output
    added = done.stdout.removeprefix(without.stdout.rstrip("\n")).split("\n")
    assert [line.split("  ")[0] for line in added if line] == ["number", "effective area", "peak, y", "peak, x"]
    record = json.loads((tmp_path / "out/erf.json").read_text())["erf"]["numbers"]
    assert f"{100 * record['effective_area']:#.4g}" in added[3]
    assert len(record["effective_area_ci95"]) == 2 and record["peak"] == [float(line.split()[2]) for line in added[4:6]]


def test_small_models_at_another_size(replk_probe: Run, tmp_path: Path) -> None:
    run = ("erf", "--model", "replknet_micro_k13", "--images", 1)
    done = replk_probe(*run, "--size", 96, "--output", tmp_path / "96")
    assert done.exit_code == 0, done.output
    assert "Measured at 96x96 px; trained on images of 64x64 px." in " ".join(done.stdout.split())
    assert replk_probe(*run, "--output", tmp_path / "192").exit_code == 0
    assert json.loads((tmp_path / "192" / "erf.json").read_text())["run"]["input_size"] == [192, 192]


def test_weights_belong_to_a_model(replk_probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = replk_probe("erf", "--weights", "random")
    assert done.exit_code == 1
    assert "--weights was given without --model. The default models are measured with their own weights." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_default_output_is_named_after_the_model(replk_probe: Run, networks: str, tmp_path: Path) -> None:
    done = replk_probe("erf", "--model", f"{networks}:small", "--images", 1, "--size", 16)
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path / "replk-probe-out/erf/networks.py-small") == FILES
    assert json.loads((tmp_path / "replk-probe-out/erf/networks.py-small/erf.json").read_text())["run"][
        "image_source"
    ].startswith("embedded:")


def test_slugs() -> None:
    assert slug("torchvision:resnet101") == "torchvision-resnet101"
    assert slug("path/to/my file.py:net_1") == "path-to-my-file.py-net_1"


def test_several_models_have_a_folder_each_and_a_comparison(
    replk_probe: Run, networks: str, folder: Path, tmp_path: Path
) -> None:
    done = replk_probe(
        "erf", "--model", f"{networks}:small", "--model", f"{networks}:wide", "--data", folder, "--images", 2,
        "--size", 32, "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    inside = {"networks.py-small", "networks.py-wide"}
    assert names_in(tmp_path / "out") == inside | {"comparison.png", "comparison.pdf", "comparison.csv"}
    assert all(names_in(tmp_path / "out" / name) == FILES for name in inside)
    with (tmp_path / "out/comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 4 * 4 and {row["model"] for row in rows} == {f"{networks}:small", f"{networks}:wide"}


def test_the_other_models_are_measured_if_one_fails(
    replk_probe: Run, networks: str, folder: Path, tmp_path: Path
) -> None:
    names = ("small", "broken", "wide")
    arguments = [word for name in names for word in ("--model", f"{networks}:{name}")]
    arguments += ["--data", folder, "--images", 2, "--size", 32, "--output", tmp_path / "out"]
    done = replk_probe("erf", *arguments)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: 1 of 3 models could not be measured: {networks}:broken.")
    assert "Not enough memory" in done.stderr and "Traceback" not in done.output
    out = tmp_path / "out"
    assert all(names_in(out / f"networks.py-{name}") == FILES for name in ("small", "wide"))
    assert not list(out.glob("networks.py-broken/erf.*"))
    assert {"comparison.png", "comparison.pdf", "comparison.csv"} <= names_in(out)
    assert done.stderr.splitlines()[-1].endswith("Run the same command with --resume to keep completed work.")

    with (out / "comparison.csv").open() as stream:
        assert {row["model"] for row in csv.DictReader(stream)} == {f"{networks}:small", f"{networks}:wide"}
    assert f"{networks}:small" in done.stdout and f"{networks}:wide" in done.stdout

    # An unexpected error is reported, and the other models are measured.
    for path in out.rglob("*.*"):
        path.unlink(missing_ok=True) if path.is_file() else None
    source = (tmp_path / networks).read_text()
    (tmp_path / networks).write_text(source.replace('torch.OutOfMemoryError("too much")', 'ZeroDivisionError("a bug")'))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        replk_probe("erf", *arguments)
    assert all(names_in(out / f"networks.py-{name}") == FILES for name in ("small", "wide"))
    assert (out / "comparison.csv").exists()


def test_a_reason_is_printed_once_if_all_models_fail(
    replk_probe: Run, networks: str, folder: Path, tmp_path: Path
) -> None:
    arguments = ("--model", f"{networks}:broken", "--model", f"{networks}:broken_too")
    done = replk_probe("erf", *arguments, "--data", folder, "--images", 2, "--size", 32, "--output", tmp_path / "out")
    assert done.exit_code == 1 and done.output.count("Not enough memory") == 1
    assert f"{networks}:broken_too: failed. The reason is the same as for {networks}:broken." in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"Error: 2 of 2 models could not be measured: {networks}:broken, {networks}:broken_too. "
        "The reasons are printed above. Nothing was saved."
    )


def test_an_interruption_ends_the_run_of_several_models(replk_probe: Run, networks: str, tmp_path: Path) -> None:
    (tmp_path / networks).write_text((tmp_path / networks).read_text().replace("at = None", "at = 0"))
    stopped = replk_probe(
        "erf", "--model", f"{networks}:small", "--model", f"{networks}:wide", "--images", 1, "--size", 16,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert stopped.exit_code == 130 and stopped.stderr.count("Interrupted") == 1
    assert not list((tmp_path / "out").rglob("erf.json"))


def test_a_model_that_failed_is_released() -> None:
    class Model:
        pass

    def fail() -> None:
        model = Model()
        seen.append(weakref.ref(model))
        try:
            raise MemoryError
        except MemoryError as error:
            raise InvalidInputError("too large") from error

    seen: list[weakref.ref[Model]] = []
    try:
        fail()
    except InvalidInputError as error:
        kept = error
        assert seen[0]() is not None
        _release(kept)
        assert seen[0]() is None


def test_every_option_has_an_effect(replk_probe: Run, networks: str, folder: Path, tmp_path: Path) -> None:
    model = f"{networks}:small"

    def record(*options: object) -> tuple[dict[str, object], np.ndarray]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        done = replk_probe(
            "erf", "--model", model, "--weights", "random", "--data", folder, "--images", 2, "--size", 24,
            "--output", out, *options,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        return json.loads((out / "erf.json").read_text()), ErfResult.load(out).contribution

    base, base_map = record()
    assert record("--layer", "0")[0]["erf"]["layer"] == "0"
    assert record("--precision", "bf16")[0]["run"]["precision"] == "bf16"
    assert record("--device", "cpu")[0]["run"]["device"] == "cpu"
    assert not np.array_equal(record("--seed", 1)[1], base_map)
    first = record("--sampling", "first")[0]["run"]["image_ids"]
    assert first == ["a/1.png", "a/2.jpg"] and first != base["run"]["image_ids"]
    assert record()[1].tobytes() == base_map.tobytes()


def test_an_interrupted_run_prints_how_to_resume_and_resumes(
    replk_probe: Run, networks: str, folder: Path, tmp_path: Path
) -> None:
    # The factory's module is imported anew for every command: what stops it must outlive that.
    source = (tmp_path / networks).read_text()
    arguments = (
        "erf", "--model", f"{networks}:small", "--weights", "random", "--data", folder, "--images", 4, "--size", 24,
        "--batch-size", 1, "--output",
    )  # fmt: skip
    assert replk_probe(*arguments, tmp_path / "whole").exit_code == 0
    assert replk_probe(*arguments, tmp_path / "out").exit_code == 0
    before = (tmp_path / "out/erf.json").read_text()

    (tmp_path / networks).write_text(source.replace("at = None", "at = 2"))
    stopped = replk_probe(*arguments, tmp_path / "out")
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr and str(tmp_path / "out") in stopped.stderr
    assert (tmp_path / "out/erf.json").read_text() == before, "a finished result was touched by an unfinished run"

    (tmp_path / networks).write_text(source)
    other = replk_probe(*arguments, tmp_path / "out", "--seed", 1, "--resume")
    assert other.exit_code == 1 and "seed 0" in other.stderr and "seed 1" in other.stderr
    resumed = replk_probe(*arguments, tmp_path / "out", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert names_in(tmp_path / "out") == FILES | {"erf_convergence.png", "erf_convergence.pdf"}  # of four blocks
    for name in ("erf.npz", "erf.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = replk_probe(*arguments, tmp_path / "out", "--resume")
    assert again.exit_code == 0 and "already measured" in again.stderr


def truncated(path: Path) -> Path:
    torch.save({"0.weight": torch.zeros(4, 3, 4, 4)}, path)
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "replknet31"], "Unknown model 'replknet31'"),
        (["--layer", "stage9.9"], "stage9.9"),
        (["--layer", "nowhere"], "'nowhere' does not exist"),
        (["--thresholds", "1.5"], "1.5"),
        (["--thresholds", "many"], "'many'"),
        (["--numbers", "peak,width"], "The number 'width' is unknown"),
        (["--images", "0"], "number of images cannot be 0"),
        (["--size", "1"], "size 1"),
        (["--size", "3"], "does not accept images"),
        (["--device", "abacus"], "abacus"),
        (["--data", "missing"], "missing"),
        (["--data", "empty"], "empty"),
        (["--data", "text"], "a.jpg"),
        (["--output", "networks.py/out"], "'networks.py' is not a folder"),
        (["--weights", "missing.pth"], "missing.pth"),
        (["--weights", "networks.py"], "networks.py"),
        (["--weights", "cut.pth"], "cut.pth"),
        (["--weights", "other.pth"], "other.pth"),
        (["--weights", "random", "--weights", "random"], "2 times for 1 models"),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line(
    replk_probe: Run, networks: str, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.jpg").write_text("not a picture")
    truncated(tmp_path / "cut.pth")
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    arguments = ["--images", "1", "--size", "16", *options]
    if "--model" not in options:
        arguments += ["--model", f"{networks}:small"]
    if "--weights" not in options:
        arguments += ["--weights", "random"]
    failed = replk_probe("erf", *arguments)
    assert failed.exit_code == 1, failed.output
    errors = [line for line in failed.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and message in errors[0] and failed.stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in failed.output and failed.stdout == ""
    assert not list(tmp_path.glob("replk-probe-out/**/erf.*"))


@pytest.mark.parametrize("options", [["--model"], ["--model", "x", "--precision", "fp8"], ["--frobnicate"]])
def test_wrong_usage_exits_with_2(replk_probe: Run, options: list[str]) -> None:
    assert replk_probe("erf", *options).exit_code == 2


def test_the_same_model_twice_is_refused(replk_probe: Run, networks: str) -> None:
    failed = replk_probe("erf", "--model", f"{networks}:small", "--model", f"{networks}:small", "--size", 16)
    assert failed.exit_code == 1 and "both write to" in failed.stderr


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    check_writable(tmp_path / "new/deep")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InvalidInputError, match="Permission denied"):
        check_writable(tmp_path / "new/deep")


def test_trained_weights_on_real_images(replk_probe: Run, data_dir: Path, tmp_path: Path) -> None:
    weights = data_dir / "weights/squeezenet1_0_imagenet.safetensors"
    done = replk_probe(
        "erf", "--model", "torchvision:squeezenet1_0", "--weights", weights, "--data", data_dir / "images",
        "--images", 4, "--size", 128, "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "RANDOM" not in done.output
    record = json.loads((tmp_path / "out/erf.json").read_text())
    assert record["run"]["weights"]["source"] == "file:squeezenet1_0_imagenet.safetensors"
    assert len(record["run"]["weights"]["sha256"]) == 64
    assert record["erf"]["layer"] == "classifier.2"


def test_positions_are_measured_and_drawn(replk_probe: Run, tmp_path: Path) -> None:
    arguments = ["erf", "--model", "test_resnet", "--images", "2", "--size", "64", "--layer", "layer3"]
    arguments += ["--weights", "random", "--output", str(tmp_path)]
    done = replk_probe(*arguments, "--position", "grid:2x2")
    assert done.exit_code == 0, done.output
    assert "position grid:2x2" in done.output and "'pixels' protocol" in done.output
    assert {"erf_positions.png", "erf_positions.pdf"} <= names_in(tmp_path)
    assert replk_probe(*arguments).exit_code == 0
    assert not {"erf_positions.png", "erf_positions.pdf"} & names_in(tmp_path), "figures of the result before"
    outside = replk_probe(*arguments, "--position", "4,0")
    assert outside.exit_code != 0 and "has 4x4 positions" in outside.output


def test_options_without_a_model_are_refused(replk_probe: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "map.npy", np.ones((8, 8)))
    arguments = ("erf", "--from", tmp_path / "map.npy", "--output", tmp_path / "out")
    failed = replk_probe(*arguments, "--check", "occlusion", "--layer", "layer1")
    assert failed.exit_code == 1 and failed.stderr.count("\n") == 1
    assert "--check, --layer was given without --model" in failed.stderr or "--layer, --check" in failed.stderr
    assert not (tmp_path / "out").exists()
    assert replk_probe(*arguments, "--thresholds", "0.4", "--numbers", "peak").exit_code == 0
