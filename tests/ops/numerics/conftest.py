"""The compiled library as its C interface shows it, and the exact answers to hold it against.

The structs are declared here once more, from the header alone: a test that borrowed the package's own declarations
would not notice a mistake in them.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.ops import native_info

ABI_VERSION = 6
PASSES = ("forward", "grad_input", "grad_weight")
ISAS = ("auto", "portable", "avx2", "avx512", "neon")
DTYPES = (torch.float32, torch.bfloat16)
OK, INVALID_ARGUMENT, UNSUPPORTED, WORKSPACE_TOO_SMALL, OUT_OF_MEMORY, PLAN_MISMATCH, PACKED_MISMATCH = range(7)
AUTO, HOST = 0, 6

# Unit roundoff: half the distance from 1 to the next number.
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


class Problem(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in ("pass_", "dtype", "activation", "method", "isa", "threads")]
        + [(name, ctypes.c_int64) for name in ("n", "c", "h", "w", "kh", "kw")]
        + [(name, ctypes.c_int32) for name in ("prepared", "channels_last")]
    )


class Plan(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("method", "isa", "channels_last")] + [
        (name, ctypes.c_int64) for name in ("tile_h", "tile_w", "packed_bytes", "workspace_bytes", "checksum")
    ]


class Kernel(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 48)] + [
        (name, ctypes.c_int32) for name in ("method", "isa", "dtype", "pass_", "uses_fft")
    ]


Strides = ctypes.c_int64 * 3


class Buffers(ctypes.Structure):
    _fields_ = [
        ("input", ctypes.c_void_p),
        ("input_stride", Strides),
        ("grad", ctypes.c_void_p),
        ("grad_stride", Strides),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("output_stride", Strides),
        ("packed", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("packed_was_stale", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class Operands:
    """What one pass needs. ``x`` is the input, or the gradient of the output in ``grad_input``."""

    pass_name: str
    x: Tensor
    weight: Tensor | None = None
    grad: Tensor | None = None
    bias: Tensor | None = None
    relu: bool = False
    kernel: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Outcome:
    output: Tensor
    method: str
    isa: str
    uses_fft: bool
    was_stale: bool


class Native:
    """Calls the library."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        for name in ("abi_version", "best_isa", "dwconv2d_plan", "dwconv2d_pack", "dwconv2d_run"):
            getattr(library, f"replk_{name}").restype = ctypes.c_int32
        library.replk_dwconv2d_pack.argtypes = [ctypes.c_void_p] * 4
        self.library = library
        assert library.replk_abi_version() == ABI_VERSION
        self.kernels = []
        while library.replk_dwconv2d_kernel(len(self.kernels), ctypes.byref(kernel := Kernel())) == OK:
            self.kernels.append(kernel)
        self.isas = tuple(ISAS[isa] for isa in sorted({kernel.isa for kernel in self.kernels}))
        names = {kernel.method: kernel.name.decode().split()[0] for kernel in self.kernels}
        self.methods = {AUTO: "auto", **names, HOST: "host"}
        self.fast_methods = [name for name in names.values() if name != "reference"]
        self.fft_methods = {names[kernel.method] for kernel in self.kernels if kernel.uses_fft}

    def problem(
        self,
        pass_name: str,
        shape: tuple[int, ...],
        kernel: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float32,
        relu: bool = False,
        method: str = "auto",
        isa: str = "auto",
        threads: int = 1,
        channels_last: bool = False,
    ) -> Problem:
        numbers = (PASSES.index(pass_name), DTYPES.index(dtype), int(relu), self.method_number(method), ISAS.index(isa))
        return Problem(*numbers, threads, *shape, *kernel, 0, int(channels_last))

    def method_number(self, name: str) -> int:
        return next(number for number, known in self.methods.items() if known == name)

    def plan(self, problem: Problem) -> Plan | None:
        """The plan, or None where the library refuses the forced method."""
        plan = Plan()
        status = self.library.replk_dwconv2d_plan(ctypes.byref(problem), ctypes.byref(plan))
        assert status in (OK, UNSUPPORTED), status
        assert status == OK or problem.method != AUTO
        return plan if status == OK else None

    def run(
        self,
        operands: Operands,
        *,
        method: str = "auto",
        isa: str = "auto",
        threads: int = 1,
        packed: Literal["none", "fresh", "stale"] = "none",
        out: Tensor | None = None,
        channels_last: bool = False,
    ) -> Outcome | None:
        """Compute, or None where the library refuses the forced method (or leaves the problem to the host).

        With ``channels_last``, also None where the method takes planes only.
        """
        x, weight, grad = operands.x, operands.weight, operands.grad
        kernel = operands.kernel if weight is None else (weight.shape[-2], weight.shape[-1])
        problem = self.problem(
            operands.pass_name,
            tuple(x.shape),
            kernel,
            dtype=x.dtype,
            relu=operands.relu,
            method=method,
            isa=isa,
            threads=threads,
            channels_last=channels_last,
        )
        plan = self.plan(problem)
        if plan is None or plan.method == HOST or plan.channels_last != channels_last:
            return None
        if out is None:
            shape = (x.shape[1], 1, *kernel) if operands.pass_name == "grad_weight" else tuple(x.shape)
            out = torch.full(shape, float("nan"), dtype=x.dtype)
        if channels_last:
            x, out = (torch.empty_like(t, memory_format=torch.channels_last).copy_(t) for t in (x, out))
        keep = None
        if packed != "none" and plan.packed_bytes and weight is not None:
            keep = torch.empty(plan.packed_bytes + 64, dtype=torch.uint8)
            keep = keep[-keep.data_ptr() % 64 :]
            source = weight if packed == "fresh" else weight.roll(1, -1) + 1
            assert not self.library.replk_dwconv2d_pack(
                ctypes.addressof(problem), ctypes.addressof(plan), source.data_ptr(), keep.data_ptr()
            )
        workspace = torch.full((max(plan.workspace_bytes, 1),), 255, dtype=torch.uint8)
        buffers = Buffers(
            address(x),
            strides(x, channels_last),
            address(grad),
            strides(grad),
            address(weight),
            address(operands.bias),
            address(out),
            strides(out, channels_last),
            address(keep),
            address(workspace),
            plan.workspace_bytes,
            7,
        )
        status = self.library.replk_dwconv2d_run(ctypes.byref(problem), ctypes.byref(plan), ctypes.byref(buffers))
        assert status == OK, status
        assert keep is not None or not buffers.packed_was_stale
        method = self.methods[plan.method]
        return Outcome(out, method, ISAS[plan.isa], method in self.fft_methods, bool(buffers.packed_was_stale))

    def run_all(
        self, operands: Operands, *, isas: tuple[str, ...] | None = None, **options: object
    ) -> Iterator[Outcome]:
        """Every method that can do it, on every instruction set of this machine, in both memory formats."""
        formats = (False, True) if options.get("out") is None else (False,)
        for isa, method, last in itertools.product(isas or self.isas, self.fast_methods, formats):
            outcome = self.run(operands, method=method, isa=isa, channels_last=last, **options)  # type: ignore[arg-type]
            if outcome is not None:
                yield outcome


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def strides(tensor: Tensor | None, channels_last: bool = False) -> ctypes.Array[ctypes.c_int64]:
    if tensor is None or not tensor.numel():
        return Strides()
    if channels_last:
        n, c, h, w = tensor.stride()
        assert c == 1
        return Strides(n, w, h)
    assert tensor.shape[3] == 1 or tensor.stride(3) == 1
    return Strides(*tensor.stride()[:3])


