"""A function in a process of its own, which imports what it needs while this process does something else."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any


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
        if self._pipe is not None:
            self._pipe.close()
            self._process.terminate()
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


def _found(module: str, function: str) -> Any:
    return getattr(importlib.import_module(module), function)


def _serve(pipe: Connection, module: str, function: str) -> None:
    """The other process: import, wait for the arguments, answer."""
    # Ctrl-C goes to all processes of a terminal; this one is told by the first, by a closed pipe or a signal to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An exception, so that files half written are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
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
