"""The measurement of one problem: every method is checked before it is timed, the default as well."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from replk_probe.runtime.devices import is_out_of_memory

from ..methods.interface import ConvProblem
from ..methods.registry import reason_of
from .device import Device

BUDGET = 2.0  # seconds for a problem
# By type of device. Below, a call takes less than a tenth of a millisecond, on a card even at a hundredth of its peak,
# and on a CPU on one core.
LEAST_MULTIPLY_ADDS = {"cuda": 2**27, "cpu": 2**20}
LEAST_TAPS = 7 * 7

# Times of one method differ by up to this factor from one run to the next.
_GAIN = 0.9
# A factor for which a single pair of times is proof enough.
_LARGE_GAIN = 0.5
_ROUNDS, _MOST_REPEATS, _ENOUGH_TIMES = 4, 7, 5
# A method whose first time is this many times that of the fastest is not timed again.
_HOPELESS = 4.0
_NO_MEMORY = "not enough memory"


@dataclass(frozen=True)
class Choice:
    """The method chosen for a problem, and why.

    Attributes:
        method: Name of the method.
        reason: A clause without a period, such as ``"fastest of the methods that are right"``.
        seconds: Median time of a call by method, of those that were timed.
        refused: Why a method was not timed, by method.
        default: The method that is used if nothing is chosen.
        warning: A sentence for the user if the default gave wrong results, or None.
    """

    method: str
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    default: str = "aten"
    warning: str | None = None

    @property
    def lasts(self) -> bool:
        """Whether the choice holds for later measurements, which may have more free memory."""
        return bool(self.seconds) and not any(reason.startswith(_NO_MEMORY) for reason in self.refused.values())

    @property
    def gain(self) -> float | None:
        """Time of the default divided by that of the chosen method, or None if one of them is not known."""
        times = self.seconds.get(self.default), self.seconds.get(self.method)
        return None if None in times else times[0] / times[1]  # type: ignore[operator]


def is_worthwhile(problem: ConvProblem, device_type: str) -> bool:
    """Whether a problem is large enough to be measured on a device of a type, ``"cuda"`` or ``"cpu"``."""
    return problem.multiply_adds >= LEAST_MULTIPLY_ADDS[device_type] and problem.kh * problem.kw >= LEAST_TAPS


def choose(
    device: Device, problem: ConvProblem, *, clock: Callable[[], float] = time.perf_counter, budget: float = BUDGET
) -> Choice:
    """Measure one problem.

    Another method than the default is chosen only if its median is at most 0.9 of that of the default and its upper
    quartile is below that median, or if the default gives wrong results.

    Args:
        device: The device.
        problem: The problem.
        clock: Function that returns the time in seconds.
        budget: Seconds after which no other method is checked, once one is right. Timing takes at most the rest of it,
            or half of it.
    """
    default = device.default
    begun = clock()
    refused: dict[str, str] = {}
    wrong: set[str] = set()
    right: list[str] = []
    for name, reason in device.methods(problem).items():
        if reason is None and right and clock() - begun > budget:
            reason = "no time was left to check it"
        if reason is None:
            share, reason = checked(device, name, problem)
            if share is not None and reason is not None:
                wrong.add(name)
        if reason is None:
            right.append(name)
        else:
            refused[name] = reason
    times = _times(device, problem, right, refused, clock, max(begun + budget, clock() + budget / 2))
    medians = {name: statistics.median(values) for name, values in times.items()}
    warning = None
    if default in wrong:
        layout = "channels-last" if problem.channels_last else "contiguous"
        # Without the number of images, which is that of the bucket.
        warning = (
            f"The default method {default!r} gave wrong results for {problem.direction} convolutions "
            f"({problem.dtype}, {layout}) of {problem.c} channels of {problem.h}x{problem.w} with kernels of "
            f"{problem.kh}x{problem.kw} ({device.library})."
        )
    if not medians:
        warning = warning and f"{warning} No other method is right, and it is used nevertheless."
        return Choice(default, "no method could be timed", {}, refused, default, warning)
    ranked = sorted(medians, key=medians.__getitem__)
    best = ranked[0]
    if default not in medians:
        if default not in wrong:  # it could not run, for instance for lack of memory
            return Choice(best, f"the default failed ({refused[default]})", medians, refused, default)
        warning = f"{warning} The method {best!r} is used instead."
        return Choice(best, "the default gives wrong results", medians, refused, default, warning)
    faster = ranked[: ranked.index(default)]
    for name in faster:
        if _is_clearly_faster(times[name], times[default]):
            return Choice(name, "the fastest of the methods that are right", medians, refused, default)
    return Choice(default, f"no other method is {'clearly ' if faster else ''}faster", medians, refused, default)


def checked(device: Device, name: str, problem: ConvProblem) -> tuple[float | None, str | None]:
    """Error of a method as a share of its bound, or None if it could not run; and why it is refused, or None."""
    try:
        needed, free = device.workspace_bytes(name, problem), device.free_bytes()
        if needed > free // 2:
            return None, f"{_NO_MEMORY}: it needs {needed >> 20} MB, more than half of what is free"
        share = device.check(name, problem)
    except Exception as error:  # a kernel that does not compile, no memory, a problem that a library refuses
        return None, described(error)
    if share <= 1:
        return share, None
    size = f"{share:.3g} times the bound" if math.isfinite(share) else "not finite"
    return share, f"wrong results: {size}"


def _times(
    device: Device,
    problem: ConvProblem,
    names: list[str],
    refused: dict[str, str],
    clock: Callable[[], float],
    until: float,
) -> dict[str, list[float]]:
    """Times of the methods, which take turns, so that a changing clock rate affects all of them."""
    times: dict[str, list[float]] = {}
    for turn in range(_ROUNDS):
        for name in names:
            if name in refused or (turn and clock() > until):
                continue
            # A method that was timed once has a full turn only if it fits into the time that is left.
            left = (until - clock()) / (len(names) * (_ROUNDS - turn))
            repeats = 1 if not turn else max(1, min(_MOST_REPEATS, int(left / max(times[name][0], 1e-9))))
            try:
                times.setdefault(name, []).extend(device.times(name, problem, repeats))
            except Exception as error:
                times.pop(name, None)
                refused[name] = described(error)
        fastest = min((values[0] for values in times.values()), default=0.0)
        for name in [one for one in times if one != device.default and times[one][0] > _HOPELESS * fastest]:
            refused.setdefault(name, f"slower: {times[name][0] * 1e3:.3g} ms")
    # Those that were dropped for their time keep it.
    return times


def _is_clearly_faster(candidate: list[float], default: list[float]) -> bool:
    if min(len(candidate), len(default)) < _ENOUGH_TIMES:
        return max(candidate) <= _LARGE_GAIN * min(default)
    median = statistics.median(default)
    upper = statistics.quantiles(candidate, n=4)[2]
    return statistics.median(candidate) <= _GAIN * median and upper < median


def described(error: Exception) -> str:
    """An exception as a reason."""
    return _NO_MEMORY if is_out_of_memory(error) else reason_of(error)
