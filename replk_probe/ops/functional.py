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
    gradients that are requested are computed. Tensors are never modified, and the result does not depend on the
    number of threads. float32, bfloat16 and float16 (both with float32 sums, rounded once) on a CPU are computed
    natively, everything else by torch; :func:`unsupported_reason` explains why. If the native library is not available,
    torch computes by Fourier transforms where these are faster, see :func:`planned_method`.

    A non-finite value may spread over its plane but never disappears. Since transforms sum over whole tiles, values
    above 1e33 may overflow even if the results would not. Taps that overlap only padding for every result are not
    read, so that a NaN there has no effect, while torch multiplies them by the padding.

    Args:
        input: Input, ``[N, C, H, W]``, with any strides. Rows that are not contiguous require a copy, unless the input
            is channels_last and the method reads that format (``blocked`` and ``blocked-pfa`` do, except for weight
            gradients). With other methods, a channels_last input requires two copies, because the result has the same
            memory format; the choice of the method counts their time. In that format, torch computes small kernels:
            up to 3x3, and in the forward pass those below 7x7 (bfloat16: 9x9).
        weight: Weight, ``[C, 1, Kh, Kw]``, of any size, also larger than the plane. Even sizes are computed by torch,
            with the padding of ``F.conv2d(padding="same")``.
        bias: Bias, ``[C]``, or None.
        activation: ``"relu"``, applied when the result is written, or None.
        backend: ``"native"``, ``"aten"`` (torch's convolution), or ``"auto"`` for native kernels if they are available
            and support the problem.

    Returns:
        ``[N, C, H, W]``, channels_last if ``input`` is, otherwise contiguous, with the dtype of ``input`` (or of
        autocast).

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not match, or an option has an invalid value.
        BackendError: ``backend="native"`` and no native kernel can be used; the message explains why.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import depthwise_conv2d
        >>> input = weight = torch.ones(1, 1, 3, 3)
        >>> depthwise_conv2d(input, weight, torch.tensor([-5.0]), activation="relu")[0, 0].round()
        tensor([[0., 1., 0.],
                [1., 4., 1.],
                [0., 1., 0.]])
    """
    relu = _shapes.is_relu(activation)
    if backend not in _BACKENDS:
        names = ", ".join(map(repr, _BACKENDS))
        raise InvalidInputError(f"Unknown backend {backend!r}. Choose from {names}.")
    if _fallback.is_recorded():
        return _autograd.forward(input, weight, bias, relu)
    shape: tuple[int, ...] = getattr(weight, "shape", ())
    is_even = len(shape) == 4 and (shape[2] % 2 == 0 or shape[3] % 2 == 0)
    if backend == "auto" and not is_even:
        return _autograd.forward(input, weight, bias, relu)
    # The operator makes the same checks, but is not always called below.
    is_compiling = torch.compiler.is_compiling()
    if not is_compiling:
        _shapes.check_operands(input=input, weight=weight, **({} if bias is None else {"bias": bias}))
    _shapes.check_sizes(input, weight, bias)
    if not is_compiling and not _is_autocast(input.device.type):  # autocast changes the dtypes
        _shapes.check_kinds(input, weight, bias)
        reason = unsupported_reason(input, weight) if backend == "native" else None
        if reason is not None:
            raise BackendError(_cpu.refusal(reason))
    if backend == "native":
        return _autograd.forward(input, weight, bias, relu, native=True)
    return _fallback.forward(input, weight, bias, relu)


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def conv_input_gradient(grad: Tensor, weight: Tensor, *, prepared: PreparedKernel | None = None) -> Tensor:
    """Gradient of the input of :func:`depthwise_conv2d` without activation, from the gradient of its output.

    Args:
        grad: Gradient of the output, ``[N, C, H, W]``.
        weight: Weight, ``[C, 1, Kh, Kw]``, with odd sizes.
        prepared: Cache of the prepared form of ``weight`` between calls.

    Returns:
        ``[N, C, H, W]``, in the memory format of ``grad``; differentiable like the convolution itself.

    Raises:
        InvalidInputError: Shapes, dtypes or devices do not match.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import conv_input_gradient
        >>> conv_input_gradient(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))[0, 0].round()
        tensor([[4., 6., 4.],
                [6., 9., 6.],
                [4., 6., 4.]])
    """
    return _autograd.grad_input(grad, weight, weights=None if prepared is None else prepared.weights)
