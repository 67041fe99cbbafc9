"""Layers with frozen parameters, which compute only the output and the gradient of the input.

A convolution keeps only its weight instead of its input, and a ReLU one flag per element instead of its output: less
than half of autograd's memory. For small inputs, where the time of such a call matters more than its memory, the layers
can be computed by torch's own class instead (:func:`use_autograd`). Each class replaces that of an existing module in
place (:func:`freeze_layers`), which preserves names, hooks and state-dict keys.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from replk_probe.ops import (
    DepthwiseConv2d,
    PreparedKernel,
    chosen_method,
    describe_backend,
    gelu_grad_input,
    gelu_products,
    gelu_with_squares,
    is_channels_last,
    is_gelu_native,
    is_onednn_faster,
    is_same_depthwise,
    linear,
    planned_method,
    unsupported_reason,
)
from replk_probe.ops.cudnn_layout import contiguous_reason
from replk_probe.runtime.devices import as_float64, is_autocast

from ..layers.depthwise import activation_of
from ..layers.response_norm import EPS, GeluResponseNorm
from .gradient_box import Box, box_of, grown, put_back

Direction = Literal["forward", "grad_input"]

# Number of input elements below which autograd's layers are faster than frozen ones; they keep at most 4 MB in float32.
AUTOGRAD_BELOW = 2**20

# Measured: with fewer products, or fewer per converted value, float32 is as fast as bfloat16.
_LEAST_PRODUCTS = 2**24
_LEAST_REUSE = 48
# Number of values that several elementwise operations process one after the other, so that they stay in the cache.
_CHUNK = 2**20
# Measured: on maps with fewer positions, one product for each image is slower than one for all.
_LEAST_POSITIONS = 2**10


class _InputGradient(torch.autograd.Function):
    """``module.run`` with ``module.input_gradient`` as the backward pass; saves no tensor except the module's."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, module: FrozenConv2d | FrozenLinear | FrozenBatchNorm2d) -> Tensor:
        ctx.module, ctx.shape = module, input.shape
        return _owned(module.run(input))

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


