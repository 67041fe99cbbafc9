"""A function in a process of its own, which imports what it needs while this process does something else."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

# How often the other process is asked to end before it is made to, and seconds between.
_ASKED, _PATIENCE = 10, 0.5


class Beside:
    """A function that is imported elsewhere at once and called there later, with the same outcome as here.

    Use it as a context, at whose end the other process ends; it also ends when this one is killed. Where no process can
    be had, or the other one is lost, the function is called here.

    Args:
        module: Full name of the module of the function.
        function: Its name. Arguments, result and errors must be such as can be pickled.
    """

    def __init__(self, module: str, function: str) -> None:
        """Start the other process."""
        self._home = (module, function)
        self._pipe: Connection | None = None
        # A new interpreter: a fork of a process in which torch has started threads may hang.
        context = multiprocessing.get_context("spawn")
        try:
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self._home), daemon=True)
            with _no_interrupts():
                self._process.start()
            # Only if no end of theirs is open here does this side hear of their end.
            theirs.close()
        except OSError:
            self._pipe = None

    def __enter__(self) -> Beside:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the other process, whatever it is at."""
        if self._pipe is None:
            return
        self._pipe.close()
        for _ in range(_ASKED):
            self._process.terminate()
            self._process.join(_PATIENCE)
            if not self._process.is_alive():
                return
        self._process.kill()
        self._process.join()

    def __call__(self, *args: Any) -> Any:
        """Call the function; its result, or its error raised here."""
        if self._pipe is not None:
            try:
                self._pipe.send(args)
                done, outcome = self._pipe.recv()
            except (OSError, EOFError):
                pass
            else:
                if done:
                    return outcome
                raise outcome
        return _found(*self._home)(*args)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes started meanwhile never hear Ctrl-C, which goes to all of a terminal; this one does afterwards.

    It is for the first of them to say so, and to end the others.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # The first process started by spawn brings this one along, whose start would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _found(module: str, function: str) -> Any:
    return getattr(importlib.import_module(module), function)


def _end(*_: object) -> None:
    """Leave by an exception, so that files half written are removed."""
    # Within a destructor it is printed and has no effect; one comes again.
    sys.unraisablehook = lambda _: None
    sys.exit(1)


def _serve(pipe: Connection, module: str, function: str) -> None:
    """The other process: import, wait for the arguments, answer."""
    signal.signal(signal.SIGTERM, _end)
    called = _found(module, function)
    try:
        args = pipe.recv()
    except EOFError:
        return
    try:
        answer = (True, called(*args))
    except Exception as error:
        answer = (False, error)
    pipe.send(answer)
