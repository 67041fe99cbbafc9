"""Which way a problem is computed: what the native library covers, what the environment forces, what it plans."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError

from . import _loader
from ._shapes import check_tensors

Direction = Literal["forward", "grad_input", "grad_weight"]
_DIRECTIONS: dict[Direction, int] = {
    "forward": _loader.FORWARD,
    "grad_input": _loader.GRAD_INPUT,
    "grad_weight": _loader.GRAD_WEIGHT,
}

ISA_VARIABLE, METHOD_VARIABLE = "REPLK_PROBE_ISA", "REPLK_PROBE_METHOD"
# Computed in another type, with one rounding of the result. Torch's own float16 convolution of (1,128,64,64) with 31x31
# takes 10 s, in channels_last 4 s; that of (1,256,32,32) with 13x13 takes 66 ms. This way they take 1.0 and 0.6 ms.
COMPUTED_IN = {torch.float16: torch.float32}

# Taps from which it pays to turn a channels-last tensor into planes, and the result back. Torch's convolution of that
# layout is ahead up to 7x7 on planes of 14 to 256 (1,1024,28,28 with 3x3: 0.35 ms to 1.2 ms), and level or behind at
# 9x9; its weight gradient is quick for 3x3 alone (0.34 ms; 5x5 takes 25 ms). On larger planes turning takes longer than
# sums of 9x9 (1,80,112,112: 2.4 ms to 3.9 ms), not of 11x11 (5.1 ms to 3.5 ms).
_IN_PLANES_FROM = {_loader.FORWARD: 9 * 9, _loader.GRAD_INPUT: 9 * 9, _loader.GRAD_WEIGHT: 4 * 4}
_IN_LARGE_PLANES_FROM, _SMALL_PLANE = 11 * 11, 40 * 40

# Instruction set and method that the environment forces, as written there; None for nothing.
Forced = tuple[str | None, str | None]


def forced() -> Forced:
    """The present values of ``REPLK_PROBE_ISA`` and ``REPLK_PROBE_METHOD``: read anew by every call."""
    return os.environ.get(ISA_VARIABLE), os.environ.get(METHOD_VARIABLE)


def forces_method() -> bool:
    """Whether the environment names one method for every problem."""
    return os.environ.get(METHOD_VARIABLE) not in (None, "", "auto")


@dataclass(frozen=True)
class PlannedMethod:
    """How one problem is computed.

    Attributes:
        method: ``direct``, ``fft``, ``lanes``, ``lanes-fft``, ``reference``, or ``aten`` for torch's own convolution.
        isa: ``portable``, ``avx2`` or ``avx512``; None for ``aten``.
        tile: Lengths of the transforms of ``fft`` and ``lanes-fft``, (0, 0) elsewhere.
        workspace_bytes: Scratch memory of a call, all threads together.
        packed_bytes: Memory of a prepared weight; 0 where there is nothing to prepare.
        threads: At most so many take part.
        reason: Why it is ``aten``; else None.
    """

    method: str
    isa: str | None = None
    tile: tuple[int, int] = (0, 0)
    workspace_bytes: int = 0
    packed_bytes: int = 0
    threads: int = 1
    reason: str | None = None


def unsupported_reason(
    input: Tensor,
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int | None = None,
) -> str | None:
    """Why the native kernels do not compute a convolution, or None where they do.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[C, 1, Kh, Kw]``.
        stride: Of ``F.conv2d``, like the following.
        padding: None means half the kernel, "same".
        dilation: Between taps.
        groups: None means C.

    Returns:
        One sentence without a full stop, such as ``"stride is (2, 2) and only stride 1 is compiled"``, or None.

    Raises:
        InvalidInputError: Tensors are no tensors, or numbers no numbers.
    """
    check_tensors(input=input, weight=weight)
    if input.dim() != 4 or weight.dim() != 4:
        return f"input and weight have {input.dim()} and {weight.dim()} axes and only 4 and 4 are compiled"
    channels, kernel = input.shape[1], (weight.shape[2], weight.shape[3])
    if weight.shape[0] != channels or weight.shape[1] != 1 or groups not in (None, channels):
        shape = list(weight.shape)
        return f"weight is {shape} for {channels} channels and only one kernel per channel is compiled"
    if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        return f"weight is {list(weight.shape)} and only odd kernels are compiled"
    for name, value in (("stride", stride), ("dilation", dilation)):
        if _pair(name, value) != (1, 1):
            return f"{name} is {_pair(name, value)} and only {name} 1 is compiled"
    half = (kernel[0] // 2, kernel[1] // 2)
    if padding is not None and padding != "same" and (isinstance(padding, str) or _pair("padding", padding) != half):
        return f"padding is {padding!r} and only half the kernel, {half}, is compiled"
    return uncovered_tensors(input, weight)


def _pair(name: str, value: Any) -> tuple[int, ...]:
    """Rows and columns; one number stands for both, as in ``F.conv2d``."""
    numbers = _whole_numbers((value,) if isinstance(value, SupportsIndex) else value)
    if numbers is None or len(numbers) not in (1, 2):
        raise InvalidInputError(f"{name} is {value!r}. It has a number of rows and one of columns. Give one or two.")
    return numbers if len(numbers) == 2 else numbers * 2


def _whole_numbers(values: Any) -> tuple[int, ...] | None:
    """``values`` as integers, or None where they are something else."""
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        return None


def uncovered_tensors(*tensors: Tensor) -> str | None:
    """Why tensors of this kind go to torch whatever their sizes, or None."""
    first = tensors[0]
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"the device is {tensor.device} and only CPU kernels are compiled"
        if tensor.layout != torch.strided:
            return f"the layout is {tensor.layout} and only strided tensors are read"
    if any(tensor.dtype != first.dtype for tensor in tensors):
        return f"dtypes differ: {', '.join(str(tensor.dtype) for tensor in tensors)}"
    return uncovered(first.dtype)


def uncovered(dtype: torch.dtype) -> str | None:
    """Why tensors of a dtype go to torch on this machine, or None."""
    if not isinstance(dtype, torch.dtype):
        raise InvalidInputError(f"dtype is {dtype!r}. That is no dtype of torch. Give for instance torch.float32.")
    if dtype not in _loader.DTYPES and dtype not in COMPUTED_IN:
        return f"dtype is {dtype} and only float32, bfloat16 and float16 are computed natively"
    if forced()[1] == "aten":
        return f"{METHOD_VARIABLE}=aten forces torch's convolution"
    library = _loader.find_library()
    return f"the native library is not there. {library}" if isinstance(library, str) else None


def left_channels_last(direction: int, taps: int, pixels: int) -> str | None:
    """Why channels-last tensors are left to torch, in the layout that they have, or None where they are turned."""
    least = _IN_PLANES_FROM[direction]
    if direction != _loader.GRAD_WEIGHT and pixels > _SMALL_PLANE:
        least = _IN_LARGE_PLANES_FROM
    if taps >= least or forces_method():
        return None
    side = math.isqrt(least)
    return f"kernels below {side}x{side} are faster channels-last"


def planned_method(
    input_shape: Sequence[int],
    kernel_size: int | Sequence[int],
    dtype: torch.dtype = torch.float32,
    direction: Direction = "forward",
    *,
    channels_last: bool = False,
    prepared: bool = True,
    threads: int | None = None,
) -> PlannedMethod:
    """How a convolution of these sizes is computed on this machine, with the environment as it is.

    Args:
        input_shape: (N, C, H, W).
        kernel_size: Kh = Kw, or (Kh, Kw).
        dtype: Of all tensors; float16 is computed in float32.
        direction: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        channels_last: Whether that is the layout of the tensors.
        prepared: Whether the weight is prepared once for many calls, as in a module in eval mode.
        threads: At most; default ``torch.get_num_threads()``.

    Raises:
        InvalidInputError: An argument is of another kind, or has no such value.
        BackendError: The environment forces what cannot be done.
    """
    if direction not in tuple(_DIRECTIONS):
        names = ", ".join(map(repr, _DIRECTIONS))
        raise InvalidInputError(f"Unknown direction {direction!r}. There are {names}. Use one of them.")
    shape, kernel = _whole_numbers(input_shape), _pair("kernel_size", kernel_size)
    if shape is None or len(shape) != 4 or min(shape) < 0:
        raise InvalidInputError(
            f"input_shape is {input_shape!r}. It has four sizes, none of them negative. Give (N, C, H, W)."
        )
    if min(kernel) < 1:
        raise InvalidInputError(f"kernel_size is {kernel_size!r}. A kernel has taps. Use sizes from 1 on.")
    if threads is not None and (not isinstance(threads, SupportsIndex) or operator.index(threads) < 1):
        raise InvalidInputError(f"threads is {threads!r}. At least one computes. Give a number from 1 on, or None.")
    reason = uncovered(dtype)
    if any(size % 2 == 0 for size in kernel):
        reason = f"the kernel is {kernel} and only odd kernels are compiled"
    elif 0 in shape:
        reason = "there is nothing to compute"
    if reason is None and channels_last:
        reason = left_channels_last(_DIRECTIONS[direction], kernel[0] * kernel[1], shape[2] * shape[3])
    if reason is not None:
        return PlannedMethod("aten", reason=reason)
    problem, plan = make_plan(
        _DIRECTIONS[direction],
        shape,
        kernel,
        COMPUTED_IN.get(dtype, dtype),
        prepared=prepared,
        threads=torch.get_num_threads() if threads is None else threads,
    )
    if plan.method == _loader.HOST:
        return PlannedMethod("aten", reason="no native method takes a kernel of this size on this plane")
    return PlannedMethod(
        _loader.METHOD_NAMES[plan.method],
        _loader.ISA_NAMES[plan.isa],
        (plan.tile_h, plan.tile_w),
        plan.workspace_bytes,
        plan.packed_bytes,
        problem.threads,
    )


def make_plan(
    direction: int,
    shape: Sequence[int],
    kernel: Sequence[int],
    dtype: torch.dtype,
    *,
    threads: int,
    relu: bool = False,
    prepared: bool = False,
    native: bool = False,
    force: Forced | None = None,
) -> tuple[_loader.Problem, _loader.Plan]:
    """Ask the library how it would compute a covered problem.

    Args:
        direction: ``_loader.FORWARD``, ``GRAD_INPUT`` or ``GRAD_WEIGHT``.
        shape: (N, C, H, W).
        kernel: (Kh, Kw), odd.
        dtype: float32 or bfloat16.
        threads: At most; the library starts fewer where their scratch memory would exceed 64 MB.
        relu: Whether a ReLU follows; forward only.
        prepared: Whether the weight comes prepared.
        native: Take the slow reference where no other method takes the problem.
        force: The environment; default its present values.

    Returns:
        The problem and its plan, whose method may be ``_loader.HOST``: torch's own convolution.

    Raises:
        BackendError: There is no library, or what the environment forces cannot be done.
    """
    library = _loader.find_library()
    if isinstance(library, str):
        raise BackendError(f"Native kernel refused: the native library is not there. {library}")
    isa, method = forced_numbers(library, force)
    problem = _loader.Problem(
        direction,
        _loader.DTYPES[dtype],
        int(relu),
        method,
        isa,
        max(1, min(threads, 1024)),
        *shape,
        *kernel,
        int(prepared and direction != _loader.GRAD_WEIGHT),
    )
    plan = _plan(library, problem, native)
    if native and plan.method == _loader.HOST:
        problem.method = _loader.METHODS["reference"]
        plan = _plan(library, problem, native)
    return problem, plan


def forced_numbers(library: _loader.Library, force: Forced | None = None) -> tuple[int, int]:
    """Numbers of the instruction set and method that the environment forces; 0 for nothing.

    Raises:
        BackendError: What it forces does not exist here.
    """
    wanted_isa, wanted_method = force or forced()
    if wanted_isa and wanted_isa not in _loader.ISAS:
        raise BackendError(
            f"{ISA_VARIABLE} is {wanted_isa!r}. No instruction set has that name. "
            f"Set one of {', '.join(name for name in _loader.ISAS if name != 'auto')}, or unset it."
        )
    isa = _loader.ISAS[wanted_isa or "auto"]
    if isa > library.best_isa:
        raise BackendError(
            f"{ISA_VARIABLE} is {wanted_isa!r}. This CPU, or the library as it was built, goes up to "
            f"{_loader.ISA_NAMES[library.best_isa]}. Set that, or unset it."
        )
    if wanted_method and wanted_method not in _loader.METHODS:
        raise BackendError(
            f"{METHOD_VARIABLE} is {wanted_method!r}. No method has that name. "
            f"Set one of {', '.join(name for name in _loader.METHODS if name != 'auto')}, or unset it."
        )
    return isa, _loader.METHODS[wanted_method or "auto"]


def _plan(library: _loader.Library, problem: _loader.Problem, native: bool) -> _loader.Plan:
    plan = _loader.Plan()
    status = library.plan(problem, plan)
    if status and not problem.method and not native:
        plan.method = _loader.HOST  # sizes beyond those that the library counts with: let torch say what it can do
    elif status:
        sizes = f"input [{problem.n},{problem.c},{problem.h},{problem.w}], kernel {problem.kh}x{problem.kw}"
        why = library.status_text(status).decode()
        if problem.method:
            method = _loader.METHOD_NAMES[problem.method]
            raise BackendError(
                f"Method {method!r} cannot compute {sizes}: {why}. "
                f"Unset {METHOD_VARIABLE} to let each problem have the method that suits it."
            )
        raise BackendError(f"Native kernel refused: {why}, {sizes}. Use backend='aten'.")
    return plan
