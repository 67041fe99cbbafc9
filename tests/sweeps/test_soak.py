"""A short run of the soak script; longer ones are for a person."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="lists processes in /proc")
def test_a_killed_sweep_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    # With this seed, the main process is killed in the middle of the first sweep; its workers have to end themselves.
    options = ["--kills", "1", "--minutes", "5", "--engine", "local", "--models", "2", "--seed", "7"]
    command = [sys.executable, ROOT / "scripts" / "soak.py", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"sweeps": ' in done.stdout and "All sweeps ended with the same bytes" in done.stdout
    assert list(tmp_path.glob("replk-probe-*")) == []  # torch has a cache there
