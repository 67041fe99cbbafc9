"""The depthwise convolution and its input gradient as functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError

from . import _autograd, _cpu, _fallback, _shapes
from ._choice import unsupported_reason
from .prepared import PreparedKernel

Activation = Literal["relu"] | None
Backend = Literal["auto", "native", "aten"]
_BACKENDS = ("auto", "native", "aten")


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    backend: Backend = "auto",
) -> Tensor:
    """Depthwise convolution of stride 1 with 'same' zero padding, as deep learning defines it (a correlation).

    ``y[n,c,i,j] = act(bias[c] + sum_uv x[n,c,i+u-Kh//2,j+v-Kw//2] w[c,0,u,v])``. Differentiable to any order; only the
    gradients that are asked for are computed. Tensors are never modified, and the result does not depend on the
    number of threads. float32, bfloat16 and float16 (both with float32 sums, rounded once) on a CPU are computed
    natively, everything else by torch; :func:`unsupported_reason` says why.

    A value that is not finite may spread over its plane, it never vanishes; and since transforms add up whole tiles,
    values above 1e33 may overflow where a single result would not. Taps so far out that they meet no pixel of any
    result are not read, where torch multiplies them with the padding: a NaN there does not show.

    Args:
        input: ``[N, C, H, W]``, of any strides. Rows that are not contiguous cost a copy. channels_last costs two, as
            the result has that layout too: together about as much as half of a 13x13 convolution on planes of 28x28.
            Kernels below 9x9 (11x11 on planes above 40x40; gradients of the weight: 4x4) are left to torch in that
            layout, where it is faster.
        weight: ``[C, 1, Kh, Kw]``, of any size, larger than the plane too. Even sizes, padded as
            ``F.conv2d(padding="same")`` pads them, are left to torch.
        bias: ``[C]``, or None.
        activation: ``"relu"`` is applied while the result is written; None for nothing.
        backend: ``"native"`` and ``"aten"`` (torch's convolution) force one; ``"auto"`` takes native kernels where they
            are there and take the problem.

    Returns:
        ``[N, C, H, W]``, channels_last where ``input`` is, else contiguous; of the dtype of ``input`` (under autocast,
        of autocast's).

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not fit, or an option has no such value.
        BackendError: ``backend="native"`` and there is no native kernel for this; the message says why.
    """
    relu = _shapes.is_relu(activation)
    if backend not in _BACKENDS:
        names = ", ".join(map(repr, _BACKENDS))
        raise InvalidInputError(f"Unknown backend {backend!r}. There are {names}. Use one of them.")
    shape: tuple[int, ...] = getattr(weight, "shape", ())
    is_even = len(shape) == 4 and (shape[2] % 2 == 0 or shape[3] % 2 == 0)
    if backend == "auto" and not is_even:
        return _autograd.forward(input, weight, bias, relu)
    # What the operator checks, which is not always reached from here on.
    is_compiling = torch.compiler.is_compiling()
    if not is_compiling:
        _shapes.check_tensors(input=input, weight=weight, **({} if bias is None else {"bias": bias}))
    _shapes.check_sizes(input, weight, bias)
    if not is_compiling and not _is_autocast(input.device.type):  # under autocast tensors will have another dtype
        _shapes.check_kinds(input, weight, bias)
        reason = unsupported_reason(input, weight) if backend == "native" else None
        if reason is not None:
            raise BackendError(_cpu.refusal(reason))
    if backend == "native":
        return _autograd.forward(input, weight, bias, relu, native=True)
    return _fallback.forward(input, weight, bias, relu)


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def input_gradient(grad: Tensor, weight: Tensor, *, prepared: PreparedKernel | None = None) -> Tensor:
    """Gradient of the input of :func:`depthwise_conv2d` without activation, from the gradient of its output.

    Args:
        grad: ``[N, C, H, W]``.
        weight: ``[C, 1, Kh, Kw]``, odd.
        prepared: Where the prepared form of ``weight`` is kept between calls.

    Returns:
        ``[N, C, H, W]``, in the layout of ``grad``; differentiable like the convolution itself.

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not fit.
    """
    return _autograd.grad_input(grad, weight, weights=None if prepared is None else prepared.weights)
