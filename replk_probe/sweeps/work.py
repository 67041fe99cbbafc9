"""What a worker does: one job, from its description to its complete result folder, or one part of it."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from replk_probe.errors import ResumeError
from replk_probe.results import strict_json
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.checkpoint import discard
from replk_probe.runtime.locks import InUseError
from replk_probe.runtime.parts import part_folders
from replk_probe.runtime.provenance import software_versions

from .analyzers import ANALYZERS
from .folder import RECORD_NAME, SCHEMA_VERSION, SweepFolder
from .job import Job


def execute_part(job: Job, root: Path, index: int, count: int) -> None:
    """Measure one of ``count`` parts of a job; continue an attempt that was killed."""
    folder = SweepFolder(root)
    if folder.state(job) == "done":
        return
    torch.set_num_threads(job.threads)
    plan = ANALYZERS[job.analyzer].plan(job)
    parts = list(part_folders(folder.unfinished(job), plan.parts(count)).items())
    if index < len(parts):  # there can be fewer
        _run_part(plan, *parts[index])
    del plan
    _free_memory()


def execute(job: Job, root: Path, count: int = 1) -> None:
    """Do a job and move its result to its place in the folder of the sweep; continue an attempt that was killed.

    If ``count`` is larger than 1, the job was divided into that many parts, which are joined.
    """
    folder = SweepFolder(root)
    if folder.state(job) == "done":
        return
    torch.set_num_threads(job.threads)
    start = time.perf_counter()
    unfinished = folder.unfinished(job)
    complete = unfinished / "result"
    shutil.rmtree(complete, ignore_errors=True)
    result = _result(job, unfinished, count)
    result.save(complete)
    if job.figures:
        ANALYZERS[job.analyzer].draw(result, complete)
    record = {
        "schema_version": SCHEMA_VERSION,
        "key": job.key,
        "label": job.label,
        "weights": result.run.weights.label,
        "threads": job.threads,
        # The parts were measured by other tasks.
        "seconds": round(time.perf_counter() - start + (result.run.seconds if count > 1 else 0), 3),
        "versions": software_versions(),
    }
    atomic_write_text(complete / RECORD_NAME, strict_json(record))
    target = folder.result(job)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # without a valid record
    complete.rename(target)
    shutil.rmtree(unfinished, ignore_errors=True)
    del result
    _free_memory()


def _result(job: Job, unfinished: Path, count: int) -> Any:
    analyzer = ANALYZERS[job.analyzer]
    plan = analyzer.plan(job)
    if analyzer.part_pixels is None:
        result = plan.run()
    elif count == 1:
        state = unfinished / "state"
        result = _resumed(partial(plan.run, checkpoint=state, resume=True), state)
    else:
        result = _join(plan, part_folders(unfinished, plan.parts(count)))
    return analyzer.complete(job, result)


def _run_part(plan: Any, part: range, state: Path) -> None:
    _resumed(partial(plan.run_part, part, state), state)


def _join(plan: Any, parts: Mapping[range, Path]) -> Any:
    """The result of a job whose parts have ended; those whose state was damaged or removed since are measured here."""
    try:
        return plan.join(parts)
    except ResumeError as error:
        if isinstance(error.__cause__, InUseError):
            raise
        for part, state in parts.items():
            _run_part(plan, part, state)
        return plan.join(parts)


def _resumed(run: Callable[[], Any], state: Path) -> Any:
    """Run, from the beginning if the state of an earlier attempt cannot be used."""
    try:
        return run()
    except ResumeError as error:
        if isinstance(error.__cause__, InUseError):
            raise
        discard(state)
        return run()


def _free_memory() -> None:
    """Free the model, which is part of a cycle if it has hooks: the next task needs its memory."""
    gc.collect()
    _keep_modules()


@cache
def _keep_modules() -> None:
    """Leave the million objects of torch and timm out of later searches for garbage, which take 0.4 s otherwise."""
    gc.freeze()
