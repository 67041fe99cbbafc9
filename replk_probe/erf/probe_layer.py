"""Find the layer to measure, the rows and columns of its output, and its receptive field, in one forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import final_layer
from replk_probe.models.detectors import taking_batches, transforms_images
from replk_probe.models.inference.check import evaluating
from replk_probe.models.inference.copying import device_and_dtype, on_device_of, tracing_copy_of
from replk_probe.models.inference.failure import ForwardFailure, explain
from replk_probe.runtime.formatting import counted, dimensions

from .dataflow import Recorder, Value
from .default_layer import LayerSearch
from .feature_layout import Layout, followed_layout, layout_of, no_layout
from .model_structure import structure_of
from .objective import logit_of
from .receptive_field.span import AXES
from .receptive_field.tracer import Field, FieldTracer, Lost
from .target_layer import Layer, LayerPoint, TargetLayer, layer_hook, main_item, never_called, point_of, tensor_of

# Layers already found, by the id of the network, which may have no hash. A network that changed is run again.
_TARGETS: dict[int, tuple[Hashable, dict[Any, TargetLayer]]] = {}

_LOST = Lost("the values of the network, on which its shapes depend")


class UnsuitableSizeError(InvalidInputError):
    """The network itself fails on images of the requested shape.

    Attributes:
        failure: The cause.
    """

    def __init__(self, failure: ForwardFailure) -> None:
        """Build the message from the cause."""
        several = ", or give measure_erf all of its inputs as inputs=(a, b)." if failure.cause == "arguments" else "."
        super().__init__(failure.message.removesuffix(".") + several)
        self.failure = failure


def find_target(model: nn.Module, shape: Sequence[int], layer: Layer = None, target: str | None = None) -> TargetLayer:
    """Find the layer to measure, the layout of its output and its receptive field for batches of ``shape``.

    The model is not changed. ``layer``, ``target`` and errors are those of
    :func:`~replk_probe.erf.contribution_scores`.
    """
    _, channels, *size = (int(length) for length in shape)
    _check_axes(model, shape)
    point, logit = point_of(model, layer), logit_of(target)
    if id(model) not in _TARGETS:
        weakref.finalize(model, _TARGETS.pop, id(model), None).atexit = False
    known, targets = _TARGETS.get(id(model), (None, {}))
    structure = structure_of(model)
    if known != structure:
        targets = {}
        _TARGETS[id(model)] = structure, targets
    key = channels, *size, point, logit
    if key not in targets:
        targets[key] = _find_target(model, point, logit, channels, tuple(size))
    return targets[key]


def _check_axes(model: nn.Module, shape: Sequence[int]) -> None:
    """Raise InvalidInputError if a network of images alone is given inputs of one axis, such as a single image."""
    kinds = {kind for kind in (nn.Conv1d, nn.Conv2d) for module in model.modules() if isinstance(module, kind)}
    if len(shape) == 3 and kinds == {nn.Conv2d}:
        raise InvalidInputError(
            f"Expected the batch as a tensor [N, C, H, W], but got a tensor {list(shape)}. The convolutions of "
            f"{type(model).__name__} have two axes, and inputs [N, C, L] have one. Add a batch dimension to a single "
            "image."
        )


def _find_target(
    model: nn.Module, chosen: LayerPoint | None, logit: int | None, channels: int, size: tuple[int, ...]
) -> TargetLayer:
    if chosen is None and logit is not None:
        chosen = LayerPoint("")  # logits are what the network returns
    point = chosen or _known_final_layer(model)
    found = _probe(model, (1, channels, *size), point, trace=True)
    if chosen is not None:
        _check_called_once(found)
    layout_note = None
    if logit is not None and len(found.shape) == 2:
        layout = Layout("NC", (1,) * len(size))
    else:
        layout, layout_note = _find_layout(model, found, size, channels)
    if logit is not None:
        _check_logit(logit, layout, found)
    input_note = (
        f"The images enter {type(model).__name__} as they are, without its own resizing and normalization."
        if transforms_images(model)
        else None
    )
    return TargetLayer(
        found.point.path,
        found.point.side,
        found.point.item,
        found.point.call,
        found.point.operation,
        found.point.function,
        input_size=size,
        layout=layout,
        field=(found.value.field if found.value is not None else None) or _LOST,
        note=" ".join(note for note in (found.note, input_note, layout_note) if note) or None,
        logit=logit,
    )


def field_of_other_input(model: nn.Module, shape: Sequence[int], first: TargetLayer) -> Field | Lost | None:
    """The receptive field of a layer in another input than the one for which it was found, of ``shape``.

    ``model`` is the network as a function of that input. The result is None if it is not traced and the positions of
    the layer are not known to be positions of that input: it has another size, and they cannot be followed to it.
    """
    size = tuple(int(length) for length in shape[2:])
    point = LayerPoint(first.path, first.side, first.item, first.call, first.operation, first.function)
    value = _probe(model, (1, *shape[1:]), point, trace=True).value
    if value is None or len(size) != len(first.input_size):
        return None
    if first.layout.kind == "NC":
        return _LOST
    field, layout = value.field, followed_layout(value, size)
    is_same = isinstance(layout, Layout) and (layout.kind, layout.size) == (first.layout.kind, first.layout.size)
    if isinstance(field, Field) and field.spatial and not is_same:
        # Of channels that come from several inputs, only some can be followed to this one.
        places = [atom for axis in field.axes for atom in axis if atom[0] != "o"]
        if places == [*zip(AXES[-len(size) :], first.layout.size, strict=True)]:
            return field
        field = None
    return field or _LOST if is_same or size == first.input_size else None


def _check_logit(logit: int, layout: Layout, found: _Found) -> None:
    classes = layout.at(torch.empty(found.shape, device="meta"), layout.middle).shape[1]
    if logit >= classes:
        raise InvalidInputError(
            f"There is no logit {logit} in layer {found.point.label!r}. It gives {classes} features, which count from "
            f"0. Choose a class up to {classes - 1}, or another layer."
        )


def find_layer(model: nn.Module, shape: Sequence[int], layer: Layer = None) -> LayerPoint:
    """Find the layer to measure without its layout; the network is run only if necessary.

    Arguments and errors are those of :func:`find_target`; a :class:`TargetLayer` is returned unchanged.
    """
    if isinstance(layer, TargetLayer):
        return layer
    point = point_of(model, layer) or _known_final_layer(model)
    if layer is None and point is not None:
        return point
    found = _probe(model, shape, point)
    if layer is not None:
        _check_called_once(found)
    return found.point


def check_accepts(model: nn.Module, shape: Sequence[int], point: LayerPoint) -> None:
    """Raise :class:`UnsuitableSizeError` if the network itself fails on images of the shape ``[1, C, H, W]``."""
    _probe(model, shape, point)


def traced_value(model: nn.Module, shape: Sequence[int], point: LayerPoint) -> Value | None:
    """The value at ``point`` for an image of ``shape``, with receptive fields; None if it cannot be traced."""
    try:
        return _probe_copy(model, shape, point, trace=True).value
    except Exception:  # as in _probe: a copy on the meta device can fail for many reasons
        return None


def _find_layout(model: nn.Module, found: _Found, size: tuple[int, ...], channels: int) -> tuple[Layout, str | None]:
    """The layout of a layer's output for images of ``size`` with ``channels`` channels, and a note on it."""

    def shape_at(other: tuple[int, ...]) -> Sequence[int] | None:
        try:
            return _probe_copy(model, (1, channels, *other), found.point).shape
        except Exception:
            return None  # a network for one size only, or one whose shapes depend on values

    note = None
    layout = followed_layout(found.value, size) if found.value is not None else "unknown"
    if layout is None:
        raise no_layout(found.shape, size, found.point.label)
    if layout == "unknown":
        layout = layout_of(found.shape, size, model, found.point.label, shape_at)
        if len(size) != 2:
            note = "The order of the layer's positions could not be followed: they are assumed to be that of the input."
        elif layout.kind == "NLC" and found.value is not None:
            note = (
                "The order of the tokens could not be followed: they are assumed to be the patches of the image row "
                "by row."
            )
    if (min if len(size) == 2 else max)(layout.size) == 1:
        note = f"The layer has only {dimensions(layout.size)} positions, so that its middle is not one of many."
    return layout, note


