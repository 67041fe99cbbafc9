"""`replk-probe bench --device cuda` on scripted cards: everything except the times of a real card."""

from __future__ import annotations

import csv
import importlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from replk_probe.bench import Layer, SpeedResult, draw_speed, gpu, measure, measure_speed
from replk_probe.bench.gpu import measure_on_gpu
from replk_probe.bench.turns import take_turns
from replk_probe.collection import Saved
from replk_probe.comparison import compare_results
from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.html_report.bench_section import bench_section
from replk_probe.html_report.commands import bench_command
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning.device import TorchDevice, allows_tf32
from replk_probe.report.bench_table import bench_table, sweep_summary
from replk_probe.runtime import devices

LARGE, SMALL = Layer(64, 384, 32, 32, 31, 31), Layer(1, 8, 9, 9, 7, 7)
CUDA = torch.device("cuda", 0)
CLOCKS = "1980, 2619, 1980\n"
SECONDS = {"aten": 8e-3, "aten-channels-last": 6e-3, "aten-nchw": 7e-3, "torch-fft": 2e-3, "triton-toeplitz": 1e-3}
# Conversions are of no use.
STEADY = SECONDS | {"aten-channels-last": 8e-3, "aten-nchw": 8e-3}
SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench_dwconv2d.py"
Card = Callable[..., Any]


