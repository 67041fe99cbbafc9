"""Settings of the tests of sweeps."""

from __future__ import annotations

import multiprocessing

import pytest

from replk_probe.sweeps.engines.interface import THREAD_VARIABLES


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers of sweeps from one process that has imported what jobs need, for tests of what sweeps write.

    Sweeps start each worker as a new process, which imports torch for several seconds; other tests do this. Forked ones
    have the environment of the first test that uses this fixture.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["replk_probe.sweeps.work"])
    for name in THREAD_VARIABLES:  # read when the packages are imported
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
