"""Copies between the host and a device."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch

from replk_probe.runtime.transfer import CudaTransfer, Transfer, transfer_for


def test_on_a_cpu_nothing_is_copied_or_awaited() -> None:
    transfer = transfer_for(torch.device("cpu"))
    assert type(transfer) is Transfer and transfer.depth == 0
    batch = transfer.empty((2, 3), torch.float64)
    assert batch.shape == (2, 3) and batch.dtype == torch.float64
    assert transfer.upload(batch) is batch and transfer.download(batch)() is batch


def test_copies_of_a_gpu_run_on_their_own_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = mock.Mock()
    streams = iter([calls.uploads, calls.downloads])

    @contextmanager
    def stream(chosen: Any) -> Any:
        calls.enter(chosen)
        yield
        calls.leave()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(streams))
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: calls.event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: calls.current)
    device = torch.device("cuda", 0)
    transfer = transfer_for(device)
    assert isinstance(transfer, CudaTransfer) and transfer.depth == 2
    copied = calls.uploads.record_event()
    copied.query.return_value = False
    calls.reset_mock()

    found = transfer.upload(calls.batch)
    assert found is calls.batch.to()
    assert calls.mock_calls[:6] == [
        mock.call.enter(calls.uploads),
        mock.call.batch.to(device, non_blocking=True),
        mock.call.leave(),
        mock.call.uploads.record_event(),
        mock.call.current.wait_event(copied),
        mock.call.batch.to().record_stream(calls.current),
    ]
    # The memory of the host is kept until its copy is complete.
    assert [batch for _, batch in transfer._copying] == [calls.batch]
    copied.query.return_value = True
    transfer.upload(calls.other)
    assert [batch for _, batch in transfer._copying] == [calls.other]
    on_device = mock.Mock(device=device)
    assert transfer.upload(on_device) is on_device

    calls.reset_mock()
    monkeypatch.setattr(transfer, "empty", lambda shape, dtype: calls.host)
    values = calls.values.detach().contiguous()
    calls.reset_mock()
    wait = transfer.download(calls.values)
    assert calls.mock_calls == [
        mock.call.values.detach(),
        mock.call.values.detach().contiguous(),
        mock.call.downloads.wait_stream(calls.current),
        mock.call.enter(calls.downloads),
        mock.call.host.copy_(values, non_blocking=True),
        mock.call.leave(),
        mock.call.values.detach().contiguous().record_stream(calls.downloads),
        mock.call.event.record(calls.downloads),
    ]
    assert wait() is calls.host and calls.mock_calls[-1] == mock.call.event.synchronize()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_arrive_whole_while_a_gpu_computes(dtype: torch.dtype) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    transfer = transfer_for(device)
    busy = torch.randn(4096, 4096, device=device)
    waiting, expected = [], []
    for index in range(20):
        memory = transfer.empty((8, 3, 64, 64), dtype)
        assert memory.is_pinned()
        memory.copy_(torch.randn(memory.shape, generator=torch.Generator().manual_seed(index)))
        expected.append(2 * memory[3:])
        # A part of the memory, to which nothing refers afterwards.
        batch = transfer.upload(torch.from_numpy(memory.numpy()[3:]))
        del memory
        busy = busy @ busy / 4096
        waiting.append(transfer.download(2 * batch))
        del batch
    for wait, values in zip(waiting, expected, strict=True):
        assert torch.equal(wait(), values)
