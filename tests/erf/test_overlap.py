"""Batches in progress at the same time, and batches that are halved: the same bytes as one batch after another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from replk_probe.erf import ErfConfig, ErfResult, batch_size
from replk_probe.erf import plan as erf_plan
from replk_probe.erf.accumulator import RunState
from replk_probe.erf.plan import ErfPlan, plan_erf
from replk_probe.errors import BackendError, ResumeError
from replk_probe.runtime import memory
from replk_probe.runtime.transfer import Transfer

SIZE = 16
COUNT = 13


class Net(nn.Module):
    """Two convolutions; counts its batches, can be interrupted, and has memory for a few images only."""

    batches: list[int]
    stop_at: int | None = None
    most = 100

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.body = nn.Conv2d(4, 4, 5, padding=2, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and x.requires_grad and x.shape[-1] == SIZE:
            if len(x) > Net.most:
                raise torch.OutOfMemoryError(f"CUDA out of memory for {len(x)} images.")
            if len(Net.batches) == Net.stop_at:
                raise KeyboardInterrupt
            Net.batches.append(len(x))
        return self.body(self.stem(x).relu())


@pytest.fixture(autouse=True)
def uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "batches", [], raising=False)
    monkeypatch.setattr(Net, "stop_at", None)
    monkeypatch.setattr(Net, "most", 100)


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch, overlapping_copies: Any) -> Any:
    monkeypatch.setattr(erf_plan, "transfer_for", overlapping_copies)
    return overlapping_copies


@pytest.fixture
def free_images(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Function that sets for how many images the free memory suffices, as on a GPU."""
    for module in (erf_plan, batch_size):
        monkeypatch.setattr(module, "is_measurable", lambda device: True)
    monkeypatch.setattr(memory, "_SHARE", 1)
    # The random image is measured, but not one of the batches.
    monkeypatch.setattr(memory, "peak_memory", lambda device, compute: (compute(), Net.batches.pop(), 10)[2])
    return lambda count: monkeypatch.setattr(memory, "free_memory", lambda device: 10 * count)


def images() -> Tensor:
    found = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found[4, 0, 0, 0] = torch.inf
    return found


def plan(**options: Any) -> ErfPlan:
    return plan_erf(Net(), images(), ErfConfig(**options))


def files(result: ErfResult, folder: Path) -> dict[str, object]:
    """The bytes of all files, and of the record without the time."""
    result.save(folder)
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads((folder / "erf.json").read_text())
    del record["run"]["seconds"]
    return found | {"erf.json": json.dumps(record)}


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 3}, {}, {"until": 0.9, "batch_size": 2}, {"position": "grid:2x2"}]
)
def test_the_bytes_are_those_of_a_serial_run(
    tmp_path: Path, request: pytest.FixtureRequest, options: dict[str, Any]
) -> None:
    expected = files(plan(**options).run(), tmp_path / "serial")
    batches, Net.batches = Net.batches, []
    copies = request.getfixturevalue("overlapping")
    assert files(plan(**options).run(), tmp_path / "overlapping") == expected
    assert Net.batches == batches
    # Batches overlapped, but only a few of them.
    assert copies.outstanding == 0 and 1 < copies.most <= copies.depth + 1


@pytest.mark.usefixtures("overlapping")
@pytest.mark.parametrize("stop_at", [0, 1, 5])
def test_an_interrupt_loses_no_batch(tmp_path: Path, stop_at: int) -> None:
    expected = files(plan(batch_size=2).run(), tmp_path / "whole")
    total, Net.batches = len(Net.batches), []
    Net.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        plan(batch_size=2).run(checkpoint=tmp_path / "state")
    Net.stop_at = None
    found = plan(batch_size=2).run(checkpoint=tmp_path / "state", resume=True)
    assert len(Net.batches) == total  # none was computed twice
    assert files(found, tmp_path / "resumed") == expected


@pytest.mark.usefixtures("overlapping")
def test_an_error_while_batches_are_added_is_raised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = files(plan(batch_size=1).run(), tmp_path / "whole")
    add = RunState.add
    raised = []

    def failing(state: RunState, image_id: str, scores: Any) -> None:
        if state.done == 6:
            raised.append(image_id)
            raise OSError("the sixth image")
        add(state, image_id, scores)

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "add", failing)
        with pytest.raises(OSError, match="the sixth image") as error:
            plan(batch_size=1).run(checkpoint=tmp_path / "state")
    assert len(raised) == 1 and error.value.__context__ is None
    # A state whose change failed is not saved, and no later batch was added to it.
    assert not (tmp_path / "state" / "state.json").exists()
    found = plan(batch_size=1).run(checkpoint=tmp_path / "state", resume=True)
    assert files(found, tmp_path / "resumed") == expected


@pytest.mark.usefixtures("overlapping")
def test_batches_are_halved_until_the_memory_suffices(tmp_path: Path) -> None:
    expected = plan(batch_size=2).run()
    Net.most, Net.batches = 2, []
    found = plan(batch_size=8).run(checkpoint=tmp_path)
    np.testing.assert_array_equal(found.contribution, expected.contribution)
    assert [note for note in found.notes if "memory" in note] == [
        "The memory did not suffice for batches of 8 images at all times. Smaller batches were used, down to 2, which "
        "can change the last digits of the result."
    ]
    assert (found.run.config["batch_size"], found.run.config["batch_sizes"]) == (8, [8, 2])
    assert plan(batch_size=8).difference(found) is None
    assert not [note for note in expected.notes if "memory" in note] and "batch_sizes" not in expected.run.config


