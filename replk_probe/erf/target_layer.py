"""The layer whose effective receptive field is measured, and forward passes that end there."""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import resolve_layer
from replk_probe.models.detectors import taking_batches

from .module_calls import Call, ModuleCalls
from .position_rule import MIDDLE, Place, PositionRule, parse_position
from .receptive_field.tracer import Field, Lost, stride_rule

if TYPE_CHECKING:
    from .feature_layout import Layout

# A layer name with the number of a call and the keys of one of its outputs: "act@-1", "neck:out:0", "neck[out][0]".
_SELECTED = re.compile(r"(?P<layer>.+?)(?:@(?P<call>-?\d+))?(?P<keys>(?::[^:\[\]]+|\[[^\[\]]+\])*)", re.DOTALL)
_KEY = re.compile(r"[:\[]([^:\[\]]+)")
# Entries of an output that hold the result of the network rather than something else.
_MAIN_OUTPUTS = ("logits", "out", "last_hidden_state")
_MOST_DESCRIBED = 6
_LONGEST_STRING = 40


@dataclass(frozen=True)
class LayerPoint:
    """A tensor in the forward pass of a network: the output or input of a module, or a value inside its ``forward``."""

    path: str | None  # module path; "" for the network itself, None for the output of its forward_features
    side: Literal["output", "input", "operation"] = "output"  # the result of an operation in its forward, or this side
    item: tuple[int | str, ...] = ()  # keys that select one tensor of an output with several
    # Which of several calls of the module, from 1, or from -1 at the end while their number is not known; None for a
    # module that is called once.
    call: int | None = None
    operation: int = 0  # number of the operation among those that the module's own code calls, from 1
    function: str = ""  # name of the operation

    @property
    def label(self) -> str:
        """Label in tables and results."""
        output = "" if self.side != "output" else "".join(f"[{key}]" for key in self.item)
        if self.path is None:
            return f"forward_features{output}"
        name = f"{self.path or ('output of the model' if self.side == 'output' else 'forward')}{output}"
        details = ["input"] if self.side == "input" else []
        if self.side == "operation":
            details = [f"{self.function}, operation {self.operation}"]
        if self.call is not None:
            details.append(f"call {self.call}")
        return f"{name} ({', '.join(details)})" if details else name

    @property
    def name(self) -> str:
        """The name under which the user can choose the output of this module."""
        name = "forward_features" if self.path is None else self.path or "forward"
        call = "" if self.call is None else f"@{self.call}"
        return f"{name}{call}{''.join(f'[{key}]' for key in self.item)}"

    @property
    def kept(self) -> str:
        """Path of the module across which nothing may be merged or folded; "" if any may."""
        if self.side == "operation":
            # No module has this name: the module itself may not be merged, but what it calls may be folded.
            return f"{self.path}.<operation>" if self.path else "<operation>"
        return self.path or ""


