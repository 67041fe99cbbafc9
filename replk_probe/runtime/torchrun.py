"""Processes that `torchrun` has started, which measure parts of the same model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from replk_probe import errors
from replk_probe.errors import ReplkProbeError

# Seconds in which all processes must have started. Later they wait for each other's work, however long it takes;
# torchrun ends all of them if one is killed.
START_WITHIN = 300.0

_POLL = 0.05


@dataclass(frozen=True)
class Process:
    """One of several processes.

    Attributes:
        rank: Its number, from 0. The first process writes and prints; the others are silent.
        count: Number of processes.
        local_rank: Its number on this machine.
    """

    rank: int
    count: int
    local_rank: int


def this_process() -> Process | None:
    """This process by torchrun's environment variables; None if it is the only one."""
    try:
        found = Process(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError):
        return None
    return found if found.count > 1 else None


def use_own_gpu(device: str) -> None:
    """Let this process see one GPU only, if the device is not chosen by number, so that the others can use theirs.

    The GPU is number 0 in each process, as without torchrun: the number is part of the result. Must be called before
    CUDA is initialized.
    """
    from .devices import visible_gpus

    process = this_process()
    if process is not None and device in ("auto", "cuda") and (gpus := visible_gpus()):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[process.local_rank % len(gpus)]


def gathered(value: Any) -> list[Any]:
    """The values of all processes by rank; waits until each of them has called this function.

    Without torchrun, there is only this process.

    Args:
        value: A JSON value.

    Raises:
        ReplkProbeError: A process did not start, or the connection is lost.
    """
    return [value] if this_process() is None else _gathered(_meeting(), value)


@contextmanager
def together() -> Iterator[None]:
    """Wait for all processes at the end of the block; an error in the block of one of them is raised in all.

    Without torchrun, nothing happens.
    """
    if this_process() is None:
        yield
        return
    _meeting()
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    others = gathered(None if error is None else _described(error))
    if error is not None:
        raise error
    for other in others:
        if other is not None:
            kind, text = other
            raise getattr(errors, kind)(text)


def _described(error: Exception) -> tuple[str, str]:
    """The class of this package's errors to which an error belongs, and its text."""
    kind = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in errors.__all__), None)
    if kind is not None:
        return kind, str(error)
    process = this_process()
    assert process is not None
    return "ReplkProbeError", (
        f"Process {process.rank} of torchrun failed with {type(error).__name__}: {error}. Run the command "
        "without torchrun to see the details."
    )


@cache
def _meeting() -> _Meeting:
    """The connection to the other processes, all of which have started."""
    # Not collective operations, which block the signal of Ctrl-C while they wait.
    from torch.distributed.rendezvous import rendezvous

    process = this_process()
    assert process is not None
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=START_WITHIN)))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ReplkProbeError(
            f"Cannot connect to the other processes of torchrun. {reason}. Start all processes by torchrun."
        ) from error
    meeting = _Meeting(process, store)
    _gathered(meeting, None, START_WITHIN)
    return meeting


@dataclass
class _Meeting:
    """A store that all processes share, and the number of exchanges so far."""

    process: Process
    store: Any
    times: int = 0


def _gathered(meeting: _Meeting, value: Any, seconds: float = float("inf")) -> list[Any]:
    process, store = meeting.process, meeting.store
    keys = [f"replk-probe/{meeting.times}/{rank}" for rank in range(process.count)]
    meeting.times += 1
    until = time.monotonic() + seconds
    try:
        store.set(keys[process.rank], json.dumps(value))
        while not store.check(keys):
            if time.monotonic() > until:
                here = sum(store.check([key]) for key in keys)
                raise ReplkProbeError(
                    f"Only {here} of {process.count} processes of torchrun have started. The others were expected "
                    f"within {seconds:g} s. Look for their errors above, and run the command again."
                )
            time.sleep(_POLL)
        return [json.loads(store.get(key)) for key in keys]
    except RuntimeError as error:
        raise ReplkProbeError(
            "The connection to the other processes of torchrun is lost. One of them has ended. Resume the run."
        ) from error
