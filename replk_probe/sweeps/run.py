"""Running a sweep: jobs that are not done yet, on an engine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_choice, check_integer
from replk_probe.runtime.devices import visible_gpus
from replk_probe.runtime.escaping import printable
from replk_probe.runtime.progress import progress as progress_bar

from .analyzers import ANALYZERS, prepare_inputs
from .document import read_document
from .engines.interface import Engine
from .engines.local import LocalEngine
from .folder import SweepFolder
from .job import Job
from .plan import plan_jobs
from .result import SweepResult
from .stored_folder import open_folder
from .work import execute, execute_part
from .worker import run_task

ENGINES = ("local", "ray")
DEFAULT_OUTPUT = Path("replk-probe-out") / "sweep"

_LINE_EVERY = 60.0  # seconds between two lines where there is no terminal


def sweep(
    config: str | os.PathLike[str] | Mapping[str, Any],
    output: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    timeout: float | None = None,
    max_memory: int | None = None,
    only: Sequence[str] | str = (),
    retry_failed: bool = False,
    fresh: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Measure many models by several analyzers.

    A job is one model, one analyzer and one choice of settings. Jobs that are done are not done again, so that a sweep
    that was interrupted continues when it is called again. A job that fails does not stop the others.

    The workers are new processes, which import the main module of a program. A script must call this function under
    ``if __name__ == "__main__":``.

    Args:
        config: Path of a TOML file as described by ``replk-probe sweep --init``, or its content as a dictionary.
        output: Folder of the results, or a URL of fsspec such as ``s3://bucket/folder``; by default
            ``replk-probe-out/sweep`` and the name of the file.
        workers: Number of worker processes. By default, one for each GPU, or as many as the cores suffice for.
        engine: ``"local"`` for processes on this machine, or ``"ray"`` for tasks of Ray.
        address: Address of a Ray cluster, such as ``"auto"`` or ``"HOST:6379"``. By default, the engine ``"ray"``
            starts a local Ray instance.
        timeout: Seconds that a job, or each part of a long one, may take, or None.
        max_memory: Bytes that the data of a worker may take, or None. Linux only. Ray also reserves them.
        only: Patterns of models, of ``ANALYZER/MODEL``, or of keys; other jobs are not run. Empty for all jobs.
        retry_failed: Whether jobs that failed in an earlier run are tried again.
        fresh: Whether the jobs are done again, even if they are done; their results are removed first.
        progress: Whether to draw a progress bar on stderr if that is a terminal, and otherwise write a line a minute.

    Returns:
        The states of the jobs and their numbers. Jobs that failed do not raise an error.

    Raises:
        InvalidInputError: Something in the file cannot be used, an argument is invalid, or another process is running a
            sweep in the folder.
        WeightsError: The published stimuli are needed and cannot be downloaded.
        BackendError: The engine is ``"ray"``, and Ray is not installed.

    Examples:
        >>> from replk_probe import sweep
        >>> config = {"models": ["resnet18"], "weights": "random", "figures": False, "kernels": {"layer": "layer4.*"}}
        >>> result = sweep(config, "results", workers=1)
        >>> [(job["label"], job["state"]) for job in result.jobs]
        [('kernels/resnet18', 'done')]
        >>> result.failed
        {}
    """
    check_choice("engine", engine, ENGINES)
    if address is not None and engine != "ray":
        raise InvalidInputError(
            f"The address {address!r} was given with the engine {engine!r}. Only Ray has one. Use the engine 'ray', or "
            "leave it out."
        )
    count = None if workers is None else check_integer("number of workers", workers, 1)
    for name, value in (("timeout", timeout), ("max_memory", max_memory)):
        if value is not None and not value > 0:
            raise InvalidInputError(f"The option {name} cannot be {value!r}. It must be positive. Give more, or None.")
    jobs, chosen = planned(config, only)
    folder = sweep_folder(config, output)
    if folder.url is not None and folder.url.startswith("memory:"):
        raise InvalidInputError(
            f"Results cannot be stored under {folder.url}. Worker processes do not share their memory. Give a folder "
            "or another URL."
        )
    with folder.locked():
        if fresh:
            for job in chosen:
                folder.discard(job)
        again = ("pending", "failed") if retry_failed else ("pending",)
        pending = [job for job in chosen if folder.state(job) in again]
        if pending:
            prepare_inputs(pending)
            limits: _Limits = {"threads": pending[0].threads, "timeout": timeout, "max_memory": max_memory}
            devices = _gpus_for(pending) if engine == "local" else ()
            most = count if address else count or len(devices) or _fitting_here(pending, engine)
            counts = {job.key: _number_of_parts(job, folder, most) for job in pending}
            tasks = sum(counts.values())
            number = None if most is None else min(most, tasks)
            made = (
                LocalEngine(number or 1, **limits, gpus=devices)
                if engine == "local"
                else _ray(pending, number, limits, address)
            )
            _run(made, folder, jobs, pending, counts, progress)
        else:
            folder.clean(jobs)
            folder.write_summary(jobs)
        result = SweepResult.read(folder)
        result.write_table()
        if jobs[0].figures:
            from .comparison import draw_comparisons  # importing matplotlib takes a second

            draw_comparisons(folder, jobs, {job.key for job in pending})
    return result


