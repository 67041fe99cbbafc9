"""Activation checkpointing with ``use_reentrant=True``, which hides layers from autograd."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint

_lock = threading.Lock()
_threads: dict[int, int] = {}  # number of contexts by thread
_original: Any = None


class _Direct:
    """Replacement of torch's function that computes a block without a checkpoint in threads that asked for it."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        if threading.get_ident() in _threads:
            return function(*args)
        return _original.apply(function, preserve, *args)


@contextmanager
def without_reentrant_checkpoints() -> Iterator[None]:
    """Compute reentrant checkpoints of this thread like any other block.

    A reentrant checkpoint runs its block without a graph and repeats it in the backward pass, which torch allows for
    ``Tensor.backward`` only. The values and gradients are the same; the activations of the block are stored.
    """
    global _original
    thread = threading.get_ident()
    with _lock:
        if not _threads:
            _original = torch.utils.checkpoint.CheckpointFunction
            torch.utils.checkpoint.CheckpointFunction = _Direct  # type: ignore[assignment,misc]
        _threads[thread] = _threads.get(thread, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _threads[thread] -= 1
            if not _threads[thread]:
                del _threads[thread]
            if not _threads:
                torch.utils.checkpoint.CheckpointFunction = _original  # type: ignore[misc]
