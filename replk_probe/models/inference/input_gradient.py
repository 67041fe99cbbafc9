"""Layers with frozen parameters, which compute only the output and the gradient of the input.

Autograd keeps a convolution's input for the gradient of its weight, and a ReLU's output in full. With frozen
parameters the input gradient of a convolution needs its weight only and that of a ReLU one flag per element, which is
what these layers keep: less than half of the memory, and no time spent on other gradients.

Each class replaces that of an existing module in place (:func:`freeze_layers`), which preserves names, hooks and
state-dict keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from replk_probe.ops import (
    DepthwiseConv2d,
    PreparedKernel,
    describe_backend,
    is_channels_last,
    is_same_depthwise,
    planned_method,
    unsupported_reason,
)

from ..layers.depthwise import activation_of
from .gradient_box import Box, box_of, grown, put_back

Direction = Literal["forward", "grad_input"]


class _InputGradient(torch.autograd.Function):
    """``module.run`` with ``module.input_gradient`` as the backward pass; saves no tensor except the module's."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, module: FrozenConv2d | FrozenLinear | FrozenBatchNorm2d) -> Tensor:
        ctx.module, ctx.shape = module, input.shape
        return module.run(input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.module.input_gradient(grad, ctx.shape), None


class _ReluSigns(torch.autograd.Function):
    """ReLU that saves one byte per element."""

    @staticmethod
    def forward(ctx: FunctionCtx, input: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(input)
        output = input.relu_() if inplace else input.relu()
        ctx.save_for_backward(_is_active(output))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (is_active,) = ctx.saved_tensors
        return _through(grad, is_active), None


class _Depthwise(torch.autograd.Function):
    """A :class:`FrozenDepthwiseConv2d`; saves one byte per element if a ReLU is computed with it."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, module: FrozenDepthwiseConv2d) -> Tensor:
        ctx.module = module
        output = module.run(input)
        if module.activation is not None:
            ctx.save_for_backward(_is_active(output))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        for is_active in ctx.saved_tensors:
            grad = _through(grad, is_active)
        return ctx.module.input_gradient(grad), None


def _cut(grad: Tensor, box: Box) -> Tensor:
    """The box of ``grad``, ``[N, C, H, W]``, as a dense tensor in the layout of ``grad``."""
    layout = torch.contiguous_format if grad.is_contiguous() else torch.channels_last
    return grad[:, :, box[0], box[1]].contiguous(memory_format=layout)


def _is_active(output: Tensor) -> Tensor:
    """1 where a ReLU of this output has gradient 1, else 0; 1 for NaN, as in autograd's own ReLU."""
    # Measured: three times as fast as a comparison with zero.
    return output.bool().view(torch.int8)


def _through(grad: Tensor, is_active: Tensor) -> Tensor:
    """``grad`` where the flag is 1, else 0; a product would turn an infinity into NaN."""
    # Measured: as fast as the product, and six times as fast as `torch.where` with booleans.
    found: Tensor = torch.ops.aten.threshold_backward(grad, is_active, 0)
    return found


class _Reducible(nn.Module):
    """A layer whose matrix products may be computed in bfloat16, with inputs and outputs in the layer's own type."""

    reduced_forward: bool = False
    reduced_backward: bool = False
    _frozen_cache: dict[str, tuple[Any, Tensor, Tensor]] | None = None

    def _derived(self, name: str, weight: Tensor, make: Callable[[Tensor], Tensor], variant: object = None) -> Tensor:
        """A tensor derived from the weight and cached until the weight is moved, cast or replaced.

        Only the last ``variant`` is cached. Writing through ``.data`` is not detected: the layers are private copies.
        """
        key = (weight.data_ptr(), weight._version, weight.dtype, weight.device, variant)
        if self._frozen_cache is None:
            self._frozen_cache = {}
        cache = self._frozen_cache
        if name not in cache or cache[name][0] != key:
            # The weight is kept as well, so that no other tensor can get its address.
            cache[name] = (key, weight.detach(), make(weight.detach()))
        return cache[name][2]

    def __getstate__(self) -> dict[str, Any]:
        """State without the cache, for copies and pickles."""
        return {name: value for name, value in self.__dict__.items() if name != "_frozen_cache"}


class FrozenLinear(_Reducible, nn.Linear):
    """``nn.Linear`` with frozen parameters: ``[..., in_features] -> [..., out_features]``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        return _InputGradient.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output."""
        if not self.reduced_forward:
            return F.linear(input, self.weight, self.bias)
        weight = self._derived("bf16", self.weight, lambda w: w.bfloat16())
        bias = None if self.bias is None else self.bias.bfloat16()
        return F.linear(input.bfloat16(), weight, bias).to(input.dtype)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input, ``[..., in_features]``, from that of the output."""
        if not self.reduced_backward:
            return grad @ self.weight
        return (grad.bfloat16() @ self._derived("bf16", self.weight, lambda w: w.bfloat16())).to(grad.dtype)


class FrozenConv2d(_Reducible, nn.Conv2d):
    """``nn.Conv2d`` (zero padding) with frozen parameters: ``[N, C, H, W] -> [N, C', H', W']``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        return _InputGradient.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output."""
        if not self._reducible or not self.reduced_forward:
            return F.conv2d(input, self.weight, self.bias, *self._geometry)
        weight = self._derived("bf16", self.weight, lambda w: w.bfloat16())
        bias = None if self.bias is None else self.bias.bfloat16()
        return F.conv2d(input.bfloat16(), weight, bias, *self._geometry).to(input.dtype)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input of ``shape`` from that of the output."""
        reduced = self._reducible and self.reduced_backward
        work = grad.bfloat16() if reduced else grad
        if self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1 and self.padding == (0, 0):
            turned = self._derived(
                f"turned-{reduced}",
                self.weight,
                lambda w: (w.bfloat16() if reduced else w).transpose(0, 1).contiguous(),
            )
            box = box_of(grad)
            if box is None:
                return F.conv2d(work, turned).to(grad.dtype)
            return put_back(F.conv2d(_cut(work, box), turned).to(grad.dtype), box, grad)
        weight = self._derived("bf16", self.weight, lambda w: w.bfloat16()) if reduced else self.weight
        # The operator needs an input for its shape and layout only; one element, expanded, is enough.
        like = work.new_empty(1).expand(shape)
        args = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups, (True, False, False))
        found: Tensor = torch.ops.aten.convolution_backward(work, like, weight, None, *args)[0]
        return found.to(grad.dtype)

    @property
    def _geometry(self) -> tuple[Any, Any, Any, int]:
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def _reducible(self) -> bool:
        # A depthwise convolution is not a matrix product, and float64 is a deliberate choice.
        return self.groups == 1 and self.weight.dtype == torch.float32


class FrozenDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of stride 1 with frozen parameters, by :mod:`replk_probe.ops`; ``[N, C, H, W]``.

    It replaces an ``nn.Conv2d`` or a :class:`~replk_probe.ops.DepthwiseConv2d`, whose ReLU is computed with it.
    """

    activation: str | None = None
    log: MethodLog | None = None
    _kernel: PreparedKernel | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        return _Depthwise.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output after the activation, in the layout of ``input``."""
        if self.log is not None:
            self.log.add("forward", input, self.weight)
        return self._prepared_kernel.forward(input, self.weight, self.bias, self.activation)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Gradient of the input from that of the convolution, before the activation, in the layout of ``grad``."""
        box = grown(box_of(grad), self.kernel_size, grad)
        part = grad if box is None else _cut(grad, box)
        if self.log is not None:
            self.log.add("grad_input", part, self.weight)
        found = self._prepared_kernel.input_gradient(part, self.weight)
        return found if box is None else put_back(found, box, grad)

    @property
    def _prepared_kernel(self) -> PreparedKernel:
        if self._kernel is None:
            self._kernel = PreparedKernel()
        return self._kernel


def _method(direction: Direction, input: Tensor, weight: Tensor) -> str:
    """Method by which :mod:`replk_probe.ops` computes a convolution: ``"native ISA: METHOD"`` or ``"aten: REASON"``."""
    reason = unsupported_reason(input, weight)
    if reason is None:
        layout = is_channels_last(input)
        plan = planned_method(input.shape, weight.shape[2:], input.dtype, direction, channels_last=layout)
        reason = plan.reason
    return f"native {plan.isa}: {plan.method}" if reason is None else f"aten: {reason}"


class MethodLog:
    """Record of the methods used for the frozen depthwise convolutions of a network."""

    def __init__(self) -> None:  # noqa: D107
        self._methods: dict[Any, str] = {}

    def add(self, direction: Direction, input: Tensor, weight: Tensor) -> None:
        """Add the method of one call."""
        key = (direction, input.shape, weight.shape, is_channels_last(input), input.dtype, input.device)
        if key not in self._methods:
            self._methods[key] = _method(direction, input, weight)

    def take(self) -> tuple[str, ...]:
        """Return the methods recorded since the last call, and clear the record.

        Returns:
            ``"native avx512: fft"``, ``"aten: REASON"``, ...; sorted, without duplicates.
        """
        found, self._methods = self._methods, {}
        # The library's own reason may be long; the record keeps its first sentence.
        return tuple(sorted({method.partition(". ")[0] for method in found.values()}))


def planned_backend(model: nn.Module) -> str:
    """Backend that will compute the large depthwise convolutions of ``model``.

    Returns:
        ``"native avx512"``, ``"aten (REASON)"`` or the like, or ``"torch"`` if there are none.
    """
    for module in model.modules():
        if isinstance(module, FrozenDepthwiseConv2d | DepthwiseConv2d):
            return describe_backend(module.weight.device, module.weight.dtype)
    return "torch"


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in inference mode: a scale and a shift per channel."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        return _InputGradient.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output from the running statistics."""
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(input, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input: that of the output times the scale."""
        assert self.running_var is not None  # checked by freeze_layers
        scale = torch.rsqrt(self.running_var.double() + self.eps).to(grad.dtype)
        if self.affine:
            scale = scale * self.weight
        return grad * scale[:, None, None]


class FrozenReLU(nn.ReLU):
    """``nn.ReLU`` that saves one flag per element."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        return _ReluSigns.apply(input, self.inplace and not input.is_leaf)  # type: ignore[no-any-return]


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.Conv2d: FrozenConv2d,
    DepthwiseConv2d: FrozenConv2d,
    nn.Linear: FrozenLinear,
    nn.ReLU: FrozenReLU,
}


def freeze_layers(model: nn.Module, log: MethodLog | None = None) -> None:
    """Freeze the convolutions, linear layers, batch norms and ReLUs of ``model``, in place.

    Only modules of exactly these types are frozen, because a subclass may compute something else. Parameters no longer
    require gradients, and the model is put in inference mode.

    Args:
        model: The network, changed in place. Its weights must not change afterwards.
        log: Record to which the methods of the depthwise convolutions are added, or None.
    """
    model.requires_grad_(False)
    for module in model.modules():
        module.training = False
        frozen = _FROZEN.get(type(module))
        if frozen is FrozenConv2d and isinstance(module, nn.Conv2d) and is_same_depthwise(module):
            frozen = FrozenDepthwiseConv2d
        elif frozen is None or not _can_freeze(module):
            continue
        # The cache of a DepthwiseConv2d is no longer used.
        module.__dict__.pop("_prepared", None)
        module.__class__ = frozen
        if isinstance(module, FrozenDepthwiseConv2d):
            module.log = log


def reduce_precision(model: nn.Module, *, forward: bool, backward: bool) -> None:
    """Compute the matrix products of frozen layers in bfloat16, with float32 sums, in either pass."""
    for module in model.modules():
        if isinstance(module, _Reducible):
            module.reduced_forward, module.reduced_backward = forward, backward


def _can_freeze(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        is_plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return is_plain and activation_of(module) is None
    if isinstance(module, nn.BatchNorm2d):
        return module.running_var is not None
    return True
