"""`replk-probe compare`: its table, its files, its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result

from replk_probe.erf.result import ErfResult, RatioRow
from replk_probe.runtime.provenance import RunInfo, WeightsInfo
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.result import ShapeBiasResult


def make_erf(model: str, ratio: float, config: dict[str, Any] | None = None) -> ErfResult:
    run = RunInfo(
        model=model, weights=WeightsInfo("file:net.pth"), image_source="folder:val", image_ids=("a.jpg", "b.jpg"),
        input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, seed=0, device="cpu", precision="fp32", backend="aten",
        seconds=1.0, config=config or {}, versions={},
    )  # fmt: skip
    return ErfResult(
        contribution=np.ones((16, 16)), run=run, n_images=2, n_skipped=0, input_size=(16, 16), layer="layer4",
        feature_size=(2, 2), center=(8.0, 8.0), center_source="stride rule", theoretical_rf=None,
        ratios=(RatioRow("paper", 0.5, 3, ratio, (ratio - 0.03, ratio + 0.03)),),
    )  # fmt: skip


def test_the_command_prints_and_writes(replk_probe: Callable[..., Result], tmp_path: Path) -> None:
    for name, ratio in (("a", 0.5), ("b", 0.4)):
        make_erf(name, ratio).save(tmp_path / name / "erf")
        decisions = Decisions.from_names(name, ["bear1-cat1.png", "cat1-dog1.png"], ["bear", "dog"])
        ShapeBiasResult.from_decisions(decisions).save(tmp_path / name / "bias")
    done = replk_probe("compare", tmp_path / "a" / "erf", tmp_path / "b" / "erf", "-o", tmp_path / "one")
    assert done.exit_code == 0 and "ERF: a minus b" in done.stdout and "+5.76 to +14.2" in done.stdout
    names = {"differences.csv", "differences.pdf", "differences.png"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    both = replk_probe("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both")
    assert both.exit_code == 0 and "Shape bias: a minus b" in both.stdout
    assert {path.name for path in (tmp_path / "both" / "shape-bias").iterdir()} == names
    make_erf("c", 0.5, {"target": "logit:1"}).save(tmp_path / "c")
    refused = replk_probe("compare", tmp_path / "a" / "erf", tmp_path / "c")
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1 and "differ in their target" in refused.stderr