def planned(
    config: str | os.PathLike[str] | Mapping[str, Any], only: Sequence[str] | str = ()
) -> tuple[list[Job], list[Job]]:
    """The jobs of a sweep, and those that match one of the patterns.

    Raises:
        InvalidInputError: Something in the file cannot be used, or no job matches a pattern.
    """
    jobs = plan_jobs(read_document(config))
    patterns = (only,) if isinstance(only, str) else tuple(only)
    for pattern in patterns:
        if not any(job.matches(pattern) for job in jobs):
            names = ", ".join(dict.fromkeys(f"{job.analyzer}/{job.name}" for job in jobs[:6]))
            raise InvalidInputError(
                f"No job matches {pattern!r}. Patterns are compared with models and ANALYZER/MODEL. Use for instance "
                f"{names}."
            )
    return jobs, [job for job in jobs if not patterns or any(map(job.matches, patterns))]


def sweep_folder(
    config: str | os.PathLike[str] | Mapping[str, Any], output: str | os.PathLike[str] | None
) -> SweepFolder:
    """Folder of a sweep: ``output``, or the default one with the name of the file."""
    if output is not None:
        return open_folder(output)
    return open_folder(DEFAULT_OUTPUT if isinstance(config, Mapping) else DEFAULT_OUTPUT / Path(config).stem)


@dataclass(frozen=True)
class _Task:
    """What a worker does: a job, a part of it, or the joining of its parts. Its name starts with the job's key."""

    name: str
    job: Job
    function: Callable[..., None]
    args: tuple[Any, ...] = ()

    @property
    def ends_job(self) -> bool:
        """Whether the result of the job is complete after this task."""
        return self.function is execute


def _tasks(job: Job, count: int) -> list[_Task]:
    """The tasks with which a job begins: the whole job, or ``count`` parts of it."""
    if count == 1:
        return [_Task(job.key, job, execute)]
    return [_Task(f"{job.key}-{index + 1}-of-{count}", job, execute_part, (index, count)) for index in range(count)]