def _known_final_layer(model: nn.Module) -> LayerPoint | None:
    if transforms_images(model):
        return LayerPoint("backbone")  # the boxes that a detector returns are no map
    known = final_layer(model)
    return None if known is None else LayerPoint(known.path, known.side)


@dataclass
class _Found:
    """Information about one layer from a forward pass."""

    point: LayerPoint
    shape: tuple[int, ...]  # shape of its output
    value: Value | None  # how its output was computed; None if it does not depend on the image
    calls: int = 1  # number of times it was called
    note: str | None = None  # note on how the layer was chosen, or None


def _check_called_once(found: _Found) -> None:
    if found.calls > 1 and found.point.call is None:
        name = replace(found.point, item=()).name
        raise InvalidInputError(
            f"Layer {found.point.label!r} is called {found.calls} times in one forward pass, so that its output is "
            f"ambiguous. Name one of its calls, '{name}@1' to '{name}@{found.calls}' (or '{name}@-1' for the last), "
            "the block that contains it, or a layer that is used once."
        )


def _call_number(point: LayerPoint, calls: int) -> int | None:
    """The number of the call, from 1; None for a module that is called once, if no call was chosen by number."""
    if calls == 0:
        raise never_called(replace(point, call=None))
    if point.call is None:
        return None
    if not 1 <= abs(point.call) <= calls:
        name = replace(point, call=None, item=()).name
        advice = f"a call from '{name}@1' to '{name}@{calls}', or '{name}@-1' for the last one"
        raise InvalidInputError(
            f"Layer {point.name!r} does not exist, because {name!r} is called {counted(calls, 'time')} in one forward "
            f"pass. Name {advice if calls > 1 else 'it without a number'}."
        )
    return point.call if point.call > 0 else calls + 1 + point.call


