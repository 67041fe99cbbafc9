"""Settings of the tests of the command line."""

from __future__ import annotations

from typing import IO, Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let figures be drawn but not rendered."""

    def write(figure: Figure, stream: IO[bytes], *, format: str, **options: Any) -> None:
        stream.write(format.encode())

    monkeypatch.setattr(Figure, "savefig", write)
