"""The choice of backend and method: what the native library supports, what the environment forces, and the plan."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError

from . import _loader
from ._shapes import check_tensors
from .methods.interface import ConvProblem, Direction
from .methods.torch_fft import TorchFFT

_DIRECTIONS: dict[Direction, int] = {
    "forward": _loader.FORWARD,
    "grad_input": _loader.GRAD_INPUT,
    "grad_weight": _loader.GRAD_WEIGHT,
}

ISA_VARIABLE, METHOD_VARIABLE = "REPLK_PROBE_ISA", "REPLK_PROBE_METHOD"
# Computed in another dtype, with one rounding of the result. Torch's own float16 convolution of (1,128,64,64) with
# 31x31 takes 10 s, in channels_last 4 s; that of (1,256,32,32) with 13x13 takes 66 ms. In float32 they take 1.0 and 0.6
# ms.
COMPUTED_IN = {torch.float16: torch.float32}

# Number of taps from which channels-last tensors are computed natively. On planes of 14 to 128, native forward passes
# take 0.9 to 1.2 times the time of torch's for 5x5, 0.8 to 1.1 times for 7x7 (bfloat16: 0.9 to 1.2), and 0.7 to 1.03
# times for 9x9; input gradients 0.7 to 1.5 times for 3x3, and 0.6 to 1.02 times for 3x5. Torch has a fast weight
# gradient for 3x3 only (1,192,28,28: half the time of the native one; 3x5 takes 2.6 times as long, 1x21 10 times).
_CHANNELS_LAST_FROM = {_loader.FORWARD: 7 * 7, _loader.GRAD_INPUT: 3 * 3 + 1, _loader.GRAD_WEIGHT: 3 * 3 + 1}
_CHANNELS_LAST_BFLOAT16_FROM = _CHANNELS_LAST_FROM | {_loader.FORWARD: 9 * 9}

# What the methods compute with that are not in the native library.
FORCED_TORCH = {"aten": "convolution", TorchFFT.name: "Fourier transforms"}

_TORCH_FFT = TorchFFT()
# Number of multiply-adds for each point of the transforms from which these are at least 1.5 times as fast as torch's
# convolution in both memory formats. The first is reached by 15x15 to 21x21, depending on the plane; the second, for
# what oneDNN computes, by 61x61 on planes of 112x112 and 53x53 on 256x256. Measured on one thread of a Xeon with
# AVX-512, and with oneDNN limited to AVX2: 2.4 to 11 times as fast as oneDNN (1.0 to 2.1 times from 1600), all others
# from 2.3 times (1.4 times from 120).
_FFT_FROM, _FFT_FROM_OF_ONEDNN = 150, 2200

# Instruction set and method as set in the environment; None if unset.
Forced = tuple[str | None, str | None]


def forced() -> Forced:
    """The current values of ``REPLK_PROBE_ISA`` and ``REPLK_PROBE_METHOD``, read in every call."""
    return os.environ.get(ISA_VARIABLE), os.environ.get(METHOD_VARIABLE)


@dataclass(frozen=True)
class PlannedMethod:
    """Method and memory of one convolution.

    Attributes:
        method: ``direct``, ``fft``, ``blocked``, ``blocked-pfa`` or ``reference``; ``aten`` for torch's convolution, or
            ``torch-fft`` for torch's Fourier transforms.
        isa: One of :data:`INSTRUCTION_SETS`; None for ``aten`` and ``torch-fft``.
        tile: Lengths of the transforms of ``fft``, ``blocked-pfa`` and ``torch-fft``, rows and columns; else (0, 0).
        workspace_bytes: Scratch memory of a call for all threads together, in bytes.
        packed_bytes: Memory of a prepared weight, in bytes; 0 if the method does not prepare weights.
        threads: Maximum number of threads.
        reason: Why the method is ``aten`` or ``torch-fft``; else None.
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
    """Why the native kernels do not support a convolution, or None if they do.

    Args:
        input: Input, ``[N, C, H, W]``.
        weight: Weight, ``[C, 1, Kh, Kw]``.
        stride: Stride as in ``F.conv2d``.
        padding: Padding as in ``F.conv2d``; None means half the kernel ("same").
        dilation: Dilation as in ``F.conv2d``.
        groups: Groups as in ``F.conv2d``; None means C.

    Returns:
        A sentence without a period, such as ``"stride is (2, 2) and only stride 1 is compiled"``, or None.

    Raises:
        InvalidInputError: An argument has the wrong type.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import unsupported_reason
        >>> unsupported_reason(torch.rand(1, 8, 64, 64), torch.rand(8, 1, 31, 31), stride=2)
        'stride is (2, 2) and only stride 1 is compiled'
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
    """Rows and columns; a single integer is used for both, as in ``F.conv2d``."""
    numbers = _whole_numbers((value,) if isinstance(value, SupportsIndex) else value)
    if numbers is None or len(numbers) not in (1, 2):
        raise InvalidInputError(
            f"{name} is {value!r}. One or two integers are required. Use one, or one for rows and one for columns."
        )
    return numbers if len(numbers) == 2 else numbers * 2


def _whole_numbers(values: Any) -> tuple[int, ...] | None:
    """``values`` as integers, or None if they are not integers."""
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        return None


def uncovered_tensors(*tensors: Tensor) -> str | None:
    """Why tensors of this device, layout or dtype are computed by torch whatever their sizes, or None."""
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
    """Why tensors of a dtype are computed by torch on this machine, or None."""
    if not isinstance(dtype, torch.dtype):
        raise InvalidInputError(f"dtype is {dtype!r}. A torch.dtype is required. Use for example torch.float32.")
    if dtype not in _loader.DTYPES and dtype not in COMPUTED_IN:
        return f"dtype is {dtype} and only float32, bfloat16 and float16 are computed natively"
    method = forced()[1] or ""
    if method in FORCED_TORCH:
        return f"{METHOD_VARIABLE}={method} forces torch's {FORCED_TORCH[method]}"
    library = _loader.find_library()
    return f"the native library is not available. {library}" if isinstance(library, str) else None


def torch_fft(problem: ConvProblem) -> TorchFFT | None:
    """The method by Fourier transforms if it computes a problem on a CPU without the native kernels, else None.

    Torch's convolution computes the others, and all that are left to torch where the library is available.
    """
    method = forced()[1]
    is_possible = problem.multiply_adds and problem.kh % 2 and problem.kw % 2
    if not is_possible or method == "aten" or _TORCH_FFT.refusal(problem, torch.device("cpu")) is not None:
        return None
    if method != TorchFFT.name and (not isinstance(_loader.find_library(), str) or not _is_faster_by_fft(problem)):
        return None
    return _TORCH_FFT


def _is_faster_by_fft(problem: ConvProblem) -> bool:
    taps = min(problem.kh, 2 * problem.h - 1) * min(problem.kw, 2 * problem.w - 1)
    least = _FFT_FROM_OF_ONEDNN if _is_by_onednn(problem) else _FFT_FROM
    return taps * problem.h * problem.w >= least * _TORCH_FFT.points(problem, torch.device("cpu"))


def _is_by_onednn(problem: ConvProblem) -> bool:
    """Whether torch computes a convolution by the kernels of oneDNN, which has no fast ones for weight gradients."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or problem.direction == "grad_weight":
        return False
    if problem.dtype == "bfloat16":
        has_bfloat16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return has_bfloat16
    return problem.dtype == "float32"


