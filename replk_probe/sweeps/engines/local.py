"""Worker processes on this machine.

Each worker has an executor of its own. If a process is killed, only its task is affected, and it is known which one;
an executor with several processes would end the tasks of all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_end
from typing import Any

from replk_probe.errors import InvalidInputError

from .interface import THREAD_VARIABLES, Failure, Finished, attempt, limit_memory, prepare_process

# A task whose process was killed this often is not tried again: it may be the reason.
MOST_ATTEMPTS = 3


class LocalEngine:
    """Worker processes on this machine, which are started when they are needed.

    Args:
        workers: Number of processes.
        threads: Number of threads of each.
        timeout: Seconds after which a task is ended, or None.
        max_memory: Bytes that the data of each process may take, or None. Linux only.
        gpus: Values of ``CUDA_VISIBLE_DEVICES``, which the processes get in turn; empty to leave it unchanged.

    Raises:
        InvalidInputError: ``max_memory`` is given on another system than Linux.
    """

    def __init__(  # noqa: D107
        self,
        workers: int,
        *,
        threads: int = 1,
        timeout: float | None = None,
        max_memory: int | None = None,
        gpus: Sequence[str] = (),
    ) -> None:
        if max_memory is not None and sys.platform != "linux":
            raise InvalidInputError(
                f"The memory of workers cannot be limited on {sys.platform}. Only Linux enforces such a limit. Leave "
                "it out."
            )
        self._timeout = timeout
        self._workers = [
            _Worker(threads, max_memory, gpus[index % len(gpus)] if gpus else None) for index in range(workers)
        ]

    @property
    def free(self) -> int:
        """Number of idle workers."""
        return sum(worker.task is None for worker in self._workers)

    def submit(self, task: str, function: Callable[..., None], *args: Any) -> None:
        """Start a task on an idle worker."""
        worker = next(worker for worker in self._workers if worker.task is None)
        worker.task, worker.call, worker.attempts = task, (function, args), 0
        self._start(worker)

    def wait(self, seconds: float) -> list[Finished]:
        """Wait for tasks; those whose process was killed are started again."""
        busy = [worker for worker in self._workers if worker.task is not None]
        now = time.monotonic()
        until = min([now + seconds, *(worker.begun + self._timeout for worker in busy if self._timeout is not None)])
        wait_for([worker.future for worker in busy if worker.future], until - now, FIRST_COMPLETED)
        return [finished for worker in busy if (finished := self._check(worker)) is not None]

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            if worker.task is not None:
                worker.kill()
            worker.stop()

    def _start(self, worker: _Worker) -> None:
        worker.attempts += 1
        worker.start()

    def _check(self, worker: _Worker) -> Finished | None:
        """The end of a worker's task, or None if the task is running, perhaps again."""
        assert worker.task is not None and worker.future is not None
        seconds = time.monotonic() - worker.begun
        late = not worker.future.done() and self._timeout is not None and seconds >= self._timeout
        if late:
            worker.kill()
            failure: Failure | None = Failure(
                f"The job took longer than {self._timeout:g} s. It was ended. Give a longer timeout."
            )
        elif not worker.future.done():
            return None
        else:
            try:
                failure = worker.future.result()
            except BrokenProcessPool:
                worker.stop()
                if worker.attempts < MOST_ATTEMPTS:
                    self._start(worker)
                    return None
                limit = "" if worker.max_memory is None else f", or the limit of {worker.max_memory:,} bytes is too low"
                failure = Failure(
                    f"The process of the job ended {worker.attempts} times. The system may have too little memory"
                    f"{limit}. Use fewer workers or a smaller size{', or a higher limit' if limit else ''}."
                )
        if late:
            worker.stop()
        finished = Finished(worker.task, failure)
        worker.task = worker.future = None
        return finished


@dataclass
class _Worker:
    """One process and its task."""

    threads: int
    max_memory: int | None
    gpu: str | None
    task: str | None = None
    call: tuple[Callable[..., None], tuple[Any, ...]] | None = None
    future: Future[Failure | None] | None = None
    attempts: int = 0
    begun: float = float("inf")  # when the process began the task, after it was started and had imported its module
    _executor: ProcessPoolExecutor | None = None
    _process: Future[int] | None = None

    def start(self) -> None:
        """Send the task to the process, which is started if there is none."""
        assert self.call is not None
        function, args = self.call
        self.begun = time.monotonic()
        for fresh in (False, True):
            if self._executor is None:
                # Not fork: the threads of torch do not survive it.
                self._executor = ProcessPoolExecutor(
                    1,
                    multiprocessing.get_context("spawn"),
                    initializer=_prepare,
                    initargs=(self.threads, self.gpu),
                )
                self._process = self._executor.submit(os.getpid)
                self.begun = float("inf")
                imported = self._executor.submit(_imported, self.max_memory, function, *args)
                imported.add_done_callback(self._begin)
            try:
                self.future = self._executor.submit(attempt, function, *args)
                return
            except BrokenProcessPool:  # killed while it was idle
                self.stop()
                if fresh:
                    raise

    def _begin(self, imported: Future[None]) -> None:
        self.begun = time.monotonic()

    def kill(self) -> None:
        """Kill the process."""
        if self._process is None:
            return
        try:
            process = self._process.result()
            os.kill(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        except (BrokenProcessPool, ProcessLookupError):  # it ended by itself
            pass

    def stop(self) -> None:
        """Wait for the end of the process, which is idle or killed."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._process = None


def _prepare(threads: int, gpu: str | None) -> None:
    """Prepare a worker process, before torch is imported."""
    # Ctrl-C reaches all processes of a terminal; the main process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    prepare_process()


def _imported(max_memory: int | None, *call: Any) -> None:
    """Limit the memory: the process has imported the modules of a task when it calls this."""
    limit_memory(max_memory)


def _end_with_parent() -> None:
    """End this process when its parent has ended; otherwise it would never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_end([parent.sentinel])
        os._exit(1)
