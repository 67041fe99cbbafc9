"""Jobs that are divided into parts: when, in which order the tasks run, and that the bytes are those of one task."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import replk_probe
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.synthetic import SYNTHETIC_CATEGORIES
from replk_probe.sweeps import SweepResult, analyzers
from replk_probe.sweeps.analyzers import ANALYZERS
from replk_probe.sweeps.document import read_document
from replk_probe.sweeps.engines.interface import Failure, Finished
from replk_probe.sweeps.folder import SweepFolder
from replk_probe.sweeps.job import Job
from replk_probe.sweeps.plan import plan_jobs
from replk_probe.sweeps.result import TABLES, _numbers
from replk_probe.sweeps.run import _number_of_parts, _run
from replk_probe.sweeps.work import execute, execute_part

NETWORK = """\
import os
from pathlib import Path
from torch import nn

class Killed(nn.Conv2d):
    images = 0

    def forward(self, x):
        marker = Path(__file__).with_name("marker")
        if x.requires_grad and not x.is_meta and x.shape[-1] == 20:
            Killed.images += 1
            if Killed.images == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), 9)
        return super().forward(x)

def build():
    return Killed(3, 4, 5, padding=2)

def classifier():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def jobs_of(**config: Any) -> list[Job]:
    return plan_jobs(read_document({"figures": False, "weights": "random", **config}))


