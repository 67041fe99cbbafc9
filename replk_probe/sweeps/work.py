"""What a worker does: one job, from its description to its complete result folder."""

from __future__ import annotations

import contextlib
import gc
import shutil
import time
from functools import cache
from pathlib import Path

import torch

from replk_probe.errors import ResumeError
from replk_probe.results import strict_json
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.checkpoint import discard
from replk_probe.runtime.locks import InUseError
from replk_probe.runtime.provenance import software_versions

from .analyzers import ANALYZERS
from .folder import RECORD_NAME, SCHEMA_VERSION, SweepFolder
from .job import Job


def execute(job: Job, root: Path) -> None:
    """Do a job and move its result to its place in the folder of the sweep; continue an attempt that was killed."""
    folder = SweepFolder(root)
    if folder.result(job).is_dir():
        return
    torch.set_num_threads(job.threads)
    start = time.perf_counter()
    unfinished = folder.unfinished(job)
    state, complete = unfinished / "state", unfinished / "result"
    shutil.rmtree(complete, ignore_errors=True)
    analyzer = ANALYZERS[job.analyzer]
    try:
        result = analyzer.measure(job, state)
    except ResumeError as error:
        if isinstance(error.__cause__, InUseError):
            raise
        # The state of an earlier attempt cannot be used. Nobody chose to resume it, so it is not worth an error.
        discard(state)
        result = analyzer.measure(job, state)
    result.save(complete)
    if job.figures:
        analyzer.draw(result, complete)
    record = {
        "schema_version": SCHEMA_VERSION,
        "key": job.key,
        "label": job.label,
        "weights": result.run.weights.label,  # type: ignore[attr-defined]  # every measured result has a run
        "threads": job.threads,
        "seconds": round(time.perf_counter() - start, 3),
        "versions": software_versions(),
    }
    atomic_write_text(complete / RECORD_NAME, strict_json(record))
    target = folder.result(job)
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError, NotADirectoryError):
        complete.rename(target)
    shutil.rmtree(unfinished, ignore_errors=True)
    del result
    gc.collect()  # a model with hooks is part of a cycle, and the next job needs its memory
    _keep_modules()


@cache
def _keep_modules() -> None:
    """Leave the million objects of torch and timm out of later searches for garbage, which take 0.4 s otherwise."""
    gc.freeze()
