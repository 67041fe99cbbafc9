"""Layers whose parameters no longer change: forward, and the gradient of the input alone.

Autograd keeps a convolution's input in case the weight wants a gradient, and a ReLU's output in full. With frozen
parameters the input gradient of a convolution needs its weight only and that of a ReLU one flag per element, which is
what these layers keep: less than half of the memory, and no time spent on gradients that nobody asks for.

Each class takes over an existing module in place (:func:`freeze_layers`), so names, hooks and state-dict keys stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

# Torch's depthwise convolution on a CPU, float32, measured per kernel area: channels-last wins up to 9x9, the plain
# layout up to 13x13 and then falls to a hundredth of its speed, a product of spectra wins beyond.
_PLAIN_LAYOUT_FROM = 100
_SPECTRAL_FROM = 196
# Spectra of one group of channels stay in the cache between the transforms and the product.
_SPECTRAL_GROUP_BYTES = 4 << 20


class _InputGradient(torch.autograd.Function):
    """Runs ``module.run`` and, backwards, ``module.input_gradient``; keeps no tensor but the module's own."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, module: FrozenConv2d | FrozenLinear | FrozenBatchNorm2d) -> Tensor:
        ctx.module, ctx.shape = module, input.shape
        return module.run(input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.module.input_gradient(grad, ctx.shape), None


class _ReluSigns(torch.autograd.Function):
    """ReLU that keeps a boolean for each element."""

    @staticmethod
    def forward(ctx: FunctionCtx, input: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(input)
        output = input.relu_() if inplace else input.relu()
        # Not `output > 0`: a NaN passes its gradient on, as in autograd's own ReLU.
        ctx.save_for_backward((output <= 0).logical_not_())
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (is_open,) = ctx.saved_tensors
        return grad * is_open, None


class _Reducible(nn.Module):
    """A layer whose matrix products may run in bfloat16 (inputs and outputs in the layer's own type)."""

    reduced_forward: bool = False
    reduced_backward: bool = False

    def _derived(self, name: str, weight: Tensor, make: Callable[[Tensor], Tensor], variant: object = None) -> Tensor:
        """A tensor made from the weight, and again after the weight was moved, cast or replaced.

        The last ``variant`` is kept. Writing through ``.data`` is not noticed: the layers are private copies.
        """
        key = (weight.data_ptr(), weight._version, weight.dtype, weight.device, variant)
        cache: dict[str, tuple[Any, Tensor, Tensor]] = self.__dict__.setdefault("_frozen_cache", {})
        if name not in cache or cache[name][0] != key:
            # The weight is kept beside what was made of it, so that no other tensor can get its address.
            cache[name] = (key, weight.detach(), make(weight.detach()))
        return cache[name][2]

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not what can be made again."""
        return {name: value for name, value in self.__dict__.items() if name != "_frozen_cache"}


class FrozenLinear(_Reducible, nn.Linear):
    """``nn.Linear`` with frozen parameters: ``[..., in_features] -> [..., out_features]``."""

    def forward(self, input: Tensor) -> Tensor:
        return _InputGradient.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output."""
        if not self.reduced_forward:
            return F.linear(input, self.weight, self.bias)
        weight = self._derived("bf16", self.weight, lambda w: w.bfloat16())
        output = F.linear(input.bfloat16(), weight).to(input.dtype)
        return output if self.bias is None else output.add_(self.bias)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input, ``[..., in_features]``, from that of the output."""
        if not self.reduced_backward:
            return grad @ self.weight
        return (grad.bfloat16() @ self._derived("bf16", self.weight, lambda w: w.bfloat16())).to(grad.dtype)


class FrozenConv2d(_Reducible, nn.Conv2d):
    """``nn.Conv2d`` (zero padding) with frozen parameters: ``[N, C, H, W] -> [N, C', H', W']``."""

    def forward(self, input: Tensor) -> Tensor:
        return _InputGradient.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output."""
        if self._is_same_depthwise:
            return self._depthwise(input, self.bias, adjoint=False)
        if not self._reducible or not self.reduced_forward:
            return F.conv2d(input, self.weight, self.bias, *self._geometry)
        weight = self._derived("bf16", self.weight, lambda w: w.bfloat16())
        output = F.conv2d(input.bfloat16(), weight, None, *self._geometry).to(input.dtype)
        return output if self.bias is None else output.add_(self.bias[:, None, None])

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input of ``shape`` from that of the output."""
        if self._is_same_depthwise:
            return self._depthwise(grad, None, adjoint=True)
        reduced = self._reducible and self.reduced_backward
        work = grad.bfloat16() if reduced else grad
        if self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1 and self.padding == (0, 0):
            turned = self._derived(
                f"turned-{reduced}",
                self.weight,
                lambda w: (w.bfloat16() if reduced else w).transpose(0, 1).contiguous(),
            )
            return F.conv2d(work, turned).to(grad.dtype)
        weight = self._derived("bf16", self.weight, lambda w: w.bfloat16()) if reduced else self.weight
        # The operator wants an input for its shape and layout; one element, repeated, serves.
        like = work.new_empty(1).expand(shape)
        args = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups, (True, False, False))
        found: Tensor = torch.ops.aten.convolution_backward(work, like, weight, None, *args)[0]
        return found.to(grad.dtype)

    @property
    def _geometry(self) -> tuple[Any, Any, Any, int]:
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def _reducible(self) -> bool:
        # Matrix units multiply matrices: a depthwise convolution has none, and float64 was asked for on purpose.
        return self.groups == 1 and self.weight.dtype == torch.float32

    @property
    def _is_same_depthwise(self) -> bool:
        """Whether this is a depthwise convolution of stride 1 with 'same' zero padding: its own adjoint's shape."""
        return (
            self.groups == self.in_channels == self.out_channels > 1
            and self.stride == (1, 1)
            and all(k % 2 == 1 for k in self.kernel_size)
            and tuple(self.padding) == tuple(d * (k // 2) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        )

    def _depthwise(self, input: Tensor, bias: Tensor | None, *, adjoint: bool) -> Tensor:
        """The convolution, or its adjoint: the same with the kernel turned by 180 degrees."""
        area = self.kernel_size[0] * self.kernel_size[1]
        on_cpu = input.device.type == "cpu"
        has_transform = input.dtype in (torch.float32, torch.float64) and self.dilation == (1, 1)
        if on_cpu and has_transform and area >= _SPECTRAL_FROM and min(self.kernel_size) >= 9:
            return self._spectral(input, bias, adjoint=adjoint)
        weight = self._derived("flipped", self.weight, lambda w: w.flip(2, 3)) if adjoint else self.weight
        if on_cpu and area >= _PLAIN_LAYOUT_FROM:
            input = input.contiguous()
        return F.conv2d(input, weight, bias, 1, self.padding, self.dilation, self.groups)

    def _spectral(self, input: Tensor, bias: Tensor | None, *, adjoint: bool) -> Tensor:
        """The same by whole-plane Fourier transforms, a group of channels at a time.

        A plane of H rows needs a transform of H + Kh // 2: what wraps around lands where nothing is read. Taps further
        than H - 1 from the kernel's centre meet only padding and are left out.
        """
        n, channels, height, width = input.shape
        reach_y, reach_x = min(self.kernel_size[0] // 2, height - 1), min(self.kernel_size[1] // 2, width - 1)
        size = (_smooth(height + reach_y), _smooth(width + reach_x))

        def spectrum(weight: Tensor) -> Tensor:
            centre_y, centre_x = self.kernel_size[0] // 2, self.kernel_size[1] // 2
            rows = slice(centre_y - reach_y, centre_y + reach_y + 1)
            columns = slice(centre_x - reach_x, centre_x + reach_x + 1)
            kernel = weight.new_zeros(channels, *size)
            kernel[:, : 2 * reach_y + 1, : 2 * reach_x + 1] = weight[:, 0, rows, columns]
            # A convolution layer correlates: the product is with the conjugate.
            found: Tensor = torch.fft.rfft2(kernel.roll((-reach_y, -reach_x), (1, 2)))
            return found.conj().resolve_conj()

        kernels = self._derived("spectrum", self.weight, spectrum, (height, width))
        group = max(1, _SPECTRAL_GROUP_BYTES // (n * size[0] * (size[1] // 2 + 1) * kernels.element_size()))
        group = min(channels, 16 * max(1, group // 16))
        output = torch.empty_like(input)
        for start in range(0, channels, group):
            part = slice(start, start + group)
            planes = torch.fft.rfft2(input[:, part], s=size)
            planes *= kernels[part].conj() if adjoint else kernels[part]
            result = torch.fft.irfft2(planes, s=size)[..., :height, :width]
            if bias is not None:
                result += bias[part, None, None]
            output[:, part] = result
        return output


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in inference mode: a scale and a shift per channel."""

    def forward(self, input: Tensor) -> Tensor:
        return _InputGradient.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output from the running statistics."""
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(input, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input: that of the output times the scale."""
        assert self.running_var is not None  # freeze_layers takes over no other kind
        scale = torch.rsqrt(self.running_var.double() + self.eps).to(grad.dtype)
        if self.affine:
            scale = scale * self.weight
        return grad * scale[:, None, None]


class FrozenReLU(nn.ReLU):
    """``nn.ReLU`` that keeps one flag per element."""

    def forward(self, input: Tensor) -> Tensor:
        return _ReluSigns.apply(input, self.inplace and not input.is_leaf)  # type: ignore[no-any-return]


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.Conv2d: FrozenConv2d,
    nn.Linear: FrozenLinear,
    nn.ReLU: FrozenReLU,
}


def freeze_layers(model: nn.Module) -> None:
    """Take over the convolutions, linear layers, batch norms and ReLUs of ``model``, in place.

    Only modules of exactly these types: a subclass may compute something else. Parameters stop requiring gradients and
    the model is put in inference mode.

    Args:
        model: Changed in place; its weights keep their values, and must keep them from now on.
    """
    model.requires_grad_(False)
    for module in model.modules():
        module.training = False
        frozen = _FROZEN.get(type(module))
        if frozen is not None and _can_freeze(module):
            module.__class__ = frozen


def reduce_precision(model: nn.Module, *, forward: bool, backward: bool) -> None:
    """Let the matrix products of frozen layers run in bfloat16, with float32 sums, in either pass."""
    for module in model.modules():
        if isinstance(module, _Reducible):
            module.reduced_forward, module.reduced_backward = forward, backward


def _can_freeze(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.BatchNorm2d):
        return module.running_var is not None
    return True


def _smooth(length: int) -> int:
    """The first length from ``length`` on that is even and has no prime factor above 5: a fast transform."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and length % 2 == 0:
            return length
        length += 1