@pytest.fixture(autouse=True)
def h200(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What torch and nvidia-smi say of a card."""
    found = SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, total_memory=139 << 30, L2_cache_size=50 << 20, uuid="abc"
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **options: SimpleNamespace(stdout=CLOCKS))
    return found


def measured(card: Any, layers: Any = (LARGE,), directions: Any = ("forward",), **options: Any) -> SpeedResult:
    options = {"dtype": "float32", "repeats": 3, "budget": 2.0, "progress": False} | options
    return measure_on_gpu(layers, directions, CUDA, tunable=card, **options)


def notes(case: Any) -> dict[str, str | None]:
    return {timing.variant: timing.note for timing in case.timings if timing.minimum is None}


def test_every_method_is_checked_and_timed_in_both_formats(card: Card) -> None:
    result = measured(card(SECONDS), directions=("forward", "grad_weight"))
    assert [(case.direction, case.choice.channels_last) for case in result.cases] == [
        ("forward", False), ("forward", True), ("grad_weight", False), ("grad_weight", True)
    ]  # fmt: skip
    planes, last, *_ = result.cases
    assert {one.variant: one.minimum for one in planes.timings} == {k: SECONDS[k] for k in SECONDS if k != "aten-nchw"}
    assert "aten-nchw" in {one.variant for one in last.timings}
    assert all(one.share == 0.1 and one.error is None and one.calls >= 3 for one in planes.timings)
    assert planes.choice.method == planes.method == "triton-toeplitz" and "the fastest" in planes.choice.reason
    assert planes.ratio == planes.ratio_of_medians == pytest.approx(6) and last.ratio == pytest.approx(7)
    assert planes.ours.variant == "triton-toeplitz" and planes.label == "64,384,32,31 nchw"


def test_the_card_is_recorded(card: Card, h200: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = measured(card(SECONDS)).machine
    assert machine.gpu is not None and machine.gpu.environment == {"device": "fake card", "cuDNN": "9.19.0"}
    assert (machine.gpu.name, machine.gpu.device, machine.gpu.multiprocessors) == ("NVIDIA H200", "cuda:0", 132)
    assert machine.gpu.clocks == {
        "sm before": 1980, "memory before": 2619, "sm after": 1980, "memory after": 2619, "largest sm": 1980
    }  # fmt: skip
    assert machine.fma_peak == pytest.approx(66_908, abs=1) and machine.isa is None

    def missing(command: list[str], **options: Any) -> Any:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(gpu.subprocess, "run", missing)
    assert measured(card(SECONDS)).machine.fma_peak is None
    h200.clock_rate = 1_980_000  # kHz, from torch
    assert measured(card(SECONDS)).machine.fma_peak == pytest.approx(66_908, abs=1)
    h200.major = 99
    assert measured(card(SECONDS)).machine.fma_peak is None


def test_clocks_that_are_not_reported_are_left_out(monkeypatch: pytest.MonkeyPatch, h200: SimpleNamespace) -> None:
    asked = []
    monkeypatch.setattr(
        gpu.subprocess, "run", lambda command, **_: asked.append(command) or SimpleNamespace(stdout="[N/A], 2619\n")
    )
    assert gpu._clocks_of(CUDA) == {"memory": 2619} and "--id=GPU-abc" in asked[0]
    for error in (subprocess.TimeoutExpired("nvidia-smi", 10), subprocess.CalledProcessError(9, "nvidia-smi")):
        monkeypatch.setattr(gpu.subprocess, "run", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert gpu._clocks_of(CUDA) == {}


def test_a_wrong_method_is_not_timed(card: Card) -> None:
    wrong = card(STEADY, shares={"triton-toeplitz": 3.0}, refused={"torch-fft": "it is missing"})
    case, _ = measured(wrong).cases
    assert notes(case) == {"triton-toeplitz": "wrong results: 3 times the bound", "torch-fft": "it is missing"}
    assert case.choice.method == "aten" and not {"triton-toeplitz", "torch-fft"} & {*wrong.timed}
    assert {one.variant: one.share for one in case.timings}["triton-toeplitz"] == 3.0


def test_a_lack_of_memory_is_stated(card: Card, tmp_path: Path) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory.")
    case, _ = measured(card(STEADY, late={"torch-fft": full}, workspaces={"triton-toeplitz": 1 << 40})).cases
    assert notes(case)["torch-fft"] == "not enough memory" and "it needs 1048576 MB" in notes(case)["triton-toeplitz"]
    # For every method: the row has no times, and nothing fails.
    result = measured(card(SECONDS, errors=dict.fromkeys(SECONDS, full)))
    assert all(case.ratio is None and case.ours.minimum is None for case in result.cases)
    result.save(tmp_path)
    assert SpeedResult.load(tmp_path) == result
    table = bench_table(result)
    assert "64,384,32,31 nchw, forward, aten: not enough memory" in table and "No ratio" in sweep_summary(result)
    draw_speed(result).draw_without_rendering()
    assert bench_section([Saved(result)]) == []


def test_small_layers_keep_the_default_as_in_a_run(card: Card) -> None:
    case, _ = measured(card(SECONDS), layers=(SMALL,)).cases
    assert (case.choice.method, case.choice.reason) == ("aten", "too small to be measured by a run")
    assert case.timing("triton-toeplitz") is not None


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_the_type_is_what_it_is_called(card: Card, dtype: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device, seen = card(SECONDS), []
    times = device.times
    monkeypatch.setattr(device, "times", lambda name, problem, count: (
        seen.append((problem.dtype, allows_tf32())), times(name, problem, count)
    )[1])  # fmt: skip
    before = allows_tf32()
    result = measured(device, dtype=dtype)
    assert {*seen} == {("float32" if dtype == "tf32" else dtype, allowed)} and allows_tf32() == before
    assert result.dtype == dtype
    assert ("TF32 allowed in torch's convolution" in bench_table(result)) == allowed


def test_a_result_is_saved_shown_and_compared(card: Card, tmp_path: Path) -> None:
    result = measured(card(SECONDS))
    result.save(tmp_path)
    assert SpeedResult.load(tmp_path) == result
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["schema_version"] == 2 and record["machine"]["gpu"]["name"] == "NVIDIA H200"
    with (tmp_path / "bench.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert {row["layout"] for row in rows} == {"nchw", "channels_last"}
    assert [row["method"] for row in rows if row["chosen"] == "True"] == ["triton-toeplitz"] * 2
    assert {row["share_of_bound"] for row in rows} == {"0.1"}
    table = bench_table(result)
    assert max(map(len, table.splitlines())) <= 100
    for text in ("NVIDIA H200, float32, TF32 not allowed; peak of float32 without tensor cores 66.9 TFLOP/s",
                 "cuDNN 9.19.0", "sm before 1980", "6.00x", "7.00x", "0.10"):  # fmt: skip
        assert text in table
    share = result.cases[0].gflops / result.machine.fma_peak
    assert f"{share:.2f}" in table and f"{share:.2f}" not in bench_table(replace(result, dtype="bfloat16"))
    (part,) = bench_section([Saved(result)])
    assert part.machine == "NVIDIA H200, float32" and part.head[0] == "this package, torch-fft, ms"
    assert bench_command(result).endswith("--dtype float32 --device cuda:0 --repeats 3")
    assert [one.name for one in compare_results(result, result).differences] == [
        "64,384,32,31 nchw",
        "64,384,32,31 nhwc",
    ]
    damaged = json.loads((tmp_path / "bench.json").read_text())
    damaged["cases"][0]["choice"]["method"] = "unknown"
    (tmp_path / "bench.json").write_text(json.dumps(damaged))
    with pytest.raises(InvalidInputError, match=r"bench\.json"):
        SpeedResult.load(tmp_path)


def test_figures(card: Card) -> None:
    rows = draw_speed(measured(card(SECONDS)))
    labels = {handle.get_label() for handle in rows.legends[0].legend_handles}
    assert {"torch conv2d", "replk-probe, triton-toeplitz"} <= labels
    sides = draw_speed(measured(card(SECONDS), [replace(LARGE, kh=k, kw=k) for k in (7, 13, 21, 31)]))
    titles = [ax.get_title() for ax in sides.axes if ax.get_title()]
    assert titles == [f"Input [64, 384, 32, 32], {layout}, forward" for layout in ("NCHW", "channels_last")]
    assert any("NVIDIA H200; float32" in text.get_text() for text in sides.texts)


def test_methods_cannot_be_compared_if_one_is_forced(card: Card) -> None:
    with pytest.raises(BackendError, match="REPLK_PROBE_METHOD=aten forces a method"):
        measured(card(SECONDS, forced="REPLK_PROBE_METHOD=aten forces a method"))


def test_calls_are_repeated_before_they_count(card: Card) -> None:
    device = card({"aten": iter([1.0, *[1e-3] * 10_000])})
    times = gpu._Calls(device, ConvProblem("forward", "float32", False, 1, 1, 9, 9, 7, 7))
    device.log.append(("check", "aten"))
    assert times("aten", 2) == [1e-3, 1e-3] and device.now > 0.2


def test_turns_drop_what_cannot_be_computed() -> None:
    asked: list[tuple[str, int]] = []

    def times(name: str, count: int) -> list[float]:
        asked.append((name, count))
        return [] if name == "broken" else [1e-3] * count

    assert take_turns(["one", "broken"], times, 2, 1.0) == {"one": [[1e-3] * 4] * 2}
    # The first of five calls of each turn is not counted.
    assert asked == [("one", 1), ("broken", 1), ("one", 5), ("one", 5)]
    assert len(take_turns(["slow"], lambda name, count: [2.0] * count, 9, 1.0)["slow"]) == 1


def test_timed_calls_take_turns_among_arguments_that_exceed_the_cache() -> None:
    problem = ConvProblem("forward", "float32", False, 1, 4, 16, 16, 7, 7)
    size = 4 * (4 * 16 * 16 + 4 * 7 * 7 + 4)
    for rotated, count in ((0, 1), (size, 1), (size + 1, 2), (5 * size, 5)):
        device = TorchDevice(torch.device("cpu"), rotated_bytes=rotated)
        assert len(device._draw_sets(problem)) == count
        assert len(device.times("aten", problem, 7)) == 7


def test_the_command_times_a_card(
    replk_probe: Any, card: Card, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (devices, measure):
        monkeypatch.setattr(module, "resolve_device", lambda device: torch.device(str(device).partition(":")[0], 0))
    monkeypatch.setattr(gpu, "TorchDevice", lambda device, rotated_bytes: card(SECONDS))
    arguments = ("bench", "--device", "cuda", "--shape", "64,384,32,32,31,31", "--dtype", "bfloat16")
    done = replk_probe(*arguments, "--output", tmp_path)
    assert done.exit_code == 0 and "NVIDIA H200, bfloat16" in done.stdout and (tmp_path / "bench.png").is_file()
    done = replk_probe(*arguments, "--threads", 2)
    assert done.exit_code == 1 and "threads and isa do not apply to device cuda:0" in done.output
    with pytest.raises(BackendError, match="cannot be timed on device mps"):
        measure_speed([SMALL], device="mps")


def test_without_a_gpu_the_command_is_one_line(replk_probe: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is an NVIDIA GPU")
    done = replk_probe("bench", "--device", "cuda")
    assert done.exit_code == 1 and done.output.count("\n") == 1 and "Torch finds no NVIDIA GPU" in done.output


def test_records_of_a_cpu_have_no_entries_of_a_gpu(tmp_path: Path) -> None:
    result = measure_speed([SMALL], repeats=1, accuracy=False)
    record = result.to_json()
    assert record["schema_version"] == 1 and "gpu" not in record["machine"] and "choice" not in record["cases"][0]
    assert "share" not in record["cases"][0]["timings"][0]
    result.save(tmp_path)
    assert "layout" not in (tmp_path / "bench.csv").read_text() and SpeedResult.load(tmp_path) == result


def test_targets_on_a_gpu_are_for_the_best_of_both_formats(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script = importlib.import_module(SCRIPT.stem)
    result = measured(card(SECONDS))
    name = "ratio to the best of torch in either memory format"
    for case in result.cases:
        found = script.claims_on_gpu(case, result)
        assert [(one, least) for one, _, least in found] == [(name, 0.98), (name, 4.0)]
        assert [value for _, value, _ in found] == [pytest.approx(6)] * 2
    assert len(script.claims_on_gpu(replace(result.cases[0], direction="grad_weight"), result)) == 1
