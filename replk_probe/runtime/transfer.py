"""Copies between the memory of the host and that of a device.

On a GPU they run on streams of their own while the device computes; an event tells when one is complete. On other
devices each copy is complete when the call returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Transfer:
    """Copies that are complete when the call returns, on any device.

    Attributes:
        depth: Number of batches whose results may be outstanding while the next batch is computed.
    """

    depth = 0

    def __init__(self, device: torch.device) -> None:  # noqa: D107
        self.device = device

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialized memory of the host for a batch that will be copied to the device."""
        return torch.empty(*shape, dtype=dtype)

    def upload(self, batch: Tensor) -> Tensor:
        """The batch on the device, for operations on its current stream; itself if it is there already."""
        return batch.to(self.device)

    def download(self, values: Tensor) -> Callable[[], Tensor]:
        """Copy values of the current stream to the host; returns a function that waits for the copy and returns it."""
        copied = values.cpu()
        return lambda: copied


class CudaTransfer(Transfer):
    """Copies from and to pinned memory on two streams, so that neither waits for the computation of another batch."""

    depth = 2

    def __init__(self, device: torch.device) -> None:  # noqa: D107
        super().__init__(device)
        self._uploads = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._downloads = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Batches of the host that are being copied. Torch may reuse pinned memory as soon as nothing refers to it: it
        # does not know of copies from a part of a block.
        self._copying: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Pinned memory: copies from other memory would not be asynchronous."""
        return torch.empty(*shape, dtype=dtype, pin_memory=True)

    def upload(self, batch: Tensor) -> Tensor:
        """Copy the batch; operations that are issued to the current stream from now on wait for it."""
        if batch.device == self.device:
            return batch
        while self._copying and self._copying[0][0].query():  # type: ignore[no-untyped-call]
            self._copying.popleft()
        with torch.cuda.stream(self._uploads):
            found = batch.to(self.device, non_blocking=True)
        copied = self._uploads.record_event()
        self._copying.append((copied, batch))
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        # Otherwise the allocator would reuse the memory on the stream of the copies before it was read.
        found.record_stream(current)
        return found

    def download(self, values: Tensor) -> Callable[[], Tensor]:
        """Copy values once they are computed; the function waits for this copy only, not for what is issued later."""
        values = values.detach().contiguous()
        copied = self.empty(values.shape, values.dtype)
        self._downloads.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._downloads):
            copied.copy_(values, non_blocking=True)
        values.record_stream(self._downloads)
        # A thread that waits for it sleeps.
        complete = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        complete.record(self._downloads)

        def wait() -> Tensor:
            complete.synchronize()
            return copied

        return wait


def transfer_for(device: torch.device) -> Transfer:
    """Copies between the host and ``device``."""
    return CudaTransfer(device) if device.type == "cuda" else Transfer(device)
