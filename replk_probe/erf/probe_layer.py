"""Find the layer to measure, the rows and columns of its output, and its receptive field, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import final_layer
from replk_probe.models.inference.check import evaluating
from replk_probe.models.inference.copying import device_and_dtype, meta_copy_of, on_meta
from replk_probe.models.inference.failure import ForwardFailure, explain

from .feature_layout import Layout, layout_of
from .receptive_field.tracer import Field, FieldTracer, Lost
from .target_layer import Layer, LayerPoint, TargetLayer, layer_hook, never_called, point_of, tensor_of

_ADAPTIVE_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class UnsuitableSizeError(InvalidInputError):
    """The network itself fails on images of the requested shape.

    Attributes:
        failure: The cause.
    """

    def __init__(self, failure: ForwardFailure) -> None:
        """Build the message from the cause."""
        super().__init__(failure.message)
        self.failure = failure


def find_target(model: nn.Module, shape: Sequence[int], layer: Layer = None) -> TargetLayer:
    """Find the layer to measure, the layout of its output and its receptive field for batches of ``shape``.

    The model is not changed. ``layer`` and errors are those of :func:`~replk_probe.erf.contribution_scores`.
    """
    _, channels, height, width = (int(size) for size in shape)
    point = point_of(model, layer) or _known_final_layer(model)
    found = _probe(model, (1, channels, height, width), point, trace=True)
    if layer is not None:
        _check_called_once(found)
    return TargetLayer(
        found.point.path,
        found.point.side,
        input_size=(height, width),
        layout=find_layout(model, found.point, found.shape, (height, width), channels),
        field=found.field or Lost("the values of the network, on which its shapes depend"),
        note=found.note,
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


def find_layout(
    model: nn.Module, point: LayerPoint, shape: Sequence[int], size: tuple[int, int], channels: int
) -> Layout:
    """The layout of a layer's output of ``shape``, for images of ``size`` with ``channels`` channels."""

    def shape_at(other: tuple[int, int]) -> Sequence[int] | None:
        try:
            return _probe_on_meta(model, (1, channels, *other), point).shape
        except Exception:
            return None  # a network for one size only, or one whose shapes depend on values

    return layout_of(shape, size, model, point.label, shape_at)


def _known_final_layer(model: nn.Module) -> LayerPoint | None:
    known = final_layer(model)
    return None if known is None else LayerPoint(known.path, known.side)


@dataclass
class _Found:
    """Information about one layer from a forward pass."""

    point: LayerPoint
    shape: tuple[int, ...]  # shape of its output
    field: Field | Lost | None  # receptive fields of its output, if they were traced
    calls: int = 1  # number of times it was called
    note: str | None = None  # note on how the layer was chosen, or None


def _check_called_once(found: _Found) -> None:
    if found.calls > 1:
        raise InvalidInputError(
            f"Layer {found.point.label!r} is called {found.calls} times in one forward pass, so that its output is "
            "ambiguous. Name the block that contains it, or a layer that is used once."
        )


def _probe(model: nn.Module, shape: Sequence[int], point: LayerPoint | None, *, trace: bool = False) -> _Found:
    """Run the network once, on the meta device if that is possible, otherwise without gradients.

    ``point`` is the layer to find, or None for the last map before the final norm or pooling.
    """
    try:
        return _probe_on_meta(model, shape, point, trace=trace)
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


def _probe_on_meta(model: nn.Module, shape: Sequence[int], point: LayerPoint | None, *, trace: bool = False) -> _Found:
    copied = meta_copy_of(model)
    for module in copied.modules():
        # The user's hooks may store what they receive.
        module._forward_hooks.clear()
        module._backward_hooks.clear()
        module.training = False
    with on_meta():
        image = torch.empty(tuple(shape), dtype=device_and_dtype(model).get("dtype"))
        return _run(copied, image, point, FieldTracer(image) if trace else None)


def _run(model: nn.Module, image: Tensor, point: LayerPoint | None, tracer: FieldTracer | None = None) -> _Found:
    def found_at(point: LayerPoint, value: Tensor) -> _Found:
        return _Found(point, tuple(value.shape), tracer.field_of(value) if tracer is not None else None)

    with ExitStack() as stack:
        if tracer is not None:
            stack.enter_context(tracer)
        if point is not None and point.path is not None:
            calls: list[_Found] = []

            def record_call(given: Any, point: LayerPoint = point) -> None:
                calls.append(found_at(point, tensor_of(given, point, 1)))

            stack.enter_context(layer_hook(model.get_submodule(point.path), point.side, record_call))
            try:
                model(image)
            except InvalidInputError:
                raise
            except Exception:
                # A head that only accepts maps of one size does not matter: the measurement ends before it.
                if not calls:
                    raise
            if not calls:
                raise never_called(point)
            calls[-1].calls = len(calls)
            return calls[-1]

        if point is not None or callable(getattr(model, "forward_features", None)):
            # Norms of the network itself, not those of a block or after its last convolution.
            inputs: dict[str, Any] = {}
            outputs: dict[str, Any] = {}
            for name, child in model.named_children():
                if "norm" in name and point is None:
                    stack.enter_context(layer_hook(child, "input", partial(inputs.__setitem__, name)))
                    stack.enter_context(layer_hook(child, "output", partial(outputs.__setitem__, name)))
            features = model.forward_features(image)  # type: ignore[operator]
            norm = next((name for name, output in outputs.items() if output is features), None)
            point = LayerPoint(None) if norm is None else LayerPoint(norm, "input")
            return found_at(point, tensor_of(features if norm is None else inputs[norm], point, 1))

        maps: dict[str, _Found] = {}
        last: list[Tensor] = []

        def record_map(path: str, module: nn.Module, output: Any) -> None:
            # A map has at least two axes longer than 1 apart from that of the images.
            is_map = isinstance(output, Tensor) and output.dim() == 4 and sum(size > 1 for size in output.shape[1:]) > 1
            if not is_map or isinstance(module, _ADAPTIVE_POOLS):
                return
            if not last or output is not last[0]:
                last[:] = [output]
                maps.clear()
            maps.pop(path, None)  # the order is that of the last calls
            maps[path] = found_at(LayerPoint(path), output)

        for path, module in model.named_modules():
            stack.enter_context(layer_hook(module, "output", partial(record_map, path, module)))
        model(image)
    if not maps:
        raise InvalidInputError(
            f"{type(model).__name__} has no forward_features and none of its modules gives a map [N, C, h, w]. "
            "Name the layer to measure."
        )
    # The outermost module that returned the last map: 'layer4' rather than the ReLU at its end.
    found = maps[next((path for path in reversed(maps) if path), "")]
    tensor_of(last[0], found.point, 1)
    found.note = (
        f"{type(model).__name__} has no forward_features: measured at its last map before pooling, "
        f"{found.point.label!r}."
    )
    return found
