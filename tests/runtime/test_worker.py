"""The thread that completes batches: in order, bounded, and without loss by errors and interrupts."""

from __future__ import annotations

import threading
import time

import pytest

from replk_probe.runtime.worker import Worker


def test_functions_are_called_in_order_and_few_of_them_wait() -> None:
    called: list[int] = []
    threads = threading.active_count()

    def function(index: int) -> None:
        time.sleep(0.002 * (index % 3))
        called.append(index)

    with Worker(2) as worker:
        for index in range(12):
            worker.submit(function, index)
            assert len(called) >= index - 1
        worker.finish()
        assert called == [*range(12)]
        worker.submit(function, 12)
    assert called == [*range(13)] and threading.active_count() == threads


def test_without_depth_functions_are_called_at_once_in_this_thread() -> None:
    found: list[threading.Thread] = []
    with pytest.raises(ZeroDivisionError), Worker(0) as worker:
        worker.submit(lambda: found.append(threading.current_thread()))
        assert found == [threading.current_thread()]
        worker.finish()
        worker.submit(lambda: 1 // 0)


@pytest.mark.parametrize("ending", ["submit", "finish", "exit", "error"])
def test_an_error_is_raised_once_and_nothing_follows_it(ending: str) -> None:
    called: list[int] = []
    begun = threading.Event()

    def function(index: int) -> None:
        begun.wait()
        called.append(1 // (index - 1))

    worker = Worker(3)
    # The error of an earlier batch is raised, as if both had been computed one after another.
    with pytest.raises(ZeroDivisionError) as raised, worker:
        for index in range(3):
            worker.submit(function, index)
        begun.set()
        if ending == "submit":
            worker.submit(function, 3)
            worker.submit(function, 4)
        elif ending == "finish":
            worker.finish()
        elif ending == "error":
            raise ValueError("of a later batch")
    assert called == [-1]
    assert isinstance(raised.value.__context__, ValueError) == (ending == "error")
    worker.finish()  # it is not raised again


@pytest.mark.parametrize("divisor", [1, 0])
def test_an_interrupt_waits_for_what_was_submitted_and_takes_precedence(divisor: int) -> None:
    called: list[int] = []

    def function(index: int) -> None:
        time.sleep(0.01)
        called.append(index // divisor)

    with pytest.raises(KeyboardInterrupt), Worker(2) as worker:
        worker.submit(function, 0)
        worker.submit(function, 1)
        raise KeyboardInterrupt
    assert called == [0, 1][: 2 * divisor]


def test_a_second_interrupt_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    threads = threading.active_count()

    def function(index: int) -> None:
        time.sleep(0.02)
        called.append(index)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Worker(3) as worker:
        for index in range(3):
            worker.submit(function, index)
        monkeypatch.setattr(worker, "finish", interrupted)
    assert called in ([], [0]) and threading.active_count() == threads
