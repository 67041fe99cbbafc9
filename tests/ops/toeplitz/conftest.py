"""Triton's kernels on a CPU: its interpreter, in this process, with mended arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from replk_probe.ops.methods import toeplitz_tiles, triton_toeplitz
from replk_probe.ops.methods.triton_toeplitz import TritonToeplitz


def rounded_to_tf32(values: Any) -> Any:
    """float32 with 10 bits of mantissa, halves away from zero, as ``cvt.rna.tf32`` rounds."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.fixture
def interpret(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], TritonToeplitz]:
    """Function that returns the method as on a card of that compute capability, but interpreted on the CPU.

    Kernels are wrapped explicitly, because ``TRITON_INTERPRET`` only acts on the first import of Triton. The
    interpreter of Triton 3.8 multiplies the bit patterns of bfloat16 in ``tl.dot``, truncates float32 to bfloat16, and
    multiplies float32 exactly whatever the precision. All of this is replaced by what tensor cores do.
    """
    triton = pytest.importorskip("triton")
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8):
        pytest.skip(f"the interpreter of Triton {triton.__version__} fails with NumPy 2.4, and its mended parts differ")
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    from replk_probe.ops.methods import toeplitz_kernels

    def as_float32(handle: Any) -> Any:
        if handle.dtype.scalar == tl.bfloat16:
            return (handle.data.astype(np.uint32) << 16).view(np.float32)
        return handle.data.astype(np.float32)

    def dot(self: Any, a: Any, b: Any, sums: Any, precision: Any, *rest: Any) -> Any:
        left, right = as_float32(a), as_float32(b)
        kind = str(precision).rpartition(".")[2].lower()
        if a.dtype.scalar == tl.float32 and kind != "ieee":
            big_left, big_right = rounded_to_tf32(left), rounded_to_tf32(right)
            products = big_left @ big_right
            if kind == "tf32x3":
                small_left, small_right = rounded_to_tf32(left - big_left), rounded_to_tf32(right - big_right)
                products = (small_left @ big_right + big_left @ small_right) + products
            elif kind != "tf32":
                raise NotImplementedError(kind)
        else:
            products = left @ right
        return interpreter.TensorHandle((products + sums.data).astype(np.float32), sums.dtype.scalar)

    cast = interpreter.InterpreterBuilder.cast_impl

    def rounding_cast(self: Any, source: Any, kind: Any) -> Any:
        if source.dtype.scalar != tl.float32 or kind.scalar != tl.bfloat16:
            return cast(self, source, kind)
        bits = np.ascontiguousarray(source.data, dtype=np.float32).view(np.uint32)
        nearest = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return interpreter.TensorHandle(np.where(np.isnan(source.data), np.uint16(0x7FC0), nearest), kind.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "cast_impl", rounding_cast)
    # The one function that the kernels call and that is compiled itself.
    monkeypatch.setattr(tl, "sum", interpreter.InterpretedFunction(tl.sum.fn))
    kernels = {
        name: interpreter.InterpretedFunction(value.fn)
        for name, value in vars(toeplitz_kernels).items()
        if isinstance(value, JITFunction)
    }
    monkeypatch.setattr(triton_toeplitz, "_kernels", lambda: SimpleNamespace(**kernels))

    # Checks of overflow in every integer operation double the time.
    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
    monkeypatch.setattr(toeplitz_tiles, "_SPLIT_BELOW", 1)  # fewer blocks
    toeplitz_tiles.tiling_of.cache_clear()  # tests replace its tables

    def method(capability: tuple[int, int]) -> TritonToeplitz:
        monkeypatch.setattr(triton_toeplitz, "_capability", lambda device: capability)
        return TritonToeplitz()

    return method
