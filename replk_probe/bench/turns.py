"""Variants of a case are timed in turns, so that other load on the machine and changing clocks affect all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

# Seconds: duration of a turn of short calls, and duration below which a turn starts with a call that is not counted,
# because the turns of other variants have evicted the caches.
_TURN = 0.004
_WARMED = 0.05
_MOST_CALLS_PER_TURN = 20


def take_turns(
    names: Iterable[str], times: Callable[[str, int], list[float]], repeats: int, budget: float
) -> dict[str, list[float]]:
    """Seconds of the calls of each variant.

    Args:
        names: The variants.
        times: Function that calls a variant a number of times and returns the seconds of each call, or nothing if the
            variant cannot be computed.
        repeats: Number of turns; fewer if they would exceed the budget.
        budget: Seconds for one variant.
    """
    typical = {name: times(name, 1) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name, found in typical.items() if found}
    for turn in range(repeats):
        for name, found in seconds.items():
            expected = min(found or typical[name])
            if turn and sum(found) + expected > budget:
                continue
            skipped = int(expected < _WARMED)
            count = max(1, min(int(_TURN / max(expected, 1e-9)), _MOST_CALLS_PER_TURN))
            found += times(name, skipped + count)[skipped:]
    return seconds
