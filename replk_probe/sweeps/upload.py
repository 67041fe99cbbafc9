"""What a worker does when the results are stored under a URL."""

from __future__ import annotations

import hashlib
import shutil

from replk_probe.runtime.download import cache_dir

from .folder import RECORD_NAME
from .job import Job
from .storage import Storage
from .stored_folder import is_complete
from .work import execute


def execute_and_upload(job: Job, url: str) -> None:
    """Do a job in a folder on this machine, and upload its result; the record, which marks it as done, last.

    The state of a job that was killed stays on this machine, where the next attempt continues it.
    """
    storage = Storage(url)
    if is_complete(storage.read(f"{job.folder}/{RECORD_NAME}")):
        return
    folder = cache_dir() / "sweeps" / hashlib.sha256(storage.url.encode()).hexdigest()[:16]
    execute(job, folder)
    storage.upload(folder / job.folder, job.folder, last=RECORD_NAME)
    shutil.rmtree(folder / job.folder)
