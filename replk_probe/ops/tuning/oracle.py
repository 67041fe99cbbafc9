"""The convolution in float64 by shifted products and sums, and how far a method may be from it.

Only elementwise operations and sums are used: no code of cuDNN, cuFFT, oneDNN or Triton. Bounds, in units of the
rounding of the arithmetic (2^-24 for float32): 8 times the sum of the absolute products for direct sums, and 4 times
the product of the norms of the plane and the kernel for transforms. Results of 16 bits are rounded once in addition.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIRECT, TRANSFORM = 8.0, 4.0
_SHORT = 2.0**-24
# Products of TF32 factors: each factor has 11 bits.
_TF32 = 2.0**-11
_DOUBLE = 2.0**-53
# Slack of the rounding of a result, whose value is known only up to the other error.
_ROUNDING = 1.05


def convolve(input: Tensor, weight: Tensor) -> Tensor:
    """The convolution of ``[N, C, H, W]`` with ``[C, 1, Kh, Kw]``, both in float64."""
    c, h, w = input.shape[1:]
    kh, kw = weight.shape[2:]
    padded = _padded(input, kh, kw)
    output = torch.zeros_like(input, memory_format=torch.contiguous_format)
    for u, v in _taps(h, w, kh, kw):
        output.addcmul_(padded[:, :, u : u + h, v : v + w], weight[:, 0, u, v].view(1, c, 1, 1))
    return output


def grad_weight(input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    """The gradient of the weight, ``[C, 1, Kh, Kw]``, from ``[N, C, H, W]`` twice, both in float64."""
    h, w = input.shape[2:]
    padded = _padded(input, kh, kw)
    output = input.new_zeros((input.shape[1], 1, kh, kw))
    for u, v in _taps(h, w, kh, kw):
        output[:, 0, u, v] = (padded[:, :, u : u + h, v : v + w] * grad).sum((0, 2, 3))
    return output


def _padded(input: Tensor, kh: int, kw: int) -> Tensor:
    n, c, h, w = input.shape
    padded = input.new_zeros((n, c, h + kh - 1, w + kw - 1))
    padded[:, :, kh // 2 : kh // 2 + h, kw // 2 : kw // 2 + w] = input
    return padded


def _taps(h: int, w: int, kh: int, kw: int) -> list[tuple[int, int]]:
    """The taps that overlap the plane."""
    return [(u, v) for u in range(kh) if abs(u - kh // 2) < h for v in range(kw) if abs(v - kw // 2) < w]


def unit_of(dtype: torch.dtype, *, tf32: bool) -> float:
    """Rounding of the arithmetic for tensors of a dtype; 16-bit tensors are computed in float32."""
    if dtype == torch.float64:
        return _DOUBLE
    return _TF32 if tf32 and dtype == torch.float32 else _SHORT


def share_of_bound(
    found: Tensor, want: Tensor, products: Tensor, norms: Tensor, *, unit: float, transform: bool, roundings: Tensor
) -> float:
    """Largest error of a result as a share of its bound; NaN or infinite if the result is not finite.

    Args:
        found: The result, in its own dtype.
        want: The answer in float64.
        products: Sums of the absolute products, of the same shape.
        norms: Products of norms, of a shape that broadcasts.
        unit: :func:`unit_of` the dtype.
        transform: Whether the method uses transforms.
        roundings: Sum of the absolute values that were rounded to the dtype of ``found`` on the way.
    """
    bound = TRANSFORM * unit * norms if transform else DIRECT * unit * products
    if found.dtype.itemsize == 2:
        bound = bound * _ROUNDING + _ROUNDING / 2 * torch.finfo(found.dtype).eps * roundings
    error = (found.double() - want).abs()
    # Where all terms are zero, the result has to be exact.
    share = torch.where(error == 0, 0.0, error / bound)
    return float(share.max())
