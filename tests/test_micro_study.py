"""Tests of the study of small models: its table, and resuming after an interruption."""

from __future__ import annotations

import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scipy.special import stdtr, stdtrit

from replk_probe import measure_shape_bias
from replk_probe.shape_bias import ShapeBiasResult, open_stimuli

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("_study_report")


def measures(kernel: int, rep: bool, seed: int, tag: str = "shape90", **numbers: float) -> dict[str, Any]:
    kernels = [
        {"layer": f"stage{stage}.0", "variant": variant, "centre3x3_share": share, "initial_centre3x3_share": share / 4}
        for stage in (1, 4)
        for variant, share in (("merged", 0.2 * stage), *([("large", 0.1 * stage)] if rep else []))
    ]
    return {
        "model": f"replknet_micro_k{kernel}{'_rep' if rep else ''}",
        "kernel": kernel,
        "rep": rep,
        "tag": tag,
        "seed": seed,
        "images": 100,
        "accuracy": 0.97,
        "shape_bias": 0.5,
        "cue_accuracy": 0.9,
        "erf": [
            {"protocol": protocol, "threshold": t, "side": 9, "ratio": t / over}
            for protocol, over in (("centred", 2), ("pixels", 4))
            for t in (0.2, 0.5, 0.99)
        ],
        "erf_images": 50,
        "erf_size": 192,
        "kernels": kernels,
        **numbers,
    }


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_table_has_means_and_deviations_by_setting(report: ModuleType, tmp_path: Path) -> None:
    done = [measures(13, True, seed, accuracy=value) for seed, value in enumerate((0.96, 0.97, 0.99))]
    done += [measures(3, False, 0)]
    done += [measures(3, False, 0, "shape75")]
    report.save_report(done, tmp_path)
    plain, rep, other = read(tmp_path / "table.csv")
    names = ("network", "kernel", "re-param", "shape validity", "trainings")
    assert [plain[name] for name in names] == ["RepLKNet", "3", "-", "0.9", "1"]
    assert [rep[name] for name in names] == ["RepLKNet", "13", "5x5", "0.9", "3"]
    assert [other[name] for name in names] == ["RepLKNet", "3", "-", "0.75", "1"]
    # Mean of 96, 97 and 99, and the root of (1.33^2 + 0.33^2 + 1.67^2) / 2.
    assert float(rep["accuracy, %"]) == pytest.approx(97.333, abs=1e-3)
    assert float(rep["accuracy, sd"]) == pytest.approx(1.528, abs=1e-3)
    assert plain["accuracy, sd"] == ""  # of one training
    assert float(rep["ERF at 50 %, %"]) == 25.0
    assert float(rep["ERF at 50 %, pixels, %"]) == 12.5
    shares = [
        float(rep[f"{name}, %"]) for name in ("center 3x3 of stage1.0", "of it before training", "of it before merging")
    ]
    assert shares == pytest.approx([20.0, 5.0, 10.0])
    shares = [
        float(rep[f"{name}, %"])
        for name in ("center 3x3 of stage4.0", "of that before training", "of that before merging")
    ]
    assert shares == pytest.approx([80.0, 20.0, 40.0])
    assert plain["of it before merging, %"] == plain["of that before merging, %"] == ""
    rows = read(tmp_path / "data.csv")
    assert [(row["model"], row["seed"]) for row in rows[:3]] == [("replknet_micro_k13_rep", str(s)) for s in range(3)]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.startswith("Small models trained on synthetic data: a controlled experiment, not ImageNet results.")
    assert "| 13 | 5x5 | 90 | 3 | 20.0 ± 0.0 | 5.0 ± 0.0 | 10.0 ± 0.0 | 80.0 ± 0.0 |" in text
    assert "| 13 | 5x5 | 90 | 3 | 97.3 ± 1.5 |" in text and "| 3 | - | 90 | 1 | 97.0 |" in text
    assert "minus 3" not in text  # a single run cannot be compared
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_large_and_small_kernels_are_compared(report: ModuleType, tmp_path: Path) -> None:
    large, small = (0.50, 0.52, 0.54), (0.40, 0.41, 0.42)
    found = report.difference(large, small)
    # Standard deviations of 2 and 1 points: the standard error is the root of (4 + 1) / 3, and Welch's degrees of
    # freedom are (5 / 3)**2 / ((4 / 3)**2 / 2 + (1 / 3)**2 / 2) = 2.94.
    assert found.value == pytest.approx(11.0)
    assert found.half_width == pytest.approx(1.290994 * stdtrit(2.941176, 0.975), rel=1e-5)
    assert found.p == pytest.approx(2 * stdtr(2.941176, -11 / 1.290994), rel=1e-5)
    # Tabulated: three runs per group need an effect of 3.07 standard deviations for a power of 80 % at 5 %.
    assert found.detectable == pytest.approx(3.07 * 2.5**0.5, rel=5e-3)
    assert report.difference(large, (0.4,)) is None and report.difference((0.5, 0.5), (0.4, 0.4)) is None
    done = [measures(13, True, seed, shape_bias=value) for seed, value in enumerate(large)]
    done += [measures(3, False, seed, shape_bias=value) for seed, value in enumerate(small)]
    report.save_report(done, tmp_path)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| 13 with 5x5 minus 3 | 90 | 3 and 3 | shape bias | +11.0 |" in text


