"""What surrounds a task in a worker: no other process does it at the same time, and results are uploaded to a URL."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replk_probe.runtime.download import cache_dir

from .folder import RECORD_NAME, SweepFolder
from .job import Job
from .storage import Storage
from .stored_folder import is_complete


def run_task(name: str, address: Path | str, function: Callable[..., None], job: Job, *args: Any) -> None:
    """Call ``function(job, root, *args)``, which does a job in the folder ``root`` of a sweep.

    If the sweep is stored under a URL, the folder is one of this machine, and the result is uploaded; its record, which
    marks the job as done, is the last file. The state of a job that was killed stays on this machine, where the next
    attempt continues it.

    Args:
        name: Name of the task, which is a file name.
        address: Folder or URL of the sweep.
        function: The function.
        job: The job.
        args: Further arguments.
    """
    if isinstance(address, Path):
        with SweepFolder(address).claimed(name):
            function(job, address, *args)
        return
    storage = Storage(address)
    root = cache_dir() / "sweeps" / hashlib.sha256(storage.url.encode()).hexdigest()[:16]
    with SweepFolder(root).claimed(name):
        if is_complete(storage.read(f"{job.folder}/{RECORD_NAME}")):
            return
        function(job, root, *args)
        storage.upload(root / job.folder, job.folder, last=RECORD_NAME)
        shutil.rmtree(root / job.folder)
