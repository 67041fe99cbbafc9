"""The part of each map on which the measured positions depend, and forward passes that compute only this part.

A crop of an image or of a map gives the same features at a position as long as the position depends on nothing outside
the crop, and on nothing that changes with the size of the map. Both follow from a traced forward pass: the receptive
fields of two maps in the image give that of one in the other, and every operation after a crop must be one whose values
depend on their receptive fields alone. Rows and columns are removed in multiples of the stride, so that all windows
keep their places. A crop ends beyond everything on which the position depends or at the border of the map, so that no
window that counts is padded more than in the whole map.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from replk_probe.models.inference.check import is_near, random_image, tolerance
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.models.inference.gradient_box import Box, put_back
from replk_probe.runtime.devices import strict_arithmetic

from .dataflow import Value
from .position_rule import Place
from .probe_layer import traced_value
from .receptive_field.span import Field, has_place
from .target_layer import TargetLayer, layer_hook, run_to

# Operations with weights, whose sizes are not those of a map.
_WEIGHTED = frozenset(
    "convolution _convolution dwconv2d native_layer_norm native_batch_norm _native_batch_norm_legit_no_training "
    "_batch_norm_no_update mm bmm addmm baddbmm".split()
)
# Further operations whose value at a position depends on its receptive field only, besides those that treat every
# element alike. Others that the tracer follows may depend on the size of the map or on the place in it.
_LOCAL = frozenset(
    "image clone detach alias contiguous _to_copy hardswish hardsigmoid hardtanh leaky_relu elu celu softplus mish "
    "silu prelu _prelu_kernel view _unsafe_view reshape _reshape_alias unsqueeze squeeze flatten unflatten permute "
    "transpose t expand max_pool2d_with_indices max_pool2d avg_pool2d constant_pad_nd cat split split_with_sizes chunk "
    "select unbind slice mean sum var std var_mean linalg_vector_norm".split()
)
# Share of a map below which a crop saves more than its copy takes.
_WORTHWHILE = 0.8
# Number of pixels from which crops are sought. Measured with ResNet-50 on one core: at 224 x 224 pixels, it takes as
# long as crops save in ten images; at 512 x 512, as in two.
_LEAST_PIXELS = 2**16
# Side of the image with which the crop of a later map is checked: small, and enough for a stride of 32.
_CHECKED_AT = 96


class _Cropped(torch.autograd.Function):
    """A box of a map as a tensor of its own, in the layout of the map, as is its gradient.

    The gradient that torch computes for a slice has always contiguous planes, in which the layers before it are slower.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, box: Box) -> Tensor:
        ctx.box = box
        ctx.like = torch.empty_strided(maps.shape, maps.stride(), device="meta")
        return maps[:, :, box[0], box[1]].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return put_back(grad, ctx.box, ctx.like), None


@dataclass(frozen=True)
class Crop:
    """Rows and columns of one map with which the computation continues.

    Attributes:
        path: Path of the module that returns the map; None for the image.
        shape: Channels, rows and columns of the whole map.
        box: Rows and columns of the map that the earlier crops leave.
    """

    path: str | None
    shape: tuple[int, ...]
    box: Box

    def of(self, maps: Tensor) -> Tensor:
        """The box of ``maps``, as a copy."""
        found: Tensor = _Cropped.apply(maps, self.box)
        return found


