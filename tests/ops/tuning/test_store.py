"""Choices on disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replk_probe.errors import InvalidInputError
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning import tuner
from replk_probe.ops.tuning.choices import TuningWarning
from replk_probe.ops.tuning.store import clear_choices, read_folder, stored_choices
from replk_probe.ops.tuning.tuner import tune_problems, unmeasured

PROBLEM = ConvProblem("grad_input", "bfloat16", True, 64, 384, 32, 32, 31, 31)
Card = Callable[..., Any]


def tuned(card: Any, folder: Path, **options: Any) -> str:
    found = tune_problems(card, [PROBLEM], folder=folder, clock=card.clock, **options)
    return found[PROBLEM.bucket].method


def test_another_process_checks_a_choice_and_does_not_time_it(card: Card, tmp_path: Path) -> None:
    first = card({"aten": 1e-2, "torch-fft": 1e-3})
    assert unmeasured(first, [PROBLEM], tmp_path) == [PROBLEM.bucket]
    assert tuned(first, tmp_path) == "torch-fft" and unmeasured(first, [PROBLEM], tmp_path) == []
    tuner._known.clear()
    assert unmeasured(first, [PROBLEM], tmp_path) == []
    # In the second process, the times would be others.
    second = card({"aten": 1e-3, "torch-fft": 1e-2})
    assert tuned(second, tmp_path) == "torch-fft" and second.log == [("check", "torch-fft")]
    assert tuned(second, tmp_path) == "torch-fft" and len(second.log) == 1  # once in a process
    assert tuned(second, tmp_path, force=True) == "aten" and "aten" in second.timed


def test_a_stored_method_that_is_wrong_or_gone_now_is_measured_again(card: Card, tmp_path: Path) -> None:
    tuned(card({"aten": 1e-2, "torch-fft": 1e-3}), tmp_path)
    for changed in (
        card({"aten": 1e-2, "torch-fft": 1e-3}, shares={"torch-fft": 7.0}),
        card({"aten": 1e-2, "torch-fft": 1e-3}, errors={"torch-fft": RuntimeError("gone")}),
    ):
        tuner._known.clear()
        assert tuned(changed, tmp_path) == "aten" and changed.timed
        tuned(card({"aten": 1e-2, "torch-fft": 1e-3}), tmp_path, force=True)


@pytest.mark.parametrize("change", [{"device": "another card"}, {"cuDNN": "9.24.0"}, {"TF32": "allowed"}])
def test_another_environment_is_measured_anew(card: Card, tmp_path: Path, change: dict[str, str]) -> None:
    first = card({"aten": 1e-2, "torch-fft": 1e-3})
    tuned(first, tmp_path)
    other = card({"aten": 1e-3, "torch-fft": 1e-2}, environment=first.environment | change)
    assert tuned(other, tmp_path) == "aten" and len(stored_choices(tmp_path)) == 2
    assert tuned(first, tmp_path) == "torch-fft"


def test_a_folder_that_cannot_be_written_to_is_no_error(card: Card, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for folder in (blocked / "tuning", Path("/proc/nowhere")):
        tuner._known.clear()
        assert tuned(card({"aten": 1e-2, "torch-fft": 1e-3}), folder) == "torch-fft"
        assert stored_choices(folder) == [] and clear_choices(folder) == 0


def test_a_file_holds_what_a_reader_wants_to_know(card: Card, tmp_path: Path) -> None:
    tuned(card({"aten": 1e-2, "torch-fft": 1e-3}, refused={"triton-toeplitz": "no"}), tmp_path)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["environment"]["device"] == "fake card" and record["choice"]["method"] == "torch-fft"
    (stored,) = stored_choices(tmp_path)
    assert str(stored.problem) == str(PROBLEM.bucket) and stored.choice.gain == pytest.approx(10)
    assert stored.time.endswith("+00:00") and len(stored.time) == 25


def test_processes_that_measure_at_once_leave_one_whole_file(card: Card, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda: tuned(card({"aten": 1e-2, "torch-fft": 1e-3}), tmp_path, force=True))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([*tmp_path.iterdir()]) == len(stored_choices(tmp_path)) == 1


def damaged(text: str) -> dict[str, str]:
    """Damaged versions of a stored file."""

    def with_value(value: Any, *keys: str) -> str:
        record: dict[str, Any] = json.loads(text)
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return json.dumps(record)

    environments = ([], None, 7, {"device": 5})
    return {f"environment {value}": with_value(value, "environment") for value in environments} | {
        "nested brackets": "[" * 100_000,
        "infinite time": with_value({"aten": float("inf")}, "choice", "seconds"),
        "number as a warning": with_value(5, "choice", "warning"),
        "another version": with_value(0, "schema_version"),
    }


def test_damaged_files_are_counted_and_measured_again(card: Card, tmp_path: Path) -> None:
    times = {"aten": 1e-2, "torch-fft": 1e-3}
    tuned(card(times), tmp_path)
    (path,) = tmp_path.iterdir()
    (tmp_path / "mine.json").write_text("{}")
    sound = path.read_text()
    for name, text in damaged(sound).items():
        path.write_text(text)
        assert read_folder(tmp_path) == ([], 1), name
        tuner._known.clear()
        again = card(times)
        assert tuned(again, tmp_path) == "torch-fft" and again.timed, name
        assert [one.choice.method for one in stored_choices(tmp_path)] == ["torch-fft"], name


def test_nothing_is_measured_or_stored_if_the_environment_forces_a_method(card: Card, tmp_path: Path) -> None:
    forcing = card({"aten": 1e-2, "torch-fft": 1e-3}, forced="REPLK_PROBE_METHOD=aten forces a method")
    with pytest.warns(TuningWarning, match=r"No convolution was measured: REPLK_PROBE_METHOD=aten forces a method\."):
        assert tune_problems(forcing, [PROBLEM], folder=tmp_path) == {}
    assert unmeasured(forcing, [PROBLEM], tmp_path) == [] and forcing.log == [] and [*tmp_path.iterdir()] == []


def test_clearing_removes_the_choices_and_nothing_else(card: Card, tmp_path: Path) -> None:
    tuned(card({"aten": 1e-2}), tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    assert clear_choices(tmp_path) == 1 and [path.name for path in tmp_path.iterdir()] == ["mine.json"]
    locked = tmp_path / ("0" * 32 + ".json")
    locked.mkdir()  # cannot be unlinked
    with pytest.raises(InvalidInputError, match="Cannot remove"):
        clear_choices(tmp_path)