def _probe(model: nn.Module, shape: Sequence[int], point: LayerPoint | None, *, trace: bool = False) -> _Found:
    """Run a copy of the network once, usually on the meta device, or the network itself if that is not possible.

    ``point`` is the layer to find; None for the default, the last map before the final norm, or else the
    value that enters the spatial reduction.
    """
    try:
        return _probe_copy(model, shape, point, trace=trace)
    except InvalidInputError:
        raise
    except Exception:
        # A copy on the meta device can fail for many reasons (.item(), tables on the CPU, custom kernels):
        # only a failure on a real image is an error of the network.
        pass
    try:
        with evaluating(model), torch.no_grad():
            return _run(model, torch.zeros(tuple(shape), **device_and_dtype(model)), point)
    except InvalidInputError:
        raise
    except Exception as error:
        raise UnsuitableSizeError(explain(error, model, shape)) from error


def _probe_copy(model: nn.Module, shape: Sequence[int], point: LayerPoint | None, *, trace: bool = False) -> _Found:
    copied = tracing_copy_of(model, shape)
    for module in copied.modules():
        # The user's hooks may store what they receive.
        module._forward_hooks.clear()
        module._backward_hooks.clear()
        module.training = False
    # Integer buffers keep their values: they may be indices of positions.
    pairs = zip(copied.buffers(), model.buffers(), strict=True)
    constants = {id(empty): real.cpu() for empty, real in pairs if not real.is_floating_point()}
    with on_device_of(copied):
        image = torch.zeros(tuple(shape), dtype=device_and_dtype(model).get("dtype"))
        return _run(copied, image, point, constants, FieldTracer(image) if trace else None)