@dataclass(frozen=True)
class ForwardRegion:
    """Crops of the maps of one network for images of one size.

    Attributes:
        target: The measured layer, with its positions in the cropped map.
        crops: The crops, in the order of computation.
    """

    target: TargetLayer
    crops: tuple[Crop, ...] = ()

    def of_image(self, images: Tensor) -> Tensor:
        """A copy of the part of the images that is computed."""
        first = next(iter(self.crops), None)
        return images.clone() if first is None or first.path is not None else first.of(images)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Crop the maps of the network in this context."""
        with ExitStack() as stack:
            for crop in self.crops:
                if crop.path is not None:
                    stack.enter_context(layer_hook(model.get_submodule(crop.path), "output", crop.of))
            yield


def is_sought(target: TargetLayer, device: torch.device) -> bool:
    """Whether crops may save more time than is needed to find them; only the CPU was measured."""
    return device.type == "cpu" and math.prod(target.input_size) >= _LEAST_PIXELS


def find_region(model: nn.Module, channels: int, target: TargetLayer, *, reduced: bool = False) -> ForwardRegion:
    """The crops with which the features at the positions of ``target`` are those of the whole image.

    There are none if the features depend on the whole image or could not be traced, or if crops would save little. The
    features of random values, of the image or of the first cropped map, are compared with and without the crops.

    Args:
        model: The network in inference mode. It is not changed.
        channels: Number of channels of the images.
        target: The measured layer.
        reduced: Whether large matrix products of the forward pass are computed in bfloat16.
    """
    whole = ForwardRegion(target)
    # Of tokens behind a prefix or in another order, the places change with the number of tokens.
    is_plain = target.layout.kind != "NC" and not target.layout.prefix and target.layout.tokens is None
    if len(target.input_size) != 2 or target.position.kind == "mean" or not is_plain:
        return whole
    value = traced_value(model, (1, channels, *target.input_size), target)
    if value is None or not isinstance(value.field, Field):
        return whole
    region = _region_of(value, value.field, target)
    return region if region.crops and _is_same(model, region, whole, channels, reduced) else whole


def _is_same(model: nn.Module, region: ForwardRegion, whole: ForwardRegion, channels: int, reduced: bool) -> bool:
    """Whether the features at the positions are the same with and without the crops."""
    first = region.crops[0]
    size = whole.target.input_size if first.path is None else (_CHECKED_AT, _CHECKED_AT)
    image = random_image(size, channels).to(**device_and_dtype(model))
    maps = random_image(first.shape[1:], first.shape[0], seed=1)

    def replaced(output: Tensor) -> Tensor:
        layout = torch.contiguous_format if output.is_contiguous() else torch.channels_last
        return maps.to(output).contiguous(memory_format=layout)

    def features(one: ForwardRegion) -> tuple[Tensor, ...]:
        with ExitStack() as stack:
            if first.path is not None:  # what comes before need not be computed
                stack.enter_context(layer_hook(model.get_submodule(first.path), "output", replaced))
            stack.enter_context(one.applied(model))
            return one.target.features(run_to(model, one.of_image(image), one.target))

    try:
        with strict_arithmetic(), torch.no_grad():
            pairs = zip(features(region), features(whole), strict=True)
            # A product that is large enough for bfloat16 in the whole map may not be in a part of it.
            limits = {"within": tolerance(torch.bfloat16)} if reduced else {}
            return all(is_near(found, expected, **limits) for found, expected in pairs)
    except Exception:  # a network that does not accept maps of this size
        return False


class _Side(NamedTuple):
    """Rows or columns of one map with a crop.

    Attributes:
        box: The positions that are kept, of those that the earlier crops leave.
        before: Number of positions that the earlier crops leave.
        left_out: Positions of the target that are not computed, before and after the others.
    """

    box: slice
    before: int
    left_out: tuple[int, int]

    @property
    def kept(self) -> int:
        """Number of positions that are kept."""
        return int(self.box.stop - self.box.start)


class _Axis(NamedTuple):
    """Rows or columns of the target.

    Attributes:
        name: ``"y"`` or ``"x"``.
        length: Number of positions.
        first: The first position that is measured.
        last: The last one.
    """

    name: str
    length: int
    first: int
    last: int

    def side(self, field: Field, source: Field, extent: int, left_out: tuple[int, int]) -> _Side | None:
        """The crop of a map from which the target is computed; None if there is no whole stride between them.

        Args:
            field: Receptive field of the target.
            source: That of the map.
            extent: Number of positions of the whole map.
            left_out: Positions of the target that are not computed because of the earlier crops.
        """
        span, inner = field.spans[self.name], source.spans[self.name]
        low, high = span.low - inner.low, span.high - inner.high
        if any(distance % inner.jump for distance in (span.jump, low, high)):
            return None
        # The measured positions depend on positions `start` to `stop` of the map.
        stride = span.jump // inner.jump
        start, stop = stride * self.first + low // inner.jump, stride * self.last + high // inner.jump
        head = max(max(start, 0) // stride, left_out[0])
        tail = max(max(extent - 1 - stop, 0) // stride, left_out[1])
        begin = stride * (head - left_out[0])
        box = slice(begin, begin + extent - stride * (head + tail))
        return _Side(box, extent - stride * sum(left_out), (head, tail))


def _region_of(value: Value, field: Field, target: TargetLayer) -> ForwardRegion:
    """The crops for a traced value of the target, as :func:`find_region`, but not yet checked."""
    places = target.places or (target.layout.middle,)
    axes = [
        _Axis(name, length, min(own), max(own))
        for name, length, own in zip("yx", target.layout.size, zip(*places, strict=True), strict=True)
    ]
    if [atom for axis in field.axes for atom in axis if atom[0] != "o"] != [(axis.name, axis.length) for axis in axes]:
        return ForwardRegion(target)
    ancestors = _ancestors(value)
    begin = max((one.index for one in ancestors if not _is_local(one)), default=0)
    paths = _paths_of(ancestors)
    left_out = [(0, 0), (0, 0)]
    crops = []
    for one in reversed([*value.dominators()][1:]):
        source = one.field
        if one.index < begin or one.index not in paths or not isinstance(source, Field) or not _is_map(one, source):
            continue
        sides = [
            side
            for axis, extent, gone in zip(axes, one.shape[2:], left_out, strict=True)
            if (side := axis.side(field, source, extent, gone)) is not None
        ]
        saves = math.prod(side.kept for side in sides) < _WORTHWHILE * math.prod(side.before for side in sides)
        if len(sides) == len(axes) and saves:
            rows, columns = sides
            crops.append(Crop(paths[one.index], one.shape[1:], (rows.box, columns.box)))
            left_out = [side.left_out for side in sides]
    return ForwardRegion(_shifted(target, places, left_out), tuple(crops))


def _shifted(target: TargetLayer, places: Sequence[Place], left_out: Sequence[tuple[int, int]]) -> TargetLayer:
    """The layer with its positions in a map without these rows and columns before and after the others."""
    pairs = zip(target.layout.size, left_out, strict=True)
    layout = replace(target.layout, size=tuple(length - sum(both) for length, both in pairs), chosen=None)
    moved = (tuple(index - both[0] for index, both in zip(place, left_out, strict=True)) for place in places)
    return replace(target, layout=layout, places=tuple(moved))


def _ancestors(value: Value) -> list[Value]:
    """The value and all values from which it is computed."""
    found: dict[int, Value] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one.index not in found:
            found[one.index] = one
            waiting += one.sources
    return [*found.values()]


def _paths_of(values: Sequence[Value]) -> dict[int, str | None]:
    """Paths of the modules whose outputs these values are, by their index, if each is called once; None for the image.

    A module that returns what it was given is left out: the value may be used apart from it.
    """
    calls: Counter[str | None] = Counter()
    for point in (point for value in values for point in value.points):
        calls[point.path] = max(calls[point.path], point.call or 1)
    found: dict[int, str | None] = {value.index: None for value in values if value.index == 0}
    for value in values:
        for point in reversed(value.points):
            is_whole = point.side == "output" and point.item == () and bool(point.path) and calls[point.path] == 1
            if is_whole and value.call is not None and f"{value.call.path}.".startswith(f"{point.path}."):
                found[value.index] = point.path
    return found


def _is_map(value: Value, field: Field) -> bool:
    """Whether the axes of a value are those of the images, ``[1, C, H, W]``."""
    if len(value.shape) != 4 or any(map(has_place, field.axes[:2])):
        return False
    return field.axes[2:] == tuple((atom,) for atom in zip("yx", value.shape[2:], strict=True))


def _is_local(value: Value) -> bool:
    """Whether the value at a position is a function of those in its window, the same for all positions and sizes."""
    name, field = value.name if value.name in _LOCAL | _WEIGHTED else value.name.rstrip("_"), value.field
    if not (value.pointwise or name in _LOCAL | _WEIGHTED):
        return False
    if value.index == 0:
        return True
    given = [source.field for source in value.sources]
    maps = [one for one in given if isinstance(one, Field) and one.spatial]
    # A value without positions is one of the whole map, such as a gate.
    if not isinstance(field, Field) or not field.spatial or len(maps) < len(given):
        return False
    if name == "native_layer_norm":
        return not any(map(has_place, field.axes[len(field.axes) - len(value.args[1]) :]))
    if "batch_norm" in name:
        return not any(arg is True for arg in value.args[3:7])  # the statistics of the map itself
    if name == "constant_pad_nd":
        return all(pad >= 0 for pad in value.args[1])
    if name == "slice":
        sizes = zip(maps[0].axes, value.sources[0].shape, value.shape, strict=True)
        return all(before == after for axis, before, after in sizes if has_place(axis))
    operands = value.operands
    if name in _WEIGHTED:
        operands = operands[: 1 if "add" in name else 0]
    # A tensor with positions, such as an embedding, is another one for a map of another size.
    return not any(
        size > 1 and has_place(axis)
        for operand in operands
        if operand.value is None
        for axis, size in zip(reversed(field.axes), reversed(operand.shape), strict=False)
    )
