"""The number of images for which the memory of a device suffices."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from .devices import is_out_of_memory

Value = TypeVar("Value")

# Share of the free memory that a batch may take; the rest is for fragmentation and larger workspaces of its kernels.
_SHARE = 0.8


def with_smaller_batches(
    compute: Callable[[int], Value], count: int, release: Callable[[], object] = lambda: None
) -> tuple[Value, int]:
    """Compute a batch of ``count`` images, or of half as many as long as the memory does not suffice.

    Args:
        compute: Function of the number of images.
        count: Number of images of the first attempt.
        release: Function that is called before each further attempt.

    Returns:
        The value and the number of images for which it was computed.
    """
    while True:
        try:
            return compute(count), count
        except Exception as error:
            if count == 1 or not is_out_of_memory(error):
                raise
        # Not in the handler, in which the error still refers to the tensors of the attempt.
        release()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        count = -(-count // 2)


def is_measurable(device: torch.device) -> bool:
    """Whether the free memory of a device and the memory of a computation on it can be measured."""
    return device.type == "cuda"


def fitting_batch_size(device: torch.device, compute_one: Callable[[], object], most: int) -> int:
    """Number of images at once for which the free memory of a device suffices.

    It is a power of two, so that small differences of the free memory rarely change it.

    Args:
        device: A device that :func:`is_measurable`. The statistic of the peak of its memory is reset.
        compute_one: Function that computes a batch of one image; its peak is measured, which the memory of the model
            is not part of.
        most: Largest number of images.
    """
    needed = peak_memory(device, compute_one)
    fitting = min(int(_SHARE * free_memory(device)) // max(needed, 1), most)
    return 1 << max(fitting, 1).bit_length() - 1


def peak_memory(device: torch.device, compute: Callable[[], object]) -> int:
    """Most bytes of tensors on a GPU at any time of a computation, in addition to those before it."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    compute()
    return int(torch.cuda.max_memory_allocated(device)) - before


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that new tensors can take: what no process uses, and what torch keeps for reuse."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def batch_note(sizes: Iterable[int], images: str) -> str | None:
    """A note that batches were halved, or None if all had the same size.

    Args:
        sizes: Numbers of ``images`` at once that a measurement used.
        images: Plural of what the network was applied to.
    """
    largest, smallest = max(sizes, default=0), min(sizes, default=0)
    if largest == smallest:
        return None
    return (
        f"The memory did not suffice for batches of {largest} {images} at all times. Smaller batches were used, down "
        f"to {smallest}, which can change the last digits of the result."
    )
