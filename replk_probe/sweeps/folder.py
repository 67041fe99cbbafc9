"""The folder of a sweep: results, states of jobs and reasons of failures.

A job is done when its result folder exists, which is renamed to its name when it is complete and has a record,
``job.json``. Nothing else has to be consistent: ``sweep.json`` and ``sweep.csv`` are written anew from the folders.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from replk_probe.errors import InvalidInputError
from replk_probe.results import strict_json
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.file_reading import read_json
from replk_probe.runtime.locks import file_locked, is_in_use, locked
from replk_probe.runtime.provenance import software_versions

from .job import Job

SCHEMA_VERSION = 1
SUMMARY_NAME = "sweep.json"
RECORD_NAME = "job.json"
FAILED = "failed"
COMPARISONS = "comparison"

_RECORDED = ("weights", "seconds")  # what is shown of the record of a job
UNFINISHED = "unfinished"
_CLAIM = ".lock"
_ADVICE = "Give the output folder of 'replk-probe sweep'."


@dataclass(frozen=True)
class SweepFolder:
    """Paths and files in the folder of a sweep."""

    root: Path
    _records: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    summary_every: ClassVar[float] = 5.0  # seconds between two versions of sweep.json

    @property
    def url(self) -> str | None:
        """URL of the sweep, or None if it is a folder of this machine or of a shared file system."""
        return None

    @property
    def address(self) -> Path | str:
        """What a worker needs to find the folder: an absolute path or a URL."""
        return self.root.absolute()

    @property
    def is_running(self) -> bool:
        """Whether a process runs a sweep in this folder, as far as this machine knows."""
        return is_in_use(self.root)

    def location(self, name: str) -> Path | str:
        """Path or URL of a file of the sweep, for the user."""
        return self.root / name

    def fetch(self, names: Sequence[str]) -> None:
        """Make files of the sweep available in ``root``, where they are already."""

    def complete_result(self, job: Job) -> Path:
        """Folder with all files of a result."""
        return self.result(job)

    def publish(self, name: str) -> None:
        """Store a file or folder that was written in ``root``, where it is already."""

    def result(self, job: Job) -> Path:
        """Folder of a job's result; it exists and has a record if the job is done."""
        return self.root / job.folder

    def unfinished(self, job: Job) -> Path:
        """Folder for whatever a job writes until it is done."""
        return self.root / UNFINISHED / job.key

    def failure(self, job: Job) -> Path:
        """File with the reason why a job failed; it exists if the job failed."""
        return self.root / FAILED / f"{job.key}.txt"

    def state(self, job: Job) -> str:
        """``"done"``, ``"failed"`` or ``"pending"``."""
        if self._is_done(job):
            return "done"
        return "failed" if self.failure(job).is_file() else "pending"

    def reason(self, job: Job) -> str:
        """The reason why a job failed, in one line."""
        return self.failure(job).read_text(encoding="utf-8").partition("\n")[0]

    def record(self, job: Job) -> dict[str, Any]:
        """What was recorded about a job that is done, such as its time."""
        if job.key not in self._records:  # it does not change
            path = self.result(job) / RECORD_NAME
            self._records[job.key] = read_json(path, "Remove its folder and run the sweep again.", (SCHEMA_VERSION,))
        return self._records[job.key]

    def _is_done(self, job: Job) -> bool:
        """Whether the result of a job and its record exist; a result with a damaged record is measured again."""
        with contextlib.suppress(InvalidInputError):
            return self.result(job).is_dir() and {*_RECORDED} <= {*self.record(job)}
        return False

    def fail(self, job: Job, reason: str, traceback: str) -> None:
        """Record that a job failed."""
        line = " ".join(reason.split())
        atomic_write_text(self.failure(job), f"{line}\n\nJob: {job.label}\n\n{traceback}")

    def succeed(self, job: Job) -> None:
        """Remove the failure of an earlier attempt."""
        self.failure(job).unlink(missing_ok=True)

    def clean(self, jobs: Sequence[Job]) -> None:
        """Remove what killed processes left of jobs that are done, and empty folders; no worker may be running."""
        for job in jobs:
            if self.state(job) == "done":
                shutil.rmtree(self.unfinished(job), ignore_errors=True)
                self.succeed(job)
        for claim in (self.root / UNFINISHED).glob(f"*{_CLAIM}"):
            claim.unlink(missing_ok=True)
        for folder in (self.root / FAILED, self.root / UNFINISHED):
            with contextlib.suppress(OSError):  # it does not exist, or has files of other jobs
                folder.rmdir()

    def discard(self, job: Job) -> None:
        """Remove the result of a job, its failure and its unfinished state."""
        self._records.pop(job.key, None)
        for folder in (self.result(job), self.unfinished(job)):
            shutil.rmtree(folder, ignore_errors=True)
        self.failure(job).unlink(missing_ok=True)

    def write_summary(self, jobs: Sequence[Job], running: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Write ``sweep.json``; ``running`` has the seconds since jobs were started, by key."""
        running = running or {}
        record = {
            "schema_version": SCHEMA_VERSION,
            "versions": software_versions(),
            "jobs": [_described(job) | self.progress(job, running.get(job.key)) for job in jobs],
        }
        atomic_write_text(self.root / SUMMARY_NAME, strict_json(record))
        return record

    def progress(self, job: Job, seconds: float | None = None) -> dict[str, Any]:
        """State of a job, and depending on it ``seconds``, ``weights`` and ``reason``.

        Args:
            job: The job.
            seconds: Time for which it has been running, or None if it is not.
        """
        state = self.state(job)
        if state == "done":
            return {"state": state} | {name: self.record(job)[name] for name in _RECORDED}
        if seconds is not None:
            return {"state": "running", "seconds": round(seconds, 1)}
        return {"state": state} | ({"reason": self.reason(job)} if state == "failed" else {})

    @contextlib.contextmanager
    def claimed(self, task: str) -> Iterator[None]:
        """Wait until no other process does a task, where the system has locks.

        Ray may run a task again before its first process has ended, for instance after the main process was killed.
        """
        unfinished = self.root / UNFINISHED
        with file_locked(unfinished / f"{task}{_CLAIM}"):
            yield
        with contextlib.suppress(OSError):
            unfinished.rmdir()

    def read_summary(self) -> dict[str, Any]:
        """Read ``sweep.json``.

        Raises:
            InvalidInputError: The folder has no such file, or it cannot be read.
        """
        path = self.root / SUMMARY_NAME
        record = read_json(path, _ADVICE, (SCHEMA_VERSION,))
        if not isinstance(record.get("jobs"), list):
            raise InvalidInputError(f"{path} has no list of jobs. It may have been edited. Run the sweep again.")
        return record

    def locked(self) -> AbstractContextManager[None]:
        """Let no other process run a sweep in this folder.

        Raises:
            InvalidInputError: Another process does, or the folder cannot be written to.
        """
        return locked(self.root)


def _described(job: Job) -> dict[str, Any]:
    return {
        "key": job.key,
        "label": job.label,
        "analyzer": job.analyzer,
        "model": job.name,
        "settings": {name: value for name, value in job.options.items() if value is not None},
        "varied": dict(job.varied),
        "threads": job.threads,
        "folder": job.folder,
    }


def described_jobs(record: Mapping[str, Any]) -> list[tuple[Job, dict[str, Any]]]:
    """The jobs in the record of a sweep, each with its description there."""
    return [
        (
            Job(
                one["key"], one["analyzer"], one["model"], one["model"], one["settings"], one["varied"], one["threads"]
            ),
            {name: value for name, value in one.items() if name not in ("state", "seconds", "weights", "reason")},
        )
        for one in record["jobs"]
    ]


def canonical(value: Any) -> str:
    """A setting as text for a table: strings unchanged, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
