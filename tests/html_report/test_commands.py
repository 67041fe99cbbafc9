"""The commands that the page shows: run by the program, they give the configuration of the result."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import replk_probe
from replk_probe.attribution import AttributionConfig
from replk_probe.cli import main as program
from replk_probe.erf import ErfConfig
from replk_probe.html_report import commands
from replk_probe.kernels import KernelsConfig
from replk_probe.kernels.result import KernelResult, KernelRun
from replk_probe.reliance import RelianceConfig
from replk_probe.runtime.provenance import WeightsInfo
from replk_probe.shape_bias import ShapeBiasConfig

MODEL = "replknet_micro_k3"
COMMON = {"weights": "net file.safetensors", "device": "cpu", "name": MODEL}
COLORS = {"mean": (0.25, 1 / 3, 0.5), "std": (0.5, 0.5, 0.123456789), "bgr": True}


class ReachedError(Exception):
    """The command has planned a measurement."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with weights, images and a mapping whose names need quotes in a shell."""
    monkeypatch.chdir(tmp_path)
    model = replk_probe.create_model(MODEL)
    save_file({f"net.{name}": value for name, value in model.state_dict().items()}, "net file.safetensors")
    for name in ("my images", "stimuli"):
        (tmp_path / name).mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "my images" / f"{index} $.png")
    return tmp_path


@pytest.fixture
def configuration_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None, str], tuple[Any, ...]]:
    """Function from a command and the function that plans its measurement to the arguments of the latter."""

    def run(line: str | None, planner: str) -> tuple[Any, ...]:
        assert line is not None
        given: list[tuple[Any, ...]] = []

        def reached(*args: Any, **options: Any) -> None:
            given.append((*args, options))
            raise ReachedError

        monkeypatch.setattr(f"replk_probe.{planner}", reached)
        words = shlex.split(line)
        assert words[0] == "replk-probe"
        result = CliRunner().invoke(program.cli, words[1:])
        assert isinstance(result.exception, ReachedError), result.output
        return given[0]

    return run


def expected(config: Any, **changes: Any) -> Any:
    """The configuration as the command makes it: without a name for the model, and with the device by default."""
    device = {} if isinstance(config, KernelsConfig) else {"device": "auto"}
    return dataclasses.replace(config, name=None, **device, **changes)


@pytest.mark.parametrize(
    "options",
    [
        {
            "images": 2, "size": (32, 40), "layer": "stages.2", "position": "1,0", "thresholds": (0.123456789, 0.5),
            "convention": "openerf", "attribution": "input-x-gradient", "sampling": "first", "seed": 3,
            "prefix": "net.", "batch_size": 8, **COLORS,
        },
        {"images": 2, "size": 32, "target": "logit:3", "check": "occlusion", "prefix": "net.", "precision": "bf16"},
        {"images": 6, "size": 32, "until": 0.3, "until_ratios": ("centred@0.5",), "prefix": "net."},
    ],
)  # fmt: skip
def test_erf(folder: Path, configuration_of: Any, options: dict[str, Any]) -> None:
    config = ErfConfig(**COMMON | options)
    data = None if "until" in options else "my images"
    result = replk_probe.measure_erf(MODEL, data, config=config)
    model, sample, found, _ = configuration_of(commands.erf_command(result), "erf.plan.plan_erf")
    # The size is always written as height and width.
    assert found == expected(config) and model == MODEL
    assert sample.source == ("embedded:dead-leaves" if data is None else "folder:my images")


def test_erf_of_a_map(folder: Path) -> None:
    np.save("their map.npy", np.eye(9) + 0.1)
    result = replk_probe.erf.import_erf("their map.npy", "net 1", thresholds=(0.25, 0.5))
    line = "replk-probe erf --from 'their map.npy' --label 'net 1' --thresholds 0.25,0.5"
    assert commands.erf_command(result) == line
    found = CliRunner().invoke(program.cli, [*shlex.split(line)[1:], "-o", "out"])
    assert found.exit_code == 0, found.output
    again = replk_probe.ErfResult.load("out")
    assert (again.ratios, again.run.model) == (result.ratios, "net 1")


