"""Prepared weights (spectra): cached for a weight, with bounded memory per process, and freed with their owner."""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

import torch

from replk_probe.errors import BackendError

_LOGGER = logging.getLogger(__name__)

SPECTRA_VARIABLE = "REPLK_PROBE_SPECTRA_MB"
# Enough for a hundred layers with the maximum of about 8 MB per prepared weight.
_DEFAULT_MB = 1024
# Image sizes whose spectra are cached for a weight: two suffice to alternate between training and test size.
_MOST_GEOMETRIES = 2
_ALIGNMENT = 64


# Bytes of every prepared weight, by id. There is no lock, because a thread that does not exist after a fork could hold
# it, or the thread in which a signal handler or a finalizer runs a convolution. Changes of entries are atomic.
_sizes: dict[int, int] = {}


class Packed:
    """A prepared weight: its memory, and the key of its plan. It counts as used from its creation."""

    __slots__ = ("_memory", "address", "key", "size")

    def __init__(self, key: tuple[Any, ...], size: int) -> None:
        """Reserve ``size`` bytes, which are not allocated yet."""
        self.key, self.size, self.address = key, size, 0
        _sizes[id(self)] = size

    def allocate(self) -> None:
        """Allocate the memory, 64-byte aligned."""
        self._memory = torch.empty(self.size + _ALIGNMENT, dtype=torch.uint8, device="cpu")
        start = self._memory.data_ptr()
        self.address = start + -start % _ALIGNMENT

    def __del__(self, forget: Callable[..., object] = _sizes.pop) -> None:
        """Stop counting; the function is a default argument because globals may be gone at interpreter exit."""
        forget(id(self), None)


def limit_bytes() -> int:
    """Limit of the memory of all prepared weights of the process, in bytes.

    Raises:
        BackendError: ``REPLK_PROBE_SPECTRA_MB`` is not an integer number of megabytes.
    """
    text = os.environ.get(SPECTRA_VARIABLE)
    if not text:
        return _DEFAULT_MB << 20
    if not text.isascii() or not text.isdigit():
        raise BackendError(
            f"{SPECTRA_VARIABLE} is {text!r}. It limits the memory of prepared weights. "
            "Set an integer number of megabytes."
        )
    return int(text) << 20


def used_bytes() -> int:
    """Memory of all prepared weights of the process, in bytes."""
    return sum(list(_sizes.values()))


class PreparedWeights:
    """The prepared forms of one weight for the geometries that were used last; threads may share it.

    The library compares the weight with the values that it was prepared from in each call. If they differ, it computes
    with the actual weight and reports it, and the owner drops the stale entry.
    """

    __slots__ = ("__weakref__", "_entries", "number")

    def __init__(self) -> None:
        """Create an empty cache."""
        # torch's operators accept numbers, not objects.
        self.number = next(_numbers)
        _by_number[self.number] = self
        # Replaced, never modified: other threads see the old tuple or the new one.
        self._entries: tuple[Packed, ...] = ()

    def get(self, key: tuple[Any, ...]) -> Packed | None:
        """The prepared weight of a geometry, or None."""
        for packed in (entries := self._entries):
            if packed.key == key:
                if packed is not entries[0]:  # moves the most recently used entry to the front
                    self._entries = (packed, *(entry for entry in entries if entry is not packed))
                return packed
        return None

    def make(self, key: tuple[Any, ...], size: int, fill: Callable[[int], None]) -> Packed | None:
        """Prepare the weight and cache the result.

        Args:
            key: Geometry of the convolution.
            size: Size of the prepared weight, in bytes.
            fill: Function that writes the prepared weight to an address.

        Returns:
            None if the memory limit of the process is reached.
        """
        # Evict older geometries of this weight first.
        self._entries = self._entries[: _MOST_GEOMETRIES - 1]
        # Counted before the limit is checked, so that two threads cannot both take the last memory.
        packed = Packed(key, size)
        if used_bytes() > limit_bytes():
            _LOGGER.info("A prepared weight of %d bytes exceeds the memory limit; see %s.", size, SPECTRA_VARIABLE)
            return None
        packed.allocate()
        fill(packed.address)
        self._entries = (packed, *(entry for entry in self._entries if entry.key != key))[:_MOST_GEOMETRIES]
        return packed

    def drop(self, packed: Packed) -> None:
        """Remove a stale entry; its memory is freed when the last call that reads it returns."""
        self._entries = tuple(entry for entry in self._entries if entry is not packed)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries = ()

    @property
    def size(self) -> int:
        """Memory of all entries, in bytes."""
        return sum(packed.size for packed in self._entries)


_numbers = itertools.count(1)
_by_number: weakref.WeakValueDictionary[int, PreparedWeights] = weakref.WeakValueDictionary()


def find_prepared(number: int) -> PreparedWeights | None:
    """The object of this ``number``; None for 0, and after the object was freed.

    A graph recorded in another process may hold the number of another object. That is safe: its entries are stale then.
    """
    return _by_number.get(number)
