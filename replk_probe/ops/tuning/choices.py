"""The methods that were chosen for convolutions, as operator calls look them up.

A call looks up one entry of a dictionary and does nothing else: it measures nothing, reads no file and does not wait
for the device. Without an entry, and if the method fails, torch's convolution (on a CPU the native library's own
choice) is used.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from replk_probe.errors import BackendError
from replk_probe.runtime.devices import is_out_of_memory

from .._layout import is_channels_last
from ..methods.interface import ConvMethod, ConvProblem, Direction

# Devices are named as by torch, such as "cuda:0". The problem is its own bucket, or
# has 0 images if the method is used for any number of them.
Key = tuple[str, ConvProblem]
_MISSING = object()


class TuningWarning(UserWarning):
    """A method of the convolution gave wrong results or failed, or the environment does not let any be chosen."""


class Entry:
    """The method of one combination of shapes, strides and dtype.

    Attributes:
        method: The method.
        is_fixed: Whether an error is raised if it fails; otherwise another method is used.
        has_run: Whether it has computed a result.
    """

    __slots__ = ("has_run", "is_fixed", "method")

    def __init__(self, method: ConvMethod, is_fixed: bool) -> None:  # noqa: D107
        self.method = method
        self.is_fixed = is_fixed
        self.has_run = False


class _State:
    """What is chosen in this process.

    Attributes:
        version: Number that changes with the choices, for caches of plans.
        active: Whether calls have to look anything up.
    """

    def __init__(self) -> None:
        self.version = 0
        self.active = False
        self.chosen: dict[Key, ConvMethod] = {}  # what applies now
        self.entries: dict[tuple[Any, ...], Entry | None] = {}  # replaced whenever the choices change
        self.installed: dict[Key, ConvMethod] = {}  # until the process ends
        self.scopes: list[Mapping[Key, ConvMethod]] = []  # of runs, which hide what is installed
        self.noted: list[dict[ConvProblem, None]] = []
        self.lock = threading.Lock()

    def update(self) -> None:
        """Apply a change; the lock is held."""
        chosen = dict(self.installed) if not self.scopes else {}
        for scope in self.scopes:
            chosen.update(scope)
        active = bool(chosen or self.noted)
        if chosen != self.chosen or active != self.active or self.noted:
            self.chosen, self.entries, self.version = chosen, {}, self.version + 1
        self.active = active


state = _State()


def compute(
    direction: Direction, first: Tensor, kernel: Sequence[int], default: Callable[..., Tensor], args: Sequence[Any]
) -> Tensor:
    """Compute a convolution by the method chosen for it, or by ``default``.

    Args:
        direction: What is computed.
        first: The first tensor, ``[N, C, H, W]``.
        kernel: (Kh, Kw).
        default: Function that is called if no method was chosen.
        args: Arguments of ``default`` and of the method.

    Raises:
        BackendError: The method of a run failed.
    """
    entry = entry_of(direction, first, kernel) if state.active else None
    # The first run of a method may compile or allocate, which a capture does not allow.
    if entry is None or (not entry.has_run and _is_capturing(first.device)):
        return default(*args)
    return compute_by(entry, direction, default, args)


def compute_by(entry: Entry, direction: Direction, default: Callable[..., Tensor], args: Sequence[Any]) -> Tensor:
    """Compute a convolution by the method of an entry, or by ``default`` if it fails; see :func:`compute`.

    A lack of memory is not a fault of the method: its error is raised, so that the caller can use smaller batches.
    """
    try:
        found: Tensor = getattr(entry.method, direction)(*args)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _handle(entry, direction, args[0], error)
        return default(*args)
    entry.has_run = True
    return found


def chosen_method(direction: Direction, first: Tensor, kernel: Sequence[int]) -> str | None:
    """Name of the method chosen for a convolution, or None if the default applies.

    Args:
        direction: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        first: First operand, ``[N, C, H, W]``: the input, or for ``"grad_input"`` the gradient of the output.
        kernel: Kernel size (Kh, Kw).

    Returns:
        The name of the method, or None.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import chosen_method
        >>> chosen_method("forward", torch.rand(1, 8, 64, 64), (31, 31)) is None  # before the first call of tune
        True
    """
    entry = entry_of(direction, first, kernel) if state.active else None
    return None if entry is None else entry.method.name


def chosen_for(device: str, problem: ConvProblem) -> ConvMethod | None:
    """The method chosen for a problem on a device, or None; collectors note the problem."""
    for noted in state.noted:
        noted[problem] = None
    return state.chosen.get((device, problem.bucket)) or state.chosen.get((device, problem.for_any_count))


def problem_of(direction: Direction, first: Tensor, kernel: Sequence[int]) -> ConvProblem:
    """The problem of a call."""
    dtype = str(first.dtype).removeprefix("torch.")
    n, c, h, w = first.shape
    return ConvProblem(direction, dtype, is_channels_last(first), n, c, h, w, *kernel)


def install(methods: Mapping[Key, ConvMethod | None]) -> None:
    """Use methods in all calls from now on that are not part of a run; None removes a choice."""
    with state.lock:
        for key, method in methods.items():
            if method is None:
                state.installed.pop(key, None)
            else:
                state.installed[key] = method
        state.update()


@contextmanager
def fixed(methods: Mapping[Key, ConvMethod]) -> Iterator[None]:
    """Context in which these methods are used and no others; one that fails raises BackendError.

    If the contexts of several threads overlap, calls use the methods of all of them, those of the last one first.
    """
    scope = dict(methods)
    with state.lock:
        state.scopes.append(scope)
        state.update()
    try:
        yield
    finally:
        with state.lock:
            state.scopes = [other for other in state.scopes if other is not scope]
            state.update()


@contextmanager
def collecting() -> Iterator[dict[ConvProblem, None]]:
    """Context that yields the problems of the operator calls in it, in the order of their first calls."""
    noted: dict[ConvProblem, None] = {}
    with state.lock:
        state.noted.append(noted)
        state.update()
    try:
        yield noted
    finally:
        with state.lock:
            state.noted = [other for other in state.noted if other is not noted]
            state.update()


def entry_of(direction: Direction, first: Tensor, kernel: Sequence[int]) -> Entry | None:
    """The method chosen for a call if it takes the call and has not failed in one like it, or None."""
    entries = state.entries
    key = (direction, first.device, first.dtype, first.shape, first.stride(), kernel)
    found: Any = entries.get(key, _MISSING)
    if found is _MISSING:
        found = entries[key] = _new_entry(problem_of(direction, first, kernel), first.device)
    entry: Entry | None = found
    return entry


def _new_entry(problem: ConvProblem, device: torch.device) -> Entry | None:
    is_fixed = bool(state.scopes)
    method = chosen_for(str(device), problem)
    # A method that takes the problem that was measured may refuse another one of the same bucket.
    if method is None or method.refusal(problem, device) is not None:
        return None
    return Entry(method, is_fixed)


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _handle(entry: Entry, direction: Direction, first: Tensor, error: Exception) -> None:
    """Raise the error of a method in a run, which must not mix methods; otherwise do not use the method again."""
    reason = " ".join(str(error).split()).rstrip(".")[:200]
    text = f"The method {entry.method.name!r} of a convolution of {list(first.shape)} failed ({direction}). {reason}."
    if entry.is_fixed:
        raise BackendError(f"{text} Set tune to 'off', or run 'replk-probe tune --clear'.") from error
    with state.lock:
        state.entries = {key: None if other is entry else other for key, other in state.entries.items()}
        state.version += 1
    warnings.warn(f"{text} The default method is used from now on.", TuningWarning, stacklevel=4)
