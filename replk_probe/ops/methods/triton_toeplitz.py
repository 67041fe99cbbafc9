"""The convolution as a product with Toeplitz matrices on the tensor cores of an NVIDIA GPU, by Triton."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.ops._layout import is_channels_last, layout_of

from .interface import ConvProblem, Direction
from .toeplitz_tiles import DTYPES, Tiling, round_up, shared_limit, tiling_of, tilings, vector_of

_LEAST_CAPABILITY = (8, 0)
# One compute capability for each kind of tiles.
_KINDS = ((8, 0), (9, 0))
_TABLE_BLOCK = 1024


class TritonToeplitz:
    """Forward with bias and ReLU, and both gradients, on GPUs with a compute capability of at least 8.0.

    float16 and bfloat16 are multiplied as they are and summed in float32; float32 is multiplied as three products of
    TF32 numbers, which keeps its precision. Sums have a fixed order. A NaN or an infinity in a plane makes other
    outputs of the same tile NaN as well, because windows are multiplied by zeros where the kernel does not reach.

    Planes are read with any strides between images, channels and rows, if rows start at multiples of 16 bytes and
    their pixels are adjacent. All other tensors are copied to such planes first: channels-last ones, and those whose
    width is not a multiple of 16 bytes.
    """

    name = "triton-toeplitz"

    def refusal(self, problem: ConvProblem, device: torch.device) -> str | None:
        """Why this method does not compute a problem on a device, or None; a sentence without a period."""
        if problem.dtype not in DTYPES:
            return f"the dtype is {problem.dtype}, not {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
        if problem.kh % 2 == 0 or problem.kw % 2 == 0:
            return f"the kernel is {problem.kh}x{problem.kw}, and only odd sizes are supported"
        if device.type != "cuda" or torch.version.hip is not None:
            return f"the device is {device.type if device.type != 'cuda' else 'an AMD GPU'}, not an NVIDIA GPU"
        if not torch.cuda.is_available():
            return "torch finds no NVIDIA GPU"
        capability = _capability(device)
        if capability < _LEAST_CAPABILITY:
            return f"the compute capability is {capability[0]}.{capability[1]}, and 8.0 is required"
        missing = _missing_tools()
        if missing is not None:
            return missing
        if tiling_of(problem, capability) is None:
            least = min(tiling.shared_bytes for tiling in tilings(problem, capability))
            return f"{least} bytes of shared memory are required, and the GPU has {shared_limit(capability)}"
        return None

    def workspace_bytes(self, problem: ConvProblem) -> int:
        """Largest memory of a call beyond its arguments and its result, in bytes."""
        vec, size = vector_of(problem.dtype), problem.torch_dtype.itemsize
        planes = problem.n * problem.c * problem.h * round_up(problem.w, vec) * size
        # A copy to planes, and where the width is padded, a contiguous one before it.
        copies = planes * (2 if problem.w % vec else 1)
        most = 0
        for tiling in (one for capability in _KINDS for one in tilings(problem, capability)):
            if problem.direction == "grad_weight":
                most = max(most, 4 * _scratch_elements(problem, tiling))
            else:
                most = max(most, size * _table_elements(problem, tiling))
        # A contiguous copy of the weight, or its gradient before it is rounded.
        most += 4 * problem.c * problem.kh * problem.kw
        if problem.direction == "grad_weight":
            return 2 * copies + most
        return copies + (planes if problem.channels_last else 0) + most

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        """``act(conv(input, weight) + bias)``, ``[N, C, H, W]``."""
        return _convolve("forward", input, weight, bias, relu)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``."""
        return _convolve("grad_input", grad, weight, None, False)

    def grad_weight(self, input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
        """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous."""
        n, c, h, _ = input.shape
        if input.numel() == 0:
            return input.new_zeros((c, 1, kh, kw))
        problem = _problem("grad_weight", input, kh, kw)
        tiling = _tiling(problem, input.device)
        vec = vector_of(problem.dtype)
        x, g = _in_planes(input, vec), _in_planes(grad, vec)
        parts = tiling.splits * int(tiling.constants["CHUNKS"])
        is_split = parts > 1
        sums = x.new_empty((parts, c, kh, kw), dtype=torch.float32 if is_split else input.dtype)
        sizes = (n, c, h, x.shape[3] // vec, *_strides(x, vec), *_strides(g, vec), tiling.splits)
        _launch("correlate", x, tiling, (x, g, sums, *sizes))
        found = sums.sum(0) if is_split else sums[0]
        return found.to(input.dtype).unsqueeze(1)


def _convolve(direction: Direction, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    n, c, h, w = input.shape
    if input.numel() == 0:
        return torch.empty_like(input, memory_format=layout_of(input))
    kh, kw = weight.shape[2:]
    problem = _problem(direction, input, kh, kw)
    tiling = _tiling(problem, input.device)
    constants = tiling.constants
    vec, y_vec = vector_of(problem.dtype), int(constants["YVEC"])
    table = weight.new_empty(_table_elements(problem, tiling))
    names = ("KH", "KW", "GROUP", "VEC", "OFFSET", "LENGTH")
    spread = Tiling(
        {name: constants[name] for name in names} | {"FLIP": direction == "grad_input", "BLOCK": _TABLE_BLOCK},
        -(-table.numel() // _TABLE_BLOCK), warps=4, stages=1, shared_bytes=0,
    )  # fmt: skip
    _launch("spread_weights", table, spread, (weight.contiguous(), table, table.numel()))
    x = _in_planes(input, vec)
    y = x.new_empty((n, c, h, w))
    sizes = (n, h, x.shape[3] // vec, *_strides(x, vec), w // y_vec, *_strides(y, y_vec))
    fused = {"BIAS": bias is not None, "RELU": relu}
    _launch("convolve", x, tiling, (x, table, x if bias is None else bias, y, *sizes), fused)
    return y.contiguous(memory_format=layout_of(input))


def _launch(
    name: str, tensor: Tensor, tiling: Tiling, args: tuple[Any, ...], more: dict[str, bool] | None = None
) -> None:
    """Start a kernel on the device of ``tensor`` and on the current stream of that device."""
    kernel = getattr(_kernels(), name)
    with torch.cuda.device_of(tensor):  # type: ignore[no-untyped-call]
        kernel[(tiling.blocks,)](
            *args,
            **tiling.constants,
            **(more or {}),
            num_warps=tiling.warps,
            num_stages=tiling.stages,
            enable_fp_fusion=True,  # the default changes in Triton 3.10
        )


def _kernels() -> Any:
    """The module of the kernels, which imports Triton."""
    from . import toeplitz_kernels

    return toeplitz_kernels


@lru_cache(maxsize=1)
def _missing_tools() -> str | None:
    """What Triton requires and this machine lacks, or None."""
    try:
        _kernels()
    except Exception as error:  # a broken installation fails in many ways
        return f"Triton cannot be imported ({type(error).__name__}: {error})"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton requires a C compiler, and CC is not set and neither gcc nor clang is installed"
    return None


@lru_cache(maxsize=64)
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _problem(direction: Direction, tensor: Tensor, kh: int, kw: int) -> ConvProblem:
    dtype = str(tensor.dtype).removeprefix("torch.")
    n, c, h, w = map(int, tensor.shape)
    return ConvProblem(direction, dtype, is_channels_last(tensor), n, c, h, w, int(kh), int(kw))


def _tiling(problem: ConvProblem, device: torch.device) -> Tiling:
    tiling = tiling_of(problem, _capability(device))
    assert tiling is not None, "refusal() names the problems that do not fit"
    return tiling


def _table_elements(problem: ConvProblem, tiling: Tiling) -> int:
    group, vec, length = (int(tiling.constants[name]) for name in ("GROUP", "VEC", "LENGTH"))
    return problem.c * (problem.kh + 2 * (group - 1)) * vec * length


def _scratch_elements(problem: ConvProblem, tiling: Tiling) -> int:
    return tiling.splits * int(tiling.constants["CHUNKS"]) * problem.c * problem.kh * problem.kw


def _in_planes(tensor: Tensor, vec: int) -> Tensor:
    """``tensor``, or a zero-padded copy, with adjacent pixels in rows that start at multiples of ``vec`` elements."""
    missing = -tensor.shape[3] % vec
    if missing:
        return F.pad(tensor, (0, missing)).contiguous()
    is_aligned = tensor.data_ptr() % (vec * tensor.element_size()) == 0
    if tensor.stride(3) == 1 and is_aligned and all(stride % vec == 0 for stride in tensor.stride()[:3]):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _strides(tensor: Tensor, vec: int) -> tuple[int, ...]:
    return tuple(stride // vec for stride in tensor.stride()[:3])
