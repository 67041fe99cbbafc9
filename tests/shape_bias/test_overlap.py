"""Batches in progress at the same time, and batches that are halved: the same decisions as one after another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from replk_probe.errors import BackendError, ResumeError
from replk_probe.runtime import memory
from replk_probe.runtime.provenance import RunInfo
from replk_probe.runtime.transfer import Transfer
from replk_probe.shape_bias import ShapeBiasConfig, ShapeBiasResult, decision_plan
from replk_probe.shape_bias.plan import ShapeBiasPlan, plan_shape_bias


class Net(nn.Module):
    """Records the sizes of its batches, can be interrupted, and has memory for a few images only."""

    batches: list[int]
    stop_at: int | None = None
    most = 100

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > Net.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory for {len(images)} images.")
        if len(images) > 1 and len(Net.batches) == Net.stop_at:
            raise KeyboardInterrupt
        Net.batches.append(len(images))
        # Close outputs, so that some stimuli are decided in a batch of their own.
        return 5 + 3e-4 * self.net(images)


@pytest.fixture(autouse=True)
def uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "batches", [], raising=False)
    monkeypatch.setattr(Net, "stop_at", None)
    monkeypatch.setattr(Net, "most", 100)


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch, overlapping_copies: Any) -> Any:
    monkeypatch.setattr(overlapping_copies, "keeps_uploads", True)  # a batch may be uploaded again in halves
    monkeypatch.setattr(decision_plan, "transfer_for", overlapping_copies)
    return overlapping_copies


@pytest.fixture
def free_stimuli(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Function that sets for how many stimuli the free memory suffices, as on a GPU."""
    monkeypatch.setattr(decision_plan, "is_measurable", lambda device: True)
    monkeypatch.setattr(memory, "_SHARE", 1)
    monkeypatch.setattr(memory, "peak_memory", lambda device, compute: (compute(), 10)[1])
    return lambda count: monkeypatch.setattr(memory, "free_memory", lambda device: 10 * count)


@pytest.fixture
def plan(small_net: nn.Module, small_stimuli: Path) -> Callable[..., ShapeBiasPlan]:
    def planned(batch_size: int | None, **options: Any) -> ShapeBiasPlan:
        config = ShapeBiasConfig(size=(32, 32), batch_size=batch_size, workers=1, **options)
        found = plan_shape_bias(Net(small_net), small_stimuli, config)
        Net.batches = []  # those of the plan do not count
        return found

    return planned


def files(result: ShapeBiasResult, folder: Path) -> dict[str, object]:
    """The bytes of all files, and of the record without the time."""
    result.save(folder)
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads((folder / "shape_bias.json").read_text())
    del record["run"]["seconds"]
    return found | {"shape_bias.json": json.dumps(record)}


def config_of(result: ShapeBiasResult) -> dict[str, Any]:
    assert isinstance(result.run, RunInfo)
    return dict(result.run.config)


