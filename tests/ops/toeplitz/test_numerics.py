"""The three operators of the Triton method against float64, interpreted on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.ops import is_channels_last
from replk_probe.ops.methods.triton_toeplitz import TritonToeplitz

Interpret = Callable[[tuple[int, int]], TritonToeplitz]

# N, C, H, W, Kh, Kw: single pixels to 200 wide, widths of any remainder, K to 61 and beyond the plane, both ways.
SHAPES = (
    (1, 1, 1, 1, 3, 3),
    (2, 3, 7, 5, 7, 7),
    (3, 2, 16, 16, 31, 31),
    (1, 2, 33, 47, 13, 5),
    (2, 2, 9, 64, 31, 31),
    (2, 1, 5, 100, 1, 61),
    (5, 2, 14, 14, 13, 13),
    (1, 1, 8, 129, 29, 27),
    (3, 1, 17, 56, 7, 9),
    (1, 1, 3, 200, 61, 31),
    (1, 1, 6, 24, 61, 61),
    (2, 2, 20, 40, 21, 3),
    (1, 1, 9, 150, 3, 75),
    (1, 2, 4, 8, 1, 1),
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


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_all_directions(interpret: Interpret, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, c, h, w, kh, kw = shape
    method = interpret((8, 0))
    x, grad = torch.randn(2, n, c, h, w).to(dtype)
    weight, bias = torch.randn(c, 1, kh, kw).to(dtype), torch.randn(c).to(dtype)

    expected, size = correct(x, weight, bias), correct(x.abs(), weight.abs(), bias.abs())
    check(method.forward(x, weight, bias, False), expected, size)
    flipped = weight.flip(2, 3)
    check(method.grad_input(grad, weight), correct(grad, flipped), correct(grad.abs(), flipped.abs()))
    found = method.grad_weight(x, grad, kh, kw)
    assert found.is_contiguous() and found.dtype == dtype
    check(found, correct_weight(x, grad, kh, kw), correct_weight(x.abs(), grad.abs(), kh, kw))
