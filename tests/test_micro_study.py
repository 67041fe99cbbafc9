"""Tests of the study of small models: its table, and resuming after an interruption."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("_study_report")


def measures(kernel: int, rep: bool, seed: int, **numbers: float) -> dict[str, Any]:
    kernels = [
        {"layer": f"stage{stage}.0", "variant": variant, "centre3x3_share": share, "initial_centre3x3_share": share / 4}
        for stage in (1, 4)
        for variant, share in (("merged", 0.2 * stage), *([("large", 0.1 * stage)] if rep else []))
    ]
    return {
        "model": f"replknet_micro_k{kernel}{'_rep' if rep else ''}",
        "kernel": kernel,
        "rep": rep,
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
        "kernels": kernels,
        **numbers,
    }


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_table_has_means_and_deviations_by_setting(report: ModuleType, tmp_path: Path) -> None:
    done = [measures(13, True, seed, accuracy=value) for seed, value in enumerate((0.96, 0.97, 0.99))]
    done += [measures(3, False, 0)]
    report.save_report(done, tmp_path)
    plain, rep = read(tmp_path / "table.csv")
    assert (plain["kernel"], plain["re-param"], plain["trainings"]) == ("3", "-", "1")
    assert (rep["kernel"], rep["re-param"], rep["trainings"]) == ("13", "5x5", "3")
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
    assert "| 13 | 5x5 | 3 | 20.0 ± 0.0 | 5.0 ± 0.0 | 10.0 ± 0.0 | 80.0 ± 0.0 |" in text
    assert "| 13 | 5x5 | 3 | 97.3 ± 1.5 |" in text and "| 3 | - | 1 | 97.0 |" in text
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_trained_or_measured_already_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    training, train_micro, study = (
        importlib.import_module(name) for name in ("_micro_training", "train_micro", "micro_study")
    )
    monkeypatch.setattr(training, "HELD_OUT_IMAGES", 64)
    monkeypatch.setattr(training, "_WATCHED", 16)
    monkeypatch.setattr(study, "_ERF_IMAGES", 4)
    out, figure, reuse = tmp_path / "out", tmp_path / "figure", tmp_path / "reuse"

    def run(*options: object, main: Any = study.main) -> Result:
        common = ["--model", "replknet_micro_k3", *([] if "--images" in options else ["--images", "64"])]
        return CliRunner().invoke(main, [*common, *map(str, options)])

    command = ("--seeds", 2, "--output", out, "--reuse", reuse)
    assert run("--output", reuse, main=train_micro.main).exit_code == 0
    first = run(*command, "--train-only").stdout
    assert "seed 0: already trained" in first and "seed 1: " in first
    weights = out / "replknet_micro_k3" / "seed0" / "weights.safetensors"
    assert weights.read_bytes() == (reuse / "replknet_micro_k3.safetensors").read_bytes()
    assert not list(out.rglob("measures.json"))
    second = run(*command, "--figure", figure).stdout
    assert "already trained" not in second and second.count("shape bias ") >= 2
    found = [json.loads(path.read_text()) for path in sorted(out.rglob("measures.json"))]
    assert [one["seed"] for one in found] == [0, 1]
    assert found[0]["sha256"] != found[1]["sha256"]
    for one in found:
        assert one["erf_images"] == 4 and sum(one["decisions"].values()) == 1200
        assert [kernel["layer"] for kernel in one["kernels"]] == [f"stage{n}.0" for n in (1, 2, 3, 4)]
        assert all(kernel["centre3x3_share"] == pytest.approx(1.0) for kernel in one["kernels"])
    again = run(*command, "--figure", figure)
    assert again.exit_code == 0 and "seed" not in again.stdout
    (row,) = read(figure / "table.csv")
    assert row["trainings"] == "2"
    report = (*command, "--report-only", "--figure", figure)
    stale = out / "replknet_micro_k3" / "seed1" / "measures.json"
    stale.write_text(stale.read_text().replace('"erf_images": 4', '"erf_images": 5'))
    refused = run(*report)
    assert refused.exit_code == 1 and "was measured in another way" in refused.stderr
    for other in (run(*report, "--images", 96), run(*command, "--images", 96)):
        assert other.exit_code == 1 and "has another recipe" in other.stderr
