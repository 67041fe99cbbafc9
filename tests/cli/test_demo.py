"""`replk-probe demo`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from replk_probe.cli import demo
from replk_probe.cli.main import COMMANDS

Run = Callable[..., Result]


def test_the_page_has_the_results_of_the_analyzers(
    replk_probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert [*demo._ANALYZERS] == ["erf", "shape-bias", "reliance", "kernels"] and {*demo._ANALYZERS} < {*COMMANDS}
    # Each of them is tested in test_default_output.py.
    monkeypatch.setattr(demo, "_ANALYZERS", {"kernels": demo._ANALYZERS["kernels"]})
    done = replk_probe("demo", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    page = tmp_path / "out" / "report.html"
    assert done.stdout.rstrip().endswith(str(page)) and "stage4.0" in done.stdout
    assert (tmp_path / "out" / "kernels" / "kernels.json").is_file()
    text = page.read_text(encoding="utf-8")
    assert "replknet_micro_k31_rep" in text and "synthetic data" in text and "(shape50" in text
    # It can be run again, and writes nothing where it cannot.
    assert replk_probe("demo", "-o", tmp_path / "out").exit_code == 0
    (tmp_path / "file").write_text("")
    refused = replk_probe("demo", "-o", tmp_path / "file")
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1
