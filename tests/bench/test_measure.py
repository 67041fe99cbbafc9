"""The benchmark measures what it claims; speeds are not checked."""

from __future__ import annotations

import json
import math

import pytest
import torch

from replk_probe.bench import MODEL_LAYERS, Layer, SpeedResult, measure_speed, sweep_layers
from replk_probe.bench import measure as measure_module
from replk_probe.bench.layers import layers_of_model
from replk_probe.bench.result import SpeedCase, Timing
from replk_probe.bench.variants import Operands, our_variants, relative_errors, torch_variants
from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.ops import _loader, measure_fma_peak, native_info

PASSES = ("forward", "grad_input", "grad_weight")
LAYERS = [Layer(2, 3, 9, 11, 5, 5), Layer(1, 2, 6, 5, 13, 13), Layer(1, 4, 12, 7, 5, 9), Layer(1, 1, 1, 1, 3, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.label)
@pytest.mark.parametrize("direction", PASSES)
def test_every_variant_computes_the_same_thing(direction: str, layer: Layer, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        operands = Operands.draw(layer, dtype)
        calls = our_variants(direction, operands) | torch_variants(direction, operands)
        errors = relative_errors(direction, operands, {name: call() for name, call in calls.items()})
    assert set(errors) >= {"functional", "ours_channels_last", "nchw", "channels_last", "fft"}
    assert max(errors.values()) < (1e-6 if dtype == torch.float32 else 4e-3), errors


def test_the_error_is_seen() -> None:
    operands = Operands.draw(LAYERS[0], torch.float32)
    right = torch_variants("forward", operands)["nchw"]()
    found = relative_errors("forward", operands, {"right": right, "wrong": right * 1.01})
    assert found["wrong"] == pytest.approx(0.01, rel=1e-3)


def test_a_result_holds_every_case_and_is_read_back_the_same(tmp_path) -> None:
    result = measure_speed(LAYERS[:2], PASSES, repeats=2)
    assert [(case.layer, case.direction) for case in result.cases] == [(x, p) for x in LAYERS[:2] for p in PASSES]
    for case in result.cases:
        assert case.ratio is not None and case.ratio_of_medians is not None and case.gflops > 0
        assert all(t.minimum and t.median and t.minimum <= t.median and t.calls >= 2 for t in case.timings)
        assert case.ours.error is not None and case.ours.error < 1e-6
        assert case.ours.variant == ("functional" if case.direction == "grad_weight" else "module")
    assert (result.machine.fma_peak is not None) == native_info().loaded
    assert result.machine.threads == torch.get_num_threads()
    result.save(tmp_path)
    assert SpeedResult.load(tmp_path) == result
    rows = (tmp_path / "bench.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + sum(len(case.timings) for case in result.cases)


@pytest.mark.parametrize("shape", [(3, 5, 40, 4), (1, 1, 40, 4), (1, 1, 1, 4)])
def test_a_call_is_timed_in_part_first(shape, monkeypatch) -> None:
    layer = Layer(*shape, 3, 3)
    monkeypatch.setattr(measure_module, "_PROBE_FLOPS", layer.flops / 8)
    timed = []
    monkeypatch.setattr(
        measure_module, "torch_variants", lambda _, part: {"nchw": lambda: timed.append(part.x.numel())}
    )
    monkeypatch.setattr(measure_module, "_seconds", lambda call: (call(), timed[-1])[1])
    expected = measure_module._expected_seconds("forward", "nchw", Operands.draw(layer, torch.float32), layer)
    assert expected == math.prod(shape) and timed[0] <= max(math.prod(shape) / 8, 4)


def test_the_peak_is_that_of_the_instruction_set_in_use(monkeypatch) -> None:
    asked = []

    class Library:
        best_isa = 3
        isas = ("portable", "avx2", "avx512")

        def measure_fma_peak(self, isa, threads, seconds) -> float:
            asked.append(isa)
            return 1.0

    monkeypatch.setattr(_loader, "find_library", Library)
    for value, isa in (("", None), ("avx2", None), ("avx2", "portable")):
        monkeypatch.setenv("REPLK_PROBE_ISA", value)
        assert measure_fma_peak(1, isa) == 1.0
    assert asked == [0, 2, 1]


def test_the_ratio_is_of_ours_alone() -> None:
    """Where torch computes our channels-last kernels, its time is not called ours."""
    times = {"module": 4.0, "functional": 5.0, "ours_channels_last": 1.0, "nchw": 6.0, "channels_last": 1.0, "fft": 9.0}
    timings = tuple(Timing(name, value, value, 1) for name, value in times.items())
    case = SpeedCase(LAYERS[0], "forward", timings, "direct", "avx2", (0, 0), 0)
    assert case.ratio == 0.25 and case.ratio_by_layout == 1.0 and case.gflops == pytest.approx(case.layer.flops / 4e9)


def test_an_instruction_set_can_be_forced_and_released(monkeypatch) -> None:
    if not native_info().loaded:
        with pytest.raises(BackendError, match="no native kernels"):
            measure_speed(LAYERS[:1], isa="portable")
        return
    monkeypatch.setenv("REPLK_PROBE_ISA", native_info().best_isa or "")
    result = measure_speed(LAYERS[:1], isa="portable", repeats=1, threads=2)
    assert result.machine.isa == "portable" and result.machine.threads == 2
    assert {case.isa for case in result.cases} <= {"portable", None}
    import os

    assert os.environ["REPLK_PROBE_ISA"] == native_info().best_isa
    assert torch.get_num_threads() == 1


def test_what_takes_too_long_is_left_out_and_named(monkeypatch) -> None:
    monkeypatch.setattr(measure_module, "_PROBE_FLOPS", 1.0)
    layer = Layer(1, 32, 6, 6, 3, 3)
    (case,) = measure_speed([layer], repeats=1, budget=0.0).cases
    left_out = {timing.variant: timing.note for timing in case.timings if timing.minimum is None}
    assert set(left_out) == {"nchw", "channels_last", "fft"}
    assert all(note and note.startswith("left out: about") for note in left_out.values())
    assert case.best_torch is None and case.ratio is None
    (case,) = measure_speed([layer], repeats=1, budget=0.0, everything=True).cases
    assert case.best_torch is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": ("sideways",)}, "Unknown pass 'sideways'"),
        ({"dtype": "int8"}, "Unknown dtype"),
        ({"isa": "mmx"}, "Unknown instruction set"),
        ({"layers": []}, "nothing to time"),
        ({"layers": [(1, 8, 16, 16, 7, 7)]}, r"Layers cannot be given as \[\(1, 8, 16, 16, 7, 7\)\]"),
        ({"layers": 5}, "Layers cannot be given as 5"),
        ({"layers": LAYERS[0]}, "Expected a sequence of replk_probe.bench.Layer"),
        ({"repeats": 0}, "0 repeats"),
        ({"layers": [Layer(1, 1, 4, 4, 1000001, 1000001)]}, r"machine has"),
        ({"layers": [Layer(4096, 65536, 256, 256, 3, 3)]}, r"need about \d+ GB of memory, but this machine has"),
    ],
)
def test_wrong_options_are_clear_errors(options, message: str) -> None:
    arguments = {"layers": LAYERS[:1], "directions": ("forward",), **options}
    with pytest.raises(InvalidInputError, match=message):
        measure_speed(**arguments)


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1, 1, 3, 3), (1, 1, 1, 1, 4, 3), (1, 1, 1, 1, 3, -1), (1, 1, 1.0, 1, 3, 3), (1,) * 4 + ("3", 3)]
)
def test_a_layer_that_is_none_is_refused(sizes) -> None:
    with pytest.raises(InvalidInputError, match="cannot be timed"):
        Layer(*sizes)


