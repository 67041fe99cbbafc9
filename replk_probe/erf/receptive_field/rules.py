"""Receptive fields of the outputs of each torch operation, given those of its inputs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from replk_probe.runtime.nested import instances_in

from .span import Atom, Axis, CannotFollowError, Field, Lost, Span, has_place


def plain(shape: Sequence[int]) -> tuple[Axis, ...]:
    """Axes without rows and columns."""
    return tuple((("o", int(size)),) for size in shape)


def _tidy(atoms: Sequence[Atom]) -> Axis:
    """One axis without atoms of size 1; axes without rows or columns are a single atom."""
    if not any(kind != "o" for kind, _ in atoms):
        return (("o", math.prod(size for _, size in atoms)),)
    return tuple(atom for atom in atoms if atom != ("o", 1))


class Call(NamedTuple):
    """One call of a torch operation; ``lookup`` gives the receptive field of a tensor."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    lookup: Callable[[Tensor], Field | Lost | None]

    @property
    def name(self) -> str:
        """Name of the operation."""
        return str(self.func.overloadpacket.__name__)

    def argument(self, position: int, name: str, default: Any) -> Any:
        """An optional argument."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def field(self, position: int = 0) -> Field:
        """The receptive field of an operand."""
        tensor = self.args[position]
        field = self.lookup(tensor) if isinstance(tensor, Tensor) else None
        if not isinstance(field, Field):
            raise CannotFollowError("an operation whose first operand does not depend on the image")
        return field


# One for all outputs, or one for each.
Fields: TypeAlias = Field | list[Field | Lost]


def follow(call: Call) -> Fields:
    """Fields of the outputs of one operation, or CannotFollowError if no rule covers it, or this case of it."""
    rule = _RULES.get(call.name) or _RULES.get(call.name.rstrip("_"))
    if rule is not None:
        return rule(call)
    if torch.Tag.pointwise in call.func.tags:
        return _pointwise(call)
    raise CannotFollowError(f"the operation {call.name}")


def _pointwise(call: Call) -> Field:
    if not isinstance(call.output, Tensor):
        raise CannotFollowError(f"the operation {call.name}")
    given = instances_in(Tensor, (call.args, call.kwargs))
    fields = [field for tensor in given if isinstance(field := call.lookup(tensor), Field)]
    return _combine(fields, call.output.shape)


def _combine(fields: list[Field], shape: Sequence[int]) -> Field:
    """The union of several receptive fields, broadcast to ``shape``."""
    everywhere = any(field.everywhere or not field.spatial for field in fields)
    maps = [field for field in fields if field.spatial]
    axes = list(plain(shape))
    if not maps:
        return Field(tuple(axes), everywhere=True)
    for position in range(len(shape)):
        here = [field.axes[position - len(shape)] for field in maps if len(field.axes) >= len(shape) - position]
        placed = [axis for axis in here if has_place(axis)]
        if placed:
            size = math.prod(atom[1] for atom in placed[0])
            if len(placed) != len(maps) or any(axis != placed[0] for axis in placed) or size != shape[position]:
                raise CannotFollowError("a combination of maps of different layouts")
            axes[position] = placed[0]
    spans = maps[0].spans
    for other in maps[1:]:
        if any(span.jump != other.spans[name].jump for name, span in spans.items()):
            raise CannotFollowError("a combination of maps of different strides")
        spans = {name: span.union(other.spans[name]) for name, span in spans.items()}
    return Field(tuple(axes), **spans, everywhere=everywhere)


def _copy_into(call: Call) -> Field:
    return _combine([call.field(1)], call.args[0].shape)


def _view(call: Call) -> Field:
    field = call.field()
    queue = deque(atom for axis in field.axes for atom in axis)
    axes: list[list[Atom]] = []
    for size in call.output.shape:
        atoms: list[Atom] = []
        done = 1
        if size == 1 and queue and queue[0][1] == 1:
            atoms.append(queue.popleft())
        while done < size:
            kind, extent = queue.popleft()
            need = size // done
            if need % extent == 0:
                atoms.append((kind, extent))
                done *= extent
            elif kind == "o" and extent % need == 0:
                atoms.append((kind, need))
                queue.appendleft((kind, extent // need))
                done = size
            else:
                raise CannotFollowError("a partition of the image into windows")
        axes.append(atoms)
    if axes:
        axes[-1].extend(queue)
    return replace(field, axes=tuple(_tidy(atoms) if atoms else (("o", 1),) for atoms in axes))


def _permute(call: Call) -> Field:
    field = call.field()
    order = list(range(len(field.axes)))
    if call.name == "permute":
        order = [int(axis) for axis in call.args[1]]
    else:
        first, second = call.args[1:3] or (0, 1)
        order[first], order[second] = order[second], order[first]
    return replace(field, axes=tuple(field.axes[axis] for axis in order)) if len(field.axes) > 1 else field


def _expand(call: Call) -> Field:
    return _combine([call.field()], call.output.shape)


def _sliding(call: Call, window: Callable[[Span, int], Span]) -> Fields:
    """Shared by convolutions and pools; ``window(span, k)`` advances along the k-th sliding axis."""
    field = call.field()
    output, *others = instances_in(Tensor, call.output)
    indices = [Lost("indices of a pool")] * len(others)
    if not field.spatial:
        return [Field(plain(output.shape), everywhere=True), *indices]
    if len(field.axes) < 3 or has_place(field.axes[0]) or has_place(field.axes[1]):
        raise CannotFollowError("a convolution along axes that are not those of the image")
    axes = list(plain(output.shape))
    spans = field.spans
    for position in range(2, len(field.axes)):
        axis = field.axes[position]
        if axis == (("o", 1),) and output.shape[position] == 1:
            continue  # torch pools sequences as images of one row
        if len(axis) != 1 or axis[0][0] == "o":
            raise CannotFollowError("a convolution along axes that are not those of the image")
        kind = axis[0][0]
        axes[position] = ((kind, int(output.shape[position])),)
        spans[kind] = window(spans[kind], position - 2)
    return [Field(tuple(axes), **spans, everywhere=field.everywhere), *indices]


def _each(value: Any, default: Sequence[int], count: int) -> list[int]:
    """One number for each of ``count`` axes, of which one may be given for all."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    numbers = [int(number) for number in values or default]
    return numbers * count if len(numbers) == 1 else numbers


