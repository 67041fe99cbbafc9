"""What the tuner needs of a device: its description, the methods on it, a check of one, and times of its calls."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from replk_probe._version import __version__

from .._choice import ISA_VARIABLE, METHOD_VARIABLE, forced
from .._info import describe_machine, native_info
from ..methods.interface import ConvMethod, ConvProblem
from ..methods.native import NativeMethod
from ..methods.registry import DEFAULTS, methods_on, reason_of
from . import oracle

DRIVER = Path("/proc/driver/nvidia/version")
_MOST_CHANNELS, _MOST_IMAGES = 4, 2
# Multiply-adds of the answer in float64 on a CPU, where more of them would take most of the budget.
_MOST_ON_CPU = 2**27
# Bytes that are overwritten before each timed call on a CPU: more than the second-level caches of all cores.
_EVICTING = 64 << 20
_TRANSFORMS = ("torch-fft",)


# The first tensor, the second one, and a bias or None.
_Operands = tuple[Tensor, Tensor, Tensor | None]


class Device(Protocol):
    """A device, or a stand-in for one."""

    label: str  # as torch names it, such as "cuda:0"
    default: str  # the method of convolutions for which nothing was chosen

    @property
    def forced(self) -> str | None:
        """What the environment forces, a clause without a period, or None if methods can be chosen."""

    @property
    def environment(self) -> dict[str, str]:
        """Everything except the problem that affects which method is fastest; equal environments share choices."""

    @property
    def library(self) -> str:
        """Name and version of the library behind the default, for messages."""

    def method(self, name: str, problem: ConvProblem) -> ConvMethod | str:
        """A method that takes a problem, or why it does not."""

    def methods(self, problem: ConvProblem) -> dict[str, str | None]:
        """Names of all methods, the default first, with the reason why one does not take the problem."""

    def check(self, name: str, problem: ConvProblem) -> float:
        """Largest error of a method, as a share of its bound; NaN if a result is not finite."""

    def times(self, name: str, problem: ConvProblem, repeats: int) -> list[float]:
        """Seconds of each of several calls of a method."""

    def workspace_bytes(self, name: str, problem: ConvProblem) -> int:
        """Memory of a call beyond its arguments and its result, in bytes."""

    def free_bytes(self) -> int:
        """Free memory, in bytes."""

    def synchronize(self) -> None:
        """Wait until everything is computed."""


class TorchDevice:
    """An NVIDIA GPU or the CPU of this machine.

    Args:
        device: The device.
        prepared: Whether weights are prepared once for many calls, on a CPU.
        rotated_bytes: Size of the arguments among which timed calls take turns, so that they are not in a cache.
    """

    def __init__(self, device: torch.device, *, prepared: bool = True, rotated_bytes: int = 0) -> None:  # noqa: D107
        self._device = device
        self._prepared = prepared
        self._methods = methods_on(device, prepared=prepared)
        self._generator = torch.Generator(device).manual_seed(secrets.randbits(48))
        self._rotated_bytes = rotated_bytes
        # Of the problem that is being timed; drawn once, because it can be large.
        self._data: tuple[ConvProblem, list[_Operands]] | None = None
        self.label = str(device)
        self.default = DEFAULTS[device.type]

    @property
    def forced(self) -> str | None:
        """``"REPLK_PROBE_METHOD=aten forces a method"``, or None; instruction sets are those of a CPU."""
        isa, method = forced()
        if method not in (None, "", "auto"):
            return f"{METHOD_VARIABLE}={method} forces a method"
        if self._device.type == "cpu" and isa not in (None, "", "auto"):
            return f"{ISA_VARIABLE}={isa} forces an instruction set"
        return None

    @property
    def environment(self) -> dict[str, str]:
        """Card or processor, versions of the software and the settings that select algorithms."""
        versions = {"torch": torch.__version__, "replk-probe": __version__}
        if self._device.type == "cpu":
            return versions | {
                "device": describe_machine()["cpu"],
                "native library": f"{native_info().compiler}, {native_info().best_isa}",
                "instruction set of torch": torch.backends.cpu.get_cpu_capability(),
                "threads": str(torch.get_num_threads()),
                "weights": "prepared" if self._prepared else "not prepared",
            }
        cudnn = torch.backends.cudnn
        major, minor = torch.cuda.get_device_capability(self._device)
        return versions | {
            "device": torch.cuda.get_device_name(self._device),
            "capability": f"{major}.{minor}",
            "driver": driver_version() or "unknown",
            "CUDA": str(torch.version.cuda),
            "cuDNN": cudnn_version(),
            "Triton": (None if triton_fault() else triton_version()) or "none",
            "TF32": "allowed" if allows_tf32() else "not allowed",
            "algorithms": ", ".join(
                name
                for name, is_set in (
                    ("deterministic", cudnn.deterministic or torch.are_deterministic_algorithms_enabled()),
                    ("benchmark", cudnn.benchmark),
                )
                if is_set
            )
            or "any",
        }

    @property
    def library(self) -> str:
        """``"cuDNN 9.19.0"``, or the native library on a CPU."""
        return f"cuDNN {cudnn_version()}" if self._device.type == "cuda" else "the native library"

    def method(self, name: str, problem: ConvProblem) -> ConvMethod | str:
        """A method that takes a problem, or why it does not."""
        found = self._methods.get(name, "no method has this name")
        if isinstance(found, str):
            return found
        variable = forced()[1]
        if variable not in (None, "", "auto", name):
            return f"{METHOD_VARIABLE}={variable} forces another one"
        return found.refusal(problem, self._device) or found

    def methods(self, problem: ConvProblem) -> dict[str, str | None]:
        """Names of all methods, the default first, with the reason why one does not take the problem."""
        found = {name: self.method(name, problem) for name in self._methods}
        reasons = {name: method if isinstance(method, str) else None for name, method in found.items()}
        default = found[self.default]
        if isinstance(default, NativeMethod):
            # Timing the same method twice would compare noise.
            same = default.planned_name(problem)
            if same in reasons and reasons[same] is None:
                reasons[same] = f"{default.name} computes this convolution by {same}"
        return reasons

    def workspace_bytes(self, name: str, problem: ConvProblem) -> int:
        """Memory of a call beyond its arguments and its result, in bytes."""
        return self._usable(name, problem).workspace_bytes(problem)

    def free_bytes(self) -> int:
        """Free memory, with what torch keeps for reuse, in bytes."""
        if self._device.type == "cpu":
            from replk_probe.runtime.devices import memory_of

            return memory_of(self._device)
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0] + kept)

    def synchronize(self) -> None:
        """Wait until everything is computed."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def check(self, name: str, problem: ConvProblem) -> float:
        """Compare a method with the answer in float64 for new random values, before and after another problem.

        The other problem has another kernel and another plane. Memory that is free is filled with NaN before each
        call, so that a value that is not written is found.
        """
        method = self._usable(name, problem)
        other = _another(problem)
        problems = [problem, *([other] if method.refusal(other, self._device) is None else []), problem]
        with torch.no_grad(), self._guard():
            shares = [self._share(method, one, plain=index > 0) for index, one in enumerate(problems)]
        return next((share for share in shares if not share <= 1), max(shares))

    def times(self, name: str, problem: ConvProblem, repeats: int) -> list[float]:
        """Seconds of each of several calls: by events on a GPU, by the clock on a CPU."""
        method = self._usable(name, problem)
        with torch.no_grad(), self._guard():
            if self._data is None or self._data[0] != problem:
                self._data = None
                self._data = problem, self._draw_sets(problem)
            calls = [(self._call(method, problem, *one, relu=False), one[0]) for one in self._data[1]]
            turns = itertools.islice(itertools.cycle(calls), repeats)
            if self._device.type == "cpu":
                evicting = torch.empty(_EVICTING, dtype=torch.uint8)
                return [_seconds_in_a_network(call, first, evicting) for call, first in turns]
            event: Any = torch.cuda.Event
            pairs = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(repeats)]
            for (begin, end), (call, _) in zip(pairs, turns, strict=True):
                begin.record()
                call()
                end.record()
            self.synchronize()
            return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]

    def _usable(self, name: str, problem: ConvProblem) -> ConvMethod:
        found = self.method(name, problem)
        if isinstance(found, str):
            raise RuntimeError(found)
        return found

    def _guard(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _draw_sets(self, problem: ConvProblem) -> list[_Operands]:
        """As many sets of arguments as calls take turns among."""
        first = self._draw(problem)
        size = sum(tensor.nbytes for tensor in first if tensor is not None)
        return [first, *(self._draw(problem) for _ in range(size, self._rotated_bytes, size))]

    def _draw(self, problem: ConvProblem) -> _Operands:
        """The first tensor, the second one and a bias, with random values."""
        dtype, layout = problem.torch_dtype, torch.channels_last if problem.channels_last else torch.contiguous_format
        planes = (problem.n, problem.c, problem.h, problem.w)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=self._generator, device=self._device, dtype=dtype)

        first = random(*planes).contiguous(memory_format=layout)
        if problem.direction == "grad_weight":
            return first, random(*planes).contiguous(memory_format=layout), None
        bias = random(problem.c) if problem.direction == "forward" else None
        return first, random(problem.c, 1, problem.kh, problem.kw), bias

    def _call(
        self,
        method: ConvMethod,
        problem: ConvProblem,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        *,
        relu: bool,
    ) -> Callable[[], Tensor]:
        if problem.direction == "forward":
            return lambda: method.forward(first, second, bias, relu)
        if problem.direction == "grad_input":
            return lambda: method.grad_input(first, second)
        return lambda: method.grad_weight(first, second, problem.kh, problem.kw)

    def _share(self, method: ConvMethod, problem: ConvProblem, *, plain: bool) -> float:
        """Error of one call as a share of its bound; ``plain`` leaves out the bias and the ReLU."""
        first, second, bias = self._draw(problem)
        bias = None if plain else bias
        relu = bias is not None
        sampled = _Sample(problem, on_cpu=self._device.type == "cpu")
        if problem.direction == "grad_weight":  # a sum over the sampled images: the others do not contribute
            keep = torch.zeros(problem.n, dtype=second.dtype, device=self._device)
            keep[sampled.images] = 1
            second = second * keep[:, None, None, None]
        is_weight = problem.direction == "grad_weight"
        shape = (problem.c, 1, problem.kh, problem.kw) if is_weight else first.shape
        torch.full(shape, torch.nan, dtype=first.dtype, device=self._device)  # freed at once, for the result to use
        found = self._call(method, problem, first, second, bias, relu=relu)()
        want, products, norms, roundings = sampled.answer(first, second, bias)
        result = found[sampled.channels] if is_weight else found[sampled.images][:, sampled.channels]
        transform = method.uses_transforms(problem) if isinstance(method, NativeMethod) else method.name in _TRANSFORMS
        tf32 = self._device.type == "cuda" and allows_tf32() and method.name.startswith("aten")
        return oracle.share_of_bound(
            result,
            want.relu() if relu else want,
            products,
            norms,
            unit=oracle.unit_of(problem.torch_dtype, tf32=tf32),
            transform=transform,
            roundings=roundings,
        )


