"""The three operators of the Triton method against float64, interpreted on a CPU."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.ops import is_channels_last
from replk_probe.ops.methods import toeplitz_tiles, triton_toeplitz
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.methods.triton_toeplitz import TritonToeplitz

Interpret = Callable[[tuple[int, int]], TritonToeplitz]

# N, C, H, W, Kh, Kw: single pixels to 150 wide, widths of any remainder, K to 75 and beyond the plane, both ways.
SHAPES = (
    (1, 1, 1, 1, 3, 3),
    (2, 3, 7, 5, 7, 7),
    (3, 1, 9, 16, 31, 31),
    (1, 2, 20, 47, 13, 5),
    (2, 1, 3, 64, 31, 31),
    (2, 1, 5, 100, 1, 61),
    (5, 1, 14, 14, 13, 13),
    (1, 1, 3, 129, 19, 27),
    (2, 1, 9, 56, 7, 9),
    (1, 1, 2, 104, 61, 31),
    (1, 1, 2, 24, 61, 61),
    (2, 1, 6, 40, 11, 3),
    (1, 1, 5, 150, 3, 75),
    (1, 1, 66, 72, 3, 1),
)
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def correct(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    size = tuple(k // 2 for k in weight.shape[2:])
    bias = None if bias is None else bias.double()
    return F.conv2d(x.double(), weight.double(), bias, padding=size, groups=x.shape[1])


def correct_weight(x: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    c, like = x.shape[1], x.new_zeros((x.shape[1], 1, kh, kw), dtype=torch.float64)
    sizes = ([1, 1], [kh // 2, kw // 2], [1, 1], False, [0, 0], c, (False, True, False))
    found: Tensor = torch.ops.aten.convolution_backward(grad.double(), x.double(), like, None, *sizes)[1]
    return found


def check(found: Tensor, expected: Tensor, magnitude: Tensor) -> None:
    """At most eight units of float32 of the sum of magnitudes, and one rounding to a shorter dtype on top."""
    rounding = ROUNDING[found.dtype]
    units = ((found.double() - expected).abs() - rounding * expected.abs()) / (magnitude * 2.0**-24 * (1 + rounding))
    assert float(units.nan_to_num(nan=0.0 if not found.isnan().any() else torch.inf).max()) <= 8


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Results and scratch memory are full of NaN before a kernel writes to them."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def cases() -> Iterator[Any]:
    """Every shape in one dtype, on the two kinds of tensor cores in turns: the interpreter takes a second for most."""
    for i, shape in enumerate(SHAPES):
        dtype = (torch.float32, torch.bfloat16, torch.float32, torch.float16)[i % 4]
        capability = ((8, 0), (9, 0))[(i // 2 + i // 4) % 2]
        label = "x".join(map(str, shape)) + f"-{str(dtype).removeprefix('torch.')}-sm{capability[0]}0"
        yield pytest.param(shape, dtype, capability, id=label)


@pytest.mark.parametrize(("shape", "dtype", "capability"), list(cases()))
def test_all_directions(
    interpret: Interpret, shape: tuple[int, ...], dtype: torch.dtype, capability: tuple[int, int]
) -> None:
    n, c, h, w, kh, kw = shape
    method = interpret(capability)
    x, grad = torch.randn(2, n, c, h, w).to(dtype)
    weight, bias = torch.randn(c, 1, kh, kw).to(dtype), torch.randn(c).to(dtype)

    expected, size = correct(x, weight, bias), correct(x.abs(), weight.abs(), bias.abs())
    check(method.forward(x, weight, bias, True), expected.relu(), size)
    flipped = weight.flip(2, 3)
    check(method.grad_input(grad, weight), correct(grad, flipped), correct(grad.abs(), flipped.abs()))
    found = method.grad_weight(x, grad, kh, kw)
    assert found.is_contiguous() and found.dtype == dtype
    check(found, correct_weight(x, grad, kh, kw), correct_weight(x.abs(), grad.abs(), kh, kw))


@pytest.mark.parametrize("shape", (*toeplitz_tiles._WIDE_SHAPES, *toeplitz_tiles._SHAPES[:-1]), ids=str)
def test_every_tile_of_the_convolution(
    interpret: Interpret, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(toeplitz_tiles, "_WIDE_SHAPES", ())
    monkeypatch.setattr(toeplitz_tiles, "_SHAPES", (shape,))
    method = interpret((9, 0))
    x, weight = torch.randn(3, 1, 6, 16).bfloat16(), torch.randn(1, 1, 13, 3).bfloat16()
    found = method.forward(x, weight, None, False)
    check(found, correct(x, weight), correct(x.abs(), weight.abs()))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=str)
@pytest.mark.parametrize("index", range(3))
def test_every_tile_of_the_gradient(
    interpret: Interpret, monkeypatch: pytest.MonkeyPatch, index: int, capability: tuple[int, int]
) -> None:
    for name in ("_SHAPES_OF_GRADIENT", "_WIDE_SHAPES_OF_GRADIENT"):
        monkeypatch.setattr(toeplitz_tiles, name, getattr(toeplitz_tiles, name)[index : index + 1])
    method = interpret(capability)
    x, grad = torch.randn(2, 3, 1, 6, 16).bfloat16()
    found = method.grad_weight(x, grad, 5, 3)
    check(found, correct_weight(x, grad, 5, 3), correct_weight(x.abs(), grad.abs(), 5, 3))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_activation_keeps_nan(interpret: Interpret) -> None:
    """A NaN reaches its own outputs, and others of its tile by products with zeros."""
    x = torch.zeros(1, 1, 4, 8)
    x[0, 0, 0, 0] = torch.nan
    found = interpret((8, 0)).forward(x, torch.ones(1, 1, 1, 1), None, True)
    assert found[0, 0, 0, 0].isnan() and not found[0, 0, 1:].isnan().any()


def layouts() -> Iterator[Any]:
    """Functions that return a tensor equal to their argument, with other strides."""

    def cropped(x: Tensor) -> Tensor:
        return F.pad(x, (8, 16, 1, 2))[:, :, 1:-2, 8:-16]

    def unaligned(x: Tensor) -> Tensor:
        return F.pad(x, (3, 2))[..., 3:-2]

    def transposed(x: Tensor) -> Tensor:
        return x.transpose(2, 3).contiguous().transpose(2, 3)

    def channels_last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    for function in (cropped, unaligned, transposed, channels_last):
        yield pytest.param(function, id=function.__name__)


@pytest.mark.parametrize("laid_out", list(layouts()))
def test_strides_do_not_change_results(interpret: Interpret, laid_out: Callable[[Tensor], Tensor]) -> None:
    method = interpret((8, 0))
    width = 13 if laid_out.__name__ == "channels_last" else 16
    x, grad = torch.randn(2, 2, 2, 3, width).bfloat16()
    weight = torch.randn(2, 1, 5, 3).bfloat16()
    expected = method.forward(x, weight, None, False)
    found = method.forward(laid_out(x), weight.transpose(2, 3).contiguous().transpose(2, 3), None, False)
    assert torch.equal(found, expected) and is_channels_last(found) == is_channels_last(laid_out(x))
    found = method.grad_weight(laid_out(x), laid_out(grad), 5, 3)
    assert torch.equal(found, method.grad_weight(x, grad, 5, 3)) and found.is_contiguous()


def test_aligned_planes_are_not_copied() -> None:
    planes = torch.randn(2, 3, 9, 32)
    assert triton_toeplitz._in_planes(planes[:, 1:, 2:, 8:24], 4).data_ptr() == planes[0, 1, 2, 8:].data_ptr()
    assert triton_toeplitz._in_planes(planes[..., 1:17], 4).stride() == (432, 144, 16, 1)
    padded = triton_toeplitz._in_planes(planes[..., :13], 4)
    assert padded.shape[3] == 16 and not padded[..., 13:].any() and torch.equal(padded[..., :13], planes[..., :13])


def test_expanded_gradient(interpret: Interpret) -> None:
    """A sum has a gradient of a single element with strides of zero."""
    method = interpret((8, 0))
    x, grad = torch.randn(1, 2, 4, 8), torch.ones(1, 1, 1, 1).expand(1, 2, 4, 8)
    assert torch.equal(method.grad_weight(x, grad, 3, 3), method.grad_weight(x, grad.contiguous(), 3, 3))


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (1, 0, 4, 4), (1, 2, 0, 4)], ids=str)
def test_empty_planes(interpret: Interpret, shape: tuple[int, ...]) -> None:
    method, x, weight = interpret((8, 0)), torch.ones(shape), torch.ones(shape[1], 1, 3, 3)
    assert method.forward(x, weight, None, True).shape == method.grad_input(x, weight).shape == shape
    assert torch.equal(method.grad_weight(x, x, 3, 3), torch.zeros(shape[1], 1, 3, 3))


def test_sums_over_many_rows_are_split_in_a_fixed_order(interpret: Interpret, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toeplitz_tiles, "_SPLIT_BELOW", 512)
    problem = ConvProblem("grad_weight", "float32", False, 1, 1, 66, 72, 3, 1)
    method = interpret((9, 0))
    tiling = toeplitz_tiles.tiling_of(problem, (9, 0))
    assert tiling is not None and tiling.splits > 1
    x, grad = torch.randn(2, 1, 1, 66, 72)
    found = method.grad_weight(x, grad, 3, 1)
    check(found, correct_weight(x, grad, 3, 1), correct_weight(x.abs(), grad.abs(), 3, 1))
    assert torch.equal(found, method.grad_weight(x, grad, 3, 1))


@pytest.mark.parametrize("direction", ["forward", "grad_weight"])
def test_addresses_have_64_bits(
    interpret: Interpret, monkeypatch: pytest.MonkeyPatch, direction: Literal["forward", "grad_weight"]
) -> None:
    """Planes whose strides add up to more than 2**33 elements are read at the right addresses, without the memory."""
    from triton.runtime import interpreter

    touched: set[int] = set()

    def load(self: Any, pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        touched.update(pointers.data[mask.data].tolist())
        kind = pointers.get_element_ty()
        return interpreter.TensorHandle(np.zeros(pointers.data.shape, interpreter._get_np_dtype(kind)), kind)

    def store(self: Any, pointers: Any, *rest: Any) -> None: ...

    interpret((8, 0))
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", load)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", store)
    tiling = toeplitz_tiles.tiling_of(ConvProblem(direction, "float16", False, 3, 2, 3, 8, 1, 1), (8, 0))
    assert tiling is not None
    # Strides in units of 8 elements: up to 2**31 - 1 each, the most that 32 bits hold.
    x_strides, y_strides = (2**30 + 5, 2**29 + 3, 2**27 + 1), (2**31 - 1, 2**28 + 7, 2**26 + 9)
    x, y = torch.zeros(8).half(), torch.zeros(8).half()
    if direction == "forward":
        sizes = (3, 3, 1, *x_strides, 1, *y_strides)
        triton_toeplitz._launch("convolve", x, tiling, (x, y, y, y, *sizes), {"BIAS": False, "RELU": False})
    else:
        triton_toeplitz._launch("correlate", x, tiling, (x, y, y, 3, 2, 3, 1, *x_strides, *y_strides, 1))
    expected = {
        tensor.data_ptr() + 2 * (8 * sum(map(operator.mul, index, strides)) + column)
        for tensor, strides in ((x, x_strides), (y, y_strides))[: 1 if direction == "forward" else 2]
        for index in itertools.product(range(3), range(2), range(3))
        for column in range(8)
    }
    assert expected <= touched
    assert max(touched) == max(expected) or direction == "forward"
