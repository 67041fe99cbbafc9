"""GELU of torch tensors: layouts, and arguments that do not match. The numbers are tested in ``numerics``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from replk_probe.errors import InvalidInputError
from replk_probe.ops import gelu_grad_input, gelu_products, gelu_with_squares, is_gelu_native

pytestmark = pytest.mark.usefixtures("native")


def test_tensors_of_any_layout() -> None:
    x, grad = torch.randn(2, 2, 3, 9, 7).unbind()
    a, b = torch.randn(2, 2, 3).unbind()
    y = F.gelu(x.requires_grad_(True))
    (expected,) = torch.autograd.grad(y, x, a[..., None, None] * grad + b[..., None, None] * y.detach())
    for layout in (torch.contiguous_format, torch.channels_last):
        maps, given = (one.detach().contiguous(memory_format=layout) for one in (x, grad))
        assert is_gelu_native(maps)
        found, squares = gelu_with_squares(maps)
        assert found.is_contiguous()
        torch.testing.assert_close(found, y.detach())
        torch.testing.assert_close(squares, y.detach().double().square().sum((2, 3)), rtol=1e-5, atol=0)
        products = (y.detach().double() * grad).sum((2, 3))
        torch.testing.assert_close(gelu_products(maps, given), products, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gelu_grad_input(maps, given, a, b.T.contiguous().T), expected)


def test_arguments_that_do_not_match_are_refused() -> None:
    x, scale = torch.randn(2, 3, 9, 7), torch.randn(2, 3)
    assert not is_gelu_native(x.double())
    for input, grad, a in (
        (x, x[..., 1:], scale),
        (x, x.double(), scale),
        (x.double(), x.double(), scale.double()),
        (x, x, scale[0]),
        (x, x, scale.double()),
        (x[0], x[0], scale),
    ):
        with pytest.raises(InvalidInputError, match=r"Float32 maps of one shape \[N, C, H, W\]"):
            gelu_grad_input(input, grad, a, scale)