def test_a_damaged_record_is_refused(tmp_path) -> None:
    for text in ("{", "{}", json.dumps({"schema_version": 99}), json.dumps({"schema_version": 1})):
        (tmp_path / "bench.json").write_text(text, encoding="utf-8")
        with pytest.raises(InvalidInputError, match=r"bench\.json"):
            SpeedResult.load(tmp_path)


def test_the_sweep_covers_kernels_and_planes() -> None:
    layers = sweep_layers()
    assert {layer.kh for layer in layers} >= {3, 5, 7, 13, 31, 51, 61}
    assert {layer.h for layer in layers} >= {7, 14, 56, 256}
    assert {layer.c for layer in sweep_layers((64,))} == {256}
    assert len({layer.label for layer in MODEL_LAYERS}) == len(MODEL_LAYERS)


def test_layers_of_a_model() -> None:
    layers = layers_of_model("replknet3", 64)
    assert {layer.kernel for layer in layers} <= {(3, 3), (5, 5)}
    assert sum(layer.count for layer in layers) > 10
    assert {layer.h for layer in layers} == {32, 16, 8, 4, 2}  # the stem halves twice, one convolution lies between
    with pytest.raises(InvalidInputError, match="no depthwise convolution"):
        layers_of_model("resnet18", 64)
