"""Tuning: the problems of a network are measured, and the best methods are used from then on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.runtime.nested import instances_in

from .._loader import find_library
from ..methods.interface import ConvProblem
from . import choices, choosing
from .choosing import BUDGET, Choice, choose, is_worthwhile
from .device import Device, TorchDevice
from .store import default_folder, read_choice, write_choice

# Choices of this process that were measured or checked in it, by environment and problem. Those that were made while
# memory was short are left out: there may be more of it at the next measurement.
_known: dict[tuple[tuple[tuple[str, str], ...], ConvProblem], Choice] = {}


@dataclass(frozen=True)
class TunedConvolution:
    """The choice for one convolution.

    Attributes:
        problem: Direction, dtype, memory format and sizes, such as
            ``"forward float32 nchw 64x384x32x32 31x31"``; the number of images stands for a range.
        method: Name of the chosen method.
        default: Name of the method that is used without tuning.
        reason: Why it was chosen, a clause without a period.
        seconds: Median time of a call by method, of those that were timed.
        refused: Why a method was not timed, by method.

    Examples:
        >>> from replk_probe.ops import TunedConvolution
        >>> problem, seconds = "forward float32 nchw 64x384x32x32 31x31", {"aten": 0.010, "torch-fft": 0.004}
        >>> tuned = TunedConvolution(problem, "torch-fft", "aten", "it is the fastest", seconds, refused={})
        >>> tuned.gain
        2.5
    """

    problem: str
    method: str
    default: str
    reason: str
    seconds: Mapping[str, float]
    refused: Mapping[str, str]

    @property
    def gain(self) -> float | None:
        """Time of the default divided by that of the chosen method, or None if one of them was not timed."""
        times = self.seconds.get(self.default), self.seconds.get(self.method)
        return None if times[0] is None or times[1] is None else times[0] / times[1]


@dataclass(frozen=True)
class TuningResult:
    """The choices for the convolutions of a network on a device.

    Attributes:
        device: The device, such as ``"cuda:0"``.
        convolutions: One choice for each problem, in the order of their first calls.
        reason: Why there are none, as a sentence; None if there are any.
    """

    device: str
    convolutions: tuple[TunedConvolution, ...]
    reason: str | None = None

    @property
    def methods(self) -> dict[str, str]:
        """The method of each problem for which another one than the default was chosen."""
        return {one.problem: one.method for one in self.convolutions if one.method != one.default}


def tune(
    module: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    *,
    device: str | torch.device | None = None,
    force: bool = False,
    budget: float = BUDGET,
) -> TuningResult:
    """Find the fastest methods for the depthwise convolutions of a network, and use them from now on.

    The network is run once, and its convolutions of at least 7x7 and 2^27 multiply-adds, on a CPU 2^20, are measured:
    every method, including torch's own, is compared with the answer in float64 and then timed. Another method than the
    default is chosen only if it takes at most 0.9 of the time. Choices are stored in the folder ``tuning`` of the cache
    (``REPLK_PROBE_CACHE``) for this device and these versions of the software; in later processes they are checked
    again, but not timed. Operator calls never measure anything: they look the choice up.

    On a CPU the native library chooses by a table, and nothing is measured unless ``force`` is set. In processes
    of torchrun the first one measures for all of them, and all have to call this function.

    Args:
        module: The network, or a layer. Its parameters, buffers and gradients are not changed. The backward pass is
            run as well, unless gradients are disabled.
        example_input: Input of the network, or several as a sequence: one batch as it will be used.
        device: Device to tune for; the network and the input are copied to it if they are on another one. None for the
            device of the input.
        force: Whether to measure although a choice is stored, and on a CPU.
        budget: Seconds for one convolution, a positive number.

    Returns:
        The choices. There are none on a CPU unless ``force`` is set, if the environment forces a method, if the network
        calls no depthwise convolution of this package, or if none is large enough; :attr:`TuningResult.reason` says
        which applies.

    Raises:
        InvalidInputError: An argument has the wrong type or value.
        BackendError: The device is not available, or convolutions on devices of its kind are not tuned.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import DepthwiseConv2d, tune
        >>> network = torch.nn.Sequential(DepthwiseConv2d(8, 8, 13, padding=6, groups=8), torch.nn.ReLU())
        >>> result = tune(network, torch.rand(1, 8, 32, 32))
        >>> result.device, result.convolutions  # nothing is measured on a CPU
        ('cpu', ())
    """
    from replk_probe.runtime.checks import check_bool
    from replk_probe.runtime.devices import resolve_device

    if not isinstance(module, nn.Module):
        raise InvalidInputError(
            f"module is of type {type(module).__name__}. Only the convolutions of a network can be tuned. "
            "Pass an nn.Module."
        )
    check_bool("force", force)
    is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not (is_number and 0 < budget < math.inf):
        raise InvalidInputError(
            f"The option budget cannot be {budget!r}. It must be a positive number of seconds. Use {BUDGET:g}, for "
            "example."
        )
    given = [example_input] if isinstance(example_input, Tensor) else example_input
    inputs = [*given] if isinstance(given, Sequence) else []
    if not inputs or not all(isinstance(one, Tensor) for one in inputs):
        raise InvalidInputError(
            "example_input has no tensors. The network is run once to find its convolutions. "
            "Pass one batch, or a sequence of tensors."
        )
    place = inputs[0].device if device is None else resolve_device(device)
    if place.type not in ("cpu", "cuda"):
        raise BackendError(
            f"The device is {place}. Convolutions are tuned on an NVIDIA GPU and on a CPU only. Leave out the tuning."
        )
    if any(tensor.device != place for tensor in (*module.parameters(), *module.buffers(), *inputs)):
        module, inputs = copy.deepcopy(module).to(place), [one.to(place) for one in inputs]
    tunable = TorchDevice(place, prepared=not module.training)
    if place.type == "cpu" and not force:
        return TuningResult(
            tunable.label, (), f"On a CPU, convolutions are measured only with force. {_usual_choice()}"
        )
    if tunable.forced is not None:
        return TuningResult(tunable.label, (), f"{tunable.forced}.")
    with choices.collecting() as problems:
        _run_once(module, inputs)
    found = tune_together(tunable, problems, folder=default_folder(), force=force, budget=budget)
    methods = {
        (tunable.label, problem): None if choice.method == tunable.default else tunable.method(choice.method, problem)
        for problem, choice in found.items()
    }
    choices.install({key: None if isinstance(method, str) else method for key, method in methods.items()})
    convolutions = tuple(described(problem, choice) for problem, choice in found.items())
    return TuningResult(tunable.label, convolutions, None if convolutions else _too_small(problems, place.type))


def _usual_choice() -> str:
    """What chooses a method on a CPU."""
    if isinstance(find_library(), str):
        return "The native library is not available ('replk-probe info' names the reason), and PyTorch is used."
    return "The native library chooses a method by a table."


def _too_small(problems: Iterable[ConvProblem], device_type: str) -> str:
    """Why no problem of a network is measured."""
    found = list(problems)
    if not found:
        return (
            "The network calls no depthwise convolution of replk_probe.ops, which computes those with stride 1, 'same' "
            "padding and odd kernels."
        )
    widest = max(found, key=lambda one: one.kh * one.kw)
    if widest.kh * widest.kw < choosing.LEAST_TAPS:
        side = math.isqrt(choosing.LEAST_TAPS)
        return (
            f"Depthwise convolutions are measured from {side}x{side}. The largest kernel of the network is "
            f"{widest.kh}x{widest.kw}."
        )
    most = max(one.multiply_adds for one in found if one.kh * one.kw >= choosing.LEAST_TAPS)
    least = choosing.LEAST_MULTIPLY_ADDS[device_type]
    return (
        f"Depthwise convolutions are measured from 2^{least.bit_length() - 1} ({least / 1e6:.3g} million) "
        f"multiply-adds. The largest one of the network has {most / 1e6:.3g} million. Use larger images or a larger "
        "batch."
    )


def described(problem: ConvProblem, choice: Choice) -> TunedConvolution:
    """A choice as users see it."""
    return TunedConvolution(
        str(problem), choice.method, choice.default, choice.reason, dict(choice.seconds), dict(choice.refused)
    )


def tune_together(
    device: Device,
    problems: Iterable[ConvProblem],
    *,
    folder: Path,
    force: bool = False,
    budget: float = BUDGET,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[ConvProblem, Choice]:
    """:func:`tune_problems` for all processes of torchrun, in the first one; each has to call this function."""
    from replk_probe.runtime.torchrun import gathered, this_process, together

    process = this_process()
    if process is None:
        return tune_problems(device, problems, folder=folder, force=force, budget=budget, clock=clock)
    every = [ConvProblem(**one) for own in gathered([asdict(problem) for problem in problems]) for one in own]
    found: dict[ConvProblem, Choice] = {}
    with together():
        if process.rank == 0:
            found = tune_problems(device, every, folder=folder, force=force, budget=budget, clock=clock)
    sent = gathered([[asdict(problem), asdict(choice)] for problem, choice in found.items()])[0]
    return {ConvProblem(**problem): Choice(**choice) for problem, choice in sent}


def tune_problems(
    device: Device,
    problems: Iterable[ConvProblem],
    *,
    folder: Path,
    force: bool = False,
    budget: float = BUDGET,
    clock: Callable[[], float] = time.perf_counter,
    progress: bool = False,
) -> dict[ConvProblem, Choice]:
    """The choice for each problem that is large enough, by its bucket: known in this process, stored, or measured.

    A stored choice is checked once in a process. Choices are stored in ``folder``, if it can be written to; those that
    do not last, because memory was short, hold for the returned problems only. Nothing is
    chosen if the environment forces a method or an instruction set: it would not hold for the next process.
    """
    from replk_probe.runtime.progress import progress as progress_bar

    found: dict[ConvProblem, Choice] = {}
    if device.forced is not None:
        _warn(f"No convolution was measured: {device.forced}.")
        return {}
    buckets = worthwhile(problems, _type_of(device))
    environment = device.environment if buckets else {}
    bar: Any = progress_bar(buckets, desc="Tuning", unit="convolution", disable=not progress)
    for problem in bar:
        key = (tuple(sorted(environment.items())), problem)
        choice = None if force else _known.get(key)
        if choice is None:
            choice = None if force else _stored(device, environment, problem, folder)
            if choice is None:
                choice = choose(device, problem, clock=clock, budget=budget)
                if choice.lasts:
                    write_choice(folder, environment, problem, choice)
            _warn(choice.warning)
        found[problem] = choice
        if choice.lasts:
            _known[key] = choice
    return found


def worthwhile(problems: Iterable[ConvProblem], device_type: str) -> list[ConvProblem]:
    """The buckets of the problems that are large enough to be measured on a type of device, each once."""
    return list(dict.fromkeys(problem.bucket for problem in problems if is_worthwhile(problem, device_type)))


def _type_of(device: Device) -> str:
    return device.label.partition(":")[0]


def unmeasured(device: Device, problems: Iterable[ConvProblem], folder: Path) -> list[ConvProblem]:
    """The buckets that would have to be measured: no choice is known or stored."""
    buckets = worthwhile(problems, _type_of(device)) if device.forced is None else []
    environment = device.environment if buckets else {}
    known = tuple(sorted(environment.items()))
    return [one for one in buckets if (known, one) not in _known and read_choice(folder, environment, one) is None]


def _stored(device: Device, environment: Mapping[str, str], problem: ConvProblem, folder: Path) -> Choice | None:
    """The stored choice, if its method is still there and right; a card may fail."""
    stored = read_choice(folder, environment, problem)
    if stored is None:
        return None
    choice = stored.choice
    try:
        is_right = device.check(choice.method, problem) <= 1
    except Exception:
        is_right = False
    return choice if is_right else None


def _warn(text: str | None) -> None:
    import warnings

    if text is not None:
        warnings.warn(text, choices.TuningWarning, stacklevel=3)


def _run_once(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Run a network forward and, unless gradients are disabled, backward, without any lasting effect."""
    device = inputs[0].device
    with _unchanged(module, device):
        if not torch.is_grad_enabled():
            module(*inputs)
            return
        given = [one.detach().clone().requires_grad_(one.is_floating_point()) for one in inputs]
        outputs = [one for one in instances_in(Tensor, module(*given)) if one.requires_grad and one.is_floating_point()]
        wanted = [one for one in (*given, *module.parameters()) if one.requires_grad]
        if outputs and wanted:
            torch.autograd.grad([one.sum() for one in outputs], wanted, allow_unused=True)


@contextmanager
def _unchanged(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the buffers of a network, such as running statistics, and the state of the random generators."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)


def parse_problem(text: str) -> ConvProblem:
    """The problem of a text like that of ``str(problem)``.

    Raises:
        InvalidInputError: The text is not that of a problem.
    """
    try:
        direction, dtype, layout, sizes, kernel = text.split()
        numbers = [int(number) for number in (*sizes.split("x"), *kernel.split("x"))]
        found = ConvProblem(direction, dtype, layout == "nhwc", *numbers)  # type: ignore[arg-type]
        found.torch_dtype  # noqa: B018 (an unknown one raises an error)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{text!r} is not a convolution. A text like 'forward float32 nchw 1x64x32x32 13x13' is required. "
            "Start the run again without resume."
        ) from error
    return found
