"""Standard streams that are full, closed or read by nobody: one line, a status other than 0, and all files written."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replk_probe.cli.main import COMMANDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no /dev/full")

FUZZERS = Path(__file__).parent.parent / "fuzz"
MODEL = ("--model", "replknet_micro_k13")
# A command line of every command that writes to standard output, with the files that it writes.
LINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "attribute": (
        ("attribute", "image.png", *MODEL, "--method", "saliency", "-o", "out"),
        ("attribution.json", "attribution.pdf"),
    ),
    "behaviour": (("behaviour", "--import", "raw", "-o", "out"), ("behaviour.json", "consistency.pdf")),
    "bench": (("bench", "--shape", "1,1,4,4,3,3", "--repeats", "1", "--output", "out"), ("bench.json", "bench.pdf")),
    "compare": (("compare", "--help"), ()),
    "data": (("data", "--help"), ()),
    "demo": (("demo", "--help"), ()),
    "erf": (("erf", *MODEL, "--images", "1", "--size", "32", "-o", "out"), ("erf.json", "erf.pdf")),
    "info": (("info",), ()),
    "kernels": (
        ("kernels", *MODEL, "--layer", "stage4.0", "--strongest", "0", "-o", "out"),
        ("kernels.json", "profiles.pdf"),
    ),
    "models": (("models", "replknet_micro_k13*"), ()),
    "reliance": (
        ("reliance", *MODEL, "--suppressions", "grayscale", "--images", "2", "-o", "out"),
        ("reliance.json", "suppressions.pdf"),
    ),
    "reparam": (("reparam", "weights.safetensors", *MODEL, "-o", "out/w.safetensors"), ("w.safetensors",)),
    "report": (("report", "--help"), ()),
    "shape-bias": (
        ("shape-bias", "--import", "raw", "-o", "out"),
        ("shape_bias.json", "shape_bias.pdf"),
    ),
    "sweep": (("sweep", "sweep.toml", "--dry-run"), ()),
    "tune": (("tune", "--clear"), ()),
    "weights": (("weights", "list"), ()),
}


@pytest.fixture(scope="module")
def command_line() -> Iterator[Any]:
    """The module with the process in whose forks commands run."""
    spec = importlib.util.spec_from_file_location("replk_probe_command_line", FUZZERS / "command_line.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def cold(command_line: Any) -> Iterator[Any]:
    """Runs commands in forks of a process that has imported nothing."""
    program = command_line.Program()
    yield program
    program.close()


@pytest.fixture(scope="module")
def warm(command_line: Any) -> Iterator[Any]:
    """Runs commands in forks of a process that has imported torch, once instead of in each of them."""
    program = command_line.Program(warm_after=0)
    yield program
    program.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_lost_output_is_an_error(command_line: Any, name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arguments, files = LINES[name]
    # A fork of a large process takes a while to end.
    program = request.getfixturevalue("cold" if "--help" in arguments else "warm")
    for stdout, message in (
        (command_line.FULL, "Error: Cannot write the output. No space left on device. Free some space or"),
        (command_line.PIPE, "Error: Cannot write the output. The program that reads it has ended."),
    ):
        place = tmp_path / f"place{len(message)}"
        place.mkdir()
        command_line.prepare(place)
        done = program.run(arguments, place, stdout)
        assert done.status == 1 and "Traceback" not in done.err and "ignored" not in done.err, done.err
        assert done.err.count("Error: ") == 1 and message in done.err, done.err
        missing = [file for file in files if not (place / "out" / file).is_file()]
        assert not missing, "all files are written before the table"


def test_closed_streams(command_line: Any, cold: Any, warm: Any, tmp_path: Path) -> None:
    closed = command_line.CLOSED
    place = tmp_path / "place"
    place.mkdir()
    for program, line in (
        (cold, ["--version"]), (cold, ["erf", "--help"]), (warm, ["weights", "list", "replknet_micro_k13*"]),
    ):  # fmt: skip
        done = program.run(line, place, stdout=closed)
        assert done.status == 1 and done.err.count("\n") == 1
        assert done.err.startswith("Error: Cannot write the output. Standard output is closed. ")
        assert program.run(line, place, stdout=closed, stderr=closed).status == 1
        expected = program.run(line, place)
        assert expected.status == 0 and program.run(line, place, stderr=closed) == expected
    wrong = ["erf", "--size", "x"]
    for stream in (closed, command_line.FULL, command_line.PIPE):
        done = warm.run(wrong, place, stderr=stream)
        assert done.status in (1, 2) and done.out == ""
    warm.run(["kernels", *MODEL, "-o", "out", "--layer", "stage4.0"], place, stderr=closed)
    assert all(b"Results in" not in path.read_bytes() for path in (place / "out").iterdir()), "no file is stderr"


@pytest.mark.parametrize(
    ("arguments", "redirection", "message"),
    [
        ("--help", ">/dev/full", "No space left"),
        ("--help", ">&-", "is closed"),
        ("--help", "| true", "has ended"),
        ("models replknet_micro_k13", ">&-", "is closed"),  # imports torch
    ],
)
def test_a_process_of_its_own(arguments: str, redirection: str, message: str) -> None:
    script = f"'{sys.executable}' -m replk_probe {arguments} {redirection}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and message in done.stderr
