"""A disk that is full at any moment of a command: one clear line, nothing half written, and the run can be resumed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

# What `unshare --user --map-root-user --mount` does: a file system that only this process and its children see.
SCRIPT = """
import ctypes, gc, os, subprocess, sys
from pathlib import Path
from click.testing import CliRunner
from matplotlib.figure import Figure
from replk_probe.cli.main import PROGRAM, cli

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
user, group = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
    Path("/proc/self", name).write_text(text)

folder, sizes, again, *arguments = sys.argv[1:]
root, sizes, again = Path(folder), sizes.split(","), again.split()
ROOM = "64m"
# Figures are rendered into memory, which takes most of the time, before they are written.
Figure.savefig = lambda figure, stream, **options: stream.write(bytes(100_000))
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
gc.freeze()  # each collection would look at a million imported objects
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


@pytest.fixture(scope="module", autouse=True)
def mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip the tests where a process may not mount a file system."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none"]
    try:
        subprocess.run([*command, tmp_path_factory.mktemp("mounts")], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")


NETWORK = """
from torch import nn

def build():
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 13, padding=6, groups=16)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "again", "arguments"),
    [
        # The lock, the first array, the tables, the figures
        ("4,20,60,120", "--resume", ("erf", "--images", "3", "--size", "32")),
        ("8,380", "", ("kernels", "--layer", "all")),
        ("4,16", "--resume", ("shape-bias", "--stimuli", "stimuli")),
    ],
    ids=["erf", "kernels", "shape-bias"],
)
def test_a_disk_that_becomes_full(
    forked_python: Any, tmp_path: Path, sizes: str, again: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    for number, name in enumerate(("bear1-cat1.png", "cat1-cat1.png", "dog1-bear1.png")):
        (tmp_path / "stimuli").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (80 * number, 90, 60)).save(tmp_path / "stimuli" / name)
    (tmp_path / "disk").mkdir()
    command = (*arguments, "--model", "net.py:build", "--weights", "random")
    done = forked_python.run("-c", SCRIPT, tmp_path / "disk", sizes, again, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