def _run(
    engine: Engine,
    folder: SweepFolder,
    jobs: Sequence[Job],
    pending: Sequence[Job],
    counts: Mapping[str, int],
    progress: bool,
) -> None:
    """Run jobs and record their failures.

    A job is one task, or several tasks for its parts and one more, which joins them when the last part has ended.
    ``counts`` has the number of parts of each job by its key.
    """
    waiting = [task for job in reversed(pending) for task in reversed(_tasks(job, counts[job.key]))]
    left = dict(counts)  # number of parts that have not ended
    tasks: dict[str, _Task] = {}  # those that are running
    running: dict[str, tuple[Job, float]] = {}  # jobs that have begun, with the time of their first task
    begin = time.monotonic()
    summary_at = line_at = begin
    bar: Any = progress_bar(total=len(pending), unit="job", disable=not progress)
    done = 0
    try:
        with bar:
            folder.write_summary(jobs)
            while waiting or running:
                while waiting and engine.free:
                    task = waiting.pop()
                    tasks[task.name] = task
                    running.setdefault(task.job.key, (task.job, time.monotonic()))
                    engine.submit(task.name, run_task, task.name, folder.address, task.function, task.job, *task.args)
                bar.set_description_str(printable(_names(running)))
                for finished in engine.wait(1.0):
                    task = tasks.pop(finished.task)
                    job = task.job
                    if job.key not in running:  # another part of it has failed
                        continue
                    if finished.failure is not None:
                        folder.fail(job, finished.failure.reason, finished.failure.details)
                        waiting = [other for other in waiting if other.job.key != job.key]
                    elif task.ends_job:
                        folder.succeed(job)
                    else:
                        left[job.key] -= 1
                        if not left[job.key]:
                            waiting.append(_Task(job.key, job, execute, (counts[job.key],)))
                        continue
                    del running[job.key]
                    done += 1
                    bar.update(1)
                now = time.monotonic()
                if now - summary_at > folder.summary_every:
                    summary_at = now
                    folder.write_summary(jobs, {key: now - since for key, (_, since) in running.items()})
                if progress and bar.disable and now - line_at > _LINE_EVERY and sys.stderr is not None:
                    line_at = now
                    rate = done / (now - begin) * 60
                    sys.stderr.write(
                        printable(f"{done} of {len(pending)} jobs, {rate:.3g} per minute. Running: {_names(running)}")
                        + "\n"
                    )
    finally:
        engine.close()
        folder.clean(jobs)
        folder.write_summary(jobs)


def _number_of_parts(job: Job, folder: SweepFolder, workers: int | None) -> int:
    """Number of parts of a job, which never affects its result: one for each worker if the job is long enough.

    ``workers`` is None if it is not known. Workers cannot read the states of parts that others have written if the
    folder is a URL.
    """
    parts = 1 if folder.url is not None else ANALYZERS[job.analyzer].most_parts(job)
    return parts if workers is None else min(workers, parts)


class _Limits(TypedDict):
    """What all engines are asked for."""

    threads: int
    timeout: float | None
    max_memory: int | None


def _ray(jobs: Sequence[Job], workers: int | None, limits: _Limits, address: str | None) -> Engine:
    """Tasks of Ray."""
    from .engines.ray import RayEngine

    named = [device for device in _devices(jobs) if device not in ("auto", "cpu", "cuda")]
    if named:
        raise InvalidInputError(
            f"The device {named[0]!r} cannot be used with Ray. Ray chooses the GPU of each job. Write device = 'cuda'."
        )
    return RayEngine(workers, **limits, gpus=int(_use_gpu(jobs)), address=address)


def _fitting_here(jobs: Sequence[Job], engine: str) -> int:
    """Number of workers for which the GPUs or cores of this machine suffice."""
    if engine == "ray" and _use_gpu(jobs):
        return torch.cuda.device_count()
    return _fitting(jobs[0].threads)


def _names(running: Mapping[str, tuple[Job, float]]) -> str:
    """The names of the running jobs, shortened."""
    labels = [job.label for job, _ in running.values()]
    return ", ".join(labels[:2]) + (f" and {len(labels) - 2} more" if len(labels) > 2 else "")


def _fitting(threads: int) -> int:
    """Number of workers with this number of threads for which the cores suffice."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // threads, 1)


def _gpus_for(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The GPUs as values of ``CUDA_VISIBLE_DEVICES``, one for each worker.

    Empty if there is at most one, if no job uses one, or if a job names one, which has another number in a worker.
    """
    if not _devices(jobs) <= {"auto", "cpu", "cuda"} or not _use_gpu(jobs):
        return ()
    names = visible_gpus()
    return tuple(names) if len(names) > 1 else ()


def _devices(jobs: Sequence[Job]) -> set[str]:
    return {str(job.options.get("device", "auto")) for job in jobs}


def _use_gpu(jobs: Sequence[Job]) -> bool:
    """Whether a job uses a GPU, of which this machine has one."""
    return not _devices(jobs) <= {"cpu"} and torch.cuda.is_available()
