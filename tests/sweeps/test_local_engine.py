from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from replk_probe.sweeps.engines.interface import Failure, Finished
from replk_probe.sweeps.engines.local import MOST_ATTEMPTS, LocalEngine


def ended(engine: LocalEngine, count: int) -> dict[str, Failure | None]:
    found: list[Finished] = []
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        found += engine.wait(1)
    return {finished.task: finished.failure for finished in found}


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    made = LocalEngine(2)
    yield made
    made.close()


def test_tasks_run_and_errors_are_returned(engine: LocalEngine) -> None:
    engine.submit("good", time.sleep, 0)
    engine.submit("bad", time.sleep, "x")
    assert engine.free == 0
    found = ended(engine, 2)
    assert found["good"] is None and engine.free == 2
    assert found["bad"] is not None and "Traceback" in found["bad"].details
    assert found["bad"].reason.startswith("'str' object cannot be interpreted")


def test_a_killed_process_is_replaced_and_the_others_go_on(engine: LocalEngine) -> None:
    engine.submit("victim", time.sleep, 2)
    engine.submit("other", time.sleep, 2)
    victim, other = (worker._process.result() for worker in engine._workers if worker._process)
    os.kill(victim, signal.SIGKILL)
    assert ended(engine, 2) == {"victim": None, "other": None}
    after = [worker._process.result() for worker in engine._workers if worker._process]
    assert after[0] != victim and after[1] == other
    assert engine._workers[0].attempts == 2


def test_a_process_killed_while_idle_is_replaced(engine: LocalEngine) -> None:
    engine.submit("first", time.sleep, 0)
    assert ended(engine, 1) == {"first": None}
    process = engine._workers[0]._process
    assert process is not None
    os.kill(process.result(), signal.SIGKILL)
    time.sleep(0.5)
    engine.submit("second", time.sleep, 0)
    assert ended(engine, 1) == {"second": None}


def test_a_task_that_ends_its_process_fails_after_some_attempts(engine: LocalEngine) -> None:
    engine.submit("deadly", os._exit, 1)
    failure = ended(engine, 1)["deadly"]
    assert failure is not None and f"ended {MOST_ATTEMPTS} times" in failure.reason


def test_a_task_that_interrupts_itself_fails(engine: LocalEngine) -> None:
    engine.submit("interrupted", signal.default_int_handler, 2, None)
    failure = ended(engine, 1)["interrupted"]
    assert failure is not None and failure.reason == "KeyboardInterrupt"


def test_a_task_that_takes_too_long_is_ended() -> None:
    engine = LocalEngine(1, timeout=3)
    try:
        engine.submit("slow", time.sleep, 600)
        failure = ended(engine, 1)["slow"]
        assert failure is not None and "longer than 3 s" in failure.reason
        engine.submit("fast", time.sleep, 0)
        assert ended(engine, 1) == {"fast": None}
    finally:
        engine.close()


def test_closing_ends_running_tasks(engine: LocalEngine) -> None:
    engine.submit("slow", time.sleep, 600)
    start = time.monotonic()
    engine.close()
    assert time.monotonic() - start < 60


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_the_memory_of_a_process_is_limited() -> None:
    engine = LocalEngine(1, max_memory=1 << 30)
    try:
        engine.submit("large", bytearray, 2 << 30)  # type: ignore[arg-type]
        failure = ended(engine, 1)["large"]
        assert failure is not None and failure.reason.startswith(
            "The memory that the process may take does not suffice."
        )
        engine.submit("small", bytearray, 1 << 20)  # type: ignore[arg-type]
        assert ended(engine, 1) == {"small": None}
    finally:
        engine.close()
