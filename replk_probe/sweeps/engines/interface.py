"""The interface between a sweep and an engine."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from replk_probe.runtime.deferred_imports import defer_imports

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Failure:
    """Why a task failed: one line for the user, and details."""

    reason: str
    details: str = ""


@dataclass(frozen=True)
class Finished:
    """A task that has ended, with the reason if it failed."""

    task: str
    failure: Failure | None = None


class Engine(Protocol):
    """Runs tasks, several at the same time. Tasks are functions of modules, with arguments that can be pickled."""

    @property
    def free(self) -> int:
        """Number of tasks that :meth:`submit` accepts now."""

    def submit(self, task: str, function: Callable[..., None], *args: Any) -> None:
        """Start a task, whose name is ``task``. It may run more than once if its process is killed."""

    def wait(self, seconds: float) -> list[Finished]:
        """Wait until at least one task has ended, at most for the given time; return those that have."""

    def close(self) -> None:
        """End all processes, also those that are running tasks."""


def prepare_process() -> None:
    """Prepare a worker process."""
    defer_imports()
    gc.set_threshold(100_000)  # as in the main program: creating the objects of torch and timm takes longer otherwise


def limit_memory(max_memory: int | None) -> None:
    """Limit the data of this process, in bytes; only Linux enforces it.

    Call it after everything has been imported, so that a limit that is too low fails a task and not an import.
    """
    if max_memory is not None and sys.platform == "linux":
        import resource

        # Allocations beyond it fail with an error that names the reason, unlike those that the system ends.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (max_memory, hard))


def attempt(function: Callable[..., None], *args: Any) -> Failure | None:
    """Call a function in a worker; an error is returned as text, since not every error can be pickled."""
    try:
        function(*args)
    except BaseException as error:  # also KeyboardInterrupt, which only the code of a model raises here
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) and not text:
            text = "The memory that the process may take does not suffice. Use a smaller size, or a higher limit."
        return Failure(text or type(error).__name__, traceback.format_exc())
    return None
