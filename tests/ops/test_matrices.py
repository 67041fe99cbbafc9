"""Matrix products and their activations: libraries, strides, and arguments that do not match."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from replk_probe.errors import InvalidInputError
from replk_probe.ops import activate, is_onednn_faster, is_pointwise_native, linear, matrices, times_derivative

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


@pytest.mark.parametrize(
    ("rows", "weight"),
    [
        (torch.randn(70, 33), torch.randn(50, 33)),
        (torch.randn(3, 4, 5, 33), torch.randn(33, 50).T),
        (torch.randn(33, 70).T, torch.randn(50, 33)),
        (torch.randn(2, 33, 6, 7).permute(0, 2, 3, 1), torch.randn(50, 33)),
        (torch.randn(70, 33), torch.randn(50, 40)[:, 3:36]),
        (torch.randn(0, 33), torch.randn(50, 33)),
        (torch.randn(33), torch.randn(1, 33)),
    ],
    ids=["dense", "transposed-weight", "transposed-rows", "planes", "weight-with-gaps", "empty", "vector"],
)
def test_products_of_both_libraries(rows: torch.Tensor, weight: torch.Tensor, product_library: str) -> None:
    bias = torch.randn(len(weight))
    for added in (None, bias):
        found = linear(rows, weight, added)
        exact = F.linear(rows.double(), weight.double(), None if added is None else added.double())
        # Each of 34 terms is rounded once as a product and in at most 34 sums.
        terms = F.linear(rows.abs(), weight.abs(), bias.abs())
        assert found.shape == exact.shape and found.dtype == torch.float32
        assert ((found - exact).abs() <= 35 * 2.0**-24 * terms).all()
    if product_library == "onednn":
        assert is_onednn_faster(rows, weight) == (weight.shape[1] == weight.stride(0) or weight.T.is_contiguous())


def test_what_onednn_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    x, calls = torch.randn(256, 256), []
    operator = torch.ops.mkldnn._linear_pointwise

    def counted(*args: object) -> torch.Tensor:
        calls.append(args)
        return operator(*args)  # type: ignore[no-any-return]

    monkeypatch.setattr(matrices, "_onednn_linear", lambda: counted)
    linear(x, x)
    assert len(calls) == 1
    for one in (x[:4, :4], x.double(), x.bfloat16(), torch.empty(256, 256, device="meta"), x.repeat(1, 2)[:, ::2]):
        assert not is_onednn_faster(one, one)
        linear(one, one)
    assert not linear(x.clone().requires_grad_(), x).requires_grad
    assert len(calls) == 2
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    linear(x, x)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("is_amd", "capability", "expected"), [(True, "AVX512", True), (True, "AVX2", False), (False, "AVX512", False)]
)
def test_onednn_multiplies_on_amd_with_avx512(
    is_amd: bool, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "is_amd", lambda: is_amd)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert (matrices._onednn_linear.__wrapped__() is not None) == expected
