from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from replk_probe.cli.sweep import _parse_bytes, command
from replk_probe.errors import InvalidInputError
from replk_probe.sweeps.run import ENGINES

Run = Callable[..., Result]


def test_the_example_can_be_listed(replk_probe: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    assert replk_probe("sweep", path, "--init").output == f"{path}\n"
    refused = replk_probe("sweep", path, "--init")
    assert refused.exit_code == 1 and "It exists already" in refused.stderr
    listed = replk_probe("sweep", path, "--dry-run", "--output", tmp_path / "out", "--only", "erf/resnet*")
    lines = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    assert [line[1:] for line in lines] == [["pending", "erf/resnet18 seed=0"], ["pending", "erf/resnet18 seed=1"]]
    assert "2 jobs." in listed.stderr and not (tmp_path / "out").exists()


def test_usage(replk_probe: Run, tmp_path: Path) -> None:
    assert replk_probe("sweep").exit_code == 2
    path = tmp_path / "a.toml"
    path.write_text('models = ["resnet18"]\nweights = "random"\n[kernels]\n')
    refused = replk_probe("sweep", path, "--address", "auto")
    assert refused.exit_code == 1 and "Only Ray has one" in refused.stderr
    listed = replk_probe("sweep", path, "--dry-run", "--output", "memory://nothing/there")
    assert "1 jobs. Results in memory://nothing/there\n" in listed.stderr
    unknown = replk_probe("sweep", "--status", "memory://nothing/there")
    assert unknown.exit_code == 1 and "Cannot read memory://nothing/there/sweep.json" in unknown.stderr
    missing = replk_probe("sweep", "--status", tmp_path)
    assert missing.exit_code == 1 and "Give the output folder of" in missing.stderr


@pytest.mark.slow
def test_a_sweep_names_its_failures(replk_probe: Run, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build():\n    raise ValueError('broken')\n")
    path, out = tmp_path / "a.toml", tmp_path / "out"
    path.write_text('models = ["resnet18", "net.py:build"]\nweights = "random"\nfigures = false\n[kernels]\n')
    result = replk_probe("sweep", path, "--output", out, "--workers", 1, "--max-memory", "16G", "--timeout", 500)
    assert result.exit_code == 1 and result.stdout == f"{out / 'sweep.csv'}\n"
    assert "1 of 2 jobs failed: kernels/net.py:build" in result.stderr and "random weights" in result.stderr
    status = replk_probe("sweep", "--status", out)
    assert [line.split()[1] for line in status.stdout.splitlines()] == ["done", "failed"]
    assert "2 jobs: 1 done, 1 failed, 0 running, 0 pending." in status.stderr


def test_sizes_in_bytes() -> None:
    assert [_parse_bytes(text) for text in ("8G", "1.5 MiB", "100", "2kb")] == [8 << 30, 3 << 19, 100, 2048]
    for text in ("G", "0", "-1G", "8 X"):
        with pytest.raises(InvalidInputError, match="Cannot parse --max-memory"):
            _parse_bytes(text)


def test_every_engine_can_be_chosen() -> None:
    choice = next(option.type for option in command.params if option.name == "engine")
    assert isinstance(choice, click.Choice) and tuple(choice.choices) == ENGINES
