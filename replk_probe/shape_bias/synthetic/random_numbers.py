"""Counter-based random numbers: any of them can be computed directly, and they are the same on every machine.

Source: Steele, Lea & Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (the mixing of SplitMix64).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]
Floats: TypeAlias = npt.NDArray[np.float64]

_STEP = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio
_WORD = (1 << 64) - 1


def random_words(key: tuple[int, ...], rows: Integers, count: int) -> Words:
    """``count`` random 64-bit words for each of N row indices, ``[N, count]``, from the stream identified by ``key``.

    A word depends only on the key, its row index and its position in the row.
    """
    start = np.zeros(1, dtype=np.uint64)
    for part in key:
        start = _mixed(start + np.uint64((part + 1) * _STEP & _WORD))
    return following_words(_mixed(start + rows.astype(np.uint64) * np.uint64(_STEP)), count)


def following_words(starts: Words, count: int) -> Words:
    """Generate ``count`` words from each of the given random words, ``[N, count]``."""
    return _mixed(starts[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP))


def integers_below(limit: int, words: Words) -> Integers:
    """Integers from 0 to ``limit - 1``, for limits much smaller than 2**32."""
    return np.asarray(((words >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)


def fractions(words: Words) -> Floats:
    """Uniform numbers in [0, 1) with 53 bits."""
    return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))