def _convolution(call: Call) -> Fields:
    _, weight, _, stride, padding, dilation, transposed = call.args[:7]
    if call.lookup(weight) is not None or transposed:
        raise CannotFollowError("a convolution that enlarges the map or has a computed kernel")
    kernel = weight.shape[2:]
    strides, paddings, dilations = (_each(value, (1,), len(kernel)) for value in (stride, padding, dilation))
    return _sliding(call, lambda span, k: span.window(kernel[k], strides[k], paddings[k], dilations[k]))


def _depthwise(call: Call) -> Fields:
    """``replk_probe::dwconv2d``: stride 1, padded by half the kernel."""
    weight = call.args[1]
    if call.lookup(weight) is not None:
        raise CannotFollowError("a convolution with a computed kernel")
    kernel = weight.shape[2:]
    return _sliding(call, lambda span, k: span.window(kernel[k], 1, kernel[k] // 2))


def _pool(call: Call) -> Fields:
    args = call.args
    count = args[0].dim() - 2
    kernel = _each(args[1], (), count)
    stride = _each(args[2] if len(args) > 2 else (), kernel, count)
    padding = _each(args[3] if len(args) > 3 else 0, (), count)
    dilation = _each(args[4] if isinstance(call.output, tuple) and len(args) > 4 else 1, (), count)
    return _sliding(call, lambda span, k: span.window(kernel[k], stride[k], padding[k], dilation[k]))


def _adaptive_pool(call: Call) -> Fields:
    output, *others = instances_in(Tensor, call.output)
    before, after = call.args[0].shape[2:], output.shape[2:]
    if set(after) == {1}:
        return [Field(plain(output.shape), everywhere=True), *[Lost("indices of a pool")] * len(others)]
    if any(b % a for a, b in zip(after, before, strict=True)):
        raise CannotFollowError("a pool with windows of several sizes")
    cells = [b // a for a, b in zip(after, before, strict=True)]
    return _sliding(call, lambda span, k: span.window(cells[k], cells[k]))


def _pad(call: Call) -> Field:
    field = call.field()
    pads, output = [int(pad) for pad in call.args[1]], call.output
    axes = list(field.axes)
    spans = field.spans
    for k in range(len(pads) // 2):
        position = len(axes) - 1 - k
        if not has_place(axes[position]):
            axes[position] = (("o", int(output.shape[position])),)
        elif pads[2 * k] or pads[2 * k + 1]:
            if len(axes[position]) != 1:
                raise CannotFollowError("padding of an axis that mixes rows and columns")
            kind = axes[position][0][0]
            axes[position] = ((kind, int(output.shape[position])),)
            span = spans[kind]
            shift = pads[2 * k] * span.jump
            spans[kind] = Span(span.jump, span.low - shift, span.high - shift)
    return Field(tuple(axes), **spans, everywhere=field.everywhere)


def _layer_norm(call: Call) -> Fields:
    axes = call.field().axes
    return _normalized(call, any(has_place(axis) for axis in axes[len(axes) - len(call.args[1]) :]))


def _group_norm(call: Call) -> Fields:
    return _normalized(call, True)


def _batch_norm(call: Call) -> Fields:
    return _normalized(call, "no_training" not in call.name and any(arg is True for arg in call.args[3:7]))


def _normalized(call: Call, everywhere: bool) -> Fields:
    """The output of a norm, which may depend on the whole map, and its statistics."""
    field = call.field()
    result = replace(field, everywhere=field.everywhere or everywhere)
    return [result, *[Lost("statistics of a norm")] * (len(call.output) - 1)]


def _softmax(call: Call) -> Field:
    field = call.field()
    return replace(field, everywhere=field.everywhere or has_place(field.axes[call.args[1]]))


def _reduce(call: Call) -> Fields:
    field = call.field()
    result = next(instances_in(Tensor, call.output))
    rank = len(field.axes)
    over = call.argument(2 if "norm" in call.name else 1, "dim", None)  # norms take their order first
    over = list(range(rank)) if over is None or over == [] else over
    positions = {int(axis) % rank for axis in (over if isinstance(over, (list, tuple)) else [over])}
    kept = any(has_place(axis) for position, axis in enumerate(field.axes) if position not in positions)
    gone = any(has_place(field.axes[position]) for position in positions)
    if kept and gone:
        raise CannotFollowError("a mean along rows or columns alone")
    if gone or not field.spatial:
        return Field(plain(result.shape), everywhere=True)
    if result.dim() == rank:
        axes = tuple((("o", 1),) if position in positions else axis for position, axis in enumerate(field.axes))
    else:
        axes = tuple(axis for position, axis in enumerate(field.axes) if position not in positions)
    return replace(field, axes=axes)


def _matrix_product(call: Call) -> Field:
    args, lookup = call.args, call.lookup
    left = 1 if call.name.rstrip("_") in ("addmm", "baddbmm") else 0  # these two add a matrix first
    of_left, of_right = lookup(args[left]), lookup(args[left + 1])
    if (left and lookup(args[0]) is not None) or (of_left is not None and of_right is not None):
        raise CannotFollowError("attention")
    axes = list(plain(call.output.shape))
    if isinstance(of_left, Field):
        field, kept, summed = of_left, -2, -1
    else:
        field, kept, summed = call.field(left + 1), -1, -2
    if not field.spatial:
        return Field(tuple(axes), everywhere=True)
    if has_place(field.axes[summed]):
        raise CannotFollowError("a matrix product over positions")
    axes[kept] = field.axes[kept]
    if len(axes) == 3:
        axes[0] = field.axes[0]
    return replace(field, axes=tuple(axes))


def _concatenate(call: Call) -> Field:
    axis = call.argument(1, "dim", 0)
    fields = [field for tensor in call.args[0] if isinstance(field := call.lookup(tensor), Field)]
    if any(field.spatial and has_place(field.axes[axis]) for field in fields):
        raise CannotFollowError("a concatenation with the tokens of the image")
    return _combine(fields, call.output.shape)


def _split(call: Call) -> Fields:
    field = call.field()
    position = int(call.argument(2, "dim", 0)) % len(field.axes)
    if has_place(field.axes[position]):
        raise CannotFollowError("a partition of the image into windows")
    return [_with_axis(field, position, (("o", int(part.shape[position])),)) for part in call.output]


def _with_axis(field: Field, position: int, *axes: Axis) -> Field:
    """The field with other axes in place of the one at a position."""
    return replace(field, axes=(*field.axes[:position], *axes, *field.axes[position + 1 :]))


def _drop_axis(call: Call) -> Fields:
    field = call.field()
    position = int(call.argument(1, "dim", 0)) % len(field.axes)
    if has_place(field.axes[position]):
        raise CannotFollowError("the selection of one row or column of an image")
    return _with_axis(field, position)


def _slice(call: Call) -> Field:
    field = call.field()
    options = dict(zip(("dim", "start", "end", "step"), call.args[1:], strict=False)) | call.kwargs
    position = int(options.get("dim") or 0) % len(field.axes)
    start, step = int(options.get("start") or 0), int(options.get("step") or 1)
    axis, size = field.axes[position], int(call.output.shape[position])
    if not has_place(axis):
        new: Axis = (("o", size),)
    elif len(axis) == 1:
        kind, extent = axis[0]
        new = ((kind, size),)
        span = field.spans[kind]
        first = span.jump * (min(start, extent) if start >= 0 else max(start + extent, 0))
        moved = Span(span.jump * step, span.low + first, span.high + first)
        field = replace(field, **field.spans | {kind: moved})  # type: ignore[arg-type]
    elif size == math.prod(atom[1] for atom in axis):
        new = axis
    else:
        raise CannotFollowError("the selection of some tokens of an image")
    return _with_axis(field, position, new)


def _pixel_unshuffle(call: Call) -> Fields:
    factor = int(call.args[1])
    return _sliding(call, lambda span, k: span.window(factor, factor))


_RULES: dict[str, Callable[[Call], Fields]] = {}
for _rule, _names in (
    (Call.field, "clone detach alias contiguous lift_fresh _to_copy"),
    (
        _pointwise,
        "where clamp prelu _prelu_kernel hardswish hardsigmoid hardtanh leaky_relu elu celu softplus mish silu",
    ),
    (_copy_into, "copy"),
    (_view, "view _unsafe_view reshape _reshape_alias unsqueeze squeeze flatten unflatten"),
    (_permute, "permute transpose t"),
    (_expand, "expand"),
    (_convolution, "convolution _convolution"),
    (_depthwise, "dwconv2d"),
    (_pool, "max_pool2d_with_indices avg_pool2d max_pool2d max_pool3d_with_indices avg_pool3d"),
    (
        _adaptive_pool,
        "_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d "
        "_adaptive_avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d",
    ),
    (_pad, "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d replication_pad3d"),
    (_layer_norm, "native_layer_norm"),
    (_group_norm, "native_group_norm"),
    (
        _batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
        "_batch_norm_no_update",
    ),
    (_softmax, "_softmax _log_softmax _safe_softmax"),
    (_reduce, "mean sum amax amin var std var_mean std_mean linalg_vector_norm logsumexp norm"),
    (_matrix_product, "mm addmm bmm baddbmm"),
    (_concatenate, "cat"),
    (_split, "split split_with_sizes chunk"),
    (_drop_axis, "select unbind"),
    (_slice, "slice"),
    (_pixel_unshuffle, "pixel_unshuffle"),
):
    for _name in _names.split():
        _RULES[_name] = _rule
