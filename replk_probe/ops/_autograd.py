"""Derivatives of the three operators, and the short way around torch's dispatcher where nobody watches.

Each operator is linear in both of its tensors, and its derivative is made of the other two, to any order. Only what is
asked for is computed, and only what that needs is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _cpu, _fallback
from ._direct import is_direct, is_transformed, needs_grad
from ._prepared_weights import PreparedWeights
from ._schema import LIBRARY, NAMESPACE, dwconv2d, dwconv2d_grad_input, dwconv2d_grad_weight
from ._shapes import check_tensors


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    native: bool = False,
    weights: PreparedWeights | None = None,
) -> Tensor:
    """``act(conv(input, weight) + bias)``; arguments as for :func:`replk_probe.ops._cpu.forward`."""
    output: Tensor
    # Asked first: torch.compile and torch.export know the answer while they trace, and see the operator alone.
    is_compiling = torch.compiler.is_compiling()
    if is_compiling or not is_direct(input, weight, bias):
        if not is_compiling:
            check_tensors(input=input, weight=weight, **({} if bias is None else {"bias": bias}))
            if not native and is_transformed():
                return _fallback.forward(input, weight, bias, relu)
        output = dwconv2d(input, weight, bias, relu, native)
    elif needs_grad(input, weight, bias):
        output = _Convolution.apply(input, weight, bias, relu, native, weights)
    else:
        output = _cpu.forward(input, weight, bias, relu, native, weights)
    return output


def grad_input(grad: Tensor, weight: Tensor, native: bool = False, weights: PreparedWeights | None = None) -> Tensor:
    """Gradient of the input; arguments as for :func:`replk_probe.ops._cpu.grad_input`."""
    is_compiling = torch.compiler.is_compiling()
    if is_compiling or not is_direct(grad, weight) or needs_grad(grad, weight):
        if not is_compiling:
            check_tensors(grad=grad, weight=weight)
            if not native and is_transformed():
                return _fallback.grad_input(grad, weight)
        output: Tensor = dwconv2d_grad_input(grad, weight, native)
        return output
    return _cpu.grad_input(grad, weight, native, weights)


def grad_weight(input: Tensor, grad: Tensor, kernel: Any, native: bool = False) -> Tensor:
    """Gradient of the weight of size ``kernel``; arguments as for :func:`replk_probe.ops._cpu.grad_weight`."""
    if torch.compiler.is_compiling() or not is_direct(input, grad) or needs_grad(input, grad):
        output: Tensor = dwconv2d_grad_weight(input, grad, *kernel, native)
        return output
    return _cpu.grad_weight(input, grad, kernel[0], kernel[1], native)


def _keep(ctx: Any, input: Tensor, weight: Tensor, output: Tensor | None) -> None:
    """Keep what the gradients need that will be asked for."""
    wants_input, wants_weight = ctx.needs_input_grad[:2]
    ctx.kernel = weight.shape[2:]
    ctx.save_for_backward(input if wants_weight else None, weight if wants_input else None, output)


def _gradients(ctx: Any, grad: Tensor, native: bool, weights: PreparedWeights | None) -> list[Tensor | None]:
    """Gradients of input, weight and bias."""
    input, weight, output = ctx.saved_tensors
    if output is not None:
        # Zero where the output is; a NaN passes its gradient on, as in torch's own ReLU.
        grad = torch.ops.aten.threshold_backward(grad, output, 0)
    wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    return [
        grad_input(grad, weight, native, weights) if wants_input else None,
        grad_weight(input, grad, ctx.kernel, native) if wants_weight else None,
        grad.sum((0, 2, 3)) if wants_bias else None,
    ]


class _Convolution(torch.autograd.Function):
    """The convolution without the dispatcher, on a prepared weight in both directions where there is one."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,
        native: bool,
        weights: PreparedWeights | None,
    ) -> Tensor:
        output = _cpu.forward(input, weight, bias, relu, native, weights)
        ctx.native, ctx.weights = native, weights
        _keep(ctx, input, weight, output if relu else None)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad, ctx.native, ctx.weights), None, None, None)


# The operators, for whoever goes through the dispatcher.


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, relu, ctx.native = inputs
    _keep(ctx, input, weight, output if relu else None)


def _forward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, grad, ctx.native, None), None, None)


def _grad_input_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, weight, ctx.native = inputs
    _keep(ctx, grad, weight, None)


def _grad_input_backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
    grad, weight, _ = ctx.saved_tensors
    wants_grad, wants_weight = ctx.needs_input_grad[:2]
    return (
        forward(second, weight, None, False, ctx.native) if wants_grad else None,
        grad_weight(second, grad, ctx.kernel, ctx.native) if wants_weight else None,
        None,
    )


def _grad_weight_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, grad, _, _, ctx.native = inputs
    wants_input, wants_grad = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if wants_grad else None, grad if wants_input else None)


def _grad_weight_backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
    input, grad = ctx.saved_tensors
    wants_input, wants_grad = ctx.needs_input_grad[:2]
    return (
        grad_input(grad, second, ctx.native) if wants_input else None,
        forward(input, second, None, False, ctx.native) if wants_grad else None,
        None,
        None,
        None,
    )


for _name, _backward, _setup in (
    ("dwconv2d", _forward_backward, _forward_setup),
    ("dwconv2d_grad_input", _grad_input_backward, _grad_input_setup),
    ("dwconv2d_grad_weight", _grad_weight_backward, _grad_weight_setup),
):
    torch.library.register_autograd(f"{NAMESPACE}::{_name}", _backward, setup_context=_setup, lib=LIBRARY)
