"""The three operators with argument checks, and their derivatives.

Each operator is linear in both of its tensors, and its derivatives are given by the other two operators, to any order.
Only the gradients that are requested are computed, and only the tensors that they need are saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _fallback, _sharding
from ._prepared_weights import PreparedWeights
from ._schema import LIBRARY, NAMESPACE, autocast, dwconv2d, dwconv2d_grad_input, dwconv2d_grad_weight
from ._shapes import check_operands


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    native: bool = False,
    weights: PreparedWeights | None = None,
) -> Tensor:
    """``act(conv(input, weight) + bias)``; arguments as for :func:`replk_probe.ops._cpu.forward`."""
    if _fallback.is_recorded():
        return _fallback.recorded(input, weight, bias, relu)
    if torch.compiler.is_compiling():
        return _call(dwconv2d, input, weight, bias, relu, native)
    check_operands(input=input, weight=weight, **({} if bias is None else {"bias": bias}))
    return _call(dwconv2d, input, weight, bias, relu, native, 0 if weights is None else weights.number)


def grad_input(grad: Tensor, weight: Tensor, native: bool = False, weights: PreparedWeights | None = None) -> Tensor:
    """Gradient of the input; arguments as for :func:`replk_probe.ops._cpu.grad_input`."""
    if _fallback.is_recorded():
        return _fallback.recorded(grad, weight.flip(2, 3), None, False)
    if torch.compiler.is_compiling():
        return _call(dwconv2d_grad_input, grad, weight, native)
    check_operands(grad=grad, weight=weight)
    return _call(dwconv2d_grad_input, grad, weight, native, 0 if weights is None else weights.number)


def _call(operator: Any, *args: Any) -> Tensor:
    """Call an operator such that the transforms of ``torch.func``, which need a Function, can differentiate it."""
    found: Tensor
    # Compilers and symbolic traces record the operator itself.
    if torch.compiler.is_compiling() or not isinstance(args[0], Tensor):
        return operator(*args)  # type: ignore[no-any-return]
    levels: list[Any] = torch._C._functorch.get_interpreter_stack() or []
    if len(levels) > 2:
        # In several nested transforms, such as a Hessian, torch cannot call a Function inside the rule of another one.
        return _DECOMPOSED[operator](*args)
    # Tangents below a vmap cannot be looked up.
    is_batched = bool(levels) and levels[-1].key() == torch._C._functorch.TransformType.Vmap
    if not is_batched and not _is_differentiated(args):
        if levels or type(args[0]) is not Tensor:  # not, for example, a distributed tensor
            return operator(*args)  # type: ignore[no-any-return]
        with torch._C._AutoDispatchBelowAutograd():  # without the call of _autograd_kernel, which takes 5 us
            found = operator(*args)
    else:
        device = args[0].device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            args = autocast(device, args)  # here, so that the cast is differentiated too
        found = _FUNCTIONS[operator].apply(*args)
    return found


def _is_differentiated(args: tuple[Any, ...]) -> bool:
    """Whether reverse or forward mode records this call."""
    is_grad_enabled = torch.is_grad_enabled()
    return any(
        (is_grad_enabled and value.requires_grad) or forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]
        for value in args
        if isinstance(value, Tensor)
    )


def _save(ctx: Any, input: Tensor, weight: Tensor, output: Tensor | None) -> None:
    """Save what the requested gradients need."""
    wants_input, wants_weight = ctx.needs_input_grad[:2]
    ctx.kernel = weight.shape[2:]
    ctx.save_for_backward(input if wants_weight else None, weight if wants_input else None, output)
    if hasattr(ctx, "save_for_forward"):  # not in the context of an operator
        ctx.save_for_forward(input, weight, output)


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, relu, ctx.native, ctx.prepared = inputs
    _save(ctx, input, weight, output if relu else None)


def _forward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, output = ctx.saved_tensors
    if output is not None:
        # Zero where the output is zero; a NaN propagates its gradient, as in torch's own ReLU.
        grad = torch.ops.aten.threshold_backward(grad, output, 0)
    wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    return (
        _call(dwconv2d_grad_input, grad, weight, ctx.native, ctx.prepared) if wants_input else None,
        _call(dwconv2d_grad_weight, input, grad, *ctx.kernel, ctx.native) if wants_weight else None,
        grad.sum((0, 2, 3)) if wants_bias else None,
        None,
        None,
        None,
    )


def _grad_input_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, weight, ctx.native, ctx.prepared = inputs
    _save(ctx, grad, weight, None)


def _grad_input_backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
    grad, weight, _ = ctx.saved_tensors
    wants_grad, wants_weight = ctx.needs_input_grad[:2]
    return (
        _call(dwconv2d, second, weight, None, False, ctx.native, ctx.prepared) if wants_grad else None,
        _call(dwconv2d_grad_weight, second, grad, *ctx.kernel, ctx.native) if wants_weight else None,
        None,
        None,
    )


def _grad_weight_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, grad, *kernel, ctx.native = inputs
    wants_input, wants_grad = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if wants_grad else None, grad if wants_input else None)
    ctx.kernel = kernel
    if hasattr(ctx, "save_for_forward"):
        ctx.save_for_forward(input, grad)


def _grad_weight_backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
    input, grad = ctx.saved_tensors
    wants_input, wants_grad = ctx.needs_input_grad[:2]
    return (
        _call(dwconv2d_grad_input, grad, second, ctx.native, 0) if wants_input else None,
        _call(dwconv2d, input, second, None, False, ctx.native, 0) if wants_grad else None,
        None,
        None,
        None,
    )


def _bilinear_jvp(ctx: Any, operator: Any, first: Tensor, second: Tensor, *args: Any) -> Tensor:
    """The tangent of a bilinear operator from the tangents of its factors."""
    factors = ctx.saved_tensors
    return _call(operator, first, factors[1], *args) + _call(operator, factors[0], second, *args)


def _forward_jvp(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *_: None) -> Tensor:
    tangent = _bilinear_jvp(ctx, dwconv2d, input, weight, None, False, ctx.native, 0)
    if bias is not None:
        tangent = tangent + bias[:, None, None]
    output = ctx.saved_tensors[2]
    masked: Tensor = tangent if output is None else torch.ops.aten.threshold_backward(tangent, output, 0)
    return masked


def _grad_input_jvp(ctx: Any, grad: Tensor, weight: Tensor, *_: None) -> Tensor:
    return _bilinear_jvp(ctx, dwconv2d_grad_input, grad, weight, ctx.native, 0)


def _grad_weight_jvp(ctx: Any, input: Tensor, grad: Tensor, *_: None) -> Tensor:
    return _bilinear_jvp(ctx, dwconv2d_grad_weight, input, grad, *ctx.kernel, ctx.native)


def _vmap_rule(operator: Any, axes: tuple[int, ...], result_axis: int) -> Any:
    """The rule of ``torch.vmap``: a batch of convolutions is one convolution of more channels.

    Args:
        operator: The operator.
        axes: Axis of the channels in each tensor argument.
        result_axis: Axis of the channels in the result.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        def fold(value: Any, dim: int | None, axis: int) -> Any:
            if value is None:
                return None
            batch = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return batch.movedim(0, axis).flatten(axis, axis + 1)

        tensors = (fold(value, dim, axis) for value, dim, axis in zip(args, in_dims, axes, strict=False))
        result = _call(operator, *tensors, *args[len(axes) :])
        channels = result.shape[result_axis] // max(info.batch_size, 1)
        return result.unflatten(result_axis, (info.batch_size, channels)), result_axis  # type: ignore[no-untyped-call]

    return rule