def test_shape_bias(folder: Path, configuration_of: Any) -> None:
    names = ["bear", "cat", "dog"]
    for shape in names:
        for index, texture in enumerate(names):
            (folder / "stimuli" / shape).mkdir(exist_ok=True)
            pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "stimuli" / shape / f"{shape}1-{texture}{index + 1}.png")
    Path("my mapping.json").write_text(json.dumps({name: [index, index + 5] for index, name in enumerate(names)}))
    config = ShapeBiasConfig(
        **COMMON, mapping="my mapping.json", batch_size=4, size=(16, 24), precision="bf16", prefix="net.", workers=0,
        **COLORS,
    )  # fmt: skip
    result = replk_probe.measure_shape_bias(MODEL, "stimuli", config=config)
    line = commands.shape_bias_command(result)
    assert line is not None and "--mapping 'my mapping.json'" in line
    model, stimuli, found, _ = configuration_of(line, "shape_bias.plan.plan_shape_bias")
    assert found == expected(config, workers=None) and model == MODEL and stimuli.source == "folder:stimuli"
    given = dataclasses.replace(config, mapping={name: [index] for index, name in enumerate(names)})
    unknown = replk_probe.measure_shape_bias(MODEL, "stimuli", config=given)
    assert commands.shape_bias_command(unknown) is None
    imported = result.with_observers([], source="import:raw data")
    assert "--import" not in str(commands.shape_bias_command(imported))
    observed = result.with_observers([dataclasses.replace(result.decisions, observer="x")], source="import:raw data")
    assert "--import 'raw data'" in str(commands.shape_bias_command(observed))


def test_kernels(folder: Path, configuration_of: Any) -> None:
    config = KernelsConfig(
        layer=("stage1", "stage4.0"), variant="large", aggregate="mean", strongest=3, compose=True,
        against="net file.safetensors", weights="net file.safetensors", prefix="net.", name=MODEL,
    )  # fmt: skip
    result = replk_probe.measure_kernels(MODEL, config=config)
    _, found, _ = configuration_of(commands.kernels_command(result), "kernels.measure.plan_kernels")
    assert found == expected(config)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "integrated-gradients", "steps": 3, "baseline": "black", "target": 2, **COLORS},
        {"method": "smooth-grad", "samples": 2, "noise": 0.2, "seed": 5, "thresholds": (0.3, 0.9)},
        {"method": "occlusion", "window": (9, 8), "stride": (8, 7), "baseline": "white", "size": (32, 40)},
        {"method": "grad-cam", "layer": "stages.3", "precision": "fast", "target": "3"},
    ],
)
def test_attribute(folder: Path, configuration_of: Any, options: dict[str, Any]) -> None:
    config = AttributionConfig(**{"size": (32, 32), "prefix": "net."} | COMMON | options)
    files = ["my images/0 $.png", "my images/1 $.png"]
    Image.open(files[0]).save("0 $.png")
    Image.open(files[1]).save("1 $.png")
    result = replk_probe.measure_attribution(MODEL, files, config=config)
    line = commands.attribution_command(result)
    _, images, field, found, _ = configuration_of(line, "attribution.plan.plan_attribution")
    assert found == expected(config) and field is None
    assert images == (Path("0 $.png"), Path("1 $.png"))


