from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.kernels import measure_kernels
from replk_probe.sweeps import comparison
from replk_probe.sweeps.comparison import _groups, draw_comparisons
from replk_probe.sweeps.document import read_document
from replk_probe.sweeps.folder import SweepFolder
from replk_probe.sweeps.job import Job
from replk_probe.sweeps.plan import plan_jobs


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Two jobs that are done, one with other settings, and one that is not done."""
    made = [
        Job(key, "kernels", "replknet_micro_k13", "replknet_micro_k13", {}, {"seed": seed})
        for key, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 0))
    ]
    result = measure_kernels("replknet_micro_k13", "stage4.0", weights="random")
    for job in made[:3]:
        folder = SweepFolder(tmp_path).result(job)
        result.save(folder)
        (folder / "job.json").write_text('{"schema_version": 1, "weights": "random", "seconds": 1.0}')
    return made


def test_models_with_the_same_settings_are_compared(tmp_path: Path, jobs: list[Job]) -> None:
    draw_comparisons(SweepFolder(tmp_path), jobs, {"a"})
    (folder,) = (tmp_path / "comparison").iterdir()
    assert folder.name == "kernels-seed-0"
    figure = folder / "kernels.png"
    stamp = figure.stat().st_mtime_ns
    draw_comparisons(SweepFolder(tmp_path), jobs, {"c"})
    assert figure.stat().st_mtime_ns == stamp


def test_a_comparison_that_cannot_be_drawn_gives_its_reason(
    tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folders: object, target: object) -> None:
        raise InvalidInputError("The results differ.")

    monkeypatch.setitem(comparison._DRAW, "kernels", refuse)
    draw_comparisons(SweepFolder(tmp_path), jobs, {"a"})
    reason = tmp_path / "comparison" / "kernels-seed-0" / "failed.txt"
    assert reason.read_text() == "The results differ.\n"
    monkeypatch.undo()
    draw_comparisons(SweepFolder(tmp_path), jobs, {"a"})
    assert not reason.exists() and reason.with_name("kernels.png").exists()


def test_a_comparison_is_drawn_again_unless_it_shows_these_results(
    tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SweepFolder(tmp_path)
    drawn: list[int] = []

    def draw(folders: Sequence[Path], target: Path) -> None:
        assert not (target / "jobs.json").exists()
        drawn.append(len(folders))
        target.mkdir(parents=True, exist_ok=True)

    monkeypatch.setitem(comparison._DRAW, "kernels", draw)
    more = [replace(job, varied={"seed": 0}) for job in jobs]
    for members, count in ((more, 3), (more, None), (more[:2], 2), (more[1::-1], 2), (more[1::-1], None)):
        drawn.clear()
        draw_comparisons(folder, members, ())
        assert drawn == ([] if count is None else [count])
    # The process was killed before the comparison was complete.
    (tmp_path / "comparison" / "kernels-seed-0" / "jobs.json").unlink()
    draw_comparisons(folder, more, ())
    # The result was measured again by a run that was killed before the comparison.
    with (folder.result(jobs[0]) / "kernels.csv").open("a") as stream:
        stream.write("x")
    draw_comparisons(folder, more, ())
    assert drawn == [3, 3]


def grouped(values: dict[str, Any]) -> dict[str, list[str]]:
    jobs = plan_jobs(read_document({"weights": "random", **values}))
    return {name: [job.name for job in members] for name, members in _groups(jobs)}


def test_models_with_different_default_sizes_are_not_compared() -> None:
    models = ["resnet10t", "replknet_micro_k13", "resnet18", {"model": "resnet34", "size": [192, 192], "seed": 0}]
    assert grouped({"models": models, "erf": {"images": 1}}) == {
        "erf-size-1024-seed-0": ["resnet10t", "resnet18"],
        "erf-size-192-seed-0": ["replknet_micro_k13", "resnet34"],
    }
    assert grouped({"models": models[:2], "erf": {"images": 1, "size": 96}}) == {
        "erf": ["resnet10t", "replknet_micro_k13"]
    }


def test_names_of_comparisons_are_short_and_distinct(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("one = two = None\n")  # the layers of these are not looked up
    values = {"models": [f"{net}:one", f"{net}:two"], "kernels": {"matrix": {"layer": ["a" * 240, "b/*", "b-*"]}}}
    long, first, second = grouped(values)
    assert len(long) < 100 and long.startswith("kernels-layer-aaa")
    assert first != second and first.startswith("kernels-layer-b--") and second.startswith("kernels-layer-b--")
