from __future__ import annotations

from pathlib import Path

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.kernels import measure_kernels
from replk_probe.sweeps import comparison
from replk_probe.sweeps.comparison import draw_comparisons
from replk_probe.sweeps.folder import SweepFolder
from replk_probe.sweeps.job import Job


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Two jobs that are done, one with other settings, and one that is not done."""
    made = [
        Job(key, "kernels", "replknet_micro_k13", "replknet_micro_k13", {}, {"seed": seed})
        for key, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 0))
    ]
    result = measure_kernels("replknet_micro_k13", "stage4.0", weights="random")
    for job in made[:3]:
        result.save(SweepFolder(tmp_path).result(job))
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
