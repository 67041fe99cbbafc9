"""Timing of all variants of all layers, interleaved in one run."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.ops import (
    INSTRUCTION_SETS,
    describe_machine,
    measure_fma_peak,
    native_info,
    native_kernels,
    planned_method,
)
from replk_probe.runtime.checks import check_choice
from replk_probe.runtime.devices import resolve_device
from replk_probe.runtime.progress import progress as progress_bar

from .gpu import measure_on_gpu
from .result import CPU_DTYPES, GPU_DTYPES, PASSES, Layer, Machine, SpeedCase, SpeedResult, Timing
from .turns import take_turns, timing_of
from .variants import Call, Operands, our_variants, relative_errors, torch_variants

# A variant is left out if one call would take more than this number of budgets.
_LONGEST_CALL = 2
# Size of the part of a layer that is timed first if a whole call may take too long.
_PROBE_FLOPS = 2e8
# Number of tensors of the size of the padded planes that a case holds at the same time: spectra and all results.
_TENSORS = 16


def measure_speed(
    layers: Sequence[Layer],
    directions: Sequence[str] = ("forward",),
    *,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    isa: str | None = None,
    repeats: int = 9,
    budget: float = 2.0,
    everything: bool = False,
    accuracy: bool = True,
    progress: bool = False,
) -> SpeedResult:
    """Time the depthwise convolution of this package and those of torch.

    All variants of a case take turns, so that other load on the machine affects them equally. A turn of a short call
    consists of several calls, each timed separately.

    On an NVIDIA GPU, the variants are the methods of :func:`replk_probe.ops.tune`, for contiguous and for channels-last
    operands. Each is first compared with float64, and is not timed if its error exceeds its bound. Calls are timed by
    events after 0.2 seconds of other calls, with several sets of operands in turn, so that these are not in the cache.
    The choice of the tuner is measured as in a run. Methods for which the memory does not suffice are stated.

    Args:
        layers: Layers to time.
        directions: Passes to time: ``"forward"``, ``"grad_input"``, ``"grad_weight"``.
        device: ``"cpu"``, or an NVIDIA GPU such as ``"cuda"``.
        dtype: ``"float32"`` or ``"bfloat16"``; on a GPU also ``"float16"``, and ``"tf32"`` for float32 operands whose
            values torch's convolution may round to TF32.
        threads: Number of threads of every variant on a CPU; by default torch's current number, which is restored
            afterwards.
        isa: Instruction set of this package's kernels for a CPU, one of
            :data:`replk_probe.ops.INSTRUCTION_SETS`; it does not apply to torch. None selects the best one.
        repeats: Number of turns of each variant; fewer if they would exceed the budget.
        budget: Seconds for one variant of one case. Variants whose calls take more than twice as long are left out.
        everything: Whether to include variants that take longer, on a CPU.
        accuracy: Whether to compare every output with float64; on a GPU, this is always done.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The result, with one case per layer and direction, in their order, and on a GPU two, for contiguous and for
        channels-last operands.

    Raises:
        InvalidInputError: An option is invalid, or there is nothing to measure.
        BackendError: This machine does not have the device or the instruction set, or the environment forces an
            unsupported method.

    Examples:
        >>> from replk_probe.bench import Layer, measure_speed
        >>> result = measure_speed([Layer(1, 8, 16, 16, 5, 5)], ["forward", "grad_input"], repeats=2, budget=0.1)
        >>> [case.pass_label for case in result.cases]
        ['forward', 'input gradient']
        >>> result.cases[0].ours.calls >= 2
        True
    """
    place = resolve_device(device)
    _check(layers, directions, place, dtype, threads, isa, repeats)
    if place.type != "cpu":
        return measure_on_gpu(layers, directions, place, dtype=dtype, repeats=repeats, budget=budget, progress=progress)
    kind, before = getattr(torch, CPU_DTYPES[dtype]), os.getloadavg()[0]
    with _threads(threads), _forced_isa(isa), torch.inference_mode():
        error = describe_machine()["error"]
        if error is not None:
            raise BackendError(error)
        work = list(itertools.product(layers, directions))
        for layer, direction in work:
            # Raise now, not after some timings, if a forced method does not support a layer.
            planned_method(layer.shape, layer.kernel, kind, direction)  # type: ignore[arg-type]
        used = torch.get_num_threads()
        peak = measure_fma_peak(used, isa)
        cases = tuple(
            _measure_case(layer, direction, kind, repeats, budget, everything, accuracy)
            for layer, direction in progress_bar(work, desc="Timing", unit="case", disable=not progress)
        )
        info = native_info()
    machine = Machine(
        cpu=describe_machine()["cpu"],
        threads=used,
        load=(before, os.getloadavg()[0]),
        fma_peak=peak,
        isa=info.isa if isa is None else isa,
        compiler=info.compiler,
        torch_capability=torch.backends.cpu.get_cpu_capability(),
    )
    return SpeedResult(cases, machine, dtype, repeats)


def _check(
    layers: Sequence[Layer],
    directions: Sequence[str],
    device: torch.device,
    dtype: str,
    threads: int | None,
    isa: str | None,
    repeats: int,
) -> None:
    if device.type not in ("cpu", "cuda"):
        raise BackendError(
            f"Convolutions cannot be timed on device {device}. They are timed on a CPU or on an NVIDIA GPU. "
            "Use cpu or cuda."
        )
    if device.type != "cpu" and not (threads is None and isa is None):
        raise InvalidInputError(
            f"threads and isa do not apply to device {device}. They are settings of the variants of a CPU. Omit them, "
            "or use device cpu."
        )
    for name, value, known in [
        *(("pass", direction, PASSES) for direction in directions),
        ("dtype", dtype, tuple(CPU_DTYPES if device.type == "cpu" else GPU_DTYPES)),
        ("instruction set", isa or "portable", INSTRUCTION_SETS),
    ]:
        check_choice(name, value, known)
    if not isinstance(layers, Sequence) or not all(isinstance(layer, Layer) for layer in layers):
        raise InvalidInputError(
            f"Layers cannot be given as {layers!r}. Expected a sequence of replk_probe.bench.Layer. "
            "Give for instance [Layer(1, 256, 64, 64, 31, 31)]."
        )
    if not layers or not directions:
        raise InvalidInputError("There is nothing to time. Give at least one layer and one pass.")
    for layer in layers if device.type == "cpu" else ():
        padded = layer.n * layer.c * (layer.h + layer.kh) * (layer.w + layer.kw)
        needed, there = 4 * (_TENSORS * padded + 6 * layer.c * layer.kh * layer.kw), _memory()
        if there is not None and needed > there:
            raise InvalidInputError(
                f"Layer {layer.label} cannot be timed. Its variants need about {needed / 1e9:.0f} GB of memory, but "
                f"this machine has {there / 1e9:.0f} GB. Time fewer images or channels, or a smaller kernel."
            )
    if repeats < 1 or (threads is not None and threads < 1):
        raise InvalidInputError(
            f"{repeats} repeats on {threads} threads cannot be measured. Both numbers must be at least 1. "
            "Give larger numbers."
        )


def _measure_case(
    layer: Layer, direction: str, dtype: torch.dtype, repeats: int, budget: float, everything: bool, accuracy: bool
) -> SpeedCase:
    operands = Operands.draw(layer, dtype)
    calls = our_variants(direction, operands)
    left_out = []
    for name, call in torch_variants(direction, operands).items():
        expected = 0.0 if everything else _expected_seconds(direction, name, operands, layer)
        if expected > _LONGEST_CALL * budget:
            left_out.append(Timing(name, None, None, 0, None, f"left out: about {expected:.0f} s a call"))
        else:
            calls[name] = call
    # The first call computes spectra and plans and allocates memory.
    outputs = {name: call() for name, call in calls.items()}
    turns = take_turns(calls, lambda name, count: [_seconds(calls[name]) for _ in range(count)], repeats, budget)
    errors = relative_errors(direction, operands, outputs) if accuracy else {}
    timings = [timing_of(name, found, repeats, error=errors.get(name)) for name, found in turns.items()]
    plan, last = (
        planned_method(layer.shape, layer.kernel, dtype, direction, channels_last=is_last)  # type: ignore[arg-type]
        for is_last in (False, True)
    )
    found = (*timings, *left_out)
    return SpeedCase(layer, direction, found, plan.method, plan.isa, plan.tile, plan.workspace_bytes, last.method)


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _expected_seconds(direction: str, name: str, operands: Operands, layer: Layer) -> float:
    """Estimated time of one call, from a call with a part of the operands; 0 if the layer is small."""
    if layer.flops < 4 * _PROBE_FLOPS:
        return 0.0
    # Reduce first the images, then the channels, then the rows.
    wanted, sizes = layer.flops / _PROBE_FLOPS, []
    for size in layer.shape[:3]:
        sizes.append(max(1, min(size, int(size / wanted))))
        wanted /= size / sizes[-1]
    call = torch_variants(direction, operands.first(*sizes))[name]
    return _seconds(call) * math.prod(layer.shape[:3]) / math.prod(sizes)


def _memory() -> int | None:
    """Main memory in bytes, or None if it is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _forced_isa(isa: str | None) -> Iterator[None]:
    """Force an instruction set through the environment variable that users set."""
    variable = "REPLK_PROBE_ISA"
    if isa is None:
        yield
        return
    available = list(dict.fromkeys(kernel.isa for kernel in native_kernels()))
    if isa not in available:
        raise BackendError(
            f"Instruction set {isa} cannot be timed. This machine, or the library as it was built, supports "
            f"{' and '.join(available) + ' only' if available else 'no native kernels'}. See 'replk-probe info'."
        )
    before = os.environ.get(variable)
    os.environ[variable] = isa
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
