"""A convolution whose weight is prepared once for many calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from replk_probe.errors import InvalidInputError

from . import _cpu
from ._direct import is_direct, needs_grad
from ._prepared_weights import PreparedWeights
from ._schema import dwconv2d, dwconv2d_grad_input, dwconv2d_grad_weight


class PreparedKernel:
    """Convolutions with one weight, whose prepared form (the spectrum) is kept from call to call.

    Results are those of :func:`replk_probe.ops.depthwise_conv2d`, also after the weight was written to in any way,
    replaced, cast or moved: each call compares the weight with the values that the prepared form was made from. What is
    stale serves no longer and is made anew by the next call.

    What is kept is bounded: two image sizes for each object, and ``REPLK_PROBE_SPECTRA_MB`` (1024) for the process;
    beyond that the spectrum is computed in each call. It is freed with the object, and neither copied nor pickled.
    Several threads may call one object at once.
    """

    __slots__ = ("__weakref__", "weights")

    def __init__(self) -> None:
        """Nothing is prepared before the first call."""
        self.weights = PreparedWeights()

    def forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
    ) -> Tensor:
        """``act(conv(input, weight) + bias)``.

        Args:
            input: ``[N, C, H, W]``.
            weight: ``[C, 1, Kh, Kw]``, odd.
            bias: ``[C]`` or None.
            activation: ``"relu"`` or None.

        Returns:
            ``[N, C, H, W]``, contiguous; differentiable to any order. First derivatives use what is prepared.

        Raises:
            InvalidInputError: Shapes, dtypes or devices do not fit, or there is no such activation.
        """
        if activation is not None and activation != "relu":
            raise InvalidInputError(f"Unknown activation {activation!r}. Only a ReLU can be fused. Use 'relu' or None.")
        relu = activation is not None
        output: Tensor
        if torch.compiler.is_compiling() or not is_direct(input, weight, bias):
            output = dwconv2d(input, weight, bias, relu)
        elif needs_grad(input, weight, bias):
            output = _PreparedConvolution.apply(input, weight, bias, relu, self.weights)
        else:
            output = _cpu.forward(input, weight, bias, relu, False, self.weights)
        return output

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``, from that of the output: :func:`replk_probe.ops.input_gradient`."""
        if torch.compiler.is_compiling() or not is_direct(grad, weight) or needs_grad(grad, weight):
            output: Tensor = dwconv2d_grad_input(grad, weight)
            return output
        return _cpu.grad_input(grad, weight, False, self.weights)

    def clear(self) -> None:
        """Free what is kept."""
        self.weights.clear()

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self.weights.size

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedKernel:
        """Without what can be made again."""
        return PreparedKernel()

    def __copy__(self) -> PreparedKernel:
        """Without what can be made again."""
        return PreparedKernel()

    def __reduce__(self) -> tuple[type[PreparedKernel], tuple[()]]:
        """Pickled without what can be made again."""
        return PreparedKernel, ()


class _PreparedConvolution(torch.autograd.Function):
    """The convolution with a prepared weight in both directions; beyond first derivatives, the operators'."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, weights: PreparedWeights
    ) -> Tensor:
        output = _cpu.forward(input, weight, bias, relu, False, weights)
        wants_input, wants_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(
            input if wants_weight else None, weight if wants_input else None, output if relu else None
        )
        ctx.kernel_size, ctx.weights = weight.shape[2:], weights
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        input, weight, output = ctx.saved_tensors
        if output is not None:
            grad = torch.ops.aten.threshold_backward(grad, output, 0)
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        found: Tensor | None = None
        if wants_input:
            # With create_graph the gradient is differentiated in its turn.
            if is_direct(grad, weight) and not needs_grad(grad, weight):
                found = _cpu.grad_input(grad, weight, False, ctx.weights)
            else:
                found = dwconv2d_grad_input(grad, weight)
        return (
            found,
            dwconv2d_grad_weight(input, grad, *ctx.kernel_size) if wants_weight else None,
            grad.sum((0, 2, 3)) if wants_bias else None,
            None,
            None,
        )