def test_the_bytes_are_those_of_a_serial_run(
    plan: Callable[..., ShapeBiasPlan], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    serial = plan(3).run()
    assert 0 < config_of(serial)["decided one by one"] < 32
    batches = Net.batches
    copies = request.getfixturevalue("overlapping")
    found = plan(3).run()
    assert files(found, tmp_path / "overlapping") == files(serial, tmp_path / "serial")
    assert [size for size in Net.batches if size > 1] == [size for size in batches if size > 1]
    # Batches overlapped, but only a few of them.
    assert copies.outstanding == 0 and 1 < copies.most <= copies.depth + 1


@pytest.mark.usefixtures("overlapping")
def test_an_interrupt_loses_no_batch(plan: Callable[..., ShapeBiasPlan], tmp_path: Path) -> None:
    expected = files(plan(4).run(), tmp_path / "whole")
    total = Net.batches
    interrupted = plan(4)
    Net.stop_at = 6  # one of them is that of the check of the prepared copy
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(checkpoint=tmp_path / "state")
    before = Net.batches
    Net.stop_at = None
    found = plan(4).run(checkpoint=tmp_path / "state", resume=True)
    assert before.count(4) + Net.batches.count(4) == total.count(4) == 8  # none was computed twice
    assert files(found, tmp_path / "resumed") == expected


@pytest.mark.usefixtures("overlapping")
def test_batches_are_halved_until_the_memory_suffices(plan: Callable[..., ShapeBiasPlan], tmp_path: Path) -> None:
    expected = plan(4).run()
    Net.most = 4
    halved = plan(16)
    found = halved.run()
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert [note for note in found.notes if "memory" in note] == [
        "The memory did not suffice for batches of 16 stimuli at all times. Smaller batches were used, down to 4, "
        "which can change the last digits of the result."
    ]
    assert config_of(found)["batch_sizes"] == [16, 4] and halved.difference(found) is None
    assert "batch_sizes" not in config_of(expected)
    interrupted = plan(16)
    Net.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(checkpoint=tmp_path / "state")
    Net.stop_at, Net.most = None, 100
    resumed = plan(16).run(checkpoint=tmp_path / "state", resume=True)
    assert max(Net.batches) == 4
    assert files(resumed, tmp_path / "resumed") == files(found, tmp_path / "whole")


@pytest.mark.usefixtures("overlapping")
def test_a_run_that_continues_with_smaller_batches_divides_the_same_ranges(
    plan: Callable[..., ShapeBiasPlan], tmp_path: Path
) -> None:
    Net.most = 3
    expected = files(plan(5).run(), tmp_path / "whole")
    whole = Net.batches
    Net.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        plan(5).run(checkpoint=tmp_path / "state")
    before, Net.stop_at = Net.batches, None
    found = plan(5).run(checkpoint=tmp_path / "state", resume=True)
    assert files(found, tmp_path / "resumed") == expected
    assert before.count(3) + Net.batches.count(3) == whole.count(3) > 4


def test_one_stimulus_that_does_not_fit_is_explained(plan: Callable[..., ShapeBiasPlan]) -> None:
    small = plan(4)
    Net.most = 0
    with pytest.raises(BackendError, match=r"Not enough memory for images of 32x32\. .* Use a smaller size"):
        small.run()


@pytest.mark.usefixtures("overlapping")
def test_the_automatic_size_fits_into_the_free_memory(
    plan: Callable[..., ShapeBiasPlan], tmp_path: Path, free_stimuli: Callable[[int], None]
) -> None:
    free_stimuli(5)
    expected = plan(4).run()
    automatic = plan(None)
    assert automatic.record["batch_size"] == "auto" and len(automatic.parts(4)) == 1
    found = automatic.run()
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert config_of(found)["batch_sizes"] == [4]
    assert not [note for note in found.notes if "memory" in note]
    interrupted = plan(None)
    Net.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(checkpoint=tmp_path / "state")
    Net.stop_at = None
    free_stimuli(100)
    resumed = plan(None).run(checkpoint=tmp_path / "state", resume=True)
    assert files(resumed, tmp_path / "resumed") == files(found, tmp_path / "whole")
    with pytest.raises(ResumeError, match="Give batch_size 'auto'"):
        plan(4).run(checkpoint=tmp_path / "state", resume=True)


def test_every_stimulus_alone_has_no_near_ties(
    plan: Callable[..., ShapeBiasPlan], free_stimuli: Callable[[int], None]
) -> None:
    free_stimuli(1)
    found = plan(None).run()
    assert {*Net.batches} == {1} and config_of(found)["batch_sizes"] == [1]
    assert config_of(found)["decided one by one"] == 0


def test_the_automatic_size_of_a_cpu_is_the_default(plan: Callable[..., ShapeBiasPlan]) -> None:
    assert plan(None).record == plan(32).record
    assert ShapeBiasConfig(batch_size="auto") == ShapeBiasConfig(batch_size=None)  # type: ignore[arg-type]


@pytest.mark.cuda
def test_the_bytes_of_a_gpu_are_those_of_a_serial_run(
    plan: Callable[..., ShapeBiasPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plan(3, device="cuda").run()
    automatic = plan(None, device="cuda").run()
    monkeypatch.setattr(decision_plan, "transfer_for", Transfer)
    assert files(found, tmp_path / "overlapping") == files(plan(3, device="cuda").run(), tmp_path / "serial")
    assert config_of(automatic)["batch_sizes"] == [64]
