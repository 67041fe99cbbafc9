"""The convolution and its input gradient on shapes, layouts and kernels that nobody chose by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replk_probe.ops import conv_input_gradient, depthwise_conv2d

sizes = st.integers(1, 24)
odd = st.integers(0, 15).map(lambda half: 2 * half + 1)


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same numbers in memory of several layouts."""
    padded = torch.zeros(*tensor.shape[:3], tensor.shape[3] + 3, dtype=tensor.dtype)[..., 2:-1].copy_(tensor)
    return {
        "contiguous": tensor,
        "channels_last": tensor.contiguous(memory_format=torch.channels_last),
        "rows apart": padded,
        "transposed": tensor.transpose(2, 3).contiguous().transpose(2, 3),
    }


@st.composite
def problems(draw: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias; kernels may be larger than the plane."""
    n, c, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(sizes), draw(sizes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    layout = draw(st.sampled_from(["contiguous", "channels_last", "rows apart", "transposed"]))
    input = layouts(normal(n, c, h, w))[layout]
    return input, normal(c, 1, draw(odd), draw(odd)), normal(c) if draw(st.booleans()) else None


@given(problems(), st.sampled_from([None, "relu"]))
def test_forward_is_that_of_float64(close: Callable[..., None], problem: Any, activation: Any) -> None:
    input, weight, bias = problem
    found = depthwise_conv2d(input, weight, bias, activation=activation)
    assert found.dtype == input.dtype
    close(found, input, weight, bias, activation == "relu")


@given(problems())
def test_input_gradient_is_the_convolution_with_the_flipped_kernel(close: Callable[..., None], problem: Any) -> None:
    grad, weight, _ = problem
    close(conv_input_gradient(grad, weight), grad, weight.flip(2, 3))
