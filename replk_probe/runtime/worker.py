"""A thread that completes the batches of a run while the next ones are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import ParamSpec

Parameters = ParamSpec("Parameters")


class Worker(AbstractContextManager["Worker"]):
    """Context manager that calls functions in a thread, one after another in the order in which they are submitted.

    The end of the context waits for all of them, also after an error or an interrupt of the calling thread. After an
    error of one function, those that follow are not called, and the error is raised once: by the next method, or at the
    end of the context. An interrupt that is being raised takes precedence over it.

    Args:
        depth: Number of functions that may be waiting or running after :meth:`submit`; 0 to call each at once in the
            calling thread.
    """

    def __init__(self, depth: int) -> None:  # noqa: D107
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, "worker") if depth else None
        self._pending: deque[Future[None]] = deque()
        self._is_stopped = False  # by an error of a function

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Wait for all functions, and stop the thread."""
        if self._pool is None:
            return
        try:
            self.finish()
        except Exception:
            if error is None or isinstance(error, Exception):
                raise
        finally:
            # Another interrupt may have ended the waiting.
            self._is_stopped = True
            self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[Parameters, object], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> None:
        """Call a function after those before it; waits while too many are waiting or running."""
        if self._pool is None:
            function(*args, **kwargs)
            return
        self._wait(self._depth - 1)
        self._pending.append(self._pool.submit(self._call, lambda: function(*args, **kwargs)))

    def finish(self) -> None:
        """Wait until all functions have returned."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            first = self._pending[0]
            try:
                first.result()
            finally:
                if first.done():  # not if the waiting was interrupted
                    self._pending.popleft()

    def _call(self, function: Callable[[], object]) -> None:
        if self._is_stopped:
            return
        try:
            function()
        except BaseException:
            self._is_stopped = True
            raise
