"""Activations of matrix products through the C interface, against float64, with bounds from each rounding error."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from replk_probe.ops._loader import ACTIVATIONS, DTYPES, Pointwise

U = 2.0**-24
BF16 = 2.0**-8
# Half of a step of the stored derivative.
STEP = 0.5 / 49152
SHAPES = [(1, 1), (3, 7), (2, 16), (5, 33), (3, 1025)]


def call(matrices: dict[str, Tensor], **fields: int) -> Pointwise:
    found = Pointwise(rows=matrices["input"].shape[0], columns=matrices["input"].shape[1], **fields)
    for name, matrix in matrices.items():
        setattr(found, name, matrix.data_ptr())
        if name != "bias":
            setattr(found, f"{name}_stride", matrix.stride(0))
    found.input_dtype, found.output_dtype = DTYPES[matrices["input"].dtype], DTYPES[matrices["output"].dtype]
    return found


def run(library: ctypes.CDLL, name: str, isa: int, arguments: Pointwise, threads: int = 1) -> int:
    status: int = getattr(library, f"replk_pointwise_{name}")(isa, threads, ctypes.byref(arguments))
    return status


def isas_of(numerics) -> list[int]:
    """Numbers of the instruction sets of this machine."""
    return sorted({kernel.isa for kernel in numerics.native.kernels})


def wider(matrix: Tensor) -> Tensor:
    """The matrix with rows that are further apart."""
    return torch.full((matrix.shape[0], matrix.shape[1] + 3), 7, dtype=matrix.dtype)[:, : matrix.shape[1]].copy_(matrix)


def exact(x: Tensor, activation: str | None) -> tuple[Tensor, Tensor]:
    """The activation and its derivative in float64."""
    if activation == "gelu":
        distribution = 0.5 * torch.erfc(-x * 0.5**0.5)
        return x * distribution, distribution + x * torch.exp(-0.5 * x**2) / (2 * torch.pi) ** 0.5
    if activation == "relu":
        return x.relu(), (x > 0).double()
    if activation == "relu6":
        return x.clamp(0, 6), ((x > 0) & (x < 6)).double()
    return x, torch.ones_like(x)


@pytest.mark.parametrize("activation", list(ACTIVATIONS), ids=str)
@pytest.mark.parametrize("by_column", [False, True])
def test_forward_and_backward_within_bounds(numerics, activation: str | None, by_column: bool) -> None:
    library = numerics.native.library
    for isa in isas_of(numerics):
        for shape in SHAPES:
            generator = torch.Generator().manual_seed(sum(shape))
            x, residual, grad = (3 * torch.randn(shape, generator=generator) for _ in range(3))
            bias = torch.randn(shape[1 if by_column else 0], generator=generator)
            for given in (x, x.bfloat16()):
                wide = given.double() + (bias if by_column else bias[:, None]).double()
                value, slope = exact(wide, activation)
                # Rounding of the sum changes the activation by at most 1.13 times as much.
                shift = 1.2 * U * wide.abs()
                error = shift + (8 + 2 * wide**2) * U * value.abs()
                for dtype in (torch.float32, torch.bfloat16):
                    kept = torch.zeros(shape, dtype=torch.int16)
                    buffers = {"input": wider(given), "output": wider(x.to(dtype)), "derivative": wider(kept)}
                    arguments = {"activation": ACTIVATIONS[activation], "bias_of_columns": int(by_column)}
                    assert run(library, "forward", isa, call({**buffers, "bias": bias}, **arguments)) == 0
                    rounding = (BF16 if dtype == torch.bfloat16 else U) * value.abs()
                    assert ((buffers["output"].double() - value).abs() <= error + 1.1 * rounding + 1e-36).all()
                    assert (buffers["output"]._base[:, -3:] == 7).all()
                    plain = buffers["output"].clone()
                    assert (
                        run(library, "forward", isa, call({**buffers, "bias": bias, "residual": residual}, **arguments))
                        == 0
                    )
                    want = value + residual.double()
                    rounding = (BF16 if dtype == torch.bfloat16 else U) * (want.abs() + value.abs())
                    assert ((buffers["output"].double() - want).abs() <= error + 2 * rounding + 1e-36).all()
                    assert not torch.equal(plain, buffers["output"])
                    if activation is None:
                        continue
                    assert (buffers["derivative"]._base[:, -3:] == 7).all()
                    product = torch.full(shape, torch.nan, dtype=dtype)
                    backward = {"input": grad, "output": product, "derivative": buffers["derivative"]}
                    assert run(library, "backward", isa, call(backward)) == 0
                    want = grad.double() * slope
                    # The derivative of GELU changes by at most 0.8 times as much as its argument.
                    step = STEP + shift + (8 + 2 * wide**2) * U * (1 + wide.abs()) if activation == "gelu" else 0
                    rounding = (BF16 if dtype == torch.bfloat16 else 2 * U) * want.abs()
                    assert ((product.double() - want).abs() <= 1.01 * step * grad.abs() + 1.1 * rounding + 1e-36).all()


def test_relu_is_closed_at_its_ends_and_blocks_infinite_gradients(numerics) -> None:
    x = torch.tensor([[-1.0, -0.0, 0.0, 1e-30, 5.999, 6.0, 7.0]])
    grad = torch.tensor([[torch.inf, torch.nan, -torch.inf, 2.0, 3.0, torch.inf, 4.0]])
    expected = {"relu": [0, 0, 0, 2, 3, torch.inf, 4], "relu6": [0, 0, 0, 2, 3, 0, 0]}
    for isa in isas_of(numerics):
        for activation, want in expected.items():
            kept, output = torch.zeros(x.shape, dtype=torch.int16), torch.empty_like(x)
            forward = call({"input": x, "output": output, "derivative": kept}, activation=ACTIVATIONS[activation])
            assert run(numerics.native.library, "forward", isa, forward) == 0
            backward = call({"input": grad, "output": output, "derivative": kept})
            assert run(numerics.native.library, "backward", isa, backward) == 0
            assert output.tolist() == [want]


def test_nan_stays_nan_and_threads_do_not_matter(numerics) -> None:
    x = torch.randn(37, 50)
    x[3, 4] = torch.nan
    for activation in ("gelu", "relu", "relu6"):
        found = []
        for threads in (1, 4):
            output = torch.empty_like(x)
            arguments = call({"input": x, "output": output}, activation=ACTIVATIONS[activation])
            assert run(numerics.native.library, "forward", 0, arguments, threads) == 0
            assert output.isnan().nonzero().tolist() == [[3, 4]]
            found.append(output.nan_to_num())
        assert torch.equal(*found)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": -1}, {"columns": -1}, {"activation": 4}, {"activation": -1}, {"input_dtype": 2}, {"output_dtype": -1},
        {"input": None}, {"output": None}, {"input_stride": 3}, {"output_stride": 3}, {"derivative_stride": 3},
        {"rows": 2**41},
    ],
    ids=str,
)  # fmt: skip
def test_invalid_arguments_are_refused(numerics, change: dict[str, int | None]) -> None:
    x, kept = torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.int16)
    arguments = call({"input": x, "output": torch.empty_like(x), "derivative": kept})
    for name, value in change.items():
        setattr(arguments, name, value)
    library = numerics.native.library
    assert run(library, "forward", 0, arguments) == 1 and run(library, "backward", 0, arguments) == 1
    assert run(library, "forward", 99, call({"input": x, "output": x})) == 1
    assert run(library, "backward", 0, call({"input": x, "output": x})) == 1  # no derivative
    empty = Pointwise(rows=0, columns=4)
    assert run(library, "forward", 0, empty) == 0