def test_attribute_with_the_windows_of_a_result(folder: Path, configuration_of: Any) -> None:
    options = {"size": 32, "device": "cpu"}
    erf = replk_probe.measure_erf(MODEL, images=1, **options)
    erf.save("my erf")
    result = replk_probe.measure_attribution(MODEL, "my images", "my erf", **options)
    _, images, field, _, _ = configuration_of(commands.attribution_command(result), "attribution.plan.plan_attribution")
    assert (images, field) == ((Path("my images"),), Path("my erf"))
    # Neither an ERF in memory nor a tensor can be given to the command.
    erf_in_memory = {name: value for name, value in result.run.config["erf"].items() if name != "folder"}
    for changes in ({"config": result.run.config | {"erf": erf_in_memory}}, {"image_source": "tensor"}):
        other = dataclasses.replace(result, run=dataclasses.replace(result.run, **changes))
        assert commands.attribution_command(other) is None


def test_bench(configuration_of: Any) -> None:
    from replk_probe.bench.measure import measure_speed
    from replk_probe.bench.result import Layer

    layers = [Layer(2, 3, 8, 9, 3, 5), Layer(1, 2, 7, 7, 3, 3)]
    options: dict[str, Any] = {"dtype": "bfloat16", "threads": 1, "repeats": 2, "isa": "portable"}
    result = measure_speed(layers, ["grad_weight", "forward"], accuracy=False, **options)
    timed, passes, given = configuration_of(commands.bench_command(result), "bench.measure.measure_speed")
    assert timed == layers and {*passes} == {"forward", "grad_weight"}
    named = {"dtype": "bfloat16", "threads": 1, "repeats": 2, "isa": "portable", "everything": False}
    assert named.items() <= given.items()


def test_reliance(folder: Path, configuration_of: Any) -> None:
    for name in ("cat", "dog"):
        (folder / "my photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / "my photos" / name / "1.png")
    Path("my mapping.json").write_text(json.dumps({"cat": [0, 3], "dog": [1]}))
    config = RelianceConfig(
        **COMMON, suppressions="gaussian-blur:0.5,grayscale+patch-shuffle:4", images=1, mapping="my mapping.json",
        size=(16, 24), precision="bf16", prefix="net.", seed=5, **COLORS,
    )  # fmt: skip
    result = replk_probe.measure_reliance(MODEL, "my photos", config=config)
    model, data, found = configuration_of(commands.reliance_command(result), "reliance.plan.plan_reliance")[:3]
    assert found == expected(config) and (model, str(data)) == (MODEL, "my photos")
    generated = replk_probe.measure_reliance("replknet_micro_k3", suppressions="grayscale", images=16, device="cpu")
    line = commands.reliance_command(generated)
    assert line is not None and "--data" not in line and line.endswith("--images 16 --size 64x64 --seed 0")
    given = dataclasses.replace(config, mapping={"cat": [0], "dog": [1]})
    assert commands.reliance_command(replk_probe.measure_reliance(MODEL, "my photos", config=given)) is None


def test_sweep(configuration_of: Any) -> None:
    line = commands.sweep_command("out/my sweep/sweep.json")
    assert line == "replk-probe sweep 'my sweep.toml' --output 'my sweep'"
    file, output = configuration_of(line, "sweeps.run.sweep")[:2]
    assert (file, output) == (Path("my sweep.toml"), Path("my sweep"))


def test_entries_and_prefixes() -> None:
    run = KernelRun(MODEL, WeightsInfo("timm:a"), ("all",), "all", "sum", 1.0)
    for weights, options in (
        (WeightsInfo("file:a.pth", wrapper="module.", prefix="module."), ""),
        (WeightsInfo("file:a.pth", wrapper="state_dict.model", prefix="module._orig_mod."), ""),
        (WeightsInfo("file:a.pth", wrapper="teacher", prefix="student."), "--entry teacher --prefix student. "),
        (WeightsInfo("file:a.pth", wrapper="model_ema"), "--ema "),
        (WeightsInfo("catalog:a.pth", wrapper="other", prefix="x."), ""),
    ):
        line = commands.kernels_command(KernelResult((), dataclasses.replace(run, weights=weights)))
        assert line is not None
        assert line.startswith(f"replk-probe kernels --model {MODEL} --weights a.pth {options}--layer all")