@dataclass(frozen=True, kw_only=True)
class TargetLayer(LayerPoint):
    """A layer with all properties that the measurement needs, for images of one size."""

    input_size: tuple[int, ...]  # (H, W) of the images in pixels, or the sides of inputs with other numbers of axes
    layout: Layout  # rows and columns of the layer's output
    field: Field | Lost  # receptive fields of the output, or the reason why they could not be traced
    note: str | None = None  # note on how the layer was chosen, or None
    logit: int | None = None  # index of the class whose logit is differentiated; None for all features
    position: PositionRule = MIDDLE
    places: tuple[Place, ...] = ()  # positions of the rule in this layer; none for the middle and for all at once

    @property
    def label(self) -> str:
        """Label in tables and results."""
        label = super().label
        return label if self.logit is None else f"{label}, logit {self.logit}"

    def at(self, position: Any, seed: int = 0) -> TargetLayer:
        """This layer with another position to measure, as in :func:`~replk_probe.erf.contribution_scores`."""
        rule = parse_position(position)
        if rule.kind == "center":
            return self if self.position == rule else replace(self, position=rule, places=())
        return replace(self, position=rule, places=rule.places(self.layout.size, self.label, seed))

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Shape of the scores of one image: ``(H, W)``, or ``(P, H, W)`` for a rule of several positions."""
        return (len(self.places), *self.input_size) if self.position.is_several else self.input_size

    def features(self, output: Tensor) -> tuple[Tensor, ...]:
        """The features of every image of which a map is computed: ``[N, C]`` for each position.

        For all positions at once ``[N, P, C]``, whose map is the mean over P.
        """
        if self.position.kind == "mean":
            return (self.layout.everywhere(output),)
        return tuple(self.layout.at(output, place) for place in self.places or (self.layout.middle,))

    def center(self) -> tuple[tuple[float, ...], bool, str | None]:
        """Center (y, x) of the receptive field of the position, in input pixels, within the image.

        It is that of the middle position for several positions, to which their maps are shifted, and the mean of all
        centers for all positions at once. Also whether it was traced through the layers (otherwise it is estimated from
        the stride), and a note or None.
        """
        if self.layout.kind == "NC":
            note = "The output has no positions: the center of the windows is the middle of the image."
            return tuple((length - 1) / 2 for length in self.input_size), False, note
        place: Sequence[float] = self.layout.middle
        if self.position.kind == "at":
            place = self.places[0]
        elif self.position.kind == "mean":
            place = [(length - 1) / 2 for length in self.layout.size]
        center = self.center_of(place)
        if self._is_followed:
            note = "Every output also depends on the whole image, through a gate or a norm over positions."
            return center, True, note if isinstance(self.field, Field) and self.field.everywhere else None
        reason = self.field.reason if isinstance(self.field, Lost) else "the pooling of the whole map"
        note = (
            f"The receptive field cannot be followed through {reason}: its center is estimated as "
            "(i + 1/2) stride - 1/2, the middle of the output's share of the image."
        )
        return center, False, note

    def center_of(self, place: Sequence[float]) -> tuple[float, ...]:
        """Center (y, x) of the receptive field of a position, in input pixels, moved into the image if outside."""
        limits = (length - 1 for length in self.input_size)
        return tuple(min(max(value, 0.0), limit) for value, limit in zip(self._unlimited(place), limits, strict=True))

    def shift_of(self, place: Sequence[float]) -> tuple[int, ...]:
        """Center of a position minus that of the middle one, in whole pixels; halves are rounded up."""
        pairs = zip(self._unlimited(place), self._unlimited(self.layout.middle), strict=True)
        return tuple(math.floor(own - middle + 0.5) for own, middle in pairs)

    @property
    def _is_followed(self) -> bool:
        """Whether the receptive field of the middle position was traced, and its center lies in the image."""
        if not (isinstance(self.field, Field) and self.field.spatial):
            return False
        centers = zip(self.field.center(self.layout.middle), self.input_size, strict=True)
        return all(0 <= value <= length - 1 for value, length in centers)

    def _unlimited(self, place: Sequence[float]) -> tuple[float, ...]:
        if self._is_followed and isinstance(self.field, Field):
            return self.field.center(place)
        return stride_rule(place, self.layout.size, self.input_size)


Layer: TypeAlias = str | nn.Module | LayerPoint | None


def check_layer(layer: Any) -> None:
    """Raise InvalidInputError unless ``layer`` is a name that is not blank, a module or None."""
    is_name = isinstance(layer, str) and layer.strip()
    if not (layer is None or is_name or isinstance(layer, nn.Module)):
        raise InvalidInputError(
            f"Expected a layer name or a module of the model, got {layer!r}. "
            "Give 'stage3.5', a module path, a module such as model.layer4, or None."
        )


def point_of(model: nn.Module, layer: Layer) -> LayerPoint | None:
    """The layer that a user chose, whether or not the network calls it; None for None.

    ``layer`` is a name, a module path, ``"forward_features"`` or ``"forward"`` (what these methods of the network
    return), one of these followed by the number of one of several calls (``"act@2"``, ``"act@-1"`` for the last) and
    the keys of one of several outputs (``"neck:out"``, ``"neck:out:1"``, ``"neck[out][1]"``), or a module of the
    network. Raises InvalidInputError if the network has no such layer.
    """
    if layer is None or isinstance(layer, LayerPoint):
        return layer
    if isinstance(layer, str):
        name, call, item = _parsed(model, layer.strip())
        if call == 0:
            raise InvalidInputError(
                f"Layer {layer!r} names call 0. The calls of a layer are counted from 1, or from -1 at the end. Write "
                f"'{name}@1' for the first one, or '{name}@-1' for the last one."
            )
        modules = dict(model.named_children())
        if name == "forward_features" and name not in modules and callable(getattr(model, name, None)):
            return LayerPoint(None, item=item, call=call)
        if name == "forward" and name not in modules:
            return LayerPoint("", item=item, call=call)
        return LayerPoint(resolve_layer(model, name).path, item=item, call=call)
    check_layer(layer)
    path = next((path for path, module in model.named_modules() if module is layer), None)
    if path is None:
        raise InvalidInputError(
            f"The layer, a module of type {type(layer).__name__}, is not part of this {type(model).__name__}. Layers "
            "are compared by identity, and modules of a copy are different. Give a module of the model itself, "
            "or its name."
        )
    return LayerPoint(path)


def _parsed(model: nn.Module, layer: str) -> tuple[str, int | None, tuple[int | str, ...]]:
    """The name of a layer, the number of the call and the keys of the output."""
    found = _SELECTED.fullmatch(layer)
    # A module may have any name without a dot.
    if found is None or layer in dict(model.named_modules()):
        return layer, None, ()
    keys = [key.strip("'\"") for key in _KEY.findall(found["keys"])]
    item = tuple(int(key) if re.fullmatch(r"-?\d+", key) else key for key in keys)
    return found["layer"], None if found["call"] is None else int(found["call"]), item


def main_item(output: Any) -> tuple[str, ...]:
    """The key of the result of a network in a dictionary with several tensors; () if there is none."""
    if isinstance(output, dict) and len(list(named_tensors(output))) > 1:
        return next(((key,) for key in _MAIN_OUTPUTS if output.get(key) is not None), ())
    return ()


def named_tensors(given: Any, item: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], Tensor]]:
    """Every tensor in nested tuples, lists, dictionaries and dataclasses, with the keys that lead to it."""
    if isinstance(given, Tensor):
        yield item, given
    elif isinstance(given, dict):
        for key, inner in given.items():
            yield from named_tensors(inner, (*item, key))
    elif isinstance(given, (tuple, list)):
        for key, inner in enumerate(given):
            yield from named_tensors(inner, (*item, key))
    elif is_dataclass(given) and not isinstance(given, type):
        for entry in fields(given):
            yield from named_tensors(getattr(given, entry.name), (*item, entry.name))


class _LayerReachedError(Exception):
    """Ends the forward pass as soon as the layer was computed."""


def run_to(model: nn.Module, batch: Tensor, point: LayerPoint) -> Tensor:
    """The tensor at ``point`` for a batch; nothing after it is computed.

    Raises InvalidInputError if the layer was not called, or does not give one tensor.
    """
    found: list[Any] = []

    def stop(value: Any) -> None:
        found.append(value)
        if point.call in (None, len(found)):
            raise _LayerReachedError

    def stop_at(call: Call, _function: Any, result: Tensor) -> None:
        if (call.path, call.number, call.operations) == (point.path, point.call or 1, point.operation):
            found.append(result)
            stop_before()

    def stop_before() -> None:
        # The gradient of a torch.autograd.Function is attached after its code has run, with gradients disabled.
        if found and torch.is_grad_enabled() == with_gradients:
            raise _LayerReachedError

    with_gradients = torch.is_grad_enabled()
    if point.path is None:
        found.append(model.forward_features(batch))  # type: ignore[operator]
    elif point.path == "" and point.side == "output":
        found.append(taking_batches(model)(batch))
    else:
        if point.side == "operation":
            watched: AbstractContextManager[Any] = ModuleCalls(model, operating=stop_before, operated=stop_at)
        else:
            watched = layer_hook(model.get_submodule(point.path), point.side, stop)
        with watched:
            try:
                taking_batches(model)(batch)
            except _LayerReachedError:
                pass
    if not found:
        raise never_called(point)
    return tensor_of(found[-1], point, batch.shape[0])


@contextmanager
def layer_hook(module: nn.Module, side: str, call: Callable[[Any], Any]) -> Iterator[None]:
    """Call a function with every output (or input) of a module in this context.

    The module returns what the function returns for an output, unless that is None.
    Only forward passes of this thread count: other threads may run the same module at the same time. The hook is
    removed in any case.
    """
    # Reset on leaving, so that a copy made in the meantime, which has the hook too, does not call the function later.
    thread: int | None = threading.get_ident()

    def call_in_thread(value: Any) -> Any:
        return call(value) if threading.get_ident() == thread else None

    if side == "output":
        handle = module.register_forward_hook(lambda _module, _args, output: call_in_thread(output))
    else:
        handle = module.register_forward_pre_hook(
            lambda _module, args, kwargs: call_in_thread((*args, *kwargs.values())), with_kwargs=True
        )
    try:
        yield
    finally:
        thread = None
        handle.remove()


def tensor_of(given: Any, point: LayerPoint, images: int) -> Tensor:
    """The one tensor in a layer's output or input, whose first axis must count images."""
    value = given
    for key in point.item:
        value = _selected(value, key)
    tensors = list(named_tensors(value))
    # An input may come with masks or sizes: the image's features are its first tensor.
    if len(tensors) != 1 and not (tensors and point.side == "input"):
        advice = "Name one of the layers inside it, or wrap the model in a module that returns one tensor."
        chosen = point.item if tensors else ()
        choices = [(*chosen, *keys) for keys, _ in tensors or named_tensors(given)]
        if isinstance(given, Tensor):
            advice = f"Name {replace(point, item=()).name!r} without a key."
        elif choices:
            advice = f"Choose one by its key, for example {replace(point, item=choices[-1]).name!r}."
        if point.item:
            label = replace(point, item=()).label
            raise InvalidInputError(
                f"Layer {label!r} gives {_describe(given)}; {point.label!r} is not one tensor in it. {advice}"
            )
        raise InvalidInputError(f"Layer {point.label!r} gives {_describe(given)}, but one tensor is needed. {advice}")
    tensor = tensors[0][1]
    if tensor.dim() == 0 or tensor.shape[0] != images:
        raise InvalidInputError(
            f"Layer {point.label!r} gives [{', '.join(map(str, tensor.shape))}] for a batch of {images}: its first "
            "axis does not count images. Name a layer that processes whole images."
        )
    return tensor


