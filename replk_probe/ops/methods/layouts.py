"""Torch's own convolution in a given memory format, which decides by what library it is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _fallback
from .._layout import layout_of
from ..cudnn_layout import in_contiguous_format
from .interface import ConvProblem


class AtenMethod:
    """Torch's convolution; tensors are converted to a memory format before it, and the result is converted back.

    On a GPU, channels-last tensors are always computed by cuDNN, and contiguous ones partly by kernels of torch.

    Args:
        name: Name of the method.
        layout: The memory format, or None to leave tensors as they are.
    """

    def __init__(self, name: str, layout: torch.memory_format | None = None) -> None:  # noqa: D107
        self.name = name
        self._layout = layout

    def refusal(self, problem: ConvProblem, device: torch.device) -> str | None:
        """Why the method is not a candidate; the format that the tensors have already is that of plain ``aten``."""
        current = torch.channels_last if problem.channels_last else torch.contiguous_format
        return "the tensors have this memory format already" if self._layout == current else None

    def workspace_bytes(self, problem: ConvProblem) -> int:
        """Memory of the converted tensors, in bytes."""
        planes = problem.n * problem.c * problem.h * problem.w
        return 0 if self._layout is None else 2 * planes * problem.torch_dtype.itemsize

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        """``act(conv(input, weight) + bias)``, ``[N, C, H, W]``."""
        found = _fallback.forward(self._converted(input), self._weight(weight), bias, relu)
        return found.contiguous(memory_format=layout_of(input))

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``."""
        found = _fallback.grad_input(self._converted(grad), self._weight(weight))
        return found.contiguous(memory_format=layout_of(grad))

    def grad_weight(self, input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
        """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous."""
        return _fallback.grad_weight(self._converted(input), self._converted(grad), kh, kw)

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor if self._layout is None else tensor.contiguous(memory_format=self._layout)

    def _weight(self, weight: Tensor) -> Tensor:
        """The weight in the memory format.

        A kernel has one channel and is contiguous in both formats; torch derives the format of the convolution from
        its strides as well, so that these have to be changed.
        """
        if self._layout is None:
            return weight
        if self._layout == torch.contiguous_format:
            return in_contiguous_format(weight)
        channels, _, kh, kw = weight.shape
        return weight.contiguous().view(channels, kh, kw, 1).permute(0, 3, 1, 2)
