"""Commands that share a folder with another run: one that is running, or one that was killed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from replk_probe.erf import ErfConfig, ErfResult
from replk_probe.erf.plan import plan_erf
from replk_probe.models.inference import environment
from replk_probe.runtime import checkpoint
from replk_probe.runtime.locks import FolderLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks and no SIGKILL")

Run = Callable[..., Result]
MODEL = ("--model", "replknet_micro_k3")


@pytest.mark.parametrize(
    "arguments",
    [
        ("erf", *MODEL, "--images", 1, "--size", 32),
        ("erf", *MODEL, "--model", "replknet_micro_k7", "--images", 1, "--size", 32),
        ("shape-bias", *MODEL),
        ("kernels", *MODEL),
        ("bench", "--shape", "1,1,8,8,3,3"),
    ],
    ids=["erf", "erf of two models", "shape-bias", "kernels", "bench"],
)
def test_the_process_that_is_writing_there_is_named(
    replk_probe: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    lock = FolderLock(tmp_path)
    try:
        done = replk_probe(*arguments, "--output", tmp_path)
    finally:
        lock.release()
    assert done.exit_code == 1 and not list(tmp_path.iterdir())
    assert f"Error: Cannot use {tmp_path}. It is in use by process " in done.stderr
    assert done.stderr.endswith("Wait until it has finished, or choose another folder.\n")


def test_a_damaged_state_and_another_device_are_noted(
    replk_probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    state = tmp_path / "erf.ckpt"
    measured = plan_erf("replknet_micro_k3", None, ErfConfig(images=2, size=32)).run(checkpoint=state)
    (state / "state.json").write_bytes(b"half a")
    arguments = ("erf", *MODEL, "--images", 2, "--size", 32, "--output", tmp_path, "--resume")
    monkeypatch.setattr(environment, "describe_machine", lambda: {"cpu": "Another Processor"})
    done = replk_probe(*arguments)
    assert done.exit_code == 1 and "has processor Another Processor. Resume it where it was started" in done.stderr
    done = replk_probe(*arguments, "--allow-other-device")
    assert done.exit_code == 0
    notes = [line for line in done.stderr.splitlines() if line.startswith("replknet_micro_k3: The")]
    assert len(notes) == 2 and "is resumed on another device. It was created with processor" in notes[0]
    assert "state.json" in notes[1] and "The damaged files were renamed to end in .damaged." in notes[1]
    np.testing.assert_array_equal(ErfResult.load(tmp_path).contribution, measured.contribution)
    assert not state.exists()


# The file system is asked to keep each file before it gets its name.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from click.testing import CliRunner
from matplotlib.figure import Figure
from replk_probe.cli.main import PROGRAM, cli
from replk_probe.runtime import checkpoint

checkpoint.SAVE_EVERY = 0.0  # after each image
# Figures are rendered into memory, which takes most of the time, before they are written.
Figure.savefig = lambda figure, stream, **options: stream.write(b"figure")

root, moments = Path(sys.argv[1]), [int(text) for text in sys.argv[2].split(",")]

def run(name, *more):
    arguments = [*sys.argv[3:], "-o", str(root / name), *more]
    return CliRunner().invoke(cli, arguments, prog_name=PROGRAM)

def kill_at(moment, fsync=os.fsync):
    left = [moment]
    def killing(file):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)
    os.fsync = killing

# All are forked before the first gradient is computed, whose threads a forked process lacks.
for moment in moments:
    child = os.fork()
    if not child:
        kill_at(moment)
        run(str(moment))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, moment
assert all(any(path.name.startswith(".") for path in (root / str(moment)).rglob("*")) for moment in moments)

def results(name):  # without the JSON file, which records the seconds
    return {path.name: path.read_bytes() for path in (root / name).rglob("*") if path.suffix != ".json"}

assert run("whole").exit_code == 0
for moment in moments:
    done = run(str(moment), "--resume")
    assert done.exit_code == 0, (moment, done.stderr)
    assert results(str(moment)) == results("whole"), (moment, sorted(results(str(moment))))
    assert (root / str(moment) / "erf.json").is_file()
"""

NETWORK = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
"""


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_its_files_are_removed(forked_python: Any, tmp_path: Path) -> None:
    # Arrays and states of three images, the files of the result and the figures
    moments = "1,2,4,5,9,11,12,13"
    (tmp_path / "net.py").write_text(NETWORK)
    command = ("erf", "--model", tmp_path / "net.py:build", "--weights", "random", "--images", 3, "--size", 32)
    done = forked_python.run("-c", SCRIPT, tmp_path, moments, *command)
    assert done.returncode == 0, done.stdout + done.stderr