def _selected(given: Any, key: int | str) -> Any:
    """One entry of a tuple, list, dictionary or dataclass; None if there is no such entry."""
    if isinstance(given, dict):
        return next((value for name, value in given.items() if name == key or str(name) == str(key)), None)
    if isinstance(given, (tuple, list)) and isinstance(key, int):
        return given[key] if -len(given) <= key < len(given) else None
    return getattr(given, str(key), None) if is_dataclass(given) or hasattr(given, "_fields") else None


def _describe(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"[{', '.join(map(str, given.shape))}]"
    if isinstance(given, dict) and given:
        return f"a dict with {_described_entries(given)}"
    if isinstance(given, (tuple, list)) and given:
        return f"a {type(given).__name__} ({', '.join(map(_describe, given[:_MOST_DESCRIBED]))}{_more(given)})"
    if isinstance(given, (dict, tuple, list)):
        return f"an empty {type(given).__name__}"
    if is_dataclass(given) and not isinstance(given, type):
        entries = {entry.name: getattr(given, entry.name) for entry in fields(given)}
        return f"a dataclass {type(given).__name__} with {_described_entries(entries)}"
    if isinstance(given, str):
        text = given if len(given) <= _LONGEST_STRING else f"{given[:_LONGEST_STRING]}..."
        return f"the string {text!r}"
    return "None" if given is None else f"an object of type {type(given).__name__}"


def _described_entries(given: dict[Any, Any]) -> str:
    """Keys of a dictionary, and what its entries are."""
    shown = dict(itertools.islice(given.items(), _MOST_DESCRIBED))
    more = _more(given)
    return f"{', '.join(map(repr, shown))}{more} ({', '.join(map(_describe, shown.values()))}{more})"


def _more(given: Sized) -> str:
    return ", ..." if len(given) > _MOST_DESCRIBED else ""


def never_called(point: LayerPoint) -> InvalidInputError:
    """The error for a layer that the forward pass does not call."""
    return InvalidInputError(
        f"Layer {point.label!r} is not called in the forward pass, so that it has no output. "
        "Name a layer that the network uses."
    )