class _GeluResponseNorm(torch.autograd.Function):
    """A :class:`GeluResponseNorm` with frozen parameters; saves its input only, half of what autograd saves."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, module: FrozenGeluResponseNorm) -> Tensor:
        ctx.module = module
        output, norm = module.activations(input)
        ctx.save_for_backward(input, norm)
        output *= module.scale(norm)
        return output if module.beta is None else output.add_(module.beta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.module.input_gradient(grad, *ctx.saved_tensors), None


class _LinearOfPlanes(torch.autograd.Function):
    """A :class:`FrozenLinear` at every position of ``[N, C, H, W]``."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, module: FrozenLinear) -> Tensor:
        ctx.module, ctx.shape = module, input.permute(0, 2, 3, 1).shape
        output = module.product(input, module.weight.T, module.is_reduced(ctx.shape, forward=True))
        return _owned(output if module.bias is None else output.add_(module.bias[:, None, None]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        module: FrozenLinear = ctx.module
        return module.product(grad, module.weight, module.is_reduced(ctx.shape, forward=False)), None


class _ContiguousPlanes(torch.autograd.Function):
    """The input and its gradient, ``[N, C, H, W]``, as contiguous planes."""

    @staticmethod
    def forward(ctx: FunctionCtx, input: Tensor) -> Tensor:
        return input.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()


def _owned(output: Tensor) -> Tensor:
    """The same values as a tensor that is no view, because autograd forbids changing a view that a function returns.

    An activation in place, for instance, may be next.
    """
    if not output._is_view():
        return output
    place = (output.untyped_storage(), output.storage_offset(), output.shape, output.stride())
    return output.new_empty(0).set_(*place)


def _cut(grad: Tensor, box: Box) -> Tensor:
    """The box of ``grad``, ``[N, C, H, W]``, as a dense tensor in the layout of ``grad``."""
    layout = torch.contiguous_format if grad.is_contiguous() else torch.channels_last
    return grad[:, :, box[0], box[1]].contiguous(memory_format=layout)


def _pointwise(grad: Tensor, weight: Tensor) -> Tensor:
    """Input gradient of a 1 x 1 convolution, ``[N, C, H, W]`` from ``[N, C', H, W]``, in the layout of ``grad``."""
    # Measured: a product is as fast as torch's convolution with the transposed weight, which would have to be cached.
    matrix, (images, _, *size) = weight.flatten(1), grad.shape
    if not grad.is_contiguous():
        return linear(grad.permute(0, 2, 3, 1), matrix.T).permute(0, 3, 1, 2)
    if images and is_onednn_faster(matrix.T, grad[0].flatten(1).T):
        return torch.stack([linear(matrix.T, image.flatten(1).T) for image in grad]).view(images, -1, *size)
    return torch.bmm(matrix.T.expand(images, -1, -1), grad.flatten(2)).view(images, -1, *size)


def dense_planes(maps: Tensor) -> Tensor | None:
    """``[N, H, W, C]`` as contiguous ``[N, C, H, W]`` if it is a permutation of such a tensor, else None."""
    if maps.dim() != 4 or maps.is_contiguous() or maps.shape[1:3].numel() < _LEAST_POSITIONS:
        return None
    planes = maps.permute(0, 3, 1, 2)
    return planes if planes.is_contiguous() else None


def _is_active(output: Tensor) -> Tensor:
    """1 where a ReLU of this output has gradient 1, else 0; 1 for NaN, as in autograd's own ReLU."""
    # Measured: three times as fast as a comparison with zero.
    return output.bool().view(torch.int8)


def _through(grad: Tensor, is_active: Tensor) -> Tensor:
    """``grad`` where the flag is 1, else 0; a product would turn an infinity into NaN."""
    # Measured: as fast as the product, and six times as fast as `torch.where` with booleans.
    found: Tensor = torch.ops.aten.threshold_backward(grad, is_active, 0)
    return found


class _Frozen(nn.Module):
    """A layer with ``run``, the output, and ``input_gradient``, the only gradient."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        # Under autocast by torch's class, because the casts must be part of the graph.
        if is_autocast(input.device) or self._is_left_to_autograd(input):
            return super().forward(input)  # type: ignore[no-any-return]
        return _InputGradient.apply(input, self)  # type: ignore[no-any-return]

    def _is_left_to_autograd(self, input: Tensor) -> bool:
        return False


class AutogradForSmall:
    """A layer whose small inputs may be left to torch's own classes; see :func:`use_autograd`."""

    autograd_below: int = 0


class _Reducible(AutogradForSmall, _Frozen):
    """A layer whose matrix products may be computed in bfloat16, with inputs and outputs in the layer's own type."""

    weight: Tensor
    reduced_forward: bool = False
    reduced_backward: bool = False

    def _is_left_to_autograd(self, input: Tensor) -> bool:
        if input.numel() >= self.autograd_below or self._is_faster_by_onednn(input):
            return False
        return not any(self.is_reduced(input.shape, forward=forward) for forward in (True, False))

    def _is_faster_by_onednn(self, input: Tensor) -> bool:
        return is_onednn_faster(input, self.weight)

    def is_reduced(self, shape: torch.Size, *, forward: bool) -> bool:
        """Whether the products of a pass are computed in bfloat16 for an input of ``shape``."""
        return (self.reduced_forward if forward else self.reduced_backward) and self._gains(shape)

    def _gains(self, shape: torch.Size) -> bool:
        """Whether bfloat16 products are faster for an input of ``shape``, the conversions included."""
        if self.weight.dtype != torch.float32:  # float64 is a deliberate choice
            return False
        values, positions = self._extent(shape)
        products = positions * self.weight.numel()
        converted = values + positions * self.weight.shape[0] + self.weight.numel()
        return products >= max(_LEAST_PRODUCTS, _LEAST_REUSE * converted)

    def _extent(self, shape: torch.Size) -> tuple[int, int]:
        """Number of values of an input of ``shape``, and of positions of the output."""
        return shape.numel(), shape.numel() // max(shape[-1], 1)


class FrozenLinear(_Reducible, nn.Linear):
    """``nn.Linear`` with frozen parameters: ``[..., in_features] -> [..., out_features]``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``, without permuting maps that are contiguous planes."""
        planes = dense_planes(input)
        if planes is None or is_autocast(input.device) or self._is_left_to_autograd(input):
            return super().forward(input)
        found: Tensor = _LinearOfPlanes.apply(planes, self)
        return found.permute(0, 2, 3, 1)

    def run(self, input: Tensor) -> Tensor:
        """The layer's output."""
        if not self.is_reduced(input.shape, forward=True):
            return linear(input, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.bfloat16()
        return F.linear(input.bfloat16(), self.weight.bfloat16(), bias).to(input.dtype)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input, ``[..., in_features]``, from that of the output."""
        if not self.is_reduced(shape, forward=False):
            return linear(grad, self.weight.T)
        # One product of two matrices: torch expands the weight for each image of a bfloat16 gradient with more axes.
        rows = grad.reshape(-1, self.out_features).bfloat16()
        return (rows @ self.weight.bfloat16()).to(grad.dtype).view(shape)

    def product(self, maps: Tensor, weight: Tensor, reduced: bool) -> Tensor:
        """``weight.T`` times the vector at each position, ``[N, C, H, W]``."""
        if not reduced:
            return _pointwise(maps, weight)
        return _pointwise(maps.bfloat16(), weight.bfloat16()).to(maps.dtype)


class FrozenConv2d(_Reducible, nn.Conv2d):
    """``nn.Conv2d`` (zero padding) with frozen parameters: ``[N, C, H, W] -> [N, C', H', W']``."""

    def run(self, input: Tensor) -> Tensor:
        """The layer's output."""
        if not self.is_reduced(input.shape, forward=True):
            if self._is_faster_by_onednn(input):
                return linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
            return F.conv2d(input, self.weight, self.bias, *self._geometry)
        bias = None if self.bias is None else self.bias.bfloat16()
        return F.conv2d(input.bfloat16(), self.weight.bfloat16(), bias, *self._geometry).to(input.dtype)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input of ``shape`` from that of the output."""
        reduced = self.is_reduced(shape, forward=False)
        work, weight = (grad.bfloat16(), self.weight.bfloat16()) if reduced else (grad, self.weight)
        if self._is_product:
            box = box_of(grad)
            if box is None:
                return _pointwise(work, weight).to(grad.dtype)
            return put_back(_pointwise(_cut(work, box), weight).to(grad.dtype), box, grad)
        # The operator needs an input for its shape and layout only, and reads none of its values.
        layout = torch.contiguous_format if grad.is_contiguous() else torch.channels_last
        like = torch.empty(shape, dtype=work.dtype, device=work.device, memory_format=layout)
        args = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups, (True, False, False))
        found: Tensor = torch.ops.aten.convolution_backward(work, like, weight, None, *args)[0]
        return found.to(grad.dtype)

    def _is_faster_by_onednn(self, input: Tensor) -> bool:
        # Of contiguous planes, torch's convolution is as fast on several threads.
        is_rows = self._is_product and is_channels_last(input)
        return is_rows and is_onednn_faster(input.permute(0, 2, 3, 1), self.weight.flatten(1))

    @property
    def _is_product(self) -> bool:
        """Whether the layer multiplies the vector at each position by a matrix."""
        is_single = self.kernel_size == (1, 1) and self.padding == (0, 0)
        return is_single and self.stride == (1, 1) and self.groups == 1

    @property
    def _geometry(self) -> tuple[Any, Any, Any, int]:
        return self.stride, self.padding, self.dilation, self.groups

    def _gains(self, shape: torch.Size) -> bool:
        # A depthwise convolution is not a matrix product.
        return self.groups == 1 and super()._gains(shape)

    def _extent(self, shape: torch.Size) -> tuple[int, int]:
        # Of one image, so that its values do not depend on the size of the batch.
        return shape[1:].numel(), shape[2:].numel() // math.prod(self.stride)


class FrozenDepthwiseConv2d(AutogradForSmall, nn.Conv2d):
    """A depthwise convolution of stride 1 with frozen parameters, by :mod:`replk_probe.ops`; ``[N, C, H, W]``.

    It replaces an ``nn.Conv2d`` or a :class:`~replk_probe.ops.DepthwiseConv2d`, whose ReLU is computed with it.
    """

    activation: str | None = None
    reduced_forward: bool = False
    reduced_backward: bool = False
    log: MethodLog | None = None
    _kernel: PreparedKernel | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        is_cast = is_autocast(input.device)
        if is_cast and self.log is not None:
            self.log.add_autocast()
        if is_cast or self._is_left_to_autograd(input):
            output = super().forward(input)
            return output if self.activation is None else output.relu()
        return _Depthwise.apply(input, self)  # type: ignore[no-any-return]

    def run(self, input: Tensor) -> Tensor:
        """The layer's output after the activation, in the layout of ``input``."""
        tensors = (input, self.weight, self.bias)
        if self.reduced_forward and self._gains(input):
            tensors = (input.bfloat16(), self.weight.bfloat16(), None if self.bias is None else self.bias.bfloat16())
        if self.log is not None:
            self.log.add("forward", *tensors[:2])
        return self._prepared_kernel.forward(*tensors, self.activation).to(input.dtype)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Gradient of the input from that of the convolution, before the activation, in the layout of ``grad``."""
        box = grown(box_of(grad), self.kernel_size, grad)
        part, weight = grad if box is None else _cut(grad, box), self.weight
        if self.reduced_backward and self._gains(grad):
            part, weight = part.bfloat16(), weight.bfloat16()
        if self.log is not None:
            self.log.add("grad_input", part, weight)
        found = self._prepared_kernel.input_gradient(part, weight).to(grad.dtype)
        return found if box is None else put_back(found, box, grad)

    def _is_left_to_autograd(self, input: Tensor) -> bool:
        """Whether torch computes both passes in any case, and the input is small."""
        if input.numel() >= self.autograd_below or contiguous_reason(input.device) is not None:
            return False
        if (self.reduced_forward or self.reduced_backward) and self._gains(input):
            return False
        log = self.log or MethodLog()
        directions: tuple[Direction, ...] = ("forward", "grad_input")
        return all(log.add(direction, input, self.weight).startswith("aten") for direction in directions)

    @property
    def is_reducible(self) -> bool:
        """Whether products are reduced on maps that are large enough."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        # The rule of matrix products, which was not measured for these: a value of the input and one of the output are
        # converted for each position.
        is_reused = taps >= 2 * _LEAST_REUSE
        return is_reused and self.weight.dtype == torch.float32 and is_depthwise_reduced(self.weight.device)

    def _gains(self, input: Tensor) -> bool:
        """Whether products are reduced for an input or a gradient."""
        # Of one image, so that its values do not depend on the size of the batch.
        products = input.shape[2:].numel() * self.weight.numel()
        return self.is_reducible and products >= _LEAST_PRODUCTS

    @property
    def _prepared_kernel(self) -> PreparedKernel:
        if self._kernel is None:
            self._kernel = PreparedKernel()
        return self._kernel


def is_depthwise_reduced(device: torch.device) -> bool:
    """Whether large depthwise convolutions are reduced to bfloat16 on a device."""
    return device.type != "cpu"


def _method(direction: Direction, input: Tensor, weight: Tensor) -> str:
    """Method of :mod:`replk_probe.ops` for a convolution: ``"native ISA: METHOD"``, ``"aten: REASON"`` or the like.

    A method that was chosen by measurement is ``"tuned: METHOD"``.
    """
    chosen = chosen_method(direction, input, weight.shape[2:])
    if chosen is not None:
        return f"tuned: {chosen}"
    if input.device.type != "cpu":
        return f"aten: {unsupported_reason(input, weight)}"
    layout = is_channels_last(input)
    plan = planned_method(input.shape, weight.shape[2:], input.dtype, direction, channels_last=layout)
    return f"native {plan.isa}: {plan.method}" if plan.reason is None else f"{plan.method}: {plan.reason}"


class MethodLog:
    """Record of the methods used for the frozen depthwise convolutions of a network."""

    def __init__(self) -> None:  # noqa: D107
        self._methods: dict[Any, str] = {}

    def add(self, direction: Direction, input: Tensor, weight: Tensor) -> str:
        """Add the method of one call, and return it."""
        key = (direction, input.shape, weight.shape, is_channels_last(input), input.dtype, input.device)
        if key not in self._methods:
            self._methods[key] = _method(direction, input, weight)
        return self._methods[key]

    def add_autocast(self) -> None:
        """Add a call under ``torch.autocast``, which torch computes."""
        self._methods["autocast"] = "aten: autocast in the network"

    def take(self) -> tuple[str, ...]:
        """Return the methods (``"native avx512: fft"``, ``"aten: REASON"``), sorted and unique; clear the record."""
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


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in inference mode: a scale and a shift per channel."""

    def run(self, input: Tensor) -> Tensor:
        """The layer's output from the running statistics."""
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(input, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the input: that of the output times the scale."""
        assert self.running_var is not None  # checked by freeze_layers
        scale = torch.rsqrt(as_float64(self.running_var) + self.eps).to(self.running_var)
        if self.affine:
            scale = scale * self.weight
        return (grad * scale[:, None, None]).to(grad.dtype)


class FrozenBatchNormAct2d(FrozenBatchNorm2d, BatchNormAct2d):
    """Timm's ``BatchNormAct2d`` in inference mode: a scale and a shift per channel, and an activation."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; the gradient of the activation is that of autograd."""
        if is_autocast(input.device):
            return BatchNormAct2d.forward(self, input)  # type: ignore[no-any-return, no-untyped-call]
        return self.act(self.drop(_InputGradient.apply(input, self)))  # type: ignore[no-any-return]


class FrozenReLU(AutogradForSmall, nn.ReLU):
    """``nn.ReLU`` that saves one flag per element."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        inplace = self.inplace and not input.is_leaf
        if input.numel() < self.autograd_below:
            return F.relu(input, inplace)
        return _ReluSigns.apply(input, inplace)  # type: ignore[no-any-return]


class FrozenGeluResponseNorm(AutogradForSmall, GeluResponseNorm):
    """A :class:`GeluResponseNorm` with frozen parameters: ``[N, H, W, C] -> [N, H, W, C]``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        if is_autocast(input.device) or input.numel() < self.autograd_below:
            return super().forward(input)
        return _GeluResponseNorm.apply(input, self)  # type: ignore[no-any-return]

    def arranged(self, maps: Tensor) -> Tensor:
        """``maps``, and their gradient, as contiguous planes if the native GELU, which needs them, will be used."""
        is_small = maps.numel() < self.autograd_below or maps.shape[2:].numel() < _LEAST_POSITIONS
        if is_small or is_autocast(maps.device) or not is_gelu_native(maps):
            return maps
        return _ContiguousPlanes.apply(maps)  # type: ignore[no-any-return]

    def activations(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """GELU of the input, and its norm over H and W, ``[N, 1, 1, C]``."""
        planes = dense_planes(input)
        if planes is not None and is_gelu_native(planes):
            maps, sums = gelu_with_squares(planes)
            return maps.permute(0, 2, 3, 1), sums[:, None, None].sqrt().to(input.dtype)
        output = torch.empty_like(input, memory_format=torch.contiguous_format)
        squares = [_summed_products(input[index], output[index], output[index]) for index in range(len(input))]
        return output, torch.stack(squares).sqrt().to(input.dtype)

    def scale(self, norm: Tensor) -> Tensor:
        """Factor of each activation, ``[N, 1, 1, C]``, from the norm of the activations."""
        return self.gamma * (norm / (norm.mean(-1, keepdim=True) + EPS)) + 1

    def input_gradient(self, grad: Tensor, input: Tensor, norm: Tensor) -> Tensor:
        """Gradient of the input, ``[N, H, W, C]``, from that of the output and the norm of the activations."""
        planes = dense_planes(input)
        if planes is not None and is_gelu_native(planes):
            maps = grad.permute(0, 3, 1, 2).contiguous()  # once for both functions
            scales = self._grad_scales(gelu_products(planes, maps)[:, None, None], norm)
            return gelu_grad_input(planes, maps, *(scale[:, 0, 0] for scale in scales)).permute(0, 2, 3, 1)
        found = torch.empty_like(input, memory_format=torch.contiguous_format)
        products = [_summed_products(input[index], found[index], grad[index]) for index in range(len(input))]
        scale, through_norm = self._grad_scales(torch.stack(products), norm)
        for index in range(len(input)):
            rows = (part[index].flatten(0, 1) for part in (input, found, grad))
            for x, y, given in zip(*map(_chunks, rows), strict=True):
                inner = torch.addcmul(given * scale[index, 0], y, through_norm[index, 0])
                torch.ops.aten.gelu_backward.grad_input(inner, x, grad_input=y)
        return found

    def _grad_scales(self, products: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the output's gradient and of the activation in the gradient of the activation, ``[N, 1, 1, C]``.

        ``products`` are the sums over H and W of the activation times the output's gradient.
        """
        # The gradient of each factor, then of each norm, which is part of its own ratio and of the mean.
        ratio_grad = self.gamma * products.to(norm.dtype)
        mean = norm.mean(-1, keepdim=True) + EPS
        norm_grad = ratio_grad / mean - (ratio_grad * norm).mean(-1, keepdim=True) / mean**2
        # As in autograd, a norm of zero has the gradient zero.
        return self.scale(norm), torch.where(norm > 0, norm_grad / norm, 0)


def _summed_products(input: Tensor, output: Tensor, factor: Tensor) -> Tensor:
    """Write the GELU of ``input``, ``[H, W, C]``, to ``output``, and sum its products with ``factor`` over H and W.

    Returns:
        The sums, ``[1, 1, C]``, in float32 for narrower types.
    """
    wide = torch.promote_types(input.dtype, torch.float32)
    total = torch.zeros(input.shape[-1], dtype=wide, device=input.device)
    rows = (part.flatten(0, 1) for part in (input, output, factor))
    for x, y, other in zip(*map(_chunks, rows), strict=True):
        torch.ops.aten.gelu.out(x, out=y)
        total += (y * other).sum(0, dtype=wide)
    return total[None, None]


def _chunks(rows: Tensor) -> tuple[Tensor, ...]:
    """``[P, C]`` in parts of consecutive rows; only the CPU gains from several."""
    return torch.split(rows, max(_CHUNK // rows.shape[1], 1)) if rows.device.type == "cpu" else (rows,)


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    BatchNormAct2d: FrozenBatchNormAct2d,
    nn.Conv2d: FrozenConv2d,
    DepthwiseConv2d: FrozenConv2d,
    nn.Linear: FrozenLinear,
    GeluResponseNorm: FrozenGeluResponseNorm,
    nn.ReLU: FrozenReLU,
}


def freeze_layers(model: nn.Module, log: MethodLog | None = None, unfrozen: Collection[str] = ()) -> None:
    """Freeze the convolutions, linear layers, batch norms and ReLUs of ``model``, in place.

    Only modules of exactly these types are frozen, because a subclass may compute something else. Parameters no longer
    require gradients, and the model is put in inference mode.

    Args:
        model: The network, changed in place. Its weights must not change afterwards.
        log: Record to which the methods of the depthwise convolutions are added, or None.
        unfrozen: Paths of layers that keep torch's class.
    """
    model.requires_grad_(False)
    for path, module in model.named_modules():
        module.training = False
        frozen = frozen_class(module)
        if frozen is None or path in unfrozen:
            continue
        # The cache of a DepthwiseConv2d is no longer used.
        module.__dict__.pop("_prepared", None)
        module.__class__ = frozen
        if isinstance(module, FrozenDepthwiseConv2d):
            module.log = log


def frozen_class(module: nn.Module) -> type[nn.Module] | None:
    """The class with frozen parameters for a layer, or None if it cannot be frozen."""
    frozen = _FROZEN.get(type(module))
    if frozen is FrozenConv2d and isinstance(module, nn.Conv2d) and is_same_depthwise(module):
        return FrozenDepthwiseConv2d
    return frozen if frozen is not None and _can_freeze(module) else None


def reduce_precision(model: nn.Module, *, forward: bool, backward: bool) -> None:
    """Compute the products of large frozen layers in bfloat16, with float32 sums, in either pass.

    Depthwise convolutions are reduced on a GPU only.
    """
    for module in model.modules():
        if isinstance(module, _Reducible | FrozenDepthwiseConv2d):
            module.reduced_forward, module.reduced_backward = forward, backward


def use_autograd(model: nn.Module) -> None:
    """Compute frozen layers with small inputs by torch's own classes, in place.

    Batch norms are excluded, because torch's own gradient may be wrong (see
    :func:`~replk_probe.models.inference.batch_norm.correct_batch_norms`), and so are native depthwise convolutions and
    products in bfloat16.
    """
    for module in model.modules():
        if isinstance(module, AutogradForSmall):
            module.autograd_below = AUTOGRAD_BELOW


def _can_freeze(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        is_plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return is_plain and activation_of(module) is None
    if isinstance(module, nn.BatchNorm2d):
        return module.running_var is not None
    return True
