"""Settings of the tests of sweeps."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext


@pytest.fixture
def forked_workers(forks: ForkServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers of sweeps from one process that has imported what jobs need, for tests of what sweeps write.

    Sweeps start each worker as a new process, which imports torch for several seconds; other tests do this.
    """
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forks)