def test_what_is_trained_or_measured_already_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    training, train_micro, study = (
        importlib.import_module(name) for name in ("_micro_training", "train_micro", "micro_study")
    )
    monkeypatch.setattr(training, "HELD_OUT_IMAGES", 64)
    monkeypatch.setattr(training, "_WATCHED", 16)
    monkeypatch.setattr(study, "_ERF_IMAGES", 4)
    monkeypatch.setattr(study, "ERF_SIZE", 64)
    whole = open_stimuli("synthetic", size=64)
    few = replace(whole, stimuli=whole.stimuli[:80])

    def measured(model: object, stimuli: object, **options: Any) -> ShapeBiasResult:
        assert stimuli == "synthetic"
        return measure_shape_bias(model, few, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "measure_shape_bias", measured)
    out, figure, reuse = tmp_path / "out", tmp_path / "figure", tmp_path / "reuse"

    def run(*options: object, main: Any = study.main) -> Result:
        common = ["--model", "replknet_micro_k3", "--tag", "shape90"]
        images = [] if "--images" in options else ["--images", "64"]
        return CliRunner().invoke(main, [*common, *images, *map(str, options)])

    command = ("--seeds", 2, "--output", out, "--reuse", reuse)
    assert run("--output", reuse, main=train_micro.main).exit_code == 0
    first = run(*command, "--train-only").stdout
    assert "seed 0: already trained" in first and "seed 1: " in first
    runs = out / "replknet_micro_k3.shape90"
    weights = runs / "seed0" / "weights.safetensors"
    assert weights.read_bytes() == (reuse / "replknet_micro_k3.shape90.safetensors").read_bytes()
    assert not list(out.rglob("measures.json"))
    second = run(*command, "--figure", figure).stdout
    assert "already trained" not in second and second.count("shape bias ") >= 2
    found = [json.loads(path.read_text()) for path in sorted(out.rglob("measures.json"))]
    assert [one["seed"] for one in found] == [0, 1]
    assert found[0]["sha256"] != found[1]["sha256"]
    for one in found:
        assert (one["erf_images"], one["erf_size"], one["tag"]) == (4, 64, "shape90")
        assert sum(one["decisions"].values()) == 75  # of 80, five have no conflict
        assert [kernel["layer"] for kernel in one["kernels"]] == [f"stage{n}.0" for n in (1, 2, 3, 4)]
        assert all(kernel["centre3x3_share"] == pytest.approx(1.0) for kernel in one["kernels"])
    again = run(*command, "--figure", figure)
    assert again.exit_code == 0 and "seed" not in again.stdout
    (row,) = read(figure / "table.csv")
    assert row["trainings"] == "2"
    report = (*command, "--report-only", "--figure", figure)
    stale = runs / "seed1" / "measures.json"
    stale.write_text(stale.read_text().replace('"erf_images": 4', '"erf_images": 5'))
    refused = run(*report)
    assert refused.exit_code == 1 and "was measured in another way" in refused.stderr
    for other in (run(*report, "--images", 96), run(*command, "--images", 96)):
        assert other.exit_code == 1 and "has another recipe" in other.stderr
