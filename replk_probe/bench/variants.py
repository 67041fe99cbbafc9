"""Variants of each pass of a depthwise convolution, in this package and in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.ops import DepthwiseConv2d, PreparedKernel, conv_input_gradient, depthwise_conv2d

from .result import Layer

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Operands:
    """Random operands of a layer.

    Attributes:
        x: Input, ``[N, C, H, W]``.
        weight: Kernel, ``[C, 1, Kh, Kw]``.
        grad: Gradient of the output, ``[N, C, H, W]``.
    """

    x: Tensor
    weight: Tensor
    grad: Tensor

    @classmethod
    def draw(cls, layer: Layer, dtype: torch.dtype) -> Operands:
        """Draw signed numbers with seed 0; on zeros, a processor draws less power and runs faster."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        return cls(normal(*layer.shape), normal(layer.c, 1, *layer.kernel), normal(*layer.shape))

    def first(self, images: int, channels: int, rows: int) -> Operands:
        """The operands of the same layer with fewer images, channels and rows."""
        x, grad = (tensor[:images, :channels, :rows].contiguous() for tensor in (self.x, self.grad))
        return Operands(x, self.weight[:channels], grad)


def our_variants(direction: str, operands: Operands) -> dict[str, Call]:
    """Variants of this package by name.

    ``module`` uses a kernel prepared before, and ``functional`` prepares it in each call. ``ours_channels_last`` is the
    first of them that exists, with operands that are already channels-last.
    """
    x, weight, grad = operands.x, operands.weight, operands.grad
    x_last, grad_last = x.to(memory_format=torch.channels_last), grad.to(memory_format=torch.channels_last)
    if direction == "forward":
        channels, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
        padding = (kernel[0] // 2, kernel[1] // 2)
        module = DepthwiseConv2d(channels, channels, kernel, padding=padding, groups=channels, bias=False)
        module = module.to(weight.dtype).eval().requires_grad_(False)
        module.weight.copy_(weight)
        return {
            "module": lambda: module(x),
            "functional": lambda: depthwise_conv2d(x, weight),
            "ours_channels_last": lambda: module(x_last),
        }
    if direction == "grad_input":
        prepared = PreparedKernel()
        return {
            "module": lambda: conv_input_gradient(grad, weight, prepared=prepared),
            "functional": lambda: conv_input_gradient(grad, weight),
            "ours_channels_last": lambda: conv_input_gradient(grad_last, weight, prepared=prepared),
        }
    kh, kw = weight.shape[2:]
    return {
        "functional": lambda: torch.ops.replk_probe.dwconv2d_grad_weight(x, grad, kh, kw),
        "ours_channels_last": lambda: torch.ops.replk_probe.dwconv2d_grad_weight(x_last, grad_last, kh, kw),
    }


def torch_variants(direction: str, operands: Operands) -> dict[str, Call]:
    """Variants of torch by name: ``nchw``, ``channels_last`` (of such operands), ``fft`` (spectrum precomputed)."""
    return {
        "nchw": _torch_convolution(direction, operands, torch.contiguous_format),
        "channels_last": _torch_convolution(direction, operands, torch.channels_last),
        "fft": _torch_fft(direction, operands),
    }


def _torch_convolution(direction: str, operands: Operands, layout: torch.memory_format) -> Call:
    x, grad = operands.x.to(memory_format=layout), operands.grad.to(memory_format=layout)
    weight = operands.weight
    channels, kh, kw = weight.shape[0], weight.shape[2], weight.shape[3]
    padding = (kh // 2, kw // 2)
    if direction == "forward":
        return lambda: F.conv2d(x, weight, padding=padding, groups=channels)
    is_weight = direction == "grad_weight"
    arguments = ([0], [1, 1], list(padding), [1, 1], False, [0, 0], channels, [not is_weight, is_weight, False])

    def backward() -> Tensor:
        found: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, *arguments)[int(is_weight)]
        return found

    return backward


def _torch_fft(direction: str, operands: Operands) -> Call:
    """FFT of whole planes in float32, of the smallest sizes for which values that wrap around are not read."""
    x, weight, grad = operands.x, operands.weight, operands.grad
    dtype = x.dtype
    h, w = x.shape[2:]
    kh, kw = weight.shape[2:]
    # Taps beyond the plane only multiply padding.
    reach_h, reach_w = min(kh // 2, h - 1), min(kw // 2, w - 1)
    size = (_fast_length(h + reach_h), _fast_length(w + reach_w))
    if direction == "grad_weight":
        outside = (kw // 2 - reach_w,) * 2 + (kh // 2 - reach_h,) * 2

        def weight_gradient() -> Tensor:
            product = torch.fft.rfft2(x.float(), s=size)
            product *= torch.fft.rfft2(grad.float(), s=size).conj()
            lags = torch.fft.irfft2(product.sum(0), s=size).roll((reach_h, reach_w), (1, 2))
            return F.pad(lags[:, None, : 2 * reach_h + 1, : 2 * reach_w + 1], outside).to(dtype)

        return weight_gradient
    middle = weight[:, 0, kh // 2 - reach_h : kh // 2 + reach_h + 1, kw // 2 - reach_w : kw // 2 + reach_w + 1]
    placed = torch.zeros(weight.shape[0], *size)
    placed[:, : 2 * reach_h + 1, : 2 * reach_w + 1] = middle
    spectrum = torch.fft.rfft2(placed.roll((-reach_h, -reach_w), (1, 2)))
    if direction == "forward":
        spectrum = spectrum.conj().resolve_conj()
    source = x if direction == "forward" else grad

    def convolve() -> Tensor:
        product = torch.fft.rfft2(source.float(), s=size)
        product *= spectrum
        planes: Tensor = torch.fft.irfft2(product, s=size)
        return planes[..., :h, :w].to(dtype)

    return convolve


def _fast_length(length: int) -> int:
    """The next even number without prime factors above 5."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and length % 2 == 0:
            return length
        length += 1


def relative_errors(direction: str, operands: Operands, outputs: dict[str, Tensor]) -> dict[str, float]:
    """Relative L2 error of each output against float64, computed through float64 spectra a few channels at a time."""
    n, _, h, w = operands.x.shape
    step = max(1, 2_000_000 // (n * (h + operands.weight.shape[2]) * (w + operands.weight.shape[3])))
    norm, squares = 0.0, dict.fromkeys(outputs, 0.0)
    for begin in range(0, operands.x.shape[1], step):
        channels = slice(begin, begin + step)
        exact = _exact(direction, operands.x[:, channels], operands.weight[channels], operands.grad[:, channels])
        norm += exact.square().sum().item()
        for name, output in outputs.items():
            part = output[channels] if direction == "grad_weight" else output[:, channels]
            squares[name] += (part.double() - exact).square().sum().item()
    return {name: (square / norm) ** 0.5 for name, square in squares.items()}


def _exact(direction: str, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    kh, kw = weight.shape[2:]
    h, w = x.shape[2:]
    size = (_fast_length(h + kh - 1), _fast_length(w + kw - 1))

    def spectrum(tensor: Tensor) -> Tensor:
        found: Tensor = torch.fft.rfft2(tensor.double(), s=size)
        return found

    full: Tensor
    if direction == "grad_weight":
        product = spectrum(F.pad(x, (kw // 2, 0, kh // 2, 0))) * spectrum(grad).conj()
        full = torch.fft.irfft2(product.sum(0), s=size)
        return full[:, None, :kh, :kw]
    kernel = weight.flip(2, 3) if direction == "forward" else weight
    source = x if direction == "forward" else grad
    full = torch.fft.irfft2(spectrum(source) * spectrum(kernel[:, 0]), s=size)
    return full[..., kh // 2 : kh // 2 + h, kw // 2 : kw // 2 + w]
