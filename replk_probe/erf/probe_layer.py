"""Look at a network before measuring it: which layer, which axes are rows and columns, which receptive field."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import final_layer, resolve_layer
from replk_probe.models.inference.copying import on_meta, shadow_of
from replk_probe.models.inference.prepare import evaluating

from .feature_layout import Layout, layout_of
from .receptive_field.tracer import Field, FieldTracer, Lost
from .target_layer import Feature, never_called, place_of, value_of, watching

_ADAPTIVE_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class UnsuitableSizeError(InvalidInputError):
    """The network itself fails on images of the shape asked for."""


@dataclass(frozen=True)
class Observation:
    """What one look at a network without computing its values showed.

    Attributes:
        feature: The layer, with its layout.
        field: Receptive fields of its places, or why they could not be followed.
    """

    feature: Feature
    field: Field | Lost


def observe(model: nn.Module, shape: Sequence[int], layer: str | None = None) -> Observation:
    """Find the layer, its layout and its receptive field for images of one shape.

    Args:
        model: Left as it is.
        shape: ``[N, C, H, W]`` of the batches to come.
        layer: As :func:`contribution_scores`.

    Returns:
        The layer with its layout, and the receptive field of its places.

    Raises:
        InvalidInputError: The model takes no such images, or the layer cannot be used.
    """
    _, channels, height, width = (int(size) for size in shape)
    shape = (1, channels, height, width)
    feature = find(model, shape, layer)
    look = _look(model, shape, feature, trace=True)
    layout = feature.layout or find_layout(model, feature, look.shape, (height, width), channels)
    field: Field | Lost = look.field or Lost("the values of the network, which decide its shapes")
    return Observation(replace(feature, layout=layout), field)


@dataclass
class _Look:
    """What running the network once showed.

    Attributes:
        shape: Of what the layer gave.
        calls: How often the layer was called.
        field: Receptive fields of its places, if they were traced.
        maps: Paths of the modules that handed on the last map before pooling, in the order in which they did.
        norm: The norm whose output ``forward_features`` returned, if any.
    """

    shape: tuple[int, ...] = ()
    calls: int = 0
    field: Field | Lost | None = None
    maps: list[str] = dataclasses.field(default_factory=list)
    norm: str | None = None


def named(model: nn.Module, layer: str) -> Feature:
    """The layer of that name, whether or not the network uses it."""
    if not isinstance(layer, str):
        raise InvalidInputError(
            f"The layer is given as {layer!r}. Layers are named. Give 'stage3.5', a module path, or None."
        )
    ref = resolve_layer(model, layer)
    return Feature(ref.path, ref.side)


def find(model: nn.Module, shape: Sequence[int], layer: str | None) -> Feature:
    """The layer to measure; its layout is left open unless looking was needed anyway."""
    if layer is not None:
        feature = named(model, layer)
        calls = _look(model, shape, feature).calls
        if calls > 1:
            raise InvalidInputError(
                f"Layer {feature.label!r} is called {calls} times in one forward pass, so that it is not clear which "
                "output is meant. Name the block around it, or a layer that is used once."
            )
        return feature
    known = final_layer(model)
    if known is not None:
        return Feature(known.path, known.side)
    if callable(getattr(model, "forward_features", None)):
        norm = _look(model, shape, Feature(None)).norm
        return Feature(None) if norm is None else Feature(norm, "input")
    maps = _look(model, shape, None).maps
    if not maps:
        raise InvalidInputError(
            f"{type(model).__name__} has no forward_features and none of its modules gives a map [N, C, h, w]. "
            "Name the layer to measure."
        )
    # The outermost module that handed the last map on: 'layer4' rather than the ReLU at its end.
    feature = Feature(next((path for path in reversed(maps) if path), ""))
    note = (
        f"{type(model).__name__} has no forward_features: measured at its last map before pooling, {feature.label!r}."
    )
    return replace(feature, note=note)


def check_takes(model: nn.Module, shape: Sequence[int], feature: Feature) -> None:
    """Raise :class:`UnsuitableSizeError` if the network itself fails on images of the shape ``[1, C, H, W]``."""
    _look(model, shape, feature)


def find_layout(
    model: nn.Module, feature: Feature, shape: Sequence[int], size: tuple[int, int], channels: int
) -> Layout:
    """The layout of what the layer gives, for images of ``size`` with ``channels`` colours."""

    def shape_at(other: tuple[int, int]) -> Sequence[int] | None:
        try:
            return _look_at_shadow(model, (1, channels, *other), feature, trace=False).shape
        except Exception:
            return None  # a network for one size only, or one whose shapes depend on values

    return layout_of(shape, size, model, feature.label, shape_at)


def _look(model: nn.Module, shape: Sequence[int], feature: Feature | None, trace: bool = False) -> _Look:
    """Run the whole network once, on a copy without values if that is possible, else without gradients.

    Args:
        model: Left as it is.
        shape: ``[1, C, H, W]``.
        feature: The layer to look at; None looks for maps before pooling.
        trace: Whether to follow receptive fields.
    """
    try:
        return _look_at_shadow(model, shape, feature, trace)
    except InvalidInputError:
        raise
    except Exception:
        # Anything may be wrong with a copy that has no values (.item(), tables on the CPU, custom kernels):
        # only a network that fails on a real image is at fault.
        pass
    try:
        with evaluating(model), torch.no_grad():
            return _run(model, torch.zeros(tuple(shape), **place_of(model)), feature)
    except InvalidInputError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UnsuitableSizeError(
            f"{type(model).__name__} cannot take images of shape {list(shape)[1:]}. "
            f"It stopped with: {reason.rstrip('.')}. Choose another size, or a model built for this one."
        ) from error


def _look_at_shadow(model: nn.Module, shape: Sequence[int], feature: Feature | None, trace: bool) -> _Look:
    with on_meta():
        image = torch.empty(tuple(shape), dtype=place_of(model).get("dtype"))
        return _run(shadow_of(model), image, feature, FieldTracer(image) if trace else None)


def _run(model: nn.Module, image: Tensor, feature: Feature | None, tracer: FieldTracer | None = None) -> _Look:
    look = _Look()

    def see(given: Any, feature: Feature) -> None:
        value = value_of(given, feature, 1)
        look.calls += 1
        look.shape = tuple(value.shape)
        look.field = tracer.field_of(value) if tracer is not None else None

    with ExitStack() as stack:
        if tracer is not None:
            stack.enter_context(tracer)
        if feature is None:
            stack.enter_context(_watching_maps(model, look))
            model(image)
        elif feature.path is None:
            norms = stack.enter_context(_watching_norms(model))
            features = model.forward_features(image)  # type: ignore[operator]
            see(features, feature)
            look.norm = next((name for name, output in norms.items() if output is features), None)
        else:
            stack.enter_context(watching(model.get_submodule(feature.path), feature.side, lambda v: see(v, feature)))
            try:
                model(image)
            except InvalidInputError:
                raise
            except Exception:
                # A head made for one size of map is no obstacle: the measurement ends before it.
                if look.calls == 0:
                    raise
    if feature is not None and look.calls == 0:
        raise never_called(feature)
    return look


@contextmanager
def _watching_maps(model: nn.Module, look: _Look) -> Iterator[None]:
    """Keep ``look.maps`` up to date: who handed on the last map."""
    last: list[Tensor] = []

    def see(path: str, module: nn.Module, output: Any) -> None:
        # Two axes beside the images' longer than 1: a vector per image is no map, in whatever shape it comes.
        is_map = isinstance(output, Tensor) and output.dim() == 4 and sum(size > 1 for size in output.shape[1:]) > 1
        if not is_map or isinstance(module, _ADAPTIVE_POOLS):
            return
        if not last or output is not last[0]:
            last[:] = [output]
            look.maps.clear()
        look.maps.append(path)

    with ExitStack() as stack:
        for path, module in model.named_modules():
            stack.enter_context(watching(module, "output", partial(see, path, module)))
        yield


@contextmanager
def _watching_norms(model: nn.Module) -> Iterator[dict[str, Any]]:
    """The last outputs of the norms that are the network's own, not some block's or the last convolution's."""
    outputs: dict[str, Any] = {}
    with ExitStack() as stack:
        for name, child in model.named_children():
            if "norm" in name:
                stack.enter_context(watching(child, "output", partial(outputs.__setitem__, name)))
        yield outputs
