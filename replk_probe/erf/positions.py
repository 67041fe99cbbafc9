"""Which pixel of the image an element of a value belongs to, followed back through reshapes, shifts and sequences.

Only the order of the positions is followed, not their receptive field: an element of a convolution's output belongs to
the middle of its window, one of an attention's output to its query, one of a sum to its shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .dataflow import Operand, Value

Coords: TypeAlias = npt.NDArray[np.int64]  # one row for each axis, one column for each element

# What an element is if it belongs to no pixel (a class token), or if that could not be followed.
NO_PIXEL, UNKNOWN = -1, -2

# Steps of one search. Networks of thousands of operations need fewer, since shortcuts are taken.
_MOST_STEPS = 20_000

Part: TypeAlias = tuple[npt.NDArray[np.bool_] | None, Value | None, Coords]


class _CannotFollowError(Exception):
    """No rule covers the operation, or this case of it."""


def pixels_of(value: Value, coords: Coords) -> Coords:
    """The pixels that elements of a value belong to.

    Args:
        value: The value.
        coords: Indices of the elements, ``[axes, n]``.

    Returns:
        (y, x) for each element, ``[2, n]``, or as many coordinates as the input has axes; all are :data:`NO_PIXEL` or
        :data:`UNKNOWN` where there is none.
    """
    return _Search().run(value, coords)


class _Search:
    def __init__(self) -> None:
        self._steps = 0

    def run(self, value: Value, coords: Coords) -> Coords:
        total = coords.shape[1]
        image = [*value.dominators()][-1]
        found = np.full((len(image.shape) - 2, total), UNKNOWN, dtype=np.int64)
        # Elements, the value they belong to, and other operands in which to look for them if this one fails.
        work: list[tuple[npt.NDArray[np.int64], Value, Coords, tuple[Any, ...]]] = [
            (np.arange(total), value, coords, ())
        ]
        while work:
            which, value, coords, others = work.pop()
            self._steps += 1
            if self._steps > _MOST_STEPS:
                break
            if value.index == 0:
                found[:, which] = coords[2:]
                continue
            try:
                parts, alternative = self._before(value, coords)
            except _CannotFollowError:
                if others:
                    (elements, other, other_coords), *rest = others
                    chosen = np.searchsorted(elements, which)
                    work.append((which, other, other_coords[:, chosen], tuple(rest)))
                continue
            if alternative is not None:
                others = ((which, *alternative), *others)
            for mask, source, source_coords in parts:
                selected = which if mask is None else which[mask]
                if not selected.size:
                    continue
                if source is None:
                    found[:, selected] = NO_PIXEL
                else:
                    work.append((selected, source, source_coords, others))
        return found

    def _before(self, value: Value, coords: Coords) -> tuple[list[Part], tuple[Value, Coords] | None]:
        """The elements from which these were computed, and a second operand that would do as well."""
        if value.name in ("mm", "addmm", "bmm", "baddbmm"):
            return [self._matrix_product(value, coords)], None
        rule = _RULES.get(value.name) or _RULES.get(value.name.rstrip("_"))
        if rule is not None:
            return rule(value, coords), None
        return _alike(value, coords)

    def _matrix_product(self, value: Value, coords: Coords) -> Part:
        left, right = _tensors(value)[-2:]
        choices: list[tuple[Value, Coords]] = []
        for operand, row in ((left, True), (right, False)):
            if operand.value is not None:
                other = coords.copy()
                other[-1 if row else -2] = operand.shape[-1 if row else -2] // 2
                choices.append((operand.value, other))
        if not choices:
            raise _CannotFollowError
        if len(choices) == 2:
            # Rows of attention follow the query; the product of a matrix over channels and the values, its columns.
            spread = [np.unique(self.run(*choice), axis=1).shape[1] for choice in choices]
            return None, *choices[int(spread[1] > spread[0])]
        return None, *choices[0]


def _tensors(value: Value) -> list[Operand]:
    return value.operands


def _only(value: Value) -> tuple[Value, tuple[int, ...]]:
    """The first argument of an operation, which has to depend on the image."""
    first = value.args[0] if value.args else None
    if not isinstance(first, Operand) or first.value is None:
        raise _CannotFollowError
    return first.value, first.shape


def _alike(value: Value, coords: Coords) -> tuple[list[Part], tuple[Value, Coords] | None]:
    """An operation on elements, or one that is not known but keeps the shape."""
    operands = [(operand.value, operand.shape) for operand in _tensors(value) if operand.value is not None]
    if value.name == "write":
        operands = [(source, source.shape) for source in value.sources]
    same = [(source, shape) for source, shape in operands if shape == value.shape]
    if not same:
        if not (value.pointwise and operands):
            raise _CannotFollowError
        same = [max(operands, key=lambda operand: int(np.prod(operand[1])))]
    # The shortcut of a residual block is computed first.
    same.sort(key=lambda operand: operand[0].index)
    choices = [(source, _broadcast(coords, shape)) for source, shape in same]
    return [(None, *choices[0])], choices[1] if len(choices) > 1 else None


def _broadcast(coords: Coords, shape: Sequence[int]) -> Coords:
    """Coordinates in a tensor of ``shape`` that is expanded, with its axes aligned at the end."""
    kept = coords[len(coords) - len(shape) :]
    return np.minimum(kept, np.array(shape, dtype=np.int64).reshape(-1, 1) - 1)


def _view(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    flat = np.ravel_multi_index(tuple(coords), value.shape) if value.shape else np.zeros(coords.shape[1], np.int64)
    return [(None, source, np.array(np.unravel_index(flat, shape)).reshape(len(shape), -1))]


def _permute(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    order = list(range(len(shape)))
    if value.name == "permute":
        order = [int(axis) % len(shape) for axis in value.args[1]]
    elif len(shape) > 1:
        first, second = (0, 1) if len(value.args) == 1 else (int(value.args[1]), int(value.args[2]))
        order[first], order[second] = order[second], order[first]
    before = np.empty_like(coords)
    before[order] = coords
    return [(None, source, before)]


def _expand(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    return [(None, source, _broadcast(coords, shape))]


def _repeat(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    kept = coords[len(coords) - len(shape) :]
    return [(None, source, kept % np.array(shape, dtype=np.int64).reshape(-1, 1))]


def _argument(value: Value, position: int, name: str, default: Any) -> Any:
    return value.args[position] if len(value.args) > position else value.kwargs.get(name, default)


def _select(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    axis = int(_argument(value, 1, "dim", 0)) % len(shape)
    index = value.output if value.name == "unbind" else int(value.args[2]) % shape[axis]
    return [(None, source, np.insert(coords, axis, index, axis=0))]


def _slice(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    axis = int(_argument(value, 1, "dim", 0)) % len(shape)
    start, step = int(_argument(value, 2, "start", 0) or 0), int(_argument(value, 4, "step", 1))
    start = min(start, shape[axis]) if start >= 0 else max(start + shape[axis], 0)
    before = coords.copy()
    before[axis] = start + step * coords[axis]
    return [(None, source, before)]


def _split(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    axis = int(_argument(value, 2, "dim", 0)) % len(shape)
    sizes = value.args[1]
    start = sum(sizes[: value.output]) if isinstance(sizes, (tuple, list)) else int(sizes) * value.output
    before = coords.copy()
    before[axis] += start
    return [(None, source, before)]


def _cat(value: Value, coords: Coords) -> list[Part]:
    operands: Sequence[Operand] = value.args[0]
    axis = int(_argument(value, 1, "dim", 0)) % len(value.shape)
    stacked = value.name == "stack"
    parts: list[Part] = []
    start = 0
    for operand in operands:
        size = 1 if stacked else operand.shape[axis] if len(operand.shape) == len(value.shape) else 0
        mask = (coords[axis] >= start) & (coords[axis] < start + size)
        before = coords[:, mask].copy()
        before[axis] -= start
        parts.append((mask, operand.value, np.delete(before, axis, axis=0) if stacked else before))
        start += size
    return parts


def _flip(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    before = coords.copy()
    for axis in value.args[1]:
        before[axis] = shape[axis] - 1 - coords[axis]
    return [(None, source, before)]


def _roll(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    axes = [int(axis) for axis in _argument(value, 2, "dims", ())]
    if not axes:
        raise _CannotFollowError
    before = coords.copy()
    for shift, axis in zip(value.args[1], axes, strict=True):
        before[axis] = (coords[axis] - int(shift)) % shape[axis]
    return [(None, source, before)]


def _pad(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    pads = [int(pad) for pad in value.args[1]]
    before = coords.copy()
    for k in range(len(pads) // 2):
        before[len(shape) - 1 - k] -= pads[2 * k]
    limits = np.array(shape, dtype=np.int64).reshape(-1, 1)
    inside = ((before >= 0) & (before < limits)).all(0)
    return [(inside, source, before[:, inside]), (~inside, None, before[:, ~inside])]


def _windows(value: Value, coords: Coords, at: Callable[[int, Coords], Coords]) -> list[Part]:
    """Shared by convolutions, pools and resampling; ``at(k, index)`` is the middle along the k-th sliding axis."""
    source, shape = _only(value)
    before = coords.copy()
    axes = len(shape) - 2
    for k in range(axes):
        before[2 + k] = np.clip(at(k, coords[2 + k]), 0, shape[2 + k] - 1)
    if shape[1] != value.shape[1]:
        before[1] = 0
    return [(None, source, before)]


def _each(given: Any, count: int, default: Sequence[int]) -> list[int]:
    values = [int(item) for item in given] if isinstance(given, (tuple, list)) else [int(given)]
    values = values or list(default)
    return values * count if len(values) == 1 else values


def _convolution(value: Value, coords: Coords) -> list[Part]:
    weight = value.args[1]
    if not isinstance(weight, Operand) or weight.value is not None:
        raise _CannotFollowError
    kernel = weight.shape[2:]
    stride, padding, dilation = (_each(given, len(kernel), ()) for given in value.args[3:6])

    def at(k: int, index: Coords) -> Coords:
        middle = (kernel[k] - 1) * dilation[k] // 2
        if value.args[6]:
            return (index + padding[k] - middle) // stride[k]
        return index * stride[k] - padding[k] + middle

    return _windows(value, coords, at)


def _pool(value: Value, coords: Coords) -> list[Part]:
    axes = len(value.shape) - 2
    kernel = _each(value.args[1], axes, ())
    stride = _each(value.args[2] if len(value.args) > 2 else (), axes, kernel)
    padding = _each(value.args[3] if len(value.args) > 3 else 0, axes, ())
    return _windows(value, coords, lambda k, index: index * stride[k] - padding[k] + (kernel[k] - 1) // 2)


def _resampled(value: Value, coords: Coords) -> list[Part]:
    _, shape = _only(value)
    return _windows(value, coords, lambda k, index: (2 * index + 1) * shape[2 + k] // (2 * value.shape[2 + k]))


def _reduce(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    over = _argument(value, 2 if "norm" in value.name else 1, "dim", None)
    over = range(len(shape)) if over is None or over == () else over if isinstance(over, (tuple, list)) else [over]
    positions = sorted({int(axis) % len(shape) for axis in over})
    before = coords
    for axis in positions:
        if len(value.shape) == len(shape):
            before = np.delete(before, axis, axis=0)
        before = np.insert(before, axis, shape[axis] // 2, axis=0)
    return [(None, source, before)]


def _pixel_shuffle(value: Value, coords: Coords) -> list[Part]:
    source, _ = _only(value)
    factor = int(value.args[1])
    n, c, y, x = coords
    channel = (c * factor + y % factor) * factor + x % factor
    return [(None, source, np.stack([n, channel, y // factor, x // factor]))]


def _pixel_unshuffle(value: Value, coords: Coords) -> list[Part]:
    source, _ = _only(value)
    factor = int(value.args[1])
    n, c, y, x = coords
    row, column = c // factor % factor, c % factor
    return [(None, source, np.stack([n, c // factor**2, y * factor + row, x * factor + column]))]


def _unfold(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    axis = int(value.args[1]) % len(shape)
    before = coords[:-1].copy()
    before[axis] = before[axis] * int(value.args[3]) + coords[-1]
    return [(None, source, before)]


def _im2col(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    kernel, dilation, padding, stride = (_each(given, 2, ()) for given in value.args[1:5])
    columns = (shape[3] + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    n, c, token = coords
    channel, inside = c // (kernel[0] * kernel[1]), c % (kernel[0] * kernel[1])
    y = token // columns * stride[0] - padding[0] + inside // kernel[1] * dilation[0]
    x = token % columns * stride[1] - padding[1] + inside % kernel[1] * dilation[1]
    return [(None, source, np.stack([n, channel, np.clip(y, 0, shape[2] - 1), np.clip(x, 0, shape[3] - 1)]))]


def _index(value: Value, coords: Coords) -> list[Part]:
    source, shape = _only(value)
    if value.name == "index":
        given = [(axis, operand) for axis, operand in enumerate(value.args[1]) if operand is not None]
    else:
        given = [(int(value.args[1]) % len(shape), value.args[2])]
    if len(given) != 1 or not isinstance(given[0][1], Operand) or given[0][1].constant is None:
        raise _CannotFollowError
    axis, constant = given[0][0], given[0][1].constant.numpy()
    if constant.dtype == np.bool_:
        if constant.ndim != 1:
            raise _CannotFollowError
        constant = constant.nonzero()[0]
    if value.name == "gather":
        chosen = constant[tuple(coords)]
        before = coords.copy()
        before[axis] = chosen
        return [(None, source, before)]
    chosen = constant[tuple(coords[axis : axis + constant.ndim])] % shape[axis]
    return [(None, source, np.concatenate([coords[:axis], chosen[None], coords[axis + constant.ndim :]]))]


def _attention(value: Value, coords: Coords) -> list[Part]:
    """Fused attention: a row of the output belongs to its query."""
    if value.output:
        raise _CannotFollowError
    source, shape = _only(value)
    return [(None, source, _broadcast(coords, shape))]


def _copy_into(value: Value, coords: Coords) -> list[Part]:
    source = value.args[1]
    if not isinstance(source, Operand) or source.value is None:
        raise _CannotFollowError
    return [(None, source.value, _broadcast(coords, source.shape))]


def _lost(value: Value, coords: Coords) -> list[Part]:
    raise _CannotFollowError


_RULES: dict[str, Callable[[Value, Coords], list[Part]]] = {}
for _rule, _names in (
    (_view, "view _unsafe_view reshape _reshape_alias unsqueeze squeeze flatten unflatten"),
    (_permute, "permute transpose t"),
    (_expand, "expand"),
    (_repeat, "repeat"),
    (_select, "select unbind"),
    (_slice, "slice"),
    (_split, "split split_with_sizes"),
    (_cat, "cat stack"),
    (_flip, "flip"),
    (_roll, "roll"),
    (_pad, "constant_pad_nd"),
    (_convolution, "convolution _convolution"),
    (
        _pool,
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
        "max_pool2d",
    ),
    (
        _resampled,
        "_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest1d upsample_nearest2d "
        "_upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa reflection_pad2d replication_pad2d _adaptive_avg_pool3d adaptive_avg_pool3d "
        "adaptive_max_pool3d upsample_linear1d upsample_nearest3d upsample_trilinear3d reflection_pad1d "
        "reflection_pad3d replication_pad1d replication_pad3d",
    ),
    (
        _reduce,
        "mean sum amax amin max min var std var_mean std_mean linalg_vector_norm logsumexp norm prod any median",
    ),
    (_pixel_shuffle, "pixel_shuffle"),
    (_pixel_unshuffle, "pixel_unshuffle"),
    (_unfold, "unfold"),
    (_im2col, "im2col"),
    (_index, "index index_select gather"),
    (
        _attention,
        "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    (_copy_into, "copy"),
    (_lost, "sort argsort topk cumsum index_put scatter"),
):
    for _name in _names.split():
        _RULES[_name] = _rule