def _function_of(operator: Any, backward: Any, setup: Any, jvp: Any, rule: Any) -> Any:
    """The ``torch.autograd.Function`` of an operator."""

    def forward(*args: Any) -> Any:
        return operator(*args)

    # torch binds the arguments to this signature in every call: a stored one saves 20 us.
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    methods = {"forward": forward, "setup_context": setup, "backward": backward, "jvp": jvp, "vmap": rule}
    members = {name: staticmethod(method) for name, method in methods.items()}
    return type(operator.__name__, (torch.autograd.Function,), members)


def _autograd_kernel(operator: Any, decomposed: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operator as autograd records it if it is called through torch's dispatcher, as compilers do.

    Forward-mode derivatives, and the transforms of ``torch.func`` in compiled code, which cannot call a Function, are
    those of torch's own convolution.
    """

    def kernel(*args: Any) -> Tensor:
        _sharding.register_if_used()
        tensors = [value for value in args if isinstance(value, Tensor)]
        is_transformed = torch._C._functorch.peek_interpreter_stack() is not None
        if is_transformed or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):  # type: ignore[no-untyped-call]
            return decomposed(*args)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            found: Tensor = _FUNCTIONS[operator].apply(*args, *_defaults(operator)[len(args) :])
            return found
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = operator(*args)
        return result

    return kernel


def _defaults(operator: Any) -> list[Any]:
    return [argument.default_value for argument in operator.default._schema.arguments]


def _decomposed_forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, native: bool = False, prepared: int = 0
) -> Tensor:
    return _fallback.forward(input, weight, bias, relu)


def _decomposed_grad_input(grad: Tensor, weight: Tensor, native: bool = False, prepared: int = 0) -> Tensor:
    return _fallback.grad_input(grad, weight)


def _decomposed_grad_weight(input: Tensor, grad: Tensor, kh: int, kw: int, native: bool = False) -> Tensor:
    return _fallback.grad_weight(input, grad, kh, kw)


_DECOMPOSED: dict[Any, Callable[..., Tensor]] = {
    dwconv2d: _decomposed_forward,
    dwconv2d_grad_input: _decomposed_grad_input,
    dwconv2d_grad_weight: _decomposed_grad_weight,
}
_FUNCTIONS: dict[Any, Any] = {}
for _operator, _backward, _setup, _jvp, _axes, _result_axis in (
    (dwconv2d, _forward_backward, _forward_setup, _forward_jvp, (1, 0, 0), 1),
    (dwconv2d_grad_input, _grad_input_backward, _grad_input_setup, _grad_input_jvp, (1, 0), 1),
    (dwconv2d_grad_weight, _grad_weight_backward, _grad_weight_setup, _grad_weight_jvp, (1, 1), 0),
):
    _name, _rule = f"{NAMESPACE}::{_operator.__name__}", _vmap_rule(_operator, _axes, _result_axis)
    torch.library.register_vmap(_name, _rule, lib=LIBRARY)
    _FUNCTIONS[_operator] = _function_of(_operator, _backward, _setup, _jvp, _rule)
    LIBRARY.impl(_operator.__name__, _autograd_kernel(_operator, _DECOMPOSED[_operator]), "Autograd")
