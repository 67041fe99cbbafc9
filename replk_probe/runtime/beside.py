"""A function in a process of its own, which imports what it needs while this process does something else."""

from __future__ import annotations

import _thread
import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

# A new interpreter, as a fork of a process in which torch has started threads may hang; not one of multiprocessing,
# which would run the caller's main module again and refuses to be used in a worker.
_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from replk_probe.runtime.beside import serve; serve()"
)
_PATIENCE = 5.0  # seconds for the other process to end by itself
_AGAIN = 0.2  # seconds between two interrupts


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
        self._process: subprocess.Popen[bytes] | None = None
        self._is_called = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C of a terminal is for this process, which ends the other
            )
            self._send(sys.path)
            self._send(self._home)
        except OSError:
            self._end()

    def __enter__(self) -> Beside:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the other process, whatever it is at."""
        self._end()

    def __call__(self, *args: Any) -> Any:
        """Call the function; its result, or its error raised here."""
        if self._process is not None and self._process.stdout is not None:
            self._is_called = True
            try:
                self._send(args)
                done, outcome = pickle.load(self._process.stdout)
            except (OSError, EOFError):
                pass
            else:
                if done:
                    return outcome
                raise outcome
        return _found(*self._home)(*args)

    def _send(self, message: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        pickle.dump(message, self._process.stdin)
        self._process.stdin.flush()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if not self._is_called:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            try:
                pipe.close()  # type: ignore[union-attr]
            except OSError:  # what was not sent yet cannot be any more
                pass
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve() -> None:
    """The other process: import, wait for the arguments, answer on what was the standard output."""
    gc.set_threshold(100_000)  # it ends soon
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    messages, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # of what the function prints, nothing is an answer
    try:
        called = _found(*pickle.load(messages))
        args = pickle.load(messages)
        threading.Thread(target=_end_with, args=(messages,), daemon=True).start()
        try:
            answer = (True, called(*args))
        except Exception as error:
            answer = (False, error)
        pickle.dump(answer, answers)
        answers.flush()
    except (EOFError, OSError, KeyboardInterrupt):  # nobody listens any more
        pass
    sys.stderr.flush()
    os._exit(0)  # a thread that reads does not let the interpreter end


def _found(module: str, function: str) -> Any:
    return getattr(importlib.import_module(module), function)


def _end_with(messages: Any) -> None:
    """Interrupt the function when nobody waits for it, by an exception, so that files half written are removed."""
    messages.read()
    # Within a destructor an exception is printed and has no effect.
    sys.unraisablehook = lambda _: None
    main = threading.main_thread().ident
    while True:
        if main is None or not hasattr(signal, "pthread_kill"):  # Windows, where a call that waits is waited for
            _thread.interrupt_main()
        else:
            signal.pthread_kill(main, signal.SIGINT)
        threading.Event().wait(_AGAIN)
