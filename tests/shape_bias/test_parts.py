"""Measurements in parts: the same bytes as one run, whatever the parts and the order in which they are measured."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.shape_bias.config import ShapeBiasConfig
from replk_probe.shape_bias.plan import ShapeBiasPlan, plan_shape_bias
from replk_probe.shape_bias.result import ShapeBiasResult


class Close(nn.Module):
    """Some of its decisions are near ties, which depend on the size of the batch; counts its batches."""

    batches = 0
    stop_at: int | None = None

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        if Close.batches == Close.stop_at:
            raise KeyboardInterrupt
        Close.batches += 1
        logits: Tensor = self.net(images)
        close = torch.zeros_like(logits)
        close[:, 1], close[:, 7] = 5.0, 5.0 + 1e-6 * (len(images) - 2)
        return torch.where((images[:, 0, 0, 0] > 0)[:, None], logits, close)


@pytest.fixture(autouse=True)
def uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Close, "batches", 0)
    monkeypatch.setattr(Close, "stop_at", None)


def plan(net: nn.Module, stimuli: Path, batch_size: int) -> ShapeBiasPlan:
    return plan_shape_bias(Close(net), stimuli, ShapeBiasConfig(size=(32, 32), batch_size=batch_size, workers=1))


def files(result: ShapeBiasResult, folder: Path) -> dict[str, object]:
    """The bytes of all files, and of the record without the time."""
    result.save(folder)
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads((folder / "shape_bias.json").read_text())
    del record["run"]["seconds"]
    return found | {"shape_bias.json": json.dumps(record)}


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_number_of_parts_changes_no_byte(
    small_net: nn.Module, small_stimuli: Path, tmp_path: Path, batch_size: int
) -> None:
    one = plan(small_net, small_stimuli, batch_size)
    result = one.run()
    near_ties = result.run.config["decided one by one"]  # type: ignore[union-attr]
    assert near_ties == 0 if batch_size == 1 else 3 < near_ties < 29
    whole = files(result, tmp_path / "whole")
    assert "decisions.npz" in whole and "shape_bias.csv" in whole
    for count in (1, 2, 3, 100):
        places: dict[range, str | Path] = {part: tmp_path / f"{count}-{part.start}" for part in one.parts(count)}
        assert len(places) == min(count, -(-32 // batch_size))
        order = [*places]
        random.Random(count).shuffle(order)
        for part in order:
            one.run_part(part, places[part])
        assert files(one.join({part: places[part] for part in order}), tmp_path / f"{count}") == whole
        seconds = [json.loads((Path(path) / "state.json").read_text())["state"]["seconds"] for path in places.values()]
        assert json.loads((tmp_path / f"{count}/shape_bias.json").read_text())["run"]["seconds"] >= sum(seconds) - 1e-3


def test_an_interrupted_part_is_continued(small_net: nn.Module, small_stimuli: Path, tmp_path: Path) -> None:
    one = plan(small_net, small_stimuli, 4)
    whole = files(one.run(), tmp_path / "whole")
    first, second = one.parts(2)
    Close.batches = 0
    one.run_part(first, tmp_path / "1")
    calls, Close.batches = Close.batches, 0
    Close.stop_at = calls - 1
    with pytest.raises(KeyboardInterrupt):
        one.run_part(second, tmp_path / "2")
    done = json.loads((tmp_path / "2/state.json").read_text())["state"]["done"]
    assert second.start < done < second.stop and done % 4 == 0
    with pytest.raises(ResumeError, match="does not have a complete part"):
        one.join({first: tmp_path / "1", second: tmp_path / "2"})
    Close.stop_at = None
    one.run_part(second, tmp_path / "2")
    Close.batches = 0
    one.run_part(second, tmp_path / "2")
    assert Close.batches == 0, "the model is not even prepared for a complete part"
    assert files(one.join({second: tmp_path / "2", first: tmp_path / "1"}), tmp_path / "joined") == whole


def test_states_that_do_not_fit_are_refused(small_net: nn.Module, small_stimuli: Path, tmp_path: Path) -> None:
    one = plan(small_net, small_stimuli, 4)
    places: dict[range, str | Path] = {part: tmp_path / str(part.start) for part in one.parts(2)}
    first, second = places
    for part, place in places.items():
        one.run_part(part, place)
    with pytest.raises(ResumeError, match="created with part 16 to 31, but this run has part 0 to 15"):
        one.join({first: places[second], second: places[second]})
    with pytest.raises(ResumeError, match="created with batch_size 4, but this run has batch_size 8"):
        plan(small_net, small_stimuli, 8).join(places)
    with pytest.raises(InvalidInputError, match="do not form a whole"):
        one.join({second: places[second]})
    with pytest.raises(InvalidInputError, match="is not a part"):
        one.run_part(range(0, 15), tmp_path / "other")
    array = next(Path(places[second]).glob("probabilities.*.npy"))
    np.save(array, np.zeros_like(np.load(array)))
    with pytest.raises(ResumeError, match="damaged"):
        one.join(places)
