"""What a method of the convolution offers, and the problem that it is asked to compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

Direction = Literal["forward", "grad_input", "grad_weight"]


@dataclass(frozen=True)
class ConvProblem:
    """Sizes, dtype and layout of one depthwise convolution with stride 1 and 'same' zero padding.

    Attributes:
        direction: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        dtype: Name of the dtype of all tensors, such as ``"float32"``.
        channels_last: Whether the first tensor, and therefore the result, is channels-last.
        n: Number of images.
        c: Number of channels.
        h: Height of a plane, in pixels.
        w: Width of a plane, in pixels.
        kh: Height of the kernel, in pixels.
        kw: Width of the kernel, in pixels.
    """

    direction: Direction
    dtype: str
    channels_last: bool
    n: int
    c: int
    h: int
    w: int
    kh: int
    kw: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of all tensors."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds, with those of the padding."""
        return self.n * self.c * self.h * self.w * self.kh * self.kw

    @property
    def bucket(self) -> ConvProblem:
        """The problem whose measurement also holds for this one: N * C is rounded up to a power of two."""
        planes = 1 << max(0, (self.n * self.c - 1).bit_length())
        return replace(self, n=max(1, planes // max(1, self.c)))

    @property
    def for_any_count(self) -> ConvProblem:
        """The key of a choice that holds for all numbers of images, with 0 of them."""
        return replace(self, n=0)

    def __str__(self) -> str:
        """Label in records and tables, such as ``"forward float32 nchw 64x384x32x32 31x31"``."""
        layout = "nhwc" if self.channels_last else "nchw"
        sizes = f"{self.n}x{self.c}x{self.h}x{self.w} {self.kh}x{self.kw}"
        return f"{self.direction} {self.dtype} {layout} {sizes}"


class ConvMethod(Protocol):
    """One way to compute the three operators. Results have the memory format of the first tensor.

    Tensors are those of :mod:`replk_probe.ops._schema`, on one device, of one dtype, with any strides; kernels are odd.
    """

    name: str

    def refusal(self, problem: ConvProblem, device: torch.device) -> str | None:
        """Why this method does not compute a problem on a device, or None; a sentence without a period."""
        ...

    def workspace_bytes(self, problem: ConvProblem) -> int:
        """Largest memory of a call beyond its arguments and its result, in bytes."""
        ...

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        """``act(conv(input, weight) + bias)``, ``[N, C, H, W]``."""
        ...

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``."""
        ...

    def grad_weight(self, input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
        """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous."""
        ...
