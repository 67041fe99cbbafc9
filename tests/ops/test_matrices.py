"""Activations of matrix products as torch tensors: strides, and arguments that do not match."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from replk_probe.errors import InvalidInputError
from replk_probe.ops import activate, is_pointwise_native, times_derivative

pytestmark = pytest.mark.usefixtures("native")


def test_columns_of_a_larger_matrix() -> None:
    product, bias = torch.randn(6, 40), torch.randn(6)
    output, kept = torch.full((6, 40), 9.0), torch.zeros(6, 40, dtype=torch.int16)
    activate(product[:, 5:17], output[:, 5:17], bias, "gelu", kept[:, 5:17])
    torch.testing.assert_close(output[:, 5:17], F.gelu(product[:, 5:17] + bias[:, None]))
    assert (output[:, :5] == 9).all() and (output[:, 17:] == 9).all() and not kept[:, :5].any()
    times_derivative(torch.ones(6, 12), kept[:, 5:17], output[:, 5:17])
    x = (product[:, 5:17] + bias[:, None]).requires_grad_()
    torch.testing.assert_close(output[:, 5:17], torch.autograd.grad(F.gelu(x).sum(), x)[0], rtol=0, atol=1.2e-5)


def test_arguments_that_do_not_match_are_refused() -> None:
    x, kept = torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.int16)
    assert is_pointwise_native(x) and not is_pointwise_native(x.double())
    for product, output, derivative in (
        (x, x[:2], None),
        (x.double(), x, None),
        (x, x.T.contiguous().T, None),
        (x[0], x[0], None),
        (x, x, kept.float()),
        (x, x, kept[:, :2]),
    ):
        with pytest.raises(InvalidInputError, match="Matrices of one shape with dense rows"):
            activate(product, output, derivative=derivative)
    for bias in (torch.randn(4), torch.randn(3).double()):
        with pytest.raises(InvalidInputError, match=r"A dense float32 tensor \[3\]"):
            activate(x, x, bias)
    with pytest.raises(InvalidInputError, match="It must be None or one of relu, gelu, relu6"):
        activate(x, x, activation="silu")
