"""Receptive fields of the outputs of each torch operation, given those of its inputs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .span import Atom, Axis, CannotFollowError, Field, Lost, Span, has_place


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def plain(shape: Sequence[int]) -> tuple[Axis, ...]:
    """Axes without rows and columns."""
    return tuple((("o", int(size)),) for size in shape)


def _tidy(atoms: Sequence[Atom]) -> Axis:
    """One axis without atoms of size 1; axes without rows or columns are a single atom."""
    if not any(kind != "o" for kind, _ in atoms):
        return (("o", math.prod(size for _, size in atoms)),)
    return tuple(atom for atom in atoms if atom != ("o", 1))


Lookup: TypeAlias = Callable[[Tensor], "Field | Lost | None"]
Rule: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any], Any, Lookup], "Field | list[Field | Lost]"]


def follow(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    """Fields of the outputs of one operation: one for all, or a list with one for each.

    Raises:
        CannotFollowError: No rule covers the operation, or this case of it.
    """
    name = func.overloadpacket.__name__
    rule = _RULES.get(name) or _RULES.get(name.rstrip("_"))
    if rule is not None:
        return rule(func, args, kwargs, output, lookup)
    if torch.Tag.pointwise in func.tags:
        return _pointwise(func, args, kwargs, output, lookup)
    raise CannotFollowError(f"the operation {name}")


def _field(tensor: Any, lookup: Lookup) -> Field:
    field = lookup(tensor) if isinstance(tensor, Tensor) else None
    if not isinstance(field, Field):
        raise CannotFollowError("an operation whose first operand does not depend on the image")
    return field


def _pointwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    fields = [(t, field) for t in tensors_in((args, kwargs)) if isinstance(field := lookup(t), Field)]
    if not isinstance(output, Tensor):
        raise CannotFollowError(f"the operation {func.overloadpacket.__name__}")
    return _combine([field for _, field in fields], output.shape)


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
    y, x = maps[0].y, maps[0].x
    for other in maps[1:]:
        if other.y.jump != y.jump or other.x.jump != x.jump:
            raise CannotFollowError("a combination of maps of different strides")
        y, x = y.union(other.y), x.union(other.x)
    return Field(tuple(axes), y, x, everywhere)


def _same(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    return _field(args[0], lookup)


def _copy_into(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    return _combine([_field(args[1], lookup)], args[0].shape)


def _view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    field = _field(args[0], lookup)
    queue = deque(atom for axis in field.axes for atom in axis)
    axes: list[list[Atom]] = []
    for size in output.shape:
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


def _permute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    field = _field(args[0], lookup)
    order = list(range(len(field.axes)))
    if func.overloadpacket.__name__ == "permute":
        order = [int(axis) for axis in args[1]]
    else:
        first, second = (0, 1) if len(args) == 1 else args[1:3]
        order[first], order[second] = order[second], order[first]
    return replace(field, axes=tuple(field.axes[axis] for axis in order)) if len(field.axes) > 1 else field


def _expand(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    return _combine([_field(args[0], lookup)], output.shape)


def _sliding(args: tuple[Any, ...], lookup: Lookup, output: Tensor, window: Callable[[Span, int], Span]) -> Field:
    """Shared by convolutions and pools; ``window(span, k)`` advances along the k-th sliding axis."""
    field = _field(args[0], lookup)
    if not field.spatial:
        return Field(plain(output.shape), everywhere=True)
    if len(field.axes) != 4 or has_place(field.axes[0]) or has_place(field.axes[1]):
        raise CannotFollowError("a convolution along axes that are not those of the image")
    axes = list(plain(output.shape))
    spans = {"y": field.y, "x": field.x}
    for position in (2, 3):
        axis = field.axes[position]
        if len(axis) != 1 or axis[0][0] == "o":
            raise CannotFollowError("a convolution along axes that are not those of the image")
        kind = axis[0][0]
        axes[position] = ((kind, int(output.shape[position])),)
        spans[kind] = window(spans[kind], position - 2)
    return Field(tuple(axes), spans["y"], spans["x"], field.everywhere)


def _pair(value: Any, default: Sequence[int]) -> tuple[int, int]:
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    values = values or list(default)
    return (int(values[0]), int(values[-1]))


def _convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    weight, stride, padding, dilation, transposed = args[1], args[3], args[4], args[5], args[6]
    if lookup(weight) is not None or transposed:
        raise CannotFollowError("a convolution that enlarges the map or has a computed kernel")
    strides, paddings, dilations = (_pair(value, (1, 1)) for value in (stride, padding, dilation))
    kernel = weight.shape[2:]
    if len(kernel) != 2:
        raise CannotFollowError("a convolution along axes that are not those of the image")
    return _sliding(args, lookup, output, lambda span, k: span.window(kernel[k], strides[k], paddings[k], dilations[k]))


def _depthwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    """``replk_probe::dwconv2d``: stride 1, padded by half the kernel."""
    weight = args[1]
    if lookup(weight) is not None:
        raise CannotFollowError("a convolution with a computed kernel")
    kernel = weight.shape[2:]
    return _sliding(args, lookup, output, lambda span, k: span.window(kernel[k], 1, kernel[k] // 2))


def _pool(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    kernel = _pair(args[1], ())
    stride = _pair(args[2] if len(args) > 2 else (), kernel)
    padding = _pair(args[3] if len(args) > 3 else 0, ())
    is_max = isinstance(output, tuple)
    dilation = _pair(args[4] if is_max and len(args) > 4 else 1, ())
    result = output[0] if is_max else output
    field = _sliding(args, lookup, result, lambda span, k: span.window(kernel[k], stride[k], padding[k], dilation[k]))
    return [field, Lost("indices of a pool")] if is_max else field


def _adaptive_pool(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    result = output[0] if isinstance(output, tuple) else output
    before, after = args[0].shape[-2:], result.shape[-2:]
    if tuple(after) == (1, 1):
        field = Field(plain(result.shape), everywhere=True)
    elif all(b % a == 0 for a, b in zip(after, before, strict=True)):
        cells = [b // a for a, b in zip(after, before, strict=True)]
        field = _sliding(args, lookup, result, lambda span, k: span.window(cells[k], cells[k]))
    else:
        raise CannotFollowError("a pool with windows of several sizes")
    return [field, Lost("indices of a pool")] if isinstance(output, tuple) else field


def _pad(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    field = _field(args[0], lookup)
    pads = [int(pad) for pad in args[1]]
    axes = list(field.axes)
    spans = {"y": field.y, "x": field.x}
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
    return Field(tuple(axes), spans["y"], spans["x"], field.everywhere)


def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    field = _field(args[0], lookup)
    normalized = field.axes[len(field.axes) - len(args[1]) :]
    result = replace(field, everywhere=field.everywhere or any(has_place(axis) for axis in normalized))
    return [result, *[Lost("statistics of a norm")] * (len(output) - 1)]


def _group_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    return [replace(_field(args[0], lookup), everywhere=True), *[Lost("statistics of a norm")] * (len(output) - 1)]


def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    field = _field(args[0], lookup)
    from_batch = "no_training" not in func.overloadpacket.__name__ and any(arg is True for arg in args[3:7])
    result = replace(field, everywhere=field.everywhere or from_batch)
    return [result, *[Lost("statistics of a norm")] * (len(output) - 1)]


def _softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    field = _field(args[0], lookup)
    return replace(field, everywhere=field.everywhere or has_place(field.axes[args[1]]))


def _reduce(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    field = _field(args[0], lookup)
    results = list(tensors_in(output))
    rank = len(field.axes)
    place = 2 if "norm" in func.overloadpacket.__name__ else 1  # norms take their order first
    over = args[place] if len(args) > place else kwargs.get("dim")
    over = list(range(rank)) if over is None or over == [] else over
    positions = {int(axis) % rank for axis in (over if isinstance(over, (list, tuple)) else [over])}
    kept = any(has_place(axis) for position, axis in enumerate(field.axes) if position not in positions)
    gone = any(has_place(field.axes[position]) for position in positions)
    if kept and gone:
        raise CannotFollowError("a mean along rows or columns alone")
    if gone or not field.spatial:
        return [Field(plain(result.shape), everywhere=True) for result in results]
    if results[0].dim() == rank:
        axes = tuple((("o", 1),) if position in positions else axis for position, axis in enumerate(field.axes))
    else:
        axes = tuple(axis for position, axis in enumerate(field.axes) if position not in positions)
    return [replace(field, axes=axes) for _ in results]


def _matrix_product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    added = func.overloadpacket.__name__.rstrip("_") in ("addmm", "baddbmm")
    left, right = args[1:3] if added else args[0:2]
    of_left, of_right = lookup(left), lookup(right)
    if (added and lookup(args[0]) is not None) or (of_left is not None and of_right is not None):
        raise CannotFollowError("attention")
    axes = list(plain(output.shape))
    if isinstance(of_left, Field):
        field, kept, summed = of_left, -2, -1
    else:
        field, kept, summed = _field(right, lookup), -1, -2
    if not field.spatial:
        return Field(tuple(axes), everywhere=True)
    if has_place(field.axes[summed]):
        raise CannotFollowError("a matrix product over positions")
    axes[kept] = field.axes[kept]
    if len(axes) == 3:
        axes[0] = field.axes[0]
    return replace(field, axes=tuple(axes))


def _concatenate(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    fields = [field for tensor in args[0] if isinstance(field := lookup(tensor), Field)]
    if any(field.spatial and has_place(field.axes[axis]) for field in fields):
        raise CannotFollowError("a concatenation with the tokens of the image")
    return _combine(fields, output.shape)


def _split(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    field = _field(args[0], lookup)
    position = int(args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(field.axes)
    if has_place(field.axes[position]):
        raise CannotFollowError("a partition of the image into windows")
    axes = [(*field.axes[:position], (("o", int(t.shape[position])),), *field.axes[position + 1 :]) for t in output]
    return [replace(field, axes=each) for each in axes]


def _drop_axis(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Any:
    field = _field(args[0], lookup)
    position = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % len(field.axes)
    if has_place(field.axes[position]):
        raise CannotFollowError("the selection of one row or column of an image")
    result = replace(field, axes=(*field.axes[:position], *field.axes[position + 1 :]))
    return [result for _ in tensors_in(output)]


def _slice(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    field = _field(args[0], lookup)
    options = dict(zip(("dim", "start", "end", "step"), args[1:], strict=False)) | kwargs
    position = int(options.get("dim") or 0) % len(field.axes)
    start, step = int(options.get("start") or 0), int(options.get("step") or 1)
    axis, size = field.axes[position], int(output.shape[position])
    if not has_place(axis):
        new: Axis = (("o", size),)
    elif len(axis) == 1:
        kind, extent = axis[0]
        new = ((kind, size),)
        span = field.y if kind == "y" else field.x
        first = span.jump * (min(start, extent) if start >= 0 else max(start + extent, 0))
        moved = Span(span.jump * step, span.low + first, span.high + first)
        field = replace(field, y=moved) if kind == "y" else replace(field, x=moved)
    elif size == math.prod(atom[1] for atom in axis):
        new = axis
    else:
        raise CannotFollowError("the selection of some tokens of an image")
    return replace(field, axes=(*field.axes[:position], new, *field.axes[position + 1 :]))


def _pixel_unshuffle(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, lookup: Lookup) -> Field:
    factor = int(args[1])
    return _sliding(args, lookup, output, lambda span, k: span.window(factor, factor))


_RULES: dict[str, Rule] = {}
for _rule, _names in (
    (_same, "clone detach alias contiguous lift_fresh _to_copy"),
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
    (_pool, "max_pool2d_with_indices avg_pool2d max_pool2d"),
    (_adaptive_pool, "_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d"),
    (_pad, "constant_pad_nd reflection_pad2d replication_pad2d"),
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
