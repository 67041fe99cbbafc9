"""Pointwise layers and the activation between or after them, computed for a few positions at a time.

A pair of 1 x 1 convolutions, or linear layers, and the activation between them are one layer here. The activations
exist only for as many positions as fit into the cache. What is kept for the backward pass is the derivative of the
activation in 16 bits, which takes half of the memory that autograd needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.activations import GELU
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from replk_probe.ops import (
    activate,
    is_channels_last,
    is_onednn_faster,
    is_pointwise_native,
    linear,
    prefers_onednn,
    times_derivative,
)
from replk_probe.runtime.devices import is_autocast

from .gradient_box import box_of, put_back
from .input_gradient import FrozenConv2d, FrozenLinear, dense_planes

# Bytes of the largest matrix of one step and one thread, and bounds of the number of positions. Measured: products are
# slower with fewer positions, and activations with more, because they are no longer found in the cache.
_STEP_BYTES = 2**22
_FEWEST, _MOST = 512, 4096
# Measured: the separate layers are as fast for fewer activations; some of them are not computed with oneDNN.
_LEAST_ACTIVATIONS, _LEAST_WITH_ONEDNN = 2**19, 2**15
# Modules of activations, by their names in `replk_probe.ops.activate`.
_NAMES: dict[type[nn.Module], str] = {nn.GELU: "gelu", GELU: "gelu", nn.ReLU: "relu", nn.ReLU6: "relu6"}
ACTIVATIONS = tuple(_NAMES)


class _Pointwise(torch.autograd.Function):
    """:meth:`PointwiseBlock.run`, whose backward pass computes the gradient of the input only."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, block: PointwiseBlock, layout: _Layout, reduced: tuple[bool, bool]) -> Tensor:
        ctx.block, ctx.layout, ctx.reduced = block, layout, reduced[1]
        output, derivative = block.run(maps, layout, reduced=reduced[0])
        if derivative is not None:
            ctx.save_for_backward(derivative)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        block: PointwiseBlock = ctx.block
        derivative = next(iter(ctx.saved_tensors), None)
        return block.input_gradient(grad, derivative, ctx.layout, reduced=ctx.reduced), None, None, None


