"""A device and a clock that follow a script."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from replk_probe.ops import _fallback
from replk_probe.ops.methods.interface import ConvMethod, ConvProblem
from replk_probe.ops.tuning import choices, tuner
from replk_probe.runtime import torchrun


class FakeMethod:
    """Torch's convolution plus a number, so that a result tells which method computed it."""

    def __init__(self, name: str, plus: float = 1.0) -> None:
        self.name, self.plus = name, plus
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.refused: str | None = None

    def refusal(self, problem: ConvProblem, device: torch.device) -> str | None:
        return self.refused

    def workspace_bytes(self, problem: ConvProblem) -> int:
        return 0

    def _computed(self, direction: str, *args: Any) -> Tensor:
        self.calls.append(direction)
        if self.error is not None:
            raise self.error
        found: Tensor = getattr(_fallback, direction)(*args) + self.plus
        return found

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        return self._computed("forward", input, weight, bias, relu)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        return self._computed("grad_input", grad, weight)

    def grad_weight(self, input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
        return self._computed("grad_weight", input, grad, kh, kw)


@dataclass
class FakeDevice:
    """A card whose methods have given times, errors and failures; its clock advances with its work.

    Attributes:
        seconds: Time of a call of each method, the default first; the next of an iterator in each call.
        shares: Error of a method as a share of its bound; 0.1 by default.
        errors: Exceptions of checks.
        late: Exceptions of timed calls.
        workspaces: Memory of a call by method, in bytes.
    """

    seconds: Mapping[str, float | Iterator[float]]
    shares: dict[str, float] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    late: dict[str, Exception] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    workspaces: dict[str, int] = field(default_factory=dict)
    check_seconds: float = 0.001
    memory: int = 1 << 30
    environment: dict[str, str] = field(default_factory=lambda: {"device": "fake card", "cuDNN": "9.19.0"})
    label: str = "cuda:0"
    default: str = "aten"
    library: str = "cuDNN 9.19.0"
    forced: str | None = None
    now: float = 0.0
    log: list[tuple[str, str]] = field(default_factory=list)

    def method(self, name: str, problem: ConvProblem) -> ConvMethod | str:
        return self.refused.get(name) or (FakeMethod(name) if name in self.seconds else "no method has this name")

    def methods(self, problem: ConvProblem) -> dict[str, str | None]:
        return {name: self.refused.get(name) for name in self.seconds}

    def check(self, name: str, problem: ConvProblem) -> float:
        self.log.append(("check", name))
        self.now += self.check_seconds
        if name in self.errors:
            raise self.errors[name]
        return self.shares.get(name, 0.1)

    def times(self, name: str, problem: ConvProblem, repeats: int) -> list[float]:
        assert ("check", name) in self.log, "timed before it was checked"
        self.log.append(("time", name))
        if name in self.late:
            raise self.late[name]
        given = self.seconds[name]
        found = [given if isinstance(given, float) else next(given) for _ in range(repeats)]
        self.now += sum(found)
        return found

    def workspace_bytes(self, name: str, problem: ConvProblem) -> int:
        return self.workspaces.get(name, 0)

    def free_bytes(self) -> int:
        return self.memory

    def synchronize(self) -> None:
        self.log.append(("synchronize", ""))

    def clock(self) -> float:
        return self.now

    @property
    def timed(self) -> list[str]:
        return [name for what, name in self.log if what == "time"]


@pytest.fixture
def card() -> type[FakeDevice]:
    return FakeDevice


@pytest.fixture
def method() -> type[FakeMethod]:
    return FakeMethod


@pytest.fixture(autouse=True)
def no_choices() -> Iterator[None]:
    """No choices of other tests."""
    tuner._known.clear()
    yield
    tuner._known.clear()
    with choices.state.lock:
        choices.state.installed.clear()
        choices.state.update()


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs a function in two threads that are processes of torchrun to this package; returns what each one returned."""
    here, barrier = threading.local(), threading.Barrier(2, timeout=20)
    slots: dict[int, list[Any]] = {}

    def gathered(value: Any) -> list[Any]:
        here.times = getattr(here, "times", -1) + 1
        slots.setdefault(here.times, [None, None])[here.rank] = value
        barrier.wait()
        return slots[here.times]

    @contextmanager
    def together() -> Iterator[None]:
        yield
        barrier.wait()

    monkeypatch.setattr(torchrun, "this_process", lambda: torchrun.Process(here.rank, 2, here.rank))
    monkeypatch.setattr(torchrun, "gathered", gathered)
    monkeypatch.setattr(torchrun, "together", together)

    def run(function: Callable[[int], Any]) -> list[Any]:
        found: list[Any] = [None, None]

        def work(rank: int) -> None:
            here.rank = rank
            found[rank] = function(rank)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return run


@pytest.fixture
def noisy() -> Callable[..., Iterator[float]]:
    """Times that alternate between values, over and over."""
    return lambda *values: itertools.cycle(values)
