"""Batches that fit into the memory of a device."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from replk_probe.runtime import memory
from replk_probe.runtime.devices import is_out_of_memory
from replk_probe.runtime.memory import (
    batch_note,
    fitting_batch_size,
    free_memory,
    peak_memory,
    with_smaller_batches,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_failed_allocations_are_recognized(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_batches_are_halved_as_long_as_memory_does_not_suffice() -> None:
    tried: list[int] = []
    released: list[int] = []
    alive: list[weakref.ref[Tensor]] = []

    def compute(count: int) -> str:
        assert all(tensor() is None for tensor in alive)  # the memory of the attempt before is free
        values = torch.zeros(count)
        alive.append(weakref.ref(values))
        tried.append(count)
        if count > 3:
            raise torch.OutOfMemoryError
        return f"{count} images"

    assert with_smaller_batches(compute, 11, lambda: released.append(tried[-1])) == ("3 images", 3)
    assert tried == [11, 6, 3] and released == [11, 6]


@pytest.mark.parametrize(("error", "tries"), [(MemoryError, [4, 2, 1]), (ValueError, [4]), (KeyboardInterrupt, [4])])
def test_other_errors_and_one_image_are_not_halved(error: type[BaseException], tries: list[int]) -> None:
    tried: list[int] = []

    def compute(count: int) -> None:
        tried.append(count)
        raise error

    with pytest.raises(error):
        with_smaller_batches(compute, 4)
    assert tried == tries


@pytest.mark.parametrize(
    ("free", "most", "expected"), [(1000, 16, 8), (1000, 4, 4), (1000, 6, 4), (99, 16, 1), (10**6, 16, 16), (0, 16, 1)]
)
def test_a_batch_fits_into_most_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, most: int, expected: int
) -> None:
    monkeypatch.setattr(memory, "peak_memory", lambda device, compute: compute())
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    assert fitting_batch_size(torch.device("cpu"), lambda: 100, most) == expected


def test_one_note_says_that_batches_were_halved() -> None:
    assert batch_note([], "images") is batch_note([8], "images") is None
    assert batch_note([16, 8, 4], "images") == (
        "The memory did not suffice for batches of 16 images at all times. Smaller batches were used, down to 4, which "
        "can change the last digits of the result."
    )


@pytest.mark.cuda
def test_memory_of_a_gpu_is_measured() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    assert 64 << 20 <= peak_memory(device, lambda: torch.empty(64 << 20, dtype=torch.uint8, device=device)) < 66 << 20
    before = free_memory(device)
    kept = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    assert before - free_memory(device) == pytest.approx(len(kept), rel=0.1)
    most = torch.cuda.mem_get_info(device)[1] // (1 << 20)
    one_image = lambda: torch.empty(16 << 20, dtype=torch.uint8, device=device)  # noqa: E731
    size = fitting_batch_size(device, one_image, most)
    assert 0.3 * free_memory(device) < size * (16 << 20) <= 0.9 * free_memory(device)
