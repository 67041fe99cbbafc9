"""The folder of a sweep under a URL.

A job is done when the record in its result folder exists, which is uploaded after all other files. The main process has
a copy of the records, of the failures, and of the files that it reads for tables and figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import temporary_path
from replk_probe.runtime.paths import usable_path
from replk_probe.runtime.processes import HOST, is_running

from .folder import COMPARISONS, FAILED, RECORD_NAME, SUMMARY_NAME, SweepFolder
from .job import Job
from .storage import Storage, is_url

_LOCK = "sweep.lock"
_LIVE = 120.0  # seconds without a report after which a process of another machine is assumed to have ended


class SweepWarning(UserWarning):
    """A sweep that may be running twice."""


def open_folder(folder: str | os.PathLike[str]) -> SweepFolder:
    """The folder of a sweep, given by its path or URL."""
    if is_url(folder):
        return StoredFolder.open(str(folder))
    return SweepFolder(usable_path(folder, "The output folder"))


def is_complete(record: bytes | None) -> bool:
    """Whether the record of a job that is done is there. Not every storage writes files at once."""
    try:
        return isinstance(json.loads(record or b""), dict)
    except ValueError:
        return False


@dataclass(frozen=True)
class StoredFolder(SweepFolder):
    """A sweep under a URL; ``root`` is the folder of the copies, which is removed with this object."""

    storage: Storage | None = None
    summary_every = 30.0

    @classmethod
    def open(cls, url: str) -> StoredFolder:
        """Copy the states of all jobs."""
        storage = Storage(url)
        names = storage.names()
        root = temporary_path(Path(tempfile.gettempdir(), "replk-probe-sweep"))
        root.mkdir(mode=0o700)
        folder = cls(root, storage=storage)
        weakref.finalize(folder, shutil.rmtree, root, ignore_errors=True)
        records = [name for name in names if name.count("/") == 2 and name.endswith(f"/{RECORD_NAME}")]
        storage.download(
            [*records, *(one for one in names if one.startswith(f"{FAILED}/") or one == SUMMARY_NAME)], root
        )
        for record in records:
            if not is_complete((root / record).read_bytes()):
                shutil.rmtree((root / record).parent)
        for name in names:
            if name.startswith(f"{COMPARISONS}/"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def url(self) -> str:
        """URL of the sweep."""
        return self._there.url

    @property
    def address(self) -> str:
        """What a worker needs to find the folder."""
        return self.url

    @property
    def is_running(self) -> bool:
        """Whether a process has reported in the last minutes that it runs this sweep."""
        return self._owner() is not None

    def location(self, name: str) -> str:
        """URL of a file of the sweep."""
        return self._there.location(name)

    def fetch(self, names: Sequence[str]) -> None:
        """Copy files of the sweep that are not here yet."""
        self._there.download([name for name in names if not (self.root / name).exists()], self.root)

    def complete_result(self, job: Job) -> Path:
        """Copy of a result with all its files."""
        self.fetch(self._there.names(job.folder))
        return self.result(job)

    def publish(self, name: str) -> None:
        """Upload a file or folder that was written here."""
        path = self.root / name
        if path.is_dir():
            self._there.upload(path, name)
        else:
            self._there.write(name, path.read_bytes())

    def fail(self, job: Job, reason: str, traceback: str) -> None:
        """Record that a job failed."""
        super().fail(job, reason, traceback)
        self.publish(f"{FAILED}/{self.failure(job).name}")

    def succeed(self, job: Job) -> None:
        """Copy the record of a job that is done, and remove the failure of an earlier attempt."""
        self.fetch([f"{job.folder}/{RECORD_NAME}"])
        if self.failure(job).is_file():
            self._there.delete(f"{FAILED}/{self.failure(job).name}")
        super().succeed(job)

    def discard(self, job: Job) -> None:
        """Remove the result of a job and its failure."""
        if self.state(job) == "done":
            self._there.delete(f"{job.folder}/{RECORD_NAME}")
        self._there.delete(job.folder)
        self._there.delete(f"{FAILED}/{self.failure(job).name}")
        super().discard(job)

    def write_summary(self, jobs: Sequence[Job], running: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Write ``sweep.json``, and that this process is running."""
        record = super().write_summary(jobs, running)
        self.publish(SUMMARY_NAME)
        self._report()
        return record

    def read_summary(self) -> dict[str, Any]:
        """Read ``sweep.json``."""
        if not (self.root / SUMMARY_NAME).is_file():
            raise InvalidInputError(
                f"Cannot read {self.location(SUMMARY_NAME)}. It does not exist. Give the output folder of 'replk-probe "
                "sweep'."
            )
        return super().read_summary()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Warn if another process runs a sweep here. Object stores have no locks that would prevent it."""
        owner = self._owner()
        if owner is not None:
            warnings.warn(
                f"A sweep in {self.url} may be running: {owner} reported less than {_LIVE:g} s ago. Two "
                "sweeps at the same time measure the same jobs twice. Stop one of them if that process has not ended.",
                SweepWarning,
                stacklevel=3,
            )
        self._report()
        try:
            yield
        finally:
            if self._report_of(self._there.read(_LOCK)).get("owner") == _owner_name():
                self._there.delete(_LOCK)

    @property
    def _there(self) -> Storage:
        assert self.storage is not None
        return self.storage

    def _owner(self) -> str | None:
        """The process that runs a sweep here, as far as is known."""
        report = self._report_of(self._there.read(_LOCK))
        with contextlib.suppress(ValueError, LookupError, TypeError):
            here = report["host"] == HOST
            if is_running(int(report["process"])) if here else time.time() - float(report["time"]) < _LIVE:
                return str(report["owner"])
        return None

    def _report(self) -> None:
        report = {"owner": _owner_name(), "process": os.getpid(), "host": HOST, "time": time.time()}
        self._there.write(_LOCK, json.dumps(report).encode())

    @staticmethod
    def _report_of(content: bytes | None) -> dict[str, Any]:
        """The report of a process; empty if there is none, or if it is damaged."""
        try:
            report = json.loads(content or b"{}")
        except ValueError:
            return {}
        return report if isinstance(report, dict) else {}


def _owner_name() -> str:
    return f"process {os.getpid()} on {platform.node()}"
