"""Whole sweeps, with worker processes."""

from __future__ import annotations

import csv
import io
import json
import math
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import replk_probe
from replk_probe.errors import InvalidInputError
from replk_probe.sweeps import SweepResult
from replk_probe.sweeps.document import read_document
from replk_probe.sweeps.folder import RECORD_NAME, SweepFolder
from replk_probe.sweeps.job import Job
from replk_probe.sweeps.plan import plan_jobs

FACTORY = """\
import os
from pathlib import Path
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

def broken():
    raise ValueError("no such network")

def killed_once():
    marker = Path(__file__).with_name("marker")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    return build()
"""
SWEEP = """\
models = ["resnet10t", { model = "replknet_micro_k13", weights = "pretrained" }]
weights = "random"
figures = false
[erf]
images = 2
[erf.matrix]
size = [64, 48]
[kernels]
layer = "all"
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that may not differ between two runs: the records have times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".csv", ".npz", ".png", ".pdf")
    }


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.slow
def test_results_are_those_of_the_single_commands(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(SWEEP)
    one = replk_probe.sweep(path, tmp_path / "one", workers=1)
    assert one.count("done") == 6 and len(contents(one.folder)) == 1 + 4 * 2 + 2 * 3
    frame = one.to_dataframe()
    assert {*frame.columns} == {"key", "analyzer", "model", "weights", "size", "item", "metric", "value"}
    assert set(frame["size"]) == {"64", "48", ""}
    ratios = frame[(frame["metric"] == "ratio") & (frame["model"] == "resnet10t") & (frame["size"] == "64")]
    alone = replk_probe.measure_erf("resnet10t", images=2, size=64, weights="random")
    assert [*ratios["value"]] == [row.ratio for row in alone.ratios]
    # A result is that of the single command.
    folder = next((one.folder / "erf").glob("resnet10t-*"))
    assert replk_probe.ErfResult.load(folder).run.model == "resnet10t"

    # Nothing is done again, and new settings leave old results.
    before = {file: file.stat().st_mtime_ns for file in one.folder.rglob("*.npz")}
    path.write_text(SWEEP.replace("[64, 48]", "[48, 32]").replace('"resnet10t", ', ""))
    more = replk_probe.sweep(path, one.folder, workers=1)
    after = {file: file.stat().st_mtime_ns for file in one.folder.rglob("*.npz")}
    assert {*before.items()} < {*after.items()} and len(after) == len(before) + 1
    assert len(more.jobs) == 3 and SweepResult.load(one.folder).jobs == more.jobs


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.slow
def test_failures_are_kept_and_the_sweep_goes_on(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    path = tmp_path / "a.toml"
    path.write_text('models = ["net.py:broken", "net.py:killed_once"]\nfigures = false\n[kernels]\n')
    result = replk_probe.sweep(path, tmp_path / "out", workers=1)
    assert [job["state"] for job in result.jobs] == ["failed", "done"]
    assert list(result.failed) == ["kernels/net.py:broken"]
    (failure,) = (tmp_path / "out" / "failed").iterdir()
    assert failure.stem == result.jobs[0]["key"]
    lines = failure.read_text().splitlines()
    assert "no such network" in lines[0] and "Traceback (most recent call last):" in lines
    assert (tmp_path / "marker").exists() and not (tmp_path / "out" / "unfinished").exists()
    assert {row["model"] for row in csv.DictReader(io.StringIO((tmp_path / "out" / "sweep.csv").read_text()))} == {
        "net.py:killed_once"
    }

    # It is not tried again without being asked to.
    stamp = failure.stat().st_mtime_ns
    replk_probe.sweep(path, tmp_path / "out", workers=1)
    assert failure.stat().st_mtime_ns == stamp
    again = replk_probe.sweep(path, tmp_path / "out", workers=1, retry_failed=True)
    assert failure.stat().st_mtime_ns > stamp and again.count("failed") == 1


def planned(tmp_path: Path, **values: Any) -> tuple[dict[str, Any], SweepFolder]:
    config = {"models": ["resnet18", "resnet34"], "weights": "random", "kernels": {}} | values
    return config, SweepFolder(tmp_path / "out")


def record_result(folder: SweepFolder, job: Job) -> Path:
    """A result folder without a result; return the path of its record."""
    folder.result(job).mkdir(parents=True)
    path = folder.result(job) / RECORD_NAME
    path.write_text('{"schema_version": 1, "weights": "random", "seconds": 1.0}')
    return path


@pytest.mark.parametrize("text", [None, "", "[]", '{"schema_version": 1, "weights": "random"}'])
def test_a_result_with_a_damaged_record_is_not_done(tmp_path: Path, text: str | None) -> None:
    config, folder = planned(tmp_path)
    first, second = plan_jobs(read_document(config))
    record_result(folder, second)
    record = record_result(folder, first)
    assert folder.state(first) == folder.state(second) == "done"
    record.unlink() if text is None else record.write_text(text)
    again = SweepFolder(folder.root)
    again.write_summary([first, second])
    assert [job["state"] for job in SweepResult.load(folder.root).jobs] == ["pending", "done"]


def test_states_are_read_from_the_folder(tmp_path: Path) -> None:
    config, folder = planned(tmp_path)
    first, second = plan_jobs(read_document(config))
    folder.fail(first, "It is\nbroken.", "Traceback")
    folder.write_summary([first, second], {second.key: 3.21})
    with folder.locked():
        loaded = SweepResult.load(folder.root)
        assert [job["state"] for job in loaded.jobs] == ["failed", "running"]
        assert loaded.failed == {"kernels/resnet18": "It is broken."} and loaded.jobs[1]["seconds"] == 3.2
    folder.succeed(first)
    folder.clean([first, second])
    # The process that ran the second job has ended.
    assert [job["state"] for job in SweepResult.load(folder.root).jobs] == ["pending", "pending"]
    assert {path.name for path in folder.root.iterdir()} == {"sweep.json"}
    with pytest.raises(InvalidInputError, match="Give the output folder of"):
        SweepResult.load(tmp_path)


def test_what_a_killed_process_left_of_a_finished_job_is_removed(tmp_path: Path) -> None:
    config, folder = planned(tmp_path)
    first, second = plan_jobs(read_document(config))
    record_result(folder, first)
    for job in (first, second):
        (folder.unfinished(job) / "state").mkdir(parents=True)
        folder.fail(job, "It is broken.", "Traceback")
    folder.clean([first, second])
    assert not folder.unfinished(first).exists() and not folder.failure(first).exists()
    assert folder.unfinished(second).is_dir() and folder.failure(second).is_file()


def test_a_task_waits_until_no_other_process_does_it(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom replk_probe.sweeps.folder import SweepFolder\n"
        "with SweepFolder(Path(sys.argv[1])).claimed('a'):\n    print('claimed', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, tmp_path]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for _ in range(3):
        readable, _, _ = select.select([one.stdout for one in processes], [], [], 60)
        (claimed,) = [one for one in processes if one.stdout in readable]
        assert claimed.stdout is not None and claimed.stdout.readline() == "claimed\n"
        processes.remove(claimed)
        claimed.kill() if len(processes) == 2 else claimed.communicate("")
        claimed.communicate()
    assert list(tmp_path.iterdir()) == []


def test_only_one_sweep_runs_in_a_folder(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom replk_probe.sweeps.folder import SweepFolder\n"
        "with SweepFolder(Path(sys.argv[1])).locked():\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "locked\n"
    config, _ = planned(tmp_path)
    with pytest.raises(InvalidInputError, match=f"in use by process {other.pid} on "):
        replk_probe.sweep(config, tmp_path)
    other.kill()
    other.communicate()
    with SweepFolder(tmp_path).locked():
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slurm"}, "Unknown engine 'slurm'"),
        ({"workers": 0}, "The number of workers cannot be 0"),
        ({"timeout": 0}, "The option timeout cannot be 0"),
        ({"max_memory": math.nan}, "The option max_memory cannot be nan"),
        ({"only": "vit*"}, r"No job matches 'vit\*'.*kernels/resnet18, kernels/resnet34"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    config, folder = planned(tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        replk_probe.sweep(config, folder.root, **options)
    assert not folder.root.exists()


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.slow
def test_only_and_fresh(tmp_path: Path) -> None:
    config, folder = planned(tmp_path, figures=False, kernels={"layer": "conv1"})
    result = replk_probe.sweep(config, folder.root, only="kernels/resnet18", workers=1)
    assert [job["state"] for job in result.jobs] == ["done", "pending"]
    stamp = folder.root.joinpath(result.jobs[0]["folder"]).stat().st_mtime_ns
    replk_probe.sweep(config, folder.root, only="*18", workers=1, fresh=True)
    assert folder.root.joinpath(result.jobs[0]["folder"]).stat().st_mtime_ns > stamp
    assert json.loads((folder.root / "sweep.json").read_text())["jobs"][1]["state"] == "pending"
