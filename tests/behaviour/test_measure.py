"""Measuring: the decisions of the shape bias, resumed runs, and other observers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from replk_probe import BehaviourResult, measure_behaviour, measure_shape_bias
from replk_probe.behaviour import Trials
from replk_probe.behaviour.raw_data import trials_csv
from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias.model_vs_human.raw_data import decisions_csv

Write = Callable[..., Path]
OPTIONS: dict[str, Any] = {"size": 32, "device": "cpu", "workers": 0, "batch_size": 7, "allow_partial": True}


class Net(nn.Module):
    """A classifier of the mean color, which can be interrupted in one of its batches."""

    stop_at: int | None = None

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(16, 3, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 7 and Net.stop_at is not None:
            Net.stop_at -= 1
            if Net.stop_at < 0:
                raise KeyboardInterrupt
        return images.mean((2, 3)) @ self.weight.T


@pytest.fixture
def sets(write_set: Write) -> Path:
    """Two partial sets."""
    write_set("colour", 1, side=32)
    return write_set("edge", 2, side=32).parent


def files_of(result: BehaviourResult, folder: Path) -> dict[str, bytes]:
    result.save(folder)
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "behaviour.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_interrupted_run_is_resumed_with_the_same_bytes(sets: Path, tmp_path: Path) -> None:
    whole = measure_behaviour(Net(), data=sets, **OPTIONS)
    Net.stop_at = 5
    try:
        with pytest.raises(KeyboardInterrupt):
            measure_behaviour(Net(), data=sets, checkpoint=tmp_path / "state", **OPTIONS)
    finally:
        Net.stop_at = None
    resumed = measure_behaviour(Net(), data=sets, checkpoint=tmp_path / "state", resume=True, **OPTIONS)
    assert resumed == whole
    assert files_of(resumed, tmp_path / "a") == files_of(whole, tmp_path / "b")
    assert BehaviourResult.load(tmp_path / "a") == whole


def test_the_decisions_do_not_depend_on_the_other_sets(sets: Path) -> None:
    both = measure_behaviour(Net(), data=sets, **OPTIONS)
    assert [one.dataset for one in both.trials] == ["edge", "colour"]
    for one in both.trials:
        alone = measure_behaviour(Net(), one.dataset, data=sets, **OPTIONS | {"batch_size": 32})
        assert alone.trials == (one,)
        np.testing.assert_allclose(
            alone.probabilities[one.dataset], both.probabilities[one.dataset], rtol=0, atol=2**-20
        )
    assert both.run.image_source == "edge, colour"
    with pytest.raises(InvalidInputError, match="not the complete set edge"):
        measure_behaviour(Net(), data=sets, **OPTIONS | {"allow_partial": False})


def test_the_decisions_are_those_of_the_shape_bias(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cue-conflict"
    shutil.copytree(data_dir / "cue-conflict" / "oven", folder / "oven")
    options = OPTIONS | {"batch_size": 32}
    found = measure_behaviour(Net(), data=folder, **options)
    known = measure_shape_bias(Net(), folder, **{name: options[name] for name in options if name != "allow_partial"})
    assert known.decisions is not None and known.probabilities is not None
    assert trials_csv(found.trials[0]) == decisions_csv(known.decisions)
    assert found.probabilities["cue-conflict"].tobytes() == known.probabilities.tobytes()
    assert found.scores().accuracy == known.decisions.correct.mean()


def test_other_observers_are_added(sets: Path, random_trials: Callable[..., list[Trials]]) -> None:
    people = random_trials(["subject-01", "subject-02", "Net"], "edge", 0, 2)
    found = measure_behaviour(Net(), "edge", data=sets, observers=people, **OPTIONS)
    assert [one.name for one in found.overall] == ["Net", "subject-01", "subject-02", "Net (imported)"]
    assert [one.source for one in found.sets[0].observers] == ["measured", "given", "given", "given"]
    assert not np.isnan(found.scores().error_consistency)
    # Trials on sets that were not measured are left out.
    assert found.with_observers(random_trials(["subject-01"], "rotation")).sets[0].name == "edge"


def test_small_models_have_other_categories(sets: Path) -> None:
    with pytest.raises(InvalidInputError, match="has none of the categories of these sets"):
        measure_behaviour("replknet_micro_k13", data=sets, allow_partial=True)