def left_channels_last(direction: int, dtype: torch.dtype, taps: int, method: str | None) -> str | None:
    """Why channels-last tensors are computed by torch, or None if they are computed natively.

    ``method`` is the method that the environment or a choice forces.
    """
    least = (_CHANNELS_LAST_BFLOAT16_FROM if dtype == torch.bfloat16 else _CHANNELS_LAST_FROM)[direction]
    if taps >= least or method not in (None, "", "auto"):
        return None
    return "torch is faster for small channels-last kernels"


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
    """Method of a convolution of the given sizes on this machine, in the current environment.

    Methods chosen by :func:`replk_probe.ops.tune` are not considered; see :func:`replk_probe.ops.chosen_method`.

    Args:
        input_shape: Shape of the input, (N, C, H, W).
        kernel_size: Kernel size, an integer or (Kh, Kw).
        dtype: Dtype of all tensors; float16 is computed in float32.
        direction: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        channels_last: Whether the tensors are channels-last.
        prepared: Whether the weight is prepared once for many calls, as by a module in eval mode.
        threads: Maximum number of threads; default: ``torch.get_num_threads()``.

    Returns:
        The method, its transforms and its memory in bytes.

    Raises:
        InvalidInputError: An argument has the wrong type or an invalid value.
        BackendError: The environment forces a method or instruction set that cannot be used.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import planned_method
        >>> planned = planned_method((1, 256, 64, 64), 5, torch.float64)
        >>> planned.method, planned.isa
        ('aten', None)
    """
    if direction not in tuple(_DIRECTIONS):
        names = ", ".join(map(repr, _DIRECTIONS))
        raise InvalidInputError(f"Unknown direction {direction!r}. Choose from {names}.")
    shape, kernel = _whole_numbers(input_shape), _pair("kernel_size", kernel_size)
    if shape is None or len(shape) != 4 or min(shape) < 0:
        raise InvalidInputError(
            f"input_shape is {input_shape!r}. Four non-negative sizes are required. Use (N, C, H, W)."
        )
    if min(kernel) < 1:
        raise InvalidInputError(
            f"kernel_size is {kernel_size!r}. Kernel sizes must be positive. Use sizes of at least 1."
        )
    if threads is not None and (not isinstance(threads, SupportsIndex) or operator.index(threads) < 1):
        raise InvalidInputError(
            f"threads is {threads!r}. The number of threads must be positive. Use an integer of at least 1, or None."
        )
    reason = uncovered(dtype)
    if any(size % 2 == 0 for size in kernel):
        reason = f"the kernel is {kernel} and only odd kernels are compiled"
    elif 0 in shape:
        reason = "the output is empty"
    if reason is None and channels_last:
        reason = left_channels_last(_DIRECTIONS[direction], dtype, kernel[0] * kernel[1], forced()[1])
    if reason is not None:
        computed = COMPUTED_IN.get(dtype, dtype)
        sizes = ConvProblem(direction, str(computed).removeprefix("torch."), channels_last, *shape, *kernel)
        fft = torch_fft(sizes)
        if fft is None:
            return PlannedMethod("aten", reason=reason)
        tile, memory = fft.tile_and_workspace(sizes, torch.device("cpu"))
        most = torch.get_num_threads() if threads is None else threads
        return PlannedMethod(fft.name, tile=tile, workspace_bytes=memory, threads=most, reason=reason)
    problem, plan = make_plan(
        _DIRECTIONS[direction],
        shape,
        kernel,
        COMPUTED_IN.get(dtype, dtype),
        prepared=prepared,
        channels_last=channels_last,
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
    channels_last: bool = False,
    native: bool = False,
    force: Forced | None = None,
) -> tuple[_loader.Problem, _loader.Plan]:
    """Plan a supported convolution.

    Args:
        direction: ``_loader.FORWARD``, ``GRAD_INPUT`` or ``GRAD_WEIGHT``.
        shape: (N, C, H, W).
        kernel: (Kh, Kw), odd.
        dtype: float32 or bfloat16.
        threads: Maximum number of threads; the library uses fewer if their scratch memory would exceed 64 MB.
        relu: Whether a ReLU follows; forward only.
        prepared: Whether the weight will be prepared.
        channels_last: Whether the tensors are channels-last, which methods that take planes require to be converted.
        native: Use the slow reference if no other method supports the problem.
        force: Values from the environment; default: the current ones.

    Returns:
        The problem and its plan, whose method may be ``_loader.HOST``: torch's own convolution.

    Raises:
        BackendError: There is no library, or the environment forces a method or instruction set that cannot be used.
    """
    library = loaded_library()
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
        int(channels_last),
    )
    plan = _plan(library, problem, native)
    if native and plan.method == _loader.HOST:
        problem.method = _loader.METHODS["reference"]
        plan = _plan(library, problem, native)
    return problem, plan