def contents(folder: Path) -> dict[str, object]:
    """Every file of a result; of records all but the times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "job.json":
            found[path.name] = path.read_bytes()
        if path.name in ("erf.json", "shape_bias.json", "attribution.json", "reliance.json"):
            record = json.loads(path.read_text())
            del record["run"]["seconds"]
            found[path.name] = json.dumps(record)
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------- number of parts


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"erf": {"images": 50, "size": 1024}}, 6),  # 52 megapixels
        ({"erf": {"images": 50, "size": [1024, 512]}}, 3),
        ({"erf": {"images": 50, "size": 96}}, 1),
        ({"shape-bias": {"stimuli": "synthetic", "size": [224, 224]}}, 4),  # 64 megapixels
        ({"shape-bias": {"stimuli": "synthetic"}}, 4),
        ({"shape-bias": {"stimuli": "synthetic", "size": [64, 64]}}, 1),
        ({"kernels": {}}, 1),
    ],
)
def test_only_long_jobs_are_divided(config: dict[str, Any], parts: int, tmp_path: Path) -> None:
    (job,) = jobs_of(models=["resnet18"], **config)
    folder = SweepFolder(tmp_path)
    assert [_number_of_parts(job, folder, workers) for workers in (1, 2, 3, 100)] == [
        1, min(2, parts), min(3, parts), parts
    ]  # fmt: skip


def test_jobs_whose_methods_are_measured_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(**options: Any) -> int:
        (job,) = jobs_of(models=["resnet18"], erf={"images": 50, "size": 1024, **options})
        return ANALYZERS["erf"].most_parts(job)

    assert parts() > 1 and parts(tune="force") == 1
    monkeypatch.setattr(analyzers, "resolve_device", lambda device: torch.device("cuda", 0))
    assert parts() == 1 and parts(tune="off") > 1


def test_the_images_of_a_folder_are_counted(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.png").touch()
    (job,) = jobs_of(models=["resnet18"], erf={"images": 50, "size": 2048, "data": str(tmp_path)})
    assert ANALYZERS["erf"].most_parts(job) == 1  # 12.6 megapixels


# ------------------------------------------------------------------------------------------------------ tasks


class Script:
    """An engine that runs nothing: a function decides which of the running tasks end."""

    def __init__(self, workers: int, decide: Callable[[list[str]], list[Finished]]) -> None:
        self.workers, self.decide = workers, decide
        self.running: list[str] = []
        self.submitted: list[tuple[str, str, tuple[Any, ...]]] = []
        self.is_closed = False

    @property
    def free(self) -> int:
        return self.workers - len(self.running)

    def submit(self, task: str, function: Callable[..., None], *args: Any) -> None:
        name, _, work, _, *which = args  # of the task, folder, function, job
        assert name == task and function.__name__ == "run_task"
        self.running.append(task)
        self.submitted.append((task, work.__name__, tuple(which)))

    def wait(self, seconds: float) -> list[Finished]:
        ended = self.decide(self.running)
        for finished in ended:
            self.running.remove(finished.task)
        return ended

    def close(self) -> None:
        self.is_closed = True


def two_jobs() -> tuple[Job, Job]:
    first, second = jobs_of(models=["resnet18", "resnet34"], erf={"images": 4, "size": 32})
    return first, second


def test_parts_are_joined_when_the_last_one_has_ended(tmp_path: Path) -> None:
    first, second = two_jobs()
    folder, states = SweepFolder(tmp_path), set()

    def last_begun_ends(running: list[str]) -> list[Finished]:
        folder.write_summary([first, second], {first.key: 1.0})
        with folder.locked():
            states.add(SweepResult.load(tmp_path).jobs[0]["state"])
        return [Finished(running[-1])]

    engine = Script(2, last_begun_ends)
    _run(engine, folder, [first, second], [first, second], {first.key: 3, second.key: 1}, False)
    names = [f"{first.key}-{number}-of-3" for number in (1, 2, 3)]
    assert engine.submitted == [
        (names[0], "execute_part", (0, 3)),
        (names[1], "execute_part", (1, 3)),
        (names[2], "execute_part", (2, 3)),
        (second.key, "execute", ()),
        (first.key, "execute", (3,)),
    ]
    assert engine.is_closed and engine.running == [] and states == {"running"}


def test_a_part_that_fails_fails_its_job_once(tmp_path: Path) -> None:
    first, second = two_jobs()

    def decide(running: list[str]) -> list[Finished]:
        parts = [task for task in running if task.startswith(first.key)]
        if len(running) == 2 and len(parts) == 2:
            return [Finished(parts[1], Failure("It is broken.", "Traceback"))]
        return [Finished(task) for task in running if task.startswith(second.key)]

    engine = Script(2, decide)
    folder = SweepFolder(tmp_path)
    _run(engine, folder, [first, second], [first, second], {first.key: 4, second.key: 1}, False)
    # Parts 3 and 4 are not started, and the sweep does not wait for part 1, which is running.
    assert [task for task, *_ in engine.submitted] == [f"{first.key}-1-of-4", f"{first.key}-2-of-4", second.key]
    assert engine.running == [f"{first.key}-1-of-4"] and engine.is_closed
    assert folder.state(first) == "failed" and folder.reason(first) == "It is broken."


def test_other_parts_of_a_failed_job_are_ignored(tmp_path: Path) -> None:
    first, second = two_jobs()
    folder = SweepFolder(tmp_path)
    waits = iter(range(9))

    def decide(running: list[str]) -> list[Finished]:
        if next(waits) == 0:
            return [Finished(task, Failure(f"Part {task[-6]} is broken.")) for task in running if "-of-" in task]
        return [Finished(second.key)]

    engine = Script(3, decide)
    _run(engine, folder, [first, second], [first, second], {first.key: 2, second.key: 1}, False)
    assert folder.reason(first) == "Part 1 is broken." and len(engine.submitted) == 3


# ------------------------------------------------------------------------------------------------------ bytes


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("replknet_micro_k13", {"erf": {"images": 7, "size": 32, "batch_size": 1}}),
        ("replknet_micro_k13", {"erf": {"images": 7, "size": 32, "batch_size": 2}}),
        ("net.py:classifier", {"shape-bias": {"stimuli": "stimuli", "batch_size": 5}}),
    ],
)
def test_the_number_of_parts_changes_no_byte(
    model: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    Path("stimuli").mkdir()
    for index, (shape, texture) in enumerate(itertools.product(CATEGORIES[:6], repeat=2)):
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(f"stimuli/{shape}1-{texture}1.png")
    (job,) = jobs_of(models=[model], **config)
    whole, parts = SweepFolder(tmp_path / "whole"), SweepFolder(tmp_path / "parts")
    execute(job, whole.root)
    for index in (0, 2):  # interrupted, and resumed with fewer workers
        execute_part(job, parts.root, index, 3)
    unfinished = parts.unfinished(job)
    assert len([*unfinished.iterdir()]) == 2
    for index in (1, 0):
        execute_part(job, parts.root, index, 2)
    times = {path: path.stat().st_mtime_ns for path in unfinished.glob("*/state.json")}
    execute_part(job, parts.root, 0, 2)
    assert {path: path.stat().st_mtime_ns for path in unfinished.glob("*/state.json")} == times
    # A state that is damaged and one that is missing are measured again.
    first, second = sorted(unfinished.glob("part-*"), key=lambda path: path.stat().st_mtime_ns)[-2:]
    (first / "state.json").write_text("{}")
    shutil.rmtree(second)
    execute(job, parts.root, 2)
    assert contents(parts.result(job)) == contents(whole.result(job)) and contents(whole.root)
    assert not unfinished.exists()
    execute_part(job, parts.root, 0, 2)  # run again after its process was killed: the job is done
    assert not unfinished.exists()


@pytest.mark.usefixtures("one_thread")
def test_attributions_are_divided_and_are_part_of_the_table(tmp_path: Path) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    options = {"data": str(tmp_path), "method": "occlusion", "window": 16, "thresholds": [0.5]}
    (job,) = jobs_of(models=["replknet_micro_k3"], attribute=options)
    whole, parts = SweepFolder(tmp_path / "whole"), SweepFolder(tmp_path / "parts")
    execute(job, whole.root)
    for index in range(2):
        execute_part(job, parts.root, index, 2)
    execute(job, parts.root, 2)
    assert contents(parts.result(job)) == contents(whole.result(job))
    rows = [*_numbers(whole.result(job), TABLES["attribute"])]
    assert len(rows) == 3 * len(TABLES["attribute"].numbers)
    assert {item for item, _, _ in rows} == {f"image={index}.png threshold=0.5" for index in range(3)}
    # The key depends on what the images contain.
    Image.new("RGB", (20, 20)).save(tmp_path / "2.png")
    assert jobs_of(models=["replknet_micro_k3"], attribute=options)[0].key != job.key


@pytest.mark.usefixtures("one_thread")
def test_reliance_is_divided_and_is_part_of_the_table(tmp_path: Path) -> None:
    options = {"suppressions": "patch-shuffle:2,grayscale", "images": 6}
    (job,) = jobs_of(models=["replknet_micro_k3"], reliance=options)
    assert ANALYZERS["reliance"].most_parts(job) == 1
    whole, parts = SweepFolder(tmp_path / "whole"), SweepFolder(tmp_path / "parts")
    execute(job, whole.root)
    for index in range(2):
        execute_part(job, parts.root, index, 2)
    execute(job, parts.root, 2)
    assert contents(parts.result(job)) == contents(whole.result(job))
    rows = [*_numbers(whole.result(job), TABLES["reliance"])]
    assert {"suppression=grayscale cues=color", "suppression=mean cues=shape"} <= {item for item, _, _ in rows}
    # The key depends on what the images contain.
    folder = tmp_path / "photos" / SYNTHETIC_CATEGORIES[0]
    folder.mkdir(parents=True)
    keys = set()
    for level in (0, 9):
        Image.new("RGB", (20, 20), (level, level, level)).save(folder / "2.png")
        keys.add(jobs_of(models=["replknet_micro_k3"], reliance=options | {"data": str(tmp_path / "photos")})[0].key)
    assert len(keys) == 2 and job.key not in keys


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANALYZERS, "erf", replace(ANALYZERS["erf"], part_pixels=1))
    (tmp_path / "net.py").write_text(NETWORK)
    path = tmp_path / "a.toml"
    path.write_text(
        'models = ["net.py:build"]\nweights = "auto"\nfigures = false\n[erf]\nimages = 10\nsize = 20\nbatch_size = 1\n'
    )
    results = {}
    for workers in (2, 3, 1):  # a worker is killed in the first run
        result = replk_probe.sweep(path, tmp_path / str(workers), workers=workers)
        assert result.count("done") == 1 and not (result.folder / "unfinished").exists()
        results[workers] = contents(result.folder / "erf") | {"table": (result.folder / "sweep.csv").read_bytes()}
        assert (tmp_path / "marker").exists()
    assert results[2] == results[1] and results[3] == results[1]
    assert {*results[1]} == {"erf.csv", "erf.json", "erf.npz", "table"}
