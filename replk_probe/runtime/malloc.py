"""Settings of the C library's allocator for measuring large networks on a CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_KEEP = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 64 << 20}  # -1: never
# Values of glibc's own adaptive thresholds after a process has freed a block of 32 MiB.
_DEFAULT = {_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 128 << 10, _M_MMAP_THRESHOLD: 32 << 20}


@contextmanager
def kept_blocks() -> Iterator[bool]:
    """Reuse freed blocks of memory within this context instead of returning them to the system.

    By default glibc maps new memory for every large tensor, and the kernel clears its pages at the first access, which
    takes as long as writing a matrix product to it. On exit, the usual thresholds are restored and unused memory is
    returned. Yields whether the settings took effect (glibc only).
    """
    libc = _glibc()
    if libc is None:
        yield False
        return
    mallopt, malloc_trim = libc
    malloc_trim(0)  # otherwise fragments left by building the network would stay allocated
    try:
        yield all([mallopt(parameter, value) == 1 for parameter, value in _KEEP.items()])
    finally:
        for parameter, value in _DEFAULT.items():
            mallopt(parameter, value)
        malloc_trim(0)


def _glibc() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    """``mallopt`` and ``malloc_trim``, or None if the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        return None
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    malloc_trim.argtypes, malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return mallopt, malloc_trim