class _Sample:
    """The images and channels of a problem whose answer is computed."""

    def __init__(self, problem: ConvProblem, *, on_cpu: bool) -> None:
        self.problem = problem
        most = _MOST_CHANNELS * _MOST_IMAGES
        if on_cpu:
            most = max(1, min(most, _MOST_ON_CPU // max(1, problem.h * problem.w * problem.kh * problem.kw)))
        images = min(problem.n, _MOST_IMAGES, most)
        channels = min(problem.c, _MOST_CHANNELS, most // images)
        # The first and the last of each, and others that differ from call to call.
        self.images = _spread(problem.n, images)
        self.channels = _spread(problem.c, channels)

    def answer(self, first: Tensor, second: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The answer in float64, sums of absolute products, products of norms, and sums of rounded values."""
        problem, channels = self.problem, self.channels
        x = first[self.images][:, channels].double()
        if problem.direction == "grad_weight":
            g = second[self.images][:, channels].double()
            want = oracle.grad_weight(x, g, problem.kh, problem.kw)
            products = oracle.grad_weight(x.abs(), g.abs(), problem.kh, problem.kw)
            norms = (_norms(x) * _norms(g)).sum(0).view(-1, 1, 1, 1)
            return want, products, norms, want.abs()
        w = second[channels].double()
        w = w.flip(2, 3) if problem.direction == "grad_input" else w
        want, products = oracle.convolve(x, w), oracle.convolve(x.abs(), w.abs())
        norms = (_norms(x) * _norms(w)[:, 0])[:, :, None, None]
        if bias is None:
            return want, products, norms, want.abs()
        added = bias[channels].double().view(1, -1, 1, 1)
        # Torch rounds before and after it adds the bias.
        return want + added, products + added.abs(), norms + added.abs(), want.abs() + (want + added).abs()


def _norms(planes: Tensor) -> Tensor:
    return planes.square().sum((2, 3)).sqrt()


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` different indices: the first, the last and random ones."""
    found = list(dict.fromkeys([count - 1, 0]))[:most]
    while len(found) < min(most, count):
        index = secrets.randbelow(count)
        if index not in found:
            found.append(index)
    return found


def _another(problem: ConvProblem) -> ConvProblem:
    """A problem with another kernel and another plane."""

    def smaller(size: int) -> int:
        return size - 2 if size > 3 else size + 2

    return replace(
        problem,
        n=min(problem.n, _MOST_IMAGES),
        h=smaller(problem.h),
        w=smaller(problem.w),
        kh=smaller(problem.kh),
        kw=smaller(problem.kw),
    )


def _seconds_in_a_network(call: Callable[[], object], first: Tensor, evicting: Tensor) -> float:
    """Seconds of a call on a CPU in the state of the caches that a network leaves.

    The other layers evict the weight, which is several times larger once it is prepared for transforms, and the layer
    before has just written the first tensor.
    """
    evicting.fill_(0)
    first.neg_()
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def allows_tf32() -> bool:
    """Whether the user, or torch's default, allows convolutions of float32 tensors to round factors to TF32."""
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def cudnn_version() -> str:
    """Version of cuDNN, such as ``"9.19.0"``, or ``"none"``."""
    number = torch.backends.cudnn.version() if torch.version.cuda else None  # type: ignore[no-untyped-call]
    if number is None:
        return "none"
    major, minor = divmod(int(number), 10_000) if number >= 90_000 else divmod(int(number), 1000)
    return f"{major}.{minor // 100}.{minor % 100}"


def triton_version() -> str | None:
    """Version of Triton, or None if it is not installed."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None


def triton_fault() -> str | None:
    """Why Triton, or the kernels written in it, cannot be imported although it is installed, or None; imports both."""
    if triton_version() is None:
        return None
    try:
        import replk_probe.ops.methods.toeplitz_kernels  # noqa: F401
    except Exception as error:  # a library that is missing, or another version of Python
        return reason_of(error)
    return None


def driver_version(path: Path = DRIVER) -> str | None:
    """Version of the NVIDIA driver, or None if it is not known."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", path.read_text(encoding="utf-8"))
    except OSError:  # not Linux
        return None
    return found and found[0]
