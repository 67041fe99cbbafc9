"""The commands without ``--model``: their output in a terminal of 80 columns, and their files."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from replk_probe.models import default_models

fcntl = pytest.importorskip("fcntl", reason="pseudo-terminals need POSIX")
termios = pytest.importorskip("termios", reason="pseudo-terminals need POSIX")

# The program, with coarse figures, since rendering takes most of the time.
PROGRAM = """
from matplotlib.figure import Figure
from replk_probe.cli.main import main

savefig = Figure.savefig
Figure.savefig = lambda figure, stream, **options: savefig(figure, stream, **options | {"dpi": 20})
main()
"""
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def terminal_lines(python: Any, arguments: tuple[str, ...], columns: int, folder: Path) -> list[str]:
    """Run a command in a pseudo-terminal, and return the lines that remain on its screen, without colors."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = python.start(
        "-c", PROGRAM, *arguments,
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, TERM="xterm",
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux reports the end
            break
        if not part:
            break
        written += part
    os.close(ours)
    text = _STYLE.sub("", written.decode()).replace("\r\n", "\n")
    process.join()
    assert process.exitcode == 0, text
    # Progress bars return to the start of their line and overwrite it.
    return [line.rsplit("\r", 1)[-1].rstrip() for line in text.rstrip("\n").split("\n")]


@pytest.mark.parametrize("command", ["erf", "shape-bias", "kernels"])
def test_at_most_20_lines_of_80_columns(
    forked_python: Any, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    more = {"erf": ("--images", "10"), "shape-bias": ("--workers", "0"), "kernels": ("--strongest", "0")}[command]
    lines = terminal_lines(forked_python, (command, *more), 80, tmp_path)
    assert len(lines) <= 20, "\n".join(lines)
    assert max(map(len, lines)) <= 80, "\n".join(lines)
    text = "\n".join(lines)
    assert text.count("not an ImageNet result") == 1 and lines[-1].endswith(f"Results in replk-probe-out/{command}")
    for name in default_models(command):
        assert f"{name}: small model trained on synthetic data [" in text
    assert "No --model given: measuring 2 small models trained on synthetic data." in text and "RANDOM" not in text
    tables = {"erf": "area ratio, %", "shape-bias": "observer", "kernels": "layer"}
    assert sum(line.startswith(tables[command]) for line in lines) == 1
    out = tmp_path / "replk-probe-out" / command
    if command == "kernels":
        assert {"kernels.json", "kernels.pdf", "profiles.pdf", "overview.pdf"} <= {path.name for path in out.iterdir()}
        return
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for name in default_models(command):
        stem = command.replace("-", "_")
        files = {path.name for path in (out / name).iterdir()}
        assert {f"{stem}.{suffix}" for suffix in ("json", "csv", "png", "pdf")} <= files
        record = json.loads((out / name / f"{stem}.json").read_text())
        assert record["run"]["weights"]["source"] == f"embedded:{name if '.' in name else f'{name}.shape90'}"
        assert record["run"]["input_size"] == ([192, 192] if command == "erf" else [64, 64])
        if command == "shape-bias":
            assert record["run"]["image_source"].startswith("synthetic")
            assert record["shape_bias"]["n_conflict"] == 1200
            # Trained, so that most decisions follow a cue, and differently, so that these are not the same.
            assert record["shape_bias"]["cue_accuracy"] > 0.6
            low, high = (0.8, 1.0) if name.endswith("shape100") else (0.0, 0.2)
            assert low < record["shape_bias"]["overall"] < high
        else:
            note = "Measured at 192x192 px; trained on images of 64x64 px."
            assert note in record["erf"]["notes"] and text.count(note) == 1


def test_weights_are_listed_in_80_columns(forked_python: Any, tmp_path: Path) -> None:
    lines = terminal_lines(forked_python, ("weights", "list"), 80, tmp_path)
    assert max(map(len, lines)) <= 80
    rows = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert len({*rows}) == len(rows) > 20 and "replknet31b.in22k_ft_in1k_224" in rows