def test_a_resumed_run_continues_with_the_halved_batches(tmp_path: Path) -> None:
    Net.most = 2
    expected = files(plan(batch_size=4).run(), tmp_path / "whole")
    Net.batches, Net.stop_at = [], 3
    with pytest.raises(KeyboardInterrupt):
        plan(batch_size=4).run(checkpoint=tmp_path / "state")
    Net.stop_at, Net.most = None, 100
    found = plan(batch_size=4).run(checkpoint=tmp_path / "state", resume=True)
    assert max(Net.batches) == 2
    assert files(found, tmp_path / "resumed") == expected


def test_one_image_that_does_not_fit_is_explained() -> None:
    Net.most = 0
    with pytest.raises(BackendError, match=r"Not enough memory for images of 16x16\. .* Use a smaller size"):
        plan(batch_size=4).run()


def test_the_automatic_size_fits_into_the_free_memory(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(erf_plan, "automatic_batch_size", lambda *args, **options: 2)
        expected = plan_of(None).run()
    request.getfixturevalue("overlapping")
    free_images = request.getfixturevalue("free_images")
    free_images(3)
    automatic = plan_of(None)
    assert automatic.record["batch_size"] == "auto"
    Net.batches = []
    found = automatic.run()
    assert found.run.config["batch_sizes"] == [2] and {*Net.batches} == {1, 2}
    assert not [note for note in found.notes if "memory" in note]
    np.testing.assert_array_equal(found.contribution, expected.contribution)
    # Parts find the same size, unless the memory that is free differs.
    parts = automatic.parts(2)
    for part, free in zip(parts, (3, 1), strict=True):
        free_images(free)
        automatic.run_part(part, tmp_path / f"{part.start}")
    joined = automatic.join({part: tmp_path / f"{part.start}" for part in parts})
    assert joined.run.config["batch_sizes"] == [2, 1]
    assert sum("Smaller batches were used, down to 1" in note for note in joined.notes) == 1


def plan_of(size: int | None) -> ErfPlan:
    many = torch.randn(45, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return plan_erf(Net(), many, ErfConfig(batch_size=size))


@pytest.mark.usefixtures("overlapping")
def test_a_resumed_run_does_not_look_for_another_size(tmp_path: Path, free_images: Callable[[int], None]) -> None:
    free_images(2)
    expected = files(plan_of(None).run(), tmp_path / "whole")
    Net.batches, Net.stop_at = [], 7
    with pytest.raises(KeyboardInterrupt):
        plan_of(None).run(checkpoint=tmp_path / "state")
    Net.stop_at = None
    free_images(100)
    assert files(plan_of(None).run(checkpoint=tmp_path / "state", resume=True), tmp_path / "resumed") == expected
    with pytest.raises(ResumeError, match="created with batch_size auto, but this run has batch_size 2"):
        plan_of(2).run(checkpoint=tmp_path / "state", resume=True)


def test_a_run_of_a_gpu_is_continued_on_a_cpu(tmp_path: Path, free_images: Callable[[int], None]) -> None:
    free_images(8)
    Net.stop_at = 4
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(erf_plan, "automatic_batch_size", lambda *args, **options: 8)
        plan_of(None).run(checkpoint=tmp_path)
    Net.stop_at = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erf_plan, "is_measurable", lambda device: False)
        patch.setattr(erf_plan, "automatic_batch_size", lambda *args, **options: 1)
        with pytest.raises(ResumeError, match="created with batch_size auto, but this run has batch_size 1"):
            plan_of(None).run(checkpoint=tmp_path, resume=True)
        Net.batches = []
        found = plan_of(None).run(checkpoint=tmp_path, resume=True, allow_other_device=True)
    assert found.n_images == 45 and {*Net.batches} == {1}


@pytest.mark.usefixtures("overlapping")
def test_the_occlusion_check_has_the_size_of_the_run(
    free_images: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free_images(1)
    sizes: list[int] = []
    compare = erf_plan.compare

    def recorded(*args: Any) -> Any:
        sizes.append(args[-1])
        if args[-1] > 1:
            raise MemoryError
        return compare(*args)

    monkeypatch.setattr(erf_plan, "compare", recorded)
    automatic = plan(check="occlusion").run()
    assert {*sizes} == {1}
    halved = plan(check="occlusion", batch_size=2).run()
    assert halved.occlusion == automatic.occlusion and halved.run.config["batch_sizes"] == [2, 1]


def test_images_that_influence_each_other_are_not_put_together(
    free_images: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free_images(100)
    forward = Net.forward
    monkeypatch.setattr(Net, "forward", lambda net, x: forward(net, x) + x.mean())
    assert plan_of(None).run().run.config["batch_sizes"] == [1]


def test_auto_is_the_default() -> None:
    assert ErfConfig(batch_size="auto") == ErfConfig()  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 4}, {}])
def test_the_bytes_of_a_gpu_are_those_of_a_serial_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    found = files(plan(**options, device="cuda").run(), tmp_path / "overlapping")
    monkeypatch.setattr(erf_plan, "transfer_for", Transfer)
    assert found == files(plan(**options, device="cuda").run(), tmp_path / "serial")
