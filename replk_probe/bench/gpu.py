"""Timing of all methods of the convolution on an NVIDIA GPU.

Every method is compared with float64 before it is timed, and timed by events, both as for the tuner.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from replk_probe.errors import BackendError
from replk_probe.ops import describe_machine
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning.choosing import Choice, checked, choose, described, is_worthwhile
from replk_probe.ops.tuning.device import Device, TorchDevice
from replk_probe.runtime.float32_settings import make_strict
from replk_probe.runtime.progress import progress as progress_bar

from .result import GPU_DTYPES, Gpu, Layer, Machine, MethodChoice, SpeedCase, SpeedResult, Timing
from .turns import take_turns, timing_of

# Seconds of calls of each method that are not counted: clocks rise, kernels are loaded and plans are made.
_WARM_UP, _MOST_WARM_UPS = 0.2, 1024
# Arguments take turns until they exceed the cache by this factor; without a known size, that of the largest ones.
_CACHES, _USUAL_CACHE = 2, 64 << 20
# The conversion to the memory format that the operands have already.
_NO_CONVERSION = {False: "aten-nchw", True: "aten-channels-last"}
# Multiply-adds of float32 that a multiprocessor completes in a cycle, by compute capability.
_MULTIPLY_ADDS = {
    (7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64, (8, 6): 128, (8, 7): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128,
    (10, 3): 128, (12, 0): 128,
}  # fmt: skip
_LARGEST = "largest sm"
# What nvidia-smi reports: rates in MHz.
_CLOCKS = {"sm": "clocks.sm", "memory": "clocks.mem", _LARGEST: "clocks.max.sm"}
_PATIENCE = 10  # seconds for nvidia-smi


def measure_on_gpu(
    layers: Sequence[Layer],
    directions: Sequence[str],
    device: torch.device,
    *,
    dtype: str,
    repeats: int,
    budget: float,
    progress: bool,
    tunable: Device | None = None,
) -> SpeedResult:
    """Time all methods on a GPU; arguments and errors are those of :func:`~replk_probe.bench.measure_speed`.

    Args:
        layers: Layers to time.
        directions: Passes to time.
        device: The GPU.
        dtype: One of :data:`~replk_probe.bench.result.GPU_DTYPES`.
        repeats: Number of turns of each method.
        budget: Seconds for one method of one case.
        progress: Whether to show a progress bar on a terminal.
        tunable: Stand-in for the GPU.

    Returns:
        The result, with two cases per layer and direction: contiguous operands and channels-last ones.
    """
    load, clocks = os.getloadavg()[0], _clocks_of(device)
    with _precision(dtype):
        tunable = tunable or TorchDevice(device, rotated_bytes=_CACHES * _cache_bytes(device))
        if tunable.forced is not None:
            raise BackendError(
                f"The methods cannot be compared. {tunable.forced}, so that the others cannot be called. Unset the "
                "variable."
            )
        work = [*itertools.product(layers, directions, (False, True))]
        cases = tuple(
            _measure_case(tunable, layer, direction, dtype, channels_last, repeats, budget)
            for layer, direction, channels_last in progress_bar(work, desc="Timing", unit="case", disable=not progress)
        )
        gpu = _described(device, tunable, clocks)
    machine = Machine(
        cpu=describe_machine()["cpu"],
        threads=torch.get_num_threads(),
        load=(load, os.getloadavg()[0]),
        fma_peak=_fma_peak(device, clocks),
        isa=None,
        compiler=None,
        torch_capability=torch.backends.cpu.get_cpu_capability(),
        gpu=gpu,
    )
    return SpeedResult(cases, machine, dtype, repeats)


@contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """Compute float32 products in float32, or with ``"tf32"`` let torch's convolution round their factors."""
    before = make_strict()
    try:
        if dtype == "tf32":
            torch.backends.cudnn.allow_tf32 = True
        yield
    finally:
        before.restore()