class Exact:
    """Answers in float64, and sums of absolute values for the standard bound of a dot product.

    Computed through float64 spectra: their own error, about 1e-15 of the largest value, is far below every bound here,
    and they cost the same for every kernel size.
    """

    def __init__(self, operands: Operands) -> None:
        self.operands = operands
        self.pre_activation = self._answer(operands, lambda tensor: tensor.double())
        self.value = self.pre_activation.relu() if operands.relu else self.pre_activation
        self.absolute = self._answer(operands, lambda tensor: tensor.double().abs())
        n, _, h, w = operands.x.shape
        if operands.pass_name == "grad_weight":
            self.terms = n * h * w
        else:
            assert operands.weight is not None
            self.terms = operands.weight.shape[-2] * operands.weight.shape[-1] + 1  # one more for the bias

    @staticmethod
    def _answer(operands: Operands, prepare: object) -> Tensor:
        assert callable(prepare)
        x = prepare(operands.x)
        if operands.pass_name == "grad_weight":
            kh, kw = operands.kernel
            grad = prepare(operands.grad)
            size = (x.shape[2] + kh, x.shape[3] + kw)
            product = torch.fft.rfft2(F.pad(x, (kw // 2, 0, kh // 2, 0)), s=size)
            product = product * torch.fft.rfft2(grad, s=size).conj()
            return torch.fft.irfft2(product.sum(0), s=size)[:, None, :kh, :kw]
        weight = prepare(operands.weight)
        if operands.pass_name == "forward":
            weight = weight.flip(2, 3)
        kh, kw = weight.shape[-2:]
        size = (x.shape[2] + kh - 1, x.shape[3] + kw - 1)
        full = torch.fft.irfft2(torch.fft.rfft2(x, s=size) * torch.fft.rfft2(weight[:, 0], s=size), s=size)
        y = full[:, :, kh // 2 : kh // 2 + x.shape[2], kw // 2 : kw // 2 + x.shape[3]]
        return y if operands.bias is None else y + prepare(operands.bias)[:, None, None]

    def check(self, outcome: Outcome, what: object = "") -> None:
        """Hold an answer against the bounds of its method.

        Direct sums: ``|y - y_ref| <= (terms * u_accumulator + u_output) * sum of |products|``, element by element. FFT:
        the relative L2 error of each channel below 4e-7 of its own, and no element further off than 1e-5 of its
        channel's largest. All: the relative L2 error below 1e-6.
        """
        label = f"{self.operands.pass_name} {list(self.operands.x.shape)} {what} by {outcome.method} on {outcome.isa}"
        found = outcome.output.double()
        unit = UNIT[outcome.output.dtype]
        error = (found - self.value).abs()
        assert torch.isfinite(found).all(), f"{label}: not finite"
        # Rounding to bfloat16 is of the value that is rounded, not of the sum behind it.
        rounding = unit * self.value.abs() if unit > 1e-6 else unit * self.absolute
        if not outcome.uses_fft:
            bound = self.terms * UNIT[torch.float32] * self.absolute + (1 + unit) * rounding
            worst = (error - bound).max().item() if error.numel() else 0
            assert worst <= 1e-14 * self.absolute.max().item(), f"{label}: above the bound by {worst:.1e}"
        dims = (1, 2, 3) if self.operands.pass_name == "grad_weight" else (0, 2, 3)
        rounding_norm = (rounding if unit > 1e-6 else torch.zeros_like(error)).square().sum(dims).sqrt()
        norm = self.pre_activation.square().sum(dims).sqrt()
        excess = (error.square().sum(dims).sqrt() - rounding_norm).clamp_min(0) / norm
        # A few numbers can cancel to anything, so only the bound above or the one below applies.
        if error[0].numel() // (1 if self.operands.pass_name == "grad_weight" else error.shape[1]) >= 64:
            limit = 4e-7 if outcome.uses_fft else 1e-6
            assert excess.max().item() < limit, f"{label}: relative L2 error {excess.max().item():.1e}"
        largest = self.pre_activation.abs().amax(dims, keepdim=True)
        off = ((error - rounding) / largest).max().item()
        assert off <= 1e-5, f"{label}: an element is off by {off:.1e} of its channel's largest"


class Numerics:
    """Everything a test here needs."""

    def __init__(self, native: Native) -> None:
        self.native = native
        self.isas = native.isas
        self.exact = Exact
        self.operands = Operands

    @staticmethod
    def draw(
        pass_name: str,
        shape: tuple[int, int, int, int],
        kernel: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float32,
        bias: bool = False,
        relu: bool = False,
        seed: int = 0,
    ) -> Operands:
        """Signed random operands."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator).to(dtype)

        channels = shape[1]
        if pass_name == "grad_weight":
            return Operands(pass_name, normal(*shape), grad=normal(*shape), kernel=kernel)
        weight = normal(channels, 1, *kernel)
        return Operands(pass_name, normal(*shape), weight, bias=normal(channels) if bias else None, relu=relu)

    def tile(self, pass_name: str, kernel: tuple[int, int]) -> tuple[int, int]:
        """Outputs of one tile of the FFT on a large plane."""
        plan = self.native.plan(self.native.problem(pass_name, (1, 1, 400, 400), kernel, method="fft"))
        if plan is None:
            pytest.skip("the library has no FFT for this pass")
        return plan.tile_h - kernel[0] + 1, plan.tile_w - kernel[1] + 1


@pytest.fixture(scope="session")
def numerics() -> Numerics:
    """The library under test; skipped without one (no compiler when the package was installed)."""
    info = native_info()
    if info.path is None:
        pytest.skip(f"the native library is not available: {info.load_error}")
    return Numerics(Native(info.path))
