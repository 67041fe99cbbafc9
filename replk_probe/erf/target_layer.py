"""The layer whose effective receptive field is measured, and forward passes that end there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import resolve_layer

from .feature_layout import Layout
from .receptive_field.tracer import Field, Lost, stride_rule


@dataclass(frozen=True)
class LayerPoint:
    """Input or output of one module of a network.

    Attributes:
        path: Module path; "" for the network itself, None for the output of its ``forward_features``.
        side: Whether the module's output or its input is meant.
    """

    path: str | None
    side: Literal["output", "input"] = "output"

    @property
    def label(self) -> str:
        """Label in tables and results."""
        if self.path is None:
            return "forward_features"
        name = self.path or "output of the model"
        return f"{name} (input)" if self.side == "input" else name


@dataclass(frozen=True, kw_only=True)
class TargetLayer(LayerPoint):
    """A layer with all properties that the measurement needs, for images of one size.

    Attributes:
        input_size: (H, W) of the images in pixels.
        layout: Rows and columns of the layer's output.
        field: Receptive fields of the output, or the reason why they could not be traced.
        note: Note on how the layer was chosen, or None.
    """

    input_size: tuple[int, int]
    layout: Layout
    field: Field | Lost
    note: str | None = None

    def centre(self) -> tuple[tuple[float, float], bool, str | None]:
        """Center of the receptive field of the middle position.

        Returns:
            (y, x) in input pixels; whether it was traced through the layers (otherwise it is estimated from the
            stride); and a note on it, or None.
        """
        height, width = self.input_size
        if isinstance(self.field, Field) and self.field.spatial:
            y, x = self.field.centre(self.layout.middle)
            if 0 <= y <= height - 1 and 0 <= x <= width - 1:
                note = "Every output also depends on the whole image, through a gate or a norm over positions."
                return (y, x), True, note if self.field.everywhere else None
        y, x = stride_rule(self.layout.middle, self.layout.size, self.input_size)
        reason = self.field.reason if isinstance(self.field, Lost) else "the pooling of the whole map"
        note = (
            f"The receptive field cannot be followed through {reason}: its center is estimated as "
            "(i + 1/2) stride - 1/2, the middle of the output's share of the image."
        )
        return (y, x), False, note


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
    """The layer that a user chose, whether or not the network calls it.

    Args:
        model: The network.
        layer: ``"stage3.5"``, a module path, a module of the network such as ``model.layer4``, or None.

    Returns:
        The layer, or None if ``layer`` is None.

    Raises:
        InvalidInputError: The network has no such layer.
    """
    if layer is None or isinstance(layer, LayerPoint):
        return layer
    if isinstance(layer, str):
        return LayerPoint(resolve_layer(model, layer).path)
    check_layer(layer)
    path = next((path for path, module in model.named_modules() if module is layer), None)
    if path is None:
        raise InvalidInputError(
            f"The layer, a module of type {type(layer).__name__}, is not part of this {type(model).__name__}. Layers "
            "are compared by identity, and modules of a copy are different. Give a module of the model itself, "
            "or its name."
        )
    return LayerPoint(path)


class _LayerReachedError(Exception):
    """Ends the forward pass as soon as the layer was computed."""


def run_to(model: nn.Module, batch: Tensor, point: LayerPoint) -> Tensor:
    """The layer's output (or input) for a batch; nothing after the layer is computed.

    Raises:
        InvalidInputError: The layer was not called, or does not give one tensor.
    """
    found: list[Any] = []

    def stop(value: Any) -> None:
        found.append(value)
        raise _LayerReachedError

    if point.path is None:
        found.append(model.forward_features(batch))  # type: ignore[operator]
    elif point.path == "" and point.side == "output":
        found.append(model(batch))
    else:
        with layer_hook(model.get_submodule(point.path), point.side, stop):
            try:
                model(batch)
            except _LayerReachedError:
                pass
    if not found:
        raise never_called(point)
    return tensor_of(found[0], point, batch.shape[0])


@contextmanager
def layer_hook(module: nn.Module, side: str, call: Callable[[Any], None]) -> Iterator[None]:
    """Call a function with every output (or input) of a module in this context.

    Only forward passes of this thread count: other threads may run the same module at the same time. The hook is
    removed in any case.
    """
    # Reset on leaving, so that a copy made in the meantime, which has the hook too, does not call the function later.
    thread: int | None = threading.get_ident()

    def call_in_thread(value: Any) -> None:
        if threading.get_ident() == thread:
            call(value)

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
    """The one tensor in a layer's output or input.

    Raises:
        InvalidInputError: There is none or more than one, or its first axis does not count images.
    """
    value = given
    if isinstance(given, (tuple, list)):
        tensors = [item for item in given if isinstance(item, Tensor)]
        # An input may come with masks or sizes: the image's features are its first tensor.
        if len(tensors) == 1 or (tensors and point.side == "input"):
            value = tensors[0]
    if not isinstance(value, Tensor):
        raise InvalidInputError(
            f"Layer {point.label!r} gives {_describe(given)}, but one tensor is needed. Name one of the layers "
            "inside it, or wrap the model in a module that returns one tensor."
        )
    if value.dim() == 0 or value.shape[0] != images:
        raise InvalidInputError(
            f"Layer {point.label!r} gives [{', '.join(map(str, value.shape))}] for a batch of {images}: its first "
            "axis does not count images. Name a layer that processes whole images."
        )
    return value


def _describe(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"[{', '.join(map(str, given.shape))}]"
    if isinstance(given, dict):
        return "a dict with " + (", ".join(map(repr, list(given)[:6])) or "nothing")
    if isinstance(given, (tuple, list)):
        items = ", ".join(_describe(item) for item in given[:6])
        return f"a {type(given).__name__} ({items}{', ...' if len(given) > 6 else ''})"
    return type(given).__name__


def never_called(point: LayerPoint) -> InvalidInputError:
    """The error for a layer that the forward pass does not call."""
    return InvalidInputError(
        f"Layer {point.label!r} is not called in the forward pass, so that it has no output. "
        "Name a layer that the network uses."
    )