def _measure_case(
    device: Device, layer: Layer, direction: str, dtype: str, channels_last: bool, repeats: int, budget: float
) -> SpeedCase:
    problem = ConvProblem(direction, GPU_DTYPES[dtype], channels_last, *layer.shape, *layer.kernel)  # type: ignore[arg-type]
    # What a run would use.
    choice = Choice(device.default, "too small to be measured by a run")
    if is_worthwhile(problem, "cuda"):
        choice = choose(device, problem.bucket)
    shares: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for name, refusal in device.methods(problem).items():
        if name == _NO_CONVERSION[channels_last]:
            continue
        shares[name], reason = checked(device, name, problem) if refusal is None else (None, refusal)
        if reason is not None:
            notes[name] = reason
    calls = _Calls(device, problem)
    turns = take_turns([name for name in shares if name not in notes], calls, repeats, budget)
    notes |= calls.failed
    timings = []
    for name, share in shares.items():
        if name in notes:
            timings.append(Timing(name, None, None, 0, None, notes[name], share))
            continue
        timings.append(timing_of(name, turns[name], repeats, share=share))
    chosen = device.method(choice.method, problem)
    workspace = 0 if isinstance(chosen, str) else device.workspace_bytes(choice.method, problem)
    return SpeedCase(
        layer,
        direction,
        tuple(timings),
        method=choice.method,
        isa=None,
        tile=(0, 0),
        workspace_bytes=workspace,
        choice=MethodChoice(choice.method, choice.reason, channels_last),
    )


class _Calls:
    """Times of the calls of the methods of one problem; one that fails is not called again.

    Attributes:
        failed: Why a method failed, for instance for lack of memory.
    """

    def __init__(self, device: Device, problem: ConvProblem) -> None:
        self.failed: dict[str, str] = {}
        self._device, self._problem = device, problem
        self._warm: set[str] = set()

    def __call__(self, name: str, count: int) -> list[float]:
        """Seconds of each call of a method; none if it fails."""
        if name in self.failed:
            return []
        try:
            if name not in self._warm:
                self._warm_up(name)
            return self._device.times(name, self._problem, count)
        except Exception as error:
            self.failed[name] = described(error)
            return []

    def _warm_up(self, name: str) -> None:
        spent, count = 0.0, 1
        while spent < _WARM_UP and count <= _MOST_WARM_UPS:
            spent += sum(self._device.times(name, self._problem, count))
            count *= 2
        self._warm.add(name)


def _described(device: torch.device, tunable: Device, before: dict[str, float]) -> Gpu:
    """The GPU, and its clock rates before and after."""
    properties: Any = torch.cuda.get_device_properties(device)
    after = _clocks_of(device)
    clocks = {name if name == _LARGEST else f"{name} before": rate for name, rate in before.items()}
    clocks |= {f"{name} after": rate for name, rate in after.items() if name != _LARGEST}
    return Gpu(
        name=torch.cuda.get_device_name(device),
        device=str(device),
        environment=dict(tunable.environment),
        multiprocessors=properties.multi_processor_count,
        memory_bytes=properties.total_memory,
        clocks=clocks,
    )


def _cache_bytes(device: torch.device) -> int:
    """Size of the second-level cache."""
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or _USUAL_CACHE)


def _fma_peak(device: torch.device, clocks: dict[str, float]) -> float | None:
    """Peak of float32 without tensor cores in 10^9 operations per second, or None if it is not known.

    It is that of the largest clock rate, which a card may not reach under load.
    """
    properties: Any = torch.cuda.get_device_properties(device)
    each = _MULTIPLY_ADDS.get((properties.major, properties.minor))
    megahertz = clocks.get(_LARGEST) or getattr(properties, "clock_rate", 0) / 1e3
    if each is None or not megahertz:
        return None
    return float(2 * each * properties.multi_processor_count * megahertz / 1e3)


def _clocks_of(device: torch.device) -> dict[str, float]:
    """Clock rates of a GPU in MHz by name; those that nvidia-smi does not report are left out."""
    number = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    options = {"query-gpu": ",".join(_CLOCKS.values()), "format": "csv,noheader,nounits"}
    if number is not None:
        options["id"] = f"GPU-{number}"
    command = ["nvidia-smi", *(f"--{name}={value}" for name, value in options.items())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    found = {}
    for name, text in zip(_CLOCKS, done.stdout.partition("\n")[0].split(","), strict=False):
        try:
            found[name] = float(text)
        except ValueError:  # "[N/A]"
            continue
    return found
