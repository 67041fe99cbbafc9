"""Prepared weights (spectra): kept beside a weight, bounded in memory for the whole process, freed with their owner."""

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
# A hundred layers at the 8 MB that the library keeps for one of them at most; below what a laptop misses.
_DEFAULT_MB = 1024
# Image sizes whose spectra a weight keeps: two serve a run that alternates between training and test size.
_MOST_GEOMETRIES = 2
_ALIGNMENT = 64


# Bytes of every prepared weight there is, by its id. No lock: one could be held by a thread that a fork leaves behind,
# or by the very thread that a signal handler or a finalizer runs a convolution on. Entries come and go in single steps.
_sizes: dict[int, int] = {}


class Packed:
    """A prepared weight: its memory, and what it was prepared for. Counts as used from the beginning."""

    __slots__ = ("_memory", "address", "key", "size")

    def __init__(self, key: tuple[Any, ...], size: int) -> None:
        """Of ``size`` bytes, that are yet to be allocated."""
        self.key, self.size, self.address = key, size, 0
        _sizes[id(self)] = size

    def allocate(self) -> None:
        """Get the memory, 64-byte aligned."""
        self._memory = torch.empty(self.size + _ALIGNMENT, dtype=torch.uint8, device="cpu")
        start = self._memory.data_ptr()
        self.address = start + -start % _ALIGNMENT

    def __del__(self, forget: Callable[..., object] = _sizes.pop) -> None:
        """Count no longer; the function is kept because names may be gone when the interpreter ends."""
        forget(id(self), None)


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
    return sum(list(_sizes.values()))


class PreparedWeights:
    """The prepared forms of one weight, for the last geometries it was used with; threads may share it.

    Nothing here knows whether the weight still has the values that it was prepared from: the library compares them in
    each call, computes with the true weight where they differ, and says so; the owner then drops what is stale.
    """

    __slots__ = ("__weakref__", "_entries", "number")

    def __init__(self) -> None:
        """Empty."""
        # The operators of torch take numbers, not objects.
        self.number = next(_numbers)
        _by_number[self.number] = self
        # Replaced as a whole, never changed: a reader sees the old tuple or the new one.
        self._entries: tuple[Packed, ...] = ()

    def get(self, key: tuple[Any, ...]) -> Packed | None:
        """What is kept for a geometry."""
        for packed in (entries := self._entries):
            if packed.key == key:
                if packed is not entries[0]:  # the last one used is the last to give way
                    self._entries = (packed, *(entry for entry in entries if entry is not packed))
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
        # Counted before it is looked whether there is room: of two threads at once, none or one gets the last of it.
        packed = Packed(key, size)
        if used_bytes() > limit_bytes():
            _LOGGER.info("No room to keep a prepared weight of %d bytes; see %s.", size, SPECTRA_VARIABLE)
            return None
        packed.allocate()
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


_numbers = itertools.count(1)
_by_number: weakref.WeakValueDictionary[int, PreparedWeights] = weakref.WeakValueDictionary()


def find_prepared(number: int) -> PreparedWeights | None:
    """The object of this ``number``; None for 0, and after the object was freed."""
    return _by_number.get(number)
