"""Settings of the tests of the command line."""

from __future__ import annotations

from typing import IO, Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let figures be drawn but not rendered, which takes most of the time of a command.

    The tests of the plots render them, as do commands that are run as processes.
    """

    def write(figure: Figure, stream: IO[bytes], *, format: str, **options: Any) -> None:
        stream.write(format.encode())

    monkeypatch.setattr(Figure, "savefig", write)