class PointwiseBlock(nn.Module):
    """``second(act(first(x)))``, ``act(first(x))`` or ``first(x)``, with frozen parameters.

    The layers are 1 x 1 convolutions, ``[N, C, H, W] -> [N, C', H, W]``, or linear, ``[..., C] -> [..., C']``.
    Positions are columns of matrices if the maps are planes, and rows otherwise.
    """

    first: nn.Conv2d | nn.Linear
    second: nn.Module

    def __init__(
        self,
        first: nn.Conv2d | nn.Linear,
        act: nn.Module | None = None,
        second: nn.Conv2d | nn.Linear | None = None,
    ) -> None:
        """Take over the layers, which must be frozen before the block is called.

        Args:
            first: 1 x 1 convolution or linear layer.
            act: One of the modules in :func:`activation_name`, or None.
            second: Layer of the same kind as ``first``, or None.
        """
        super().__init__()
        self.first = first
        self.act = nn.Identity() if act is None else act
        self.second = nn.Identity() if second is None else second
        self._activation = None if act is None else activation_name(act)
        self._converted: dict[bool, list[Tensor]] = {}

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for ``input``; only the gradient of the input is computed in the backward pass."""
        first = self.first
        hidden, channels = first.weight.shape[:2]
        least = _LEAST_WITH_ONEDNN if prefers_onednn() else _LEAST_ACTIVATIONS
        is_small = input.numel() // channels * hidden < least
        is_native = is_pointwise_native(input) and not is_autocast(input.device)
        if not isinstance(first, FrozenConv2d | FrozenLinear) or is_small or not is_native:
            output: Tensor = self.second(self.act(self.first(input)))
            return output
        reduced = (first.is_reduced(input.shape, forward=True), first.is_reduced(input.shape, forward=False))
        if isinstance(first, nn.Conv2d):
            layout = _CHANNELS_LAST if is_channels_last(input) else _PLANES
            return _Pointwise.apply(input, self, layout, reduced)  # type: ignore[no-any-return]
        if input.dim() != 4:
            return _Pointwise.apply(input, self, _ROWS, reduced)  # type: ignore[no-any-return]
        layout = _CHANNELS_LAST if dense_planes(input) is None else _PLANES
        maps = input.permute(0, 3, 1, 2)
        return _Pointwise.apply(maps, self, layout, reduced).permute(0, 2, 3, 1)  # type: ignore[no-any-return]

    def run(self, maps: Tensor, layout: _Layout, *, reduced: bool) -> tuple[Tensor, Tensor | None]:
        """The output in a layout, and the derivative of the activation in int16 if there is one.

        With ``reduced``, products are computed in bfloat16.
        """
        weights = self._reduced_matrices(transposed=False) if reduced else self._matrices()
        biases = [layer.bias for layer in self._layers]
        steps = _Steps(layout.dense(maps), layout, weights)
        output = steps.like(len(weights[-1]), torch.float32)
        derivative = None if self._activation is None else steps.like(len(weights[0]), torch.int16)
        by_column = not layout.planes
        for values, result, kept in steps.parts(output, derivative):
            inner = steps.product(weights[0], steps.converted(values), 0)
            if len(weights) == 1:
                activate(inner, result, biases[0], self._activation, kept, bias_of_columns=by_column)
                continue
            activate(inner, inner, biases[0], self._activation, kept, bias_of_columns=by_column)
            activate(steps.product(weights[1], inner, 1), result, biases[1], bias_of_columns=by_column)
        return output, derivative

    def input_gradient(self, grad: Tensor, derivative: Tensor | None, layout: _Layout, *, reduced: bool) -> Tensor:
        """Gradient of the input from that of the output; other arguments as in :meth:`run`."""
        grad = layout.dense(grad)
        box = box_of(grad) if layout.has_maps else None
        if box is not None:
            index = (slice(None), slice(None), *box)
            kept = None if derivative is None else layout.dense(derivative[index])
            part = self.input_gradient(layout.dense(grad[index]), kept, layout, reduced=reduced)
            return put_back(part, box, grad)
        # Measured: as the first factor, a transposed matrix makes products of bfloat16 up to 10 % slower.
        if reduced:
            matrices = self._reduced_matrices(transposed=layout.planes)
            weights = [matrix if layout.planes else matrix.T for matrix in reversed(matrices)]
        else:
            weights = [matrix.T.contiguous() if layout.planes else matrix.T for matrix in reversed(self._matrices())]
        steps = _Steps(grad, layout, weights)
        found = steps.like(len(weights[-1]), torch.float32)
        for values, result, kept in steps.parts(found, derivative):
            inner = steps.converted(values) if len(weights) == 2 or kept is None else values
            if len(weights) == 2:
                inner = steps.product(weights[0], inner, 0)
            if kept is not None:
                scaled = steps.buffer(inner.shape, 0)
                times_derivative(inner, kept, scaled)
                inner = scaled
            steps.product(weights[-1], inner, 1, result)
        return found

    @property
    def _layers(self) -> list[nn.Conv2d | nn.Linear]:
        return [layer for layer in (self.first, self.second) if isinstance(layer, nn.Conv2d | nn.Linear)]

    def _matrices(self) -> list[Tensor]:
        return [layer.weight.flatten(1) for layer in self._layers]

    def _reduced_matrices(self, *, transposed: bool) -> list[Tensor]:
        """The weights in bfloat16, which are kept: converting them takes up to 4 % of the time of a block."""
        if transposed not in self._converted:
            matrices = [matrix.T if transposed else matrix for matrix in self._matrices()]
            self._converted[transposed] = [
                matrix.to(torch.bfloat16, memory_format=torch.contiguous_format) for matrix in matrices
            ]
        return self._converted[transposed]


@dataclass(frozen=True)
class _Layout:
    """How the positions of a tensor are arranged in matrices."""

    has_maps: bool  # [N, C, H, W], else [..., C]
    planes: bool  # positions are columns, else rows

    @property
    def channels(self) -> int:
        """The axis of the channels."""
        return 1 if self.has_maps else -1

    @property
    def _format(self) -> torch.memory_format:
        return torch.channels_last if self.has_maps and not self.planes else torch.contiguous_format

    def dense(self, tensor: Tensor) -> Tensor:
        """The tensor, dense in this layout."""
        return tensor.contiguous(memory_format=self._format)

    def like(self, tensor: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
        """An uninitialized tensor of this shape with another number of channels."""
        shape = list(tensor.shape)
        shape[self.channels] = channels
        return torch.empty(shape, dtype=dtype, memory_format=self._format)

    def matrices(self, tensor: Tensor) -> list[Tensor]:
        """Views of a dense tensor: one ``[C, positions]`` for each image, or one ``[positions, C]``."""
        if self.planes:
            return [image.flatten(1) for image in tensor]
        return [(tensor.permute(0, 2, 3, 1) if self.has_maps else tensor).reshape(-1, tensor.shape[self.channels])]


_PLANES, _CHANNELS_LAST, _ROWS = _Layout(True, True), _Layout(True, False), _Layout(False, False)


class _Steps:
    """The positions of a dense tensor, step by step, and the buffers of a step."""

    def __init__(self, maps: Tensor, layout: _Layout, weights: list[Tensor]) -> None:
        self._maps, self._layout, self._dtype = maps, layout, weights[0].dtype
        widest, threads = max(max(weight.shape) for weight in weights), torch.get_num_threads()
        positions = maps.shape[2:].numel() if layout.planes else maps.numel() // max(maps.shape[layout.channels], 1)
        wanted = max(_FEWEST, min(_STEP_BYTES * threads // (4 * widest), _MOST * threads))
        # Steps of the same size, because a short one would be slow.
        self._step = max(1, math.ceil(positions / max(1, round(positions / wanted))))
        self._buffers = [torch.empty(widest * self._step, dtype=self._dtype) for _ in range(3)]

    def like(self, channels: int, dtype: torch.dtype) -> Tensor:
        """An uninitialized tensor with the shape of the maps except for the number of channels."""
        return self._layout.like(self._maps, channels, dtype)

    def parts(self, result: Tensor, kept: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """The same positions of the maps and of two other dense tensors as matrices, which are views."""
        axis = int(self._layout.planes)
        maps, results = self._layout.matrices(self._maps), self._layout.matrices(result)
        others = [None] * len(maps) if kept is None else self._layout.matrices(kept)
        for values, written, other in zip(maps, results, others, strict=True):
            for start in range(0, values.shape[axis], self._step):
                part = (axis, start, min(self._step, values.shape[axis] - start))
                yield values.narrow(*part), written.narrow(*part), None if other is None else other.narrow(*part)

    def buffer(self, shape: torch.Size, index: int) -> Tensor:
        """A dense matrix in the type of the products, which the next step overwrites."""
        return self._buffers[index][: shape.numel()].view(shape)

    def converted(self, values: Tensor) -> Tensor:
        """The values in the type of the products, as a dense matrix if oneDNN will multiply it."""
        if values.dtype == self._dtype and (values.is_contiguous() or not prefers_onednn()):
            return values
        found = self.buffer(values.shape, 2)
        activate(values, found)
        return found

    def product(self, weight: Tensor, values: Tensor, index: int, result: Tensor | None = None) -> Tensor:
        """``weight``, ``[C', C]``, times the vector at each position."""
        left, right = (weight, values) if self._layout.planes else (values, weight.T)
        if is_onednn_faster(left, right.T):
            found = linear(left, right.T)
        elif result is not None and result.dtype == self._dtype:
            return torch.mm(left, right, out=result)
        else:
            found = torch.mm(left, right, out=self.buffer(torch.Size((left.shape[0], right.shape[1])), index))
        if result is None:
            return found
        activate(found, result)
        return result


def activation_name(module: nn.Module) -> str | None:
    """The name of an activation module in :func:`replk_probe.ops.activate`, or None if it has none."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    # The class of a ReLU changes when the network is frozen.
    return next((name for kind, name in _NAMES.items() if isinstance(module, kind)), None)
