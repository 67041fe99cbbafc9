"""A disk that is full at any moment of a command: one clear line, nothing half written, and the run can be resumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A file system of its own, which only this process and its children see.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")

SCRIPT = """
import gc, subprocess, sys
from pathlib import Path
from click.testing import CliRunner
from replk_probe.cli.main import PROGRAM, cli

root, sizes, again, arguments = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3].split(), sys.argv[4:]
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


@pytest.fixture(scope="session")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip a test where a process may not mount a file system."""
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "none", tmp_path_factory.mktemp("mounts")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")


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
    mounts: None, tmp_path: Path, sizes: str, again: str, arguments: tuple[str, ...]
) -> None:
    command = [*NAMESPACE, sys.executable, "-c", SCRIPT, str(tmp_path), sizes, again, *arguments]
    done = subprocess.run([*command, "--model", "replknet_micro_k3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
