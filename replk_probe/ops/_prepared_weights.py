"""Prepared weights (spectra): kept beside a weight, bounded in memory for the whole process, freed with their owner."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

from replk_probe.errors import BackendError

_LOGGER = logging.getLogger(__name__)

SPECTRA_VARIABLE = "REPLK_PROBE_SPECTRA_MB"
# A hundred layers at the 8 MB that the library keeps for one of them at most; below what a laptop misses.
_DEFAULT_MB = 1024
# Image sizes whose spectra a weight keeps: two serve a run that alternates between training and test size.
_MOST_GEOMETRIES = 2
_ALIGNMENT = 64


class Packed:
    """A prepared weight: its memory, and what it was prepared for."""

    __slots__ = ("__weakref__", "_memory", "address", "key", "size")

    def __init__(self, key: tuple[Any, ...], size: int) -> None:
        """Allocate ``size`` bytes, 64-byte aligned."""
        self.key, self.size = key, size
        self._memory = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device="cpu")
        start = self._memory.data_ptr()
        self.address = start + -start % _ALIGNMENT


_live: weakref.WeakSet[Packed] = weakref.WeakSet()
_lock = threading.Lock()


def limit_bytes() -> int:
    """Memory that all prepared weights of the process may take together.

    Raises:
        BackendError: ``REPLK_PROBE_SPECTRA_MB`` is no number of megabytes.
    """
    text = os.environ.get(SPECTRA_VARIABLE)
    if not text:
        return _DEFAULT_MB << 20
    if not text.isascii() or not text.isdigit():
        raise BackendError(
            f"{SPECTRA_VARIABLE} is {text!r}. It bounds the memory of prepared weights. Set a whole number of MB."
        )
    return int(text) << 20


def used_bytes() -> int:
    """Memory that all prepared weights of the process take now."""
    return sum(packed.size for packed in list(_live))


class PreparedWeights:
    """The prepared forms of one weight, for the last geometries it met; threads may share it.

    Nothing here knows whether the weight still has the values that it was prepared from: the library compares them in
    each call, computes with the true weight where they differ, and says so; the owner then drops what is stale.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        """Empty."""
        # Replaced as a whole, never changed: a reader sees the old tuple or the new one.
        self._entries: tuple[Packed, ...] = ()

    def get(self, key: tuple[Any, ...]) -> Packed | None:
        """What is kept for a geometry."""
        for packed in self._entries:
            if packed.key == key:
                return packed
        return None

    def make(self, key: tuple[Any, ...], size: int, fill: Callable[[int], None]) -> Packed | None:
        """Prepare the weight and keep the result.

        Args:
            key: The geometry.
            size: Bytes.
            fill: Writes the prepared weight to an address.

        Returns:
            None where the memory of the process for such is used up.
        """
        # Room first: an older geometry of this weight gives way.
        self._entries = self._entries[: _MOST_GEOMETRIES - 1]
        with _lock:
            if used_bytes() + size > limit_bytes():
                _LOGGER.info("No room to keep a prepared weight of %d bytes; see %s.", size, SPECTRA_VARIABLE)
                return None
            packed = Packed(key, size)
            _live.add(packed)
        fill(packed.address)
        self._entries = (packed, *(entry for entry in self._entries if entry.key != key))[:_MOST_GEOMETRIES]
        return packed

    def drop(self, packed: Packed) -> None:
        """Forget what is stale; its memory is freed when the last call that reads it returns."""
        self._entries = tuple(entry for entry in self._entries if entry is not packed)

    def clear(self) -> None:
        """Forget everything."""
        self._entries = ()

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(packed.size for packed in self._entries)
