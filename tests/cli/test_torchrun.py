"""Several processes of torchrun that divide the work of one command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import replk_probe
from replk_probe.cli import main
from replk_probe.cli._options import command_line
from replk_probe.cli._output import note
from replk_probe.errors import InvalidInputError, ReplkProbeError, WeightsError
from replk_probe.runtime import torchrun

ROOT = Path(replk_probe.__file__).parents[1]
NETWORK = """\
import os
from torch import nn

class Net(nn.Conv2d):
    def forward(self, x):
        if x.requires_grad and not x.is_meta and x.shape[-1] == 20 and os.environ.get("RANK") == "1":
            raise RuntimeError("it broke")
        return super().forward(x)

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

def broken():
    return Net(3, 4, 5, padding=2)
"""


def run(*arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "replk_probe", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment, timeout=500, check=False
    )


def contents(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "erf.json":
            record = json.loads(path.read_text())
            del record["run"]["seconds"]
            found[name] = json.dumps(record)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(forked_python: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    arguments = ["-m", "replk_probe", "erf", "--images", 5, "--size", 32, "--weights", "auto"]
    for model in (f"{tmp_path}/net.py:build", "replknet_micro_k13"):
        arguments += ["--model", model]
    one = forked_python.run(*arguments, "--output", tmp_path / "one", COLUMNS="100")
    two = run(*arguments[2:], "--output", tmp_path / "two", processes=2)
    assert one.returncode == two.returncode == 0, two.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "one")) == 17
    assert two.stdout == one.stdout and two.stderr.count("Results in") == 1
    assert not [*tmp_path.glob("two/*/erf.ckpt")]
    # The environment of torchrun, without its process.
    with socket.create_server(("127.0.0.1", 0)) as free, tempfile.TemporaryFile("w+") as notes:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        free.close()
        arguments += ["--output", tmp_path / "two", "--resume"]
        processes = [
            forked_python.start(*arguments, stderr=notes, RANK=rank, LOCAL_RANK=rank, **place) for rank in "01"
        ]
        for process in processes:
            process.join(500)
        notes.seek(0)
        assert [process.exitcode for process in processes] == [0, 0] and notes.read().count("already measured") == 2


@pytest.mark.slow
def test_an_error_of_one_process_is_one_line(tmp_path: Path, replk_probe: Callable[..., Result]) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    # One image at once: a batch of all four would be the part of one process.
    command = (
        "erf",
        "--model",
        f"{tmp_path}/net.py:broken",
        "--images",
        4,
        "--size",
        20,
        "--batch-size",
        1,
        "--output",
    )
    failed = run(*command, tmp_path / "out", processes=2)
    assert failed.returncode != 0
    lines = [line for line in failed.stderr.splitlines() if "it broke" in line]
    assert len(lines) == 1, failed.stderr
    assert lines[0].startswith("Error: Process 1 of torchrun failed with RuntimeError: it broke.")
    # What the first process has measured is kept.
    assert [*tmp_path.glob("out/erf.ckpt/part-0-2/state.json")]
    # It is resumed by any number of processes, here by one.
    done = replk_probe(*command, tmp_path / "out", "--resume")
    assert done.exit_code == 0 and "nothing to resume" not in done.stderr, done.output
    assert not (tmp_path / "out" / "erf.ckpt").exists()
    assert replk_probe(*command, tmp_path / "whole").exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_other_commands_are_refused_once() -> None:
    failed = run("kernels", "--model", "replknet_micro_k13", processes=2)
    assert failed.returncode != 0
    message = "The command kernels cannot run in 2 processes of torchrun. Only behaviour, erf and shape-bias divide"
    assert failed.stderr.count(message) == 1


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Function that makes this process one of several."""

    def become(rank: int, count: int) -> None:
        for name, value in {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))

    return become


def test_processes_are_recognized(process: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    process(1, 3)
    assert torchrun.this_process() == torchrun.Process(1, 3, 1)
    process(0, 1)
    assert torchrun.this_process() is None
    process(1, 3)
    monkeypatch.delenv("LOCAL_RANK")
    assert torchrun.this_process() is None


@pytest.mark.parametrize(
    ("rank", "given", "device", "expected"),
    [
        (1, "4,7", "auto", "7"),
        (1, "4,7", "cuda", "7"),
        (3, "4,7", "auto", "7"),
        (1, "4,7", "cuda:0", "4,7"),
        (1, "4,7", "cpu", "4,7"),
        (1, "", "auto", ""),
    ],
)
def test_each_process_has_its_own_gpu(
    process: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    given: str,
    device: str,
    expected: str,
) -> None:
    process(rank, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    torchrun.use_own_gpu(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


class Store:
    """A store in which the other process has left its values."""

    def __init__(self, *values: Any) -> None:
        self.values = {f"replk-probe/{number}/1": json.dumps(value) for number, value in enumerate(values)}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def check(self, keys: list[str]) -> bool:
        return {*keys} <= {*self.values}

    def get(self, key: str) -> str:
        return self.values[key]


def test_an_error_of_one_process_is_raised_in_all(
    process: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torchrun.together():
        pass
    process(0, 2)
    store = Store(None, None, ["WeightsError", "No weights."], ["WeightsError", "No weights."], {"any": "value"})
    meeting = torchrun._Meeting(torchrun.Process(0, 2, 0), store)
    monkeypatch.setattr(torchrun, "_meeting", lambda: meeting)
    with torchrun.together():
        pass
    with pytest.raises(ZeroDivisionError), torchrun.together():
        1 / 0  # noqa: B018
    assert json.loads(store.values["replk-probe/1/0"]) == [
        "ReplkProbeError",
        "Process 0 of torchrun failed with ZeroDivisionError: division by zero. Run the command "
        "without torchrun to see the details.",
    ]
    with pytest.raises(WeightsError, match=r"No weights\."), torchrun.together():
        pass
    with pytest.raises(InvalidInputError, match="own"), torchrun.together():
        raise InvalidInputError("own")
    assert torchrun.gathered(3) == [3, {"any": "value"}]
    with pytest.raises(ReplkProbeError, match=r"Only 1 of 2 processes of torchrun have started.*within 0\.1 s"):
        torchrun._gathered(meeting, None, 0.1)


def test_an_error_of_a_silent_process_alone_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        print("output")  # noqa: T201
        note("a note")
        raise ValueError("it broke")

    monkeypatch.setattr(main, "_SILENT_SECONDS", 0.0)
    for function, status, written in (
        (fail, 1, "Error: ValueError: it broke\n"),
        (lambda **_: sys.exit(0), 0, ""),
        (lambda **_: sys.exit(130), 130, ""),
    ):
        monkeypatch.setattr(main.cli, "main", function)
        assert main._run_silently() == status
        assert capsys.readouterr() == ("", written)


def test_the_command_that_resumes_starts_all_processes(process: Callable[[int, int], None]) -> None:
    @click.command()
    @click.option("--model")
    def command(model: str) -> None:
        click.echo(command_line("--resume"))

    process(0, 4)
    shown = CliRunner().invoke(command, ["--model", "a"], prog_name="replk-probe erf").output
    assert shown == "torchrun --nproc-per-node 4 -m replk_probe erf --model a --resume\n"


def test_processes_that_do_not_start(process: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    process(0, 2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29617")
    monkeypatch.setattr(torchrun, "START_WITHIN", 1.0)
    with pytest.raises(ReplkProbeError, match="Cannot connect to the other processes of torchrun"), torchrun.together():
        pass