def loaded_library() -> _loader.Library:
    """The native library.

    Raises:
        BackendError: There is no library.
    """
    library = _loader.find_library()
    if isinstance(library, str):
        raise BackendError(f"Native kernel refused: the native library is not available. {library}")
    return library


def forced_numbers(library: _loader.Library, force: Forced | None = None) -> tuple[int, int]:
    """Numbers of the instruction set and method that the environment forces; 0 for automatic.

    Raises:
        BackendError: The environment forces a method or instruction set that does not exist on this machine.
    """
    wanted_isa, wanted_method = force or forced()
    if wanted_isa and wanted_isa not in _loader.ISAS:
        raise BackendError(
            f"{ISA_VARIABLE} is {wanted_isa!r}. No instruction set has this name. "
            f"Choose from {', '.join(name for name in _loader.ISAS if name != 'auto')}, or unset it."
        )
    isa = _loader.ISAS[wanted_isa or "auto"]
    if isa and wanted_isa not in library.isas:
        raise BackendError(
            f"{ISA_VARIABLE} is {wanted_isa!r}. This CPU, or the library as built, supports "
            f"{' and '.join(library.isas)} only. Set {'one of them' if len(library.isas) > 1 else 'it'}, or unset it."
        )
    if wanted_method == TorchFFT.name:
        return isa, _loader.HOST
    if wanted_method and wanted_method not in _loader.METHODS:
        names = (*(name for name in _loader.METHODS if name != "auto"), TorchFFT.name)
        raise BackendError(
            f"{METHOD_VARIABLE} is {wanted_method!r}. No method has this name. "
            f"Choose from {', '.join(names)}, or unset it."
        )
    return isa, _loader.METHODS[wanted_method or "auto"]


def _plan(library: _loader.Library, problem: _loader.Problem, native: bool) -> _loader.Plan:
    plan = _loader.Plan()
    status = library.plan(problem, plan)
    if status and not problem.method and not native:
        plan.method = _loader.HOST  # sizes beyond the limits of the library: torch raises its own error
    elif status:
        sizes = f"input [{problem.n},{problem.c},{problem.h},{problem.w}], kernel {problem.kh}x{problem.kw}"
        why = library.status_text(status).decode()
        if problem.method:
            method = _loader.METHOD_NAMES[problem.method]
            raise BackendError(
                f"Method {method!r} cannot compute {sizes}: {why}. "
                f"Unset {METHOD_VARIABLE} to choose the method automatically."
            )
        raise BackendError(f"Native kernel refused: {why}, {sizes}. Use backend='aten'.")
    return plan
