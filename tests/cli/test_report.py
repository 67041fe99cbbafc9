"""`replk-probe report`: its file, its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.runtime.provenance import RunInfo, WeightsInfo


def make_erf(model: str, ratio: float) -> ErfResult:
    run = RunInfo(
        model=model, weights=WeightsInfo("file:net.pth"), image_source="folder:val", image_ids=("a.jpg", "b.jpg"),
        input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, seed=0, device="cpu", precision="fp32", backend="aten",
        seconds=1.0, versions={},
    )  # fmt: skip
    return ErfResult(
        contribution=np.ones((16, 16)), run=run, n_images=2, n_skipped=0, input_size=(16, 16), layer="layer4",
        feature_size=(2, 2), center=(8.0, 8.0), center_source="stride rule", theoretical_rf=None,
        ratios=(RatioRow("paper", 0.5, 3, ratio, (ratio - 0.03, ratio + 0.03)),),
    )  # fmt: skip


def test_the_command_writes_the_page(
    replk_probe: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_erf("a", 0.5).save(tmp_path / "replk-probe-out" / "erf" / "a")
    done = replk_probe("report", "--title", "A <title>")
    assert (done.exit_code, done.stdout) == (0, "report.html\n")
    assert "A &lt;title&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")
    refused = replk_probe("report", "-o", tmp_path)
    assert refused.exit_code == 1 and "is a folder" in refused.stderr
    empty = replk_probe("report", tmp_path / "replk-probe-out" / "erf", tmp_path / "none")
    assert empty.exit_code == 1 and "It is not a folder" in empty.stderr
