"""The layer that is measured by default: the value that enters the spatial reduction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from replk_probe.errors import InvalidInputError

from .dataflow import Recorder, Value
from .feature_layout import Layout, followed_layout, layout_of
from .target_layer import LayerPoint, main_item

_ADAPTIVE_POOLS = tuple(
    f"{name}{axes}d" for axes in (2, 3) for name in ("_adaptive_avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
)
# Pools that also take a map of one position, of an image as small as the network's stride.
_POOLS_OF_ONE = (*_ADAPTIVE_POOLS, "mean")
_MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
# The parts of a linear layer, and rearrangements of its result into heads.
_PROJECTIONS = (
    *("mm", "addmm", "view", "_unsafe_view", "permute", "transpose", "t", "clone", "unsqueeze", "squeeze", "expand"),
    *("unbind", "select", "split", "split_with_sizes", "slice"),
)
_POWERS = ("clamp", "clamp_min", "pow", "abs", "exp")
# Operations that move the positions of an image without changing any value.
_REARRANGEMENTS = ("permute", "transpose", "view", "_unsafe_view", "clone", "unsqueeze", "squeeze")
_MOST_LAYERS_IN_AN_ERROR = 5


class LayerSearch:
    """Finds the default layer in a recorded forward pass.

    Args:
        model: The network.
        recorder: Its forward pass.
        input_size: (H, W) of the image, or as many sides as the input has axes.
    """

    def __init__(self, model: nn.Module, recorder: Recorder, input_size: tuple[int, ...]) -> None:  # noqa: D107
        self._model, self._recorder, self._input_size = model, recorder, input_size
        self._layouts: dict[int, Layout | None] = {}
        self._seen: set[int] = set()

    def layout(self, value: Value) -> Layout | None:
        """The layout of a value with more than one row and column of the image, otherwise None.

        Of an input that is not an image, there may be a single position along some axes.
        """
        if value.index not in self._layouts:
            self._layouts[value.index] = self._find_layout(value)
        return self._layouts[value.index]

    def _find_layout(self, value: Value) -> Layout | None:
        rank = len(self._input_size)
        if value.index == 0 or not value.is_floating or len(value.shape) not in (3, rank + 2) or value.shape[0] != 1:
            return None
        layout = followed_layout(value, self._input_size)
        if layout == "unknown":
            try:
                layout = layout_of(value.shape, self._input_size, self._model, "", lambda _: None)
            except InvalidInputError:
                layout = None
        if layout is None or (min if rank == 2 else max)(layout.size) == 1:
            return None
        return layout

    def before_reduction(self, output: Any) -> Value | None:
        """The last map or token sequence before the spatial reduction of what a network returned.

        It is the last value of this kind on the way to the output. Where several are reduced and joined, such as the
        class tokens of two branches, it is the one computed last; of several maps that are returned, the last one.
        """
        for key in main_item(output):
            output = output[key]
        values = self._recorder.values_in(output)
        maps = [value for value in values if self.layout(value) is not None]
        for value in maps[-1:] or values:
            entries = [self._settled(entry) for entry in self._reduced(value)]
            if entries:
                return max(entries, key=lambda entry: entry.index)
        return None

    def _reduced(self, value: Value) -> Iterator[Value]:
        """The maps that are reduced on the way to a value."""
        work = [value]
        while work:
            value = work.pop()
            if value.index in self._seen or value.index == 0:
                continue
            self._seen.add(value.index)
            if self.layout(value) is not None:
                yield value
            elif value.name in _POOLS_OF_ONE and _is_single_position(value.sources[0]):
                yield value.sources[0]
            elif _is_attention(value):
                work.append(_projected(value))
            else:
                work.extend(value.sources)

    def _settled(self, value: Value) -> Value:
        """The value in front of an adaptive pool, or of a pooling module that takes a power of its input first."""
        above = value
        while above.pointwise or above.name in ("clone", "view"):
            if above.dominator is None:
                break
            above = above.dominator
        if above.name in _ADAPTIVE_POOLS:
            source = above.sources[0]
            return self._settled(source) if self.layout(source) is not None else value
        # Generalized means begin with a power of their input, inside the pooling module.
        call = value.call
        above = value
        while above.name.rstrip("_") in _POWERS and above.dominator is not None:
            above = above.dominator
        return above if call is not None and above is call.input and self.layout(above) else value

    def point_of(self, value: Value) -> tuple[LayerPoint, Value]:
        """Where a value is taken, and the value there: the same, or the one to which a ReLU is applied."""
        point = self._module_boundary(value)
        if point is None and value.name.rstrip("_") == "relu":
            # The sum of the rectified features is measured: a ReLU does not change it.
            source = value.sources[0]
            point = self._module_boundary(source)
            if point is not None:
                return point, source
        if point is None:
            points = [*value.points]
            # Rather a call of one of several than the whole network, and rather that than an operation.
            points.sort(key=lambda point: (point.side == "operation", not point.path))
            if not points:
                # Functions such as einsum rearrange a map before they reduce it.
                if value.name in _REARRANGEMENTS and self.layout(value.sources[0]) is not None:
                    return self.point_of(value.sources[0])
                raise InvalidInputError(
                    f"The last map of {type(self._model).__name__} before pooling is computed by {value.name} inside "
                    f"a function that cannot be interrupted{self.suggestions()}"
                )
            point = self._plain(points[0])
        return point, value

    def _module_boundary(self, value: Value) -> LayerPoint | None:
        """The outermost module with this output, or the first one with this input, among those called once."""
        once = [self._plain(point) for point in value.points if point.side != "operation" and point.path]
        once = [point for point in once if point.call is None]
        outputs = [point for point in once if point.side == "output"]
        outputs.sort(key=lambda point: not point.item)
        return outputs[-1] if outputs else next((point for point in once if point.side == "input"), None)

    def _plain(self, point: LayerPoint) -> LayerPoint:
        """The point without the number of the call if there is only one."""
        if point.path is None:
            return point
        several = self._recorder.calls.counts[point.path] > 1
        item = point.item if point.side == "output" and len(self._returned(point)) > 1 else ()
        call = point.call if several else None
        return LayerPoint(point.path, point.side, item, call, point.operation, point.function)

    def _returned(self, point: LayerPoint) -> Sequence[Value]:
        keys = (point.path, point.side, point.call)
        return [value for other, value in self._recorder.points.items() if (other.path, other.side, other.call) == keys]

    def features(self, features: Value) -> tuple[LayerPoint, Value] | None:
        """The layer for the output of ``forward_features``, or the input of the network's norm that computed it.

        Returns:
            The layer and its value; None if the output has no rows and columns.
        """
        point, value = LayerPoint(None), features
        for name, _ in self._model.named_children():
            # Norms of the network itself, not those of a block or after its last convolution.
            if "norm" in name and any(p.path == name and p.side == "output" for p in features.points):
                entered = LayerPoint(name, "input", call=self._recorder.calls.counts[name])
                if entered in self._recorder.points:
                    point, value = LayerPoint(name, "input"), self._recorder.points[entered]
        if self.layout(value) is not None or _is_single_position(value):
            return point, value
        return None

    def suggestions(self) -> str:
        """The likeliest layers, for an error: the last modules whose output has rows and columns."""
        paths: list[str] = []
        taken: set[int] = set()
        for value in reversed(self._recorder.values):
            outputs = [p for p in value.points if p.side == "output" and p.path and not p.item]
            if outputs and self.layout(value) is not None and value.index not in taken:
                taken.add(value.index)
                paths.append(str(outputs[-1].path))
            if len(paths) == _MOST_LAYERS_IN_AN_ERROR:
                break
        if not paths:
            return ", and none of its modules gives a map of the image. Use a network whose features have positions."
        return f". Name the layer to measure; the likeliest are {', '.join(paths)}."


def _is_single_position(value: Value) -> bool:
    """Whether a value ``[1, C, 1, 1]`` is a map of an image as small as the network's stride, not a mean."""
    if len(value.shape) != 4 or value.shape[2:] != (1, 1):
        return False
    for above in value.dominators():
        if above.name == "convolution":
            return True
        if above.name == "cat":
            return all(map(_is_single_position, above.sources))
        if not above.pointwise and "batch_norm" not in above.name:
            return False
    return False


def _is_attention(value: Value) -> bool:
    """Whether a value is a product of values that all depend on the image, as in attention pooling."""
    if "scaled_dot_product" in value.name:
        return True
    return value.name in _MATRIX_PRODUCTS and sum(operand.value is not None for operand in value.operands[-2:]) == 2


def _projected(value: Value) -> Value:
    """The value whose projections are the queries, keys and values of an attention."""
    above = value.dominator
    while above is not None and above.dominator is not None and above.dominator.index > 0:
        scaled_or_shifted = above.name in ("mul", "div", "add") and len(above.sources) == 1
        if not scaled_or_shifted and above.name not in _PROJECTIONS:
            break
        above = above.dominator
    return above if above is not None else value