def _run(
    model: nn.Module,
    image: Tensor,
    point: LayerPoint | None,
    constants: dict[int, Tensor] | None = None,
    tracer: FieldTracer | None = None,
) -> _Found:
    recorder, network = Recorder(model, image, constants or {}, tracer), taking_batches(model)
    with ExitStack() as stack:
        if tracer is not None:
            stack.enter_context(tracer)
        stack.enter_context(recorder)
        if point is None:
            return _find_default(model, network, image, recorder)
        calls: list[_Found | InvalidInputError] = []

        def note_call(given: Any) -> None:
            try:
                calls.append(_found_at(point, given, recorder))
            except InvalidInputError as error:
                if point.call is None:
                    raise
                calls.append(error)  # which does not matter if another call was chosen

        if point.path and point.side != "operation":
            stack.enter_context(layer_hook(model.get_submodule(point.path), point.side, note_call))
        try:
            if point.path is None:
                note_call(model.forward_features(image))  # type: ignore[operator]
            else:
                output = network(image)
                if not point.path and point.side == "output":
                    note_call(output)
        except InvalidInputError:
            raise
        except Exception:
            # A head that only accepts maps of one size does not matter: the measurement ends before it.
            if not calls:
                raise
    if point.side == "operation":
        operation = LayerPoint(point.path, point.side, (), point.call or 1, point.operation, point.function)
        value = recorder.points.get(operation)
        if value is None:
            raise never_called(point)
        return _Found(point, value.shape, value)
    call = _call_number(point, len(calls))
    found = calls[-1 if call is None else call - 1]
    if isinstance(found, InvalidInputError):
        raise found
    # A module that is called once has the same label whether or not its call was numbered.
    return replace(found, calls=len(calls), point=replace(found.point, call=call if len(calls) > 1 else None))


def _found_at(point: LayerPoint, given: Any, recorder: Recorder) -> _Found:
    if point.path == "" and not point.item:
        point = replace(point, item=main_item(given))
    tensor = tensor_of(given, point, 1)
    return _Found(point, tuple(tensor.shape), recorder.value_of(tensor))


def _find_default(model: nn.Module, network: nn.Module, image: Tensor, recorder: Recorder) -> _Found:
    """The output of ``forward_features`` if that is a map, otherwise the last map before the spatial reduction."""
    features: list[Any] = []
    output: Any = None
    with _noting_features(model, features):
        try:
            output = network(image)
        except InvalidInputError:
            raise
        except Exception:
            # A head that only accepts maps of one size does not matter: the measurement ends before it.
            if not features:
                if not callable(getattr(model, "forward_features", None)):
                    raise
                model.forward_features(image)  # type: ignore[operator]
    search = LayerSearch(model, recorder, tuple(image.shape[2:]))
    if len(features) == 1 and isinstance(features[0], Tensor):
        value = recorder.value_of(features[0])
        known = None if value is None else search.features(value)
        if known is not None:
            point, value = known
            return _Found(point, value.shape, value)
    value = search.before_reduction(output if output is not None else features)
    if value is None:
        raise InvalidInputError(f"{type(model).__name__} has no map that enters a pooling{search.suggestions()}")
    if len(features) == 1:
        recorder.reached_features(features[0])
    point, at_point = search.point_of(value)
    name = type(model).__name__
    why = f"forward_features of {name} does not return a map" if features else f"{name} has no forward_features"
    place = "its last map before pooling"
    returned = recorder.values_in(output)
    if value in returned:
        place = "the map that it returns" if len(returned) == 1 else "the last map that it returns"
    return _Found(point, at_point.shape, at_point, note=f"{why}: measured at {place}, {point.label!r}.")


@contextmanager
def _noting_features(model: nn.Module, features: list[Any]) -> Iterator[None]:
    """Append what ``model.forward_features`` returns in this context to a list."""
    method = getattr(model, "forward_features", None)
    if not callable(method):
        yield
        return
    own = "forward_features" in vars(model)

    def noting(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        features.append(result)
        return result

    model.forward_features = noting  # type: ignore[assignment]
    try:
        yield
    finally:
        if own:
            model.forward_features = method
        else:
            del model.forward_features
