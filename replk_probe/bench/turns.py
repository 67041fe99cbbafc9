"""Variants of a case are timed in turns, so that other load on the machine and changing clocks affect all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from .result import Timing

# Seconds: duration of a turn of short calls, and duration below which a turn starts with a call that is not counted,
# because the turns of other variants have evicted the caches.
_TURN = 0.004
_WARMED = 0.05
_MOST_CALLS_PER_TURN = 20


def take_turns(
    names: Iterable[str], times: Callable[[str, int], list[float]], repeats: int, budget: float
) -> dict[str, list[list[float]]]:
    """Seconds of the calls of each variant in each of its turns.

    Args:
        names: The variants.
        times: Function that calls a variant a number of times and returns the seconds of each call, or nothing if the
            variant cannot be computed.
        repeats: Number of turns; fewer if they would exceed the budget.
        budget: Seconds for one variant.
    """
    typical = {name: times(name, 1) for name in names}
    turns: dict[str, list[list[float]]] = {name: [] for name, found in typical.items() if found}
    for turn in range(repeats):
        for name, found in turns.items():
            seconds = [*chain.from_iterable(found)]
            expected = min(seconds or typical[name])
            if turn and sum(seconds) + expected > budget:
                continue
            skipped = int(expected < _WARMED)
            count = max(1, min(int(_TURN / max(expected, 1e-9)), _MOST_CALLS_PER_TURN))
            found.append(times(name, skipped + count)[skipped:])
    return turns


def timing_of(
    variant: str,
    turns: Sequence[Sequence[float]],
    repeats: int,
    *,
    error: float | None = None,
    share: float | None = None,
) -> Timing:
    """The timing of a variant, from the seconds of the calls in each of its turns.

    Args:
        variant: Name of the variant.
        turns: What :func:`take_turns` returned for it.
        repeats: Number of turns that were requested; the note states the number of calls if it is smaller.
        error: As in :class:`~replk_probe.bench.Timing`.
        share: As in :class:`~replk_probe.bench.Timing`.
    """
    calls = [*chain.from_iterable(turns)]
    return Timing(
        variant,
        min(calls),
        statistics.median(calls),
        len(calls),
        error,
        f"{len(calls)} calls" if len(calls) < repeats else None,
        share,
        tuple(map(statistics.median, turns)),
    )
