from __future__ import annotations

import json
from pathlib import Path

import pytest

from replk_probe.bench import measure
from replk_probe.ops import native_info

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_dwconv2d.py"
SMALL = ("--shape", "1,2,9,9,3,3", "--repeats", 1)


def test_a_shape_is_timed_and_everything_written(replk_probe, tmp_path) -> None:
    done = replk_probe("bench", *SMALL, "--pass", "all", "--output", tmp_path)
    assert done.exit_code == 0, done.output
    for text in ("forward", "input gradient", "weight gradient", "1,2,9,3", "ratio"):
        assert text in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.csv", "bench.json", "bench.pdf", "bench.png"]
    assert len(json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["cases"]) == 3


def test_json_on_the_terminal(replk_probe) -> None:
    done = replk_probe("bench", *SMALL, "--dtype", "bfloat16", "--threads", 1, "--json")
    found = json.loads(done.stdout)
    assert found["dtype"] == "bfloat16" and found["machine"]["threads"] == 1
    assert found["cases"][0]["layer"] == {"n": 1, "c": 2, "h": 9, "w": 9, "kh": 3, "kw": 3, "count": 1}


def test_a_sweep_lists_the_cases_where_torch_is_faster(replk_probe) -> None:
    done = replk_probe("bench", "--sweep", "--planes", "7", "--kernels", "3,5", "--repeats", 1)
    assert done.exit_code == 0, done.output
    assert "2 cases: the fastest torch variant is faster in" in done.stdout


def test_layers_of_a_model(replk_probe) -> None:
    done = replk_probe("bench", "--model", "replknet3", "--input-size", 32, "--repeats", 1)
    assert done.exit_code == 0, done.output
    assert "(x" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--shape", "1,2,3"), 1, "does not have six numbers"),
        (("--shape", "1,2,9,9,3,x"), 1, "Cannot parse --shape"),
        (("--shape", "1,2,9,9,4,4"), 1, "kernels odd"),
        (("--sweep", "--kernels", "a"), 1, "Cannot parse --kernels 'a'"),
        (("--sweep", "--kernels", "4"), 1, "kernels odd"),
        (("--sweep", "--planes", ","), 1, "Cannot parse --planes ','"),
        (("--sweep", "--planes", "7,-7"), 1, "Sizes must be positive"),
        (("--planes", ""), 2, "require --sweep"),
        (("--input-size", 64), 2, "--input-size requires --model"),
        (("--sweep", "--model", "replknet3"), 2, "Give only one of them"),
        (("--planes", "7"), 2, "require --sweep"),
        (("--pass", "sideways"), 2, "sideways"),
        (("--model", "no_such_model"), 1, "no_such_model"),
    ],
)
def test_wrong_usage_is_an_error_before_anything_is_timed(replk_probe, arguments, status: int, message: str) -> None:
    done = replk_probe("bench", *arguments)
    assert done.exit_code == status
    assert message in done.output


@pytest.mark.skipif(not native_info().loaded, reason="the native library was not built")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REPLK_PROBE_METHOD", "nonsense", "No method has this name"),
        ("REPLK_PROBE_ISA", "nonsense", "No instruction set has this name"),
        ("REPLK_PROBE_SPECTRA_MB", "much", "Set an integer number of megabytes"),
        ("REPLK_PROBE_METHOD", "blocked", "Method 'blocked' cannot compute input [1,2,256,256]"),
    ],
)
def test_a_wrong_environment_is_an_error_before_anything_is_timed(
    replk_probe, monkeypatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setattr(measure, "_measure_case", lambda *_: pytest.fail("something was timed"))
    monkeypatch.setattr(measure, "measure_fma_peak", lambda *_: pytest.fail("something was timed"))
    monkeypatch.setenv(name, value)
    done = replk_probe("bench", *SMALL, "--shape", "1,2,256,256,31,31")
    assert done.exit_code == 1 and message in done.output


def test_the_script_prints_targets(forked_python, tmp_path) -> None:
    command = [SCRIPT, "--shape", "1,4,9,9,31,31", "--pass", "grad-weight", "--repeats", "1"]
    done = forked_python.run(*command, "--output", tmp_path, "--json", tmp_path / "run.json")
    # 1 where a target is missed, as it may be on any machine.
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    assert "MISSED" in done.stdout or "is reached" in done.stdout
    assert (tmp_path / "bench.json").is_file()
    cases = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["cases"]
    ours, *others = cases
    assert ours["variant"] == "functional" and ours["peer"] in {case["variant"] for case in others}
    assert {case["name"] for case in cases} == {"1,4,9,31 grad_weight float32 avx512"} or native_info().isa != "avx512"
