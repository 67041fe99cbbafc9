"""The three operators for torch: schemas, kernels by device, fake tensors, autocast, FLOP counts.

    dwconv2d               y = act(conv(x, w) + b)     [N,C,H,W], [C,1,Kh,Kw], [C] -> [N,C,H,W]
    dwconv2d_grad_input    dx from dy and w            [N,C,H,W], [C,1,Kh,Kw]      -> [N,C,H,W]
    dwconv2d_grad_weight   dw from x and dy            [N,C,H,W], [N,C,H,W]        -> [C,1,Kh,Kw]

``native`` raises an error instead of using torch's own convolution. ``prepared`` is the ``number`` of a
:class:`PreparedWeights`, or 0. Results have the memory format of the first tensor, channels-last or contiguous;
gradients of the weight are contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from replk_probe.errors import BackendError
from replk_probe.runtime.deferred_imports import when_imported

from . import _cpu, _fallback
from ._choice import uncovered_tensors
from ._layout import layout_of
from ._prepared_weights import find_prepared
from ._shapes import check_forward, check_grad_input, check_grad_weight
from .tuning import choices

NAMESPACE = "replk_probe"
LIBRARY: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define(
    "dwconv2d(Tensor input, Tensor weight, Tensor? bias, bool relu, bool native=False, int prepared=0) -> Tensor"
)
LIBRARY.define("dwconv2d_grad_input(Tensor grad, Tensor weight, bool native=False, int prepared=0) -> Tensor")
LIBRARY.define("dwconv2d_grad_weight(Tensor input, Tensor grad, SymInt kh, SymInt kw, bool native=False) -> Tensor")

dwconv2d: Any = torch.ops.replk_probe.dwconv2d
dwconv2d_grad_input: Any = torch.ops.replk_probe.dwconv2d_grad_input
dwconv2d_grad_weight: Any = torch.ops.replk_probe.dwconv2d_grad_weight


# Kernels ----------------------------------------------------------------------------------------------------------


def _forward_elsewhere(
    input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, native: bool = False, prepared: int = 0
) -> Tensor:
    check_forward(input, weight, bias)
    _elsewhere(input, native)
    return choices.compute("forward", input, weight.shape[2:], _fallback.forward, (input, weight, bias, relu))


def _grad_input_elsewhere(grad: Tensor, weight: Tensor, native: bool = False, prepared: int = 0) -> Tensor:
    check_grad_input(grad, weight)
    _elsewhere(grad, native)
    return choices.compute("grad_input", grad, weight.shape[2:], _fallback.grad_input, (grad, weight))


def _grad_weight_elsewhere(input: Tensor, grad: Tensor, kh: int, kw: int, native: bool = False) -> Tensor:
    check_grad_weight(input, grad, kh, kw)
    _elsewhere(input, native)
    return choices.compute("grad_weight", input, (kh, kw), _fallback.grad_weight, (input, grad, kh, kw))


def _elsewhere(tensor: Tensor, native: bool) -> None:
    """Log, or with ``native`` raise, that a tensor on another device is computed by torch."""
    reason = uncovered_tensors(tensor) or "the tensor has no memory of its own"
    if native:
        raise BackendError(_cpu.refusal(reason))
    _cpu.log_fallback(reason)


def _forward_on_cpu(
    input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, native: bool = False, prepared: int = 0
) -> Tensor:
    return _cpu.forward(input, weight, bias, relu, native, find_prepared(prepared))


def _grad_input_on_cpu(grad: Tensor, weight: Tensor, native: bool = False, prepared: int = 0) -> Tensor:
    return _cpu.grad_input(grad, weight, native, find_prepared(prepared))


def _grad_weight_on_cpu(input: Tensor, grad: Tensor, kh: int, kw: int, native: bool = False) -> Tensor:
    return _cpu.grad_weight(input, grad, kh, kw, native)


LIBRARY.impl("dwconv2d", _forward_on_cpu, "CPU")
LIBRARY.impl("dwconv2d_grad_input", _grad_input_on_cpu, "CPU")
LIBRARY.impl("dwconv2d_grad_weight", _grad_weight_on_cpu, "CPU")
LIBRARY.impl("dwconv2d", _forward_elsewhere, "CompositeExplicitAutograd")
LIBRARY.impl("dwconv2d_grad_input", _grad_input_elsewhere, "CompositeExplicitAutograd")
LIBRARY.impl("dwconv2d_grad_weight", _grad_weight_elsewhere, "CompositeExplicitAutograd")


# Fake tensors -----------------------------------------------------------------------------------------------------


def _forward_fake(
    input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, native: bool = False, prepared: int = 0
) -> Tensor:
    check_forward(input, weight, bias)
    return torch.empty_like(input, memory_format=layout_of(input))


def _grad_input_fake(grad: Tensor, weight: Tensor, native: bool = False, prepared: int = 0) -> Tensor:
    check_grad_input(grad, weight)
    return torch.empty_like(grad, memory_format=layout_of(grad))


def _grad_weight_fake(input: Tensor, grad: Tensor, kh: int, kw: int, native: bool = False) -> Tensor:
    check_grad_weight(input, grad, kh, kw)
    return input.new_empty((input.shape[1], 1, kh, kw))


for _name, _fake in (
    ("dwconv2d", _forward_fake),
    ("dwconv2d_grad_input", _grad_input_fake),
    ("dwconv2d_grad_weight", _grad_weight_fake),
):
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake, lib=LIBRARY)


# Autocast ---------------------------------------------------------------------------------------------------------


def autocast(device: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast tensors to the dtype of ``torch.autocast``, as ``F.conv2d`` does; float64 is not cast."""
    dtype = torch.get_autocast_dtype(device)

    def cast(value: Any) -> Any:
        is_cast = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if is_cast and value.device.type == device else value

    return tuple(map(cast, args))


def _register_autocast(name: str, operator: Any, device: str) -> None:
    def kernel(*args: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return operator(*autocast(device, args))

    LIBRARY.impl(name, kernel, f"Autocast{device.upper()}")


for _name, _operator in (
    ("dwconv2d", dwconv2d),
    ("dwconv2d_grad_input", dwconv2d_grad_input),
    ("dwconv2d_grad_weight", dwconv2d_grad_weight),
):
    for _device in ("cpu", "cuda", "mps", "xpu"):
        _register_autocast(_name, _operator, _device)


# FLOP counts: two per multiply-add, padding included, like torch's formula of a convolution. -----------------------


def _flops(planes: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    n, channels, height, width = planes
    return int(2 * n * channels * height * width * weight[2] * weight[3])


def _flops_grad_weight(planes: Any, grad: Any, kh: int, kw: int, *args: Any, out_shape: Any = None, **kw_: Any) -> int:
    n, channels, height, width = planes
    return int(2 * n * channels * height * width * kh * kw)


def _register_flops() -> None:
    from torch.utils.flop_counter import register_flop_formula

    count: Any = register_flop_formula
    count([dwconv2d, dwconv2d_grad_input])(_flops)
    count(dwconv2d_grad_weight)(_flops_grad_weight)


# The module imports Triton.
when_imported("torch.utils.flop_counter", _register_flops)
