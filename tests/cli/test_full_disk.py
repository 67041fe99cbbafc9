"""A disk that is full at any moment of a command: one clear line, nothing half written, and the run can be resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# A file system of its own, which only this process and its children see.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")

# Each line is a case, which runs in a fork of this process: importing torch takes longer than some of the commands.
SCRIPT = """
import gc, json, os, subprocess, sys
from pathlib import Path
from click.testing import CliRunner
import replk_probe.erf.plan, replk_probe.erf.plot, replk_probe.kernels.measure, replk_probe.shape_bias.plan
from replk_probe.cli.main import PROGRAM, cli

for line in sys.stdin:
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

os.dup2(2, 1)
environment, folder, sizes, again, *arguments = json.loads(line)
os.environ.update(environment)
root, sizes, again = Path(folder), sizes.split(","), again.split()
ROOM = "64m"
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", root], check=True)

def run(*more):
    done = CliRunner().invoke(cli, [*arguments, "-o", str(root / "out"), *more], prog_name=PROGRAM)
    gc.collect()  # a model is part of a cycle, and may hold the lock of its run
    return done

def files():
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}

def results():  # without the JSON files, which record the seconds
    return {path: content for path, content in files().items() if path.suffix != ".json"}

assert run().exit_code == 0
whole = results()
for size in sizes:
    subprocess.run(["rm", "-r", root / "out"], check=True)
    subprocess.run(["mount", "-o", f"remount,size={size}k", root], check=True)
    done = run()
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), (size, done.exception, done.stderr)
    assert len(errors) == 1 and "The disk is full" in errors[0] and "Free some space" in errors[0], (size, done.stderr)
    assert not [path for path in files() if path.name.startswith(".")], (size, sorted(files()))
    assert all(whole.get(path, content) == content for path, content in results().items()), (size, "half a file")
    subprocess.run(["mount", "-o", f"remount,size={ROOM}", root], check=True)
    done = run(*again)
    assert done.exit_code == 0 and results() == whole, (size, done.stderr)
    print(size, errors[0])
"""


@pytest.fixture(scope="module")
def run_case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., int]]:
    """Function that runs a case and returns its exit status; skips where a process may not mount a file system."""
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "none", tmp_path_factory.mktemp("mounts")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    command = [*NAMESPACE, sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        ask, answer = process.stdin, process.stdout

        def run(*case: str) -> int:
            print(json.dumps([{**os.environ}, *case]), file=ask, flush=True)
            return int(answer.readline())

        yield run
        ask.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "again", "arguments"),
    [
        # The lock, the first array, the tables, the figures
        ("4,20,60,120", "--resume", ("erf", "--images", "3", "--size", "32")),
        ("8,380", "", ("kernels", "--layer", "all")),
        ("4,100", "--resume", ("shape-bias",)),
    ],
    ids=["erf", "kernels", "shape-bias"],
)
def test_a_disk_that_becomes_full(
    run_case: Callable[..., int], tmp_path: Path, sizes: str, again: str, arguments: tuple[str, ...]
) -> None:
    assert run_case(str(tmp_path), sizes, again, *arguments, "--model", "replknet_micro_k3") == 0
