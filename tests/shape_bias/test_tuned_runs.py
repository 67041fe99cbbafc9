"""Methods of convolutions that are chosen for a run; see tests/models/inference/test_run_methods.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from replk_probe import measure_shape_bias, ops
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning import choosing, tuner
from replk_probe.ops.tuning.choosing import Choice
from replk_probe.shape_bias import decision_plan


class Stopping(nn.Module):
    """A classifier with a large kernel, which is interrupted in one of its batches."""

    stop_at: int | None = None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, 2, padding=1)
        self.large = ops.DepthwiseConv2d(4, 4, 9, padding=4, groups=4)
        self.head = nn.Linear(4, 16)
        nn.init.normal_(self.head.weight, std=3)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 7:
            Stopping.stop_at = None if Stopping.stop_at is None else Stopping.stop_at - 1
            if Stopping.stop_at == 0:
                raise KeyboardInterrupt
        found: Tensor = self.head(self.large(self.stem(images)).mean((2, 3)))
        return found


def test_a_run_is_tuned_recorded_and_resumed(
    small_stimuli: Path, native_library: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[ConvProblem] = []

    def choose(device: Any, problem: ConvProblem, **options: Any) -> Choice:
        measured.append(problem)
        return Choice("direct", "the fastest", {"auto": 2.0, "direct": 1.0}, {}, "auto")

    monkeypatch.setattr(choosing, "LEAST_MULTIPLY_ADDS", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(tuner, "choose", choose)
    monkeypatch.setattr(tuner, "_known", {})
    monkeypatch.setattr(decision_plan, "_NEAR_TIE", {"float32": 1e9})  # all stimuli are computed again, one by one
    options: dict[str, Any] = {"size": 32, "batch_size": 7, "workers": 0, "device": "cpu"}
    usual = measure_shape_bias(Stopping(), small_stimuli, **options)
    tuned = measure_shape_bias(Stopping(), small_stimuli, tune="force", **options)
    # 32 stimuli in batches of 7 and a last one of 4; near ties, one at a time. What is chosen for 7 holds for all.
    assert {problem.n for problem in measured} == {8}
    assert {problem.direction for problem in measured} == {"forward"}
    chosen = tuned.run.config["chosen methods"]
    assert tuned.run.config["decided one by one"] == 32 and {*chosen.values()} == {"direct"}
    assert tuned.run.backend == "tuned: direct"
    assert [one["problem"] for one in tuned.run.config["tuning"]] == [*chosen] and "tuning" not in usual.run.config
    assert "chosen methods" not in usual.run.config
    np.testing.assert_allclose(tuned.probabilities, usual.probabilities, rtol=1e-4, atol=1e-6)
    # The first batch is tried out, and results are read one batch late.
    count = len(measured)
    monkeypatch.setattr(Stopping, "stop_at", 4)
    with pytest.raises(KeyboardInterrupt):
        measure_shape_bias(Stopping(), small_stimuli, tune="force", checkpoint=tmp_path, **options)
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["environment"]["chosen methods"] == chosen
    resumed = measure_shape_bias(Stopping(), small_stimuli, checkpoint=tmp_path, resume=True, **options)
    assert np.array_equal(resumed.probabilities, tuned.probabilities) and resumed.run.config == tuned.run.config
    assert len(measured) == count


@pytest.fixture
def native_library() -> None:
    if not ops.native_info().loaded:
        pytest.skip("the native library is not available")
