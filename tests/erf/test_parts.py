"""Measurements in parts: the same bytes as one run, whatever the parts and the order in which they are measured."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from replk_probe.erf import ErfConfig, ErfResult
from replk_probe.erf.plan import ErfPlan, plan_erf
from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.ops import DepthwiseConv2d
from replk_probe.runtime import checkpoint

SIZE = 24


class Net(nn.Module):
    """A depthwise convolution, so that methods are recorded; counts the images, and can be interrupted."""

    calls = 0
    stop_at: int | None = None

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.body = DepthwiseConv2d(4, 4, 7, padding=3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and x.requires_grad and x.shape[-1] == SIZE:
            if Net.calls == Net.stop_at:
                raise KeyboardInterrupt
            Net.calls += 1
        return self.body(self.stem(x).relu())


@pytest.fixture(autouse=True)
def uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "calls", 0)
    monkeypatch.setattr(Net, "stop_at", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 images, four of which cannot be used and three of which have 16 bits per value."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(26):
        path = root / f"{index:02d}.png"
        if index in (0, 7, 8, 25):
            path.write_text("text")
        elif index in (3, 12, 24):
            Image.fromarray(generator.integers(0, 65536, (20, 30), dtype=np.uint16)).save(path)
        else:
            Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return root


def plan(folder: Path | Tensor, **options: Any) -> ErfPlan:
    return plan_erf(
        Net(), folder, ErfConfig(**({"size": SIZE, "images": 26, "sampling": "first", "batch_size": 1} | options))
    )


def measured(plan: ErfPlan, count: int, root: Path, seed: int = 0) -> ErfResult:
    """The result of a measurement in parts, which are measured in random order."""
    places: dict[range, str | Path] = {part: root / f"{part.start}" for part in plan.parts(count)}
    order = [*places]
    random.Random(seed).shuffle(order)
    for part in order:
        plan.run_part(part, places[part])
    random.Random(seed + 1).shuffle(order)
    return plan.join({part: places[part] for part in order})


def files(result: ErfResult, folder: Path) -> dict[str, object]:
    """The bytes of all files, and of the record without the time."""
    result.save(folder)
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads((folder / "erf.json").read_text())
    del record["run"]["seconds"]
    return found | {"erf.json": json.dumps(record)}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_number_of_parts_changes_no_byte(folder: Path, tmp_path: Path, batch_size: int) -> None:
    result = plan(folder, batch_size=batch_size).run()
    assert len(result.run.skipped) == 4 and any(
        "(number of images by depth: 16 bits: 3)" in note for note in result.notes
    )
    whole = files(result, tmp_path / "whole")
    assert {*whole} == {"erf.json", "erf.npz", "erf.csv"}
    counts = set()
    for count in (2, 100) if batch_size == 1 else (1, 3, 100):
        one = plan(folder, batch_size=batch_size)
        counts.add(len(one.parts(count)))
        assert files(measured(one, count, tmp_path / f"{count}", count), tmp_path / f"r{count}") == whole
    # Of the blocks, 20 begin at a multiple of 1, and 7 of 3.
    assert counts == {1: {2, 20}, 3: {1, 3, 7}}[batch_size]


def test_seconds_are_the_sum(folder: Path, tmp_path: Path) -> None:
    one = plan(folder)
    found = measured(one, 3, tmp_path)
    seconds = [json.loads(path.read_text())["state"]["seconds"] for path in tmp_path.glob("*/state.json")]
    assert len(seconds) == 3 and found.run.seconds == pytest.approx(sum(seconds), abs=1e-3)


@pytest.mark.parametrize("save_every", [0.0, 60.0])
def test_an_interrupted_part_is_continued(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: float
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", save_every)
    one = plan(folder)
    expected = files(one.run(), tmp_path / "whole")
    calls, Net.calls = Net.calls, 0
    first, second = one.parts(2)
    one.run_part(second, tmp_path / "2")
    of_second = Net.calls
    Net.stop_at = of_second + 3
    with pytest.raises(KeyboardInterrupt):
        one.run_part(first, tmp_path / "1")
    with pytest.raises(ResumeError, match="does not have a complete part"):
        one.join({first: tmp_path / "1", second: tmp_path / "2"})
    Net.stop_at = None
    one.run_part(first, tmp_path / "1")
    assert Net.calls == calls, "images that were done are not measured again"
    one.run_part(first, tmp_path / "1")
    assert Net.calls == calls, "nor those of a complete part"
    assert files(one.join({second: tmp_path / "2", first: tmp_path / "1"}), tmp_path / "joined") == expected
    assert Net.calls == calls


def test_states_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    one = plan(folder)
    first, second = one.parts(2)
    for part in (first, second):
        one.run_part(part, tmp_path / str(part.start))
    places: dict[range, str | Path] = {part: tmp_path / str(part.start) for part in (first, second)}
    with pytest.raises(ResumeError, match="created with part 13 to 25, but this run has part 0 to 12"):
        one.join({first: places[second], second: places[second]})
    with pytest.raises(ResumeError, match="does not have a complete part"):
        one.join({first: tmp_path / "none", second: places[second]})
    with pytest.raises(ResumeError, match="created with part 0 to 12, but this run has part none"):
        one.run(checkpoint=places[first], resume=True)
    with pytest.raises(ResumeError, match="created with seed 0, but this run has seed 1"):
        plan(folder, seed=1).join(places)
    with pytest.raises(InvalidInputError, match="do not form a whole"):
        one.join({first: places[first]})
    with pytest.raises(InvalidInputError, match="is not a part"):
        plan(folder, batch_size=3).run_part(range(0, 13), tmp_path / "other")

    place = Path(places[second])
    record = json.loads((place / "state.json").read_text())
    arrays = {name: np.load(place / file) for name, file in record["arrays"].items()}

    def saved_as(state: dict[str, Any]) -> None:
        store = checkpoint.Checkpoint(place, record["config"], environment=record["environment"])
        store.save(state, arrays)

    for change in ({"done": first.stop - 1}, {"done": 27}, {"used": []}, {"counts": [1] * 20}):
        saved_as(record["state"] | change)
        with pytest.raises(ResumeError, match="damaged"):
            one.join(places)
    saved_as(record["state"])
    one.join(places)
    with next(place.glob("block-*.npy")).open("r+b") as stream:
        stream.seek(-3, 2)
        stream.write(b"x")
    with pytest.raises(ResumeError, match="damaged"):
        one.join(places)


def test_unusable_images_fail_as_in_one_run(tmp_path: Path) -> None:
    images = torch.full((5, 3, SIZE, SIZE), float("nan"))
    one = plan(images)
    with pytest.raises(InvalidInputError) as whole:
        one.run()
    with pytest.raises(InvalidInputError) as parts:
        measured(one, 2, tmp_path)
    assert str(parts.value) == str(whole.value) and "None of the 5 images could be used" in str(whole.value)


def test_negative_gradients_fail_as_in_one_run(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    nn.init.constant_(net[0].weight, -1.0)
    nn.init.constant_(net[0].bias, 100.0)
    one = plan_erf(net, torch.rand(3, 3, 16, 16))
    with pytest.raises(InvalidInputError, match=r"All gradients of layer .* are negative") as whole:
        one.run()
    with pytest.raises(InvalidInputError) as parts:
        measured(one, 3, tmp_path)
    assert str(parts.value) == str(whole.value)


def test_a_state_is_saved_every_few_seconds_only(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = checkpoint.Checkpoint.save

    def counted(store: checkpoint.Checkpoint, state: Any, changed: Any = None) -> None:
        saved.append(state["done"])
        save(store, state, changed)

    monkeypatch.setattr(checkpoint.Checkpoint, "save", counted)
    plan(folder).run(checkpoint=tmp_path / "a")
    assert saved == [26]
    saved.clear()
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    plan(folder).run(checkpoint=tmp_path / "b")
    assert saved == [*range(1, 27)]
    saved.clear()
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 60.0)
    shutil.rmtree(tmp_path / "a")
    Net.calls, Net.stop_at = 0, 4
    with pytest.raises(KeyboardInterrupt):
        plan(folder).run(checkpoint=tmp_path / "a")
    assert saved == [5]  # the first image is text


def test_a_change_that_was_interrupted_is_not_saved(tmp_path: Path) -> None:
    store, saved = checkpoint.Checkpoint(tmp_path, {}), []
    with pytest.raises(KeyboardInterrupt), checkpoint.Keeper(store, saved.append) as keeper:
        with keeper.change():
            pass
        with keeper.change():
            raise KeyboardInterrupt
    assert saved == []


def test_a_state_that_cannot_be_saved_does_not_replace_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = checkpoint.Checkpoint(tmp_path, {})
    calls = itertools.count(1)

    def save(store: checkpoint.Checkpoint) -> None:
        number = next(calls)
        if number > 1:
            raise InvalidInputError("The disk is full.")
        store.save({"number": number})

    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    with (
        pytest.raises(InvalidInputError, match="The disk is full"),
        checkpoint.Keeper(store, save, lambda error: isinstance(error, InvalidInputError)) as keeper,
    ):
        for _ in range(3):
            with keeper.change():
                pass
    assert next(calls) == 3
    saved = store.load({"number": int})
    assert saved is not None and saved.state == {"number": 1}
