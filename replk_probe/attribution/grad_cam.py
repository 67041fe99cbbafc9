"""Grad-CAM of any layer with rows and columns of the image, by captum's ``LayerGradCam``.

Captum takes the second axis of a layer's output as channels. Features in another layout, or that are no output of a
module, pass through a module of their own as a map ``[N, C, h, w]``, whose output captum reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn

from replk_probe.erf.feature_layout import Layout
from replk_probe.erf.module_calls import ModuleCalls
from replk_probe.erf.target_layer import LayerPoint, TargetLayer, tensor_of
from replk_probe.models import probe_spec

Change: TypeAlias = Callable[[Tensor], Tensor]


def grad_cam(model: nn.Module, score: Callable[[Tensor], Tensor], target: TargetLayer, image: Tensor) -> Tensor:
    """The class activation map of one image before the ReLU, ``[1, 1, h, w]``.

    Args:
        model: The network.
        score: Function from images to one score each, which calls the network.
        target: The layer.
        image: One image ``[1, C, H, W]``.

    Raises:
        RuntimeError: The score does not depend on the layer.
    """
    # Captum takes a second to import.
    from captum import attr

    features = nn.Identity()

    def through(given: Tensor) -> Tensor:
        return through_map(given, target.layout, features)

    def rerouted_score(images: Tensor) -> Tensor:
        with rerouted(model, target, through):
            # The copy lets a network write into its input.
            return score(images.clone())

    # Without a gradient of the image, the features of a frozen network would have none.
    leaf = image.clone().requires_grad_(True)
    found: Tensor = attr.LayerGradCam(rerouted_score, features).attribute(leaf)
    return found.detach()


def resized(found: Tensor, size: tuple[int, int]) -> Tensor:
    """The positive part of a class activation map, interpolated to ``size``, ``(H, W)`` in pixels."""
    from captum import attr

    enlarged: Tensor = attr.LayerAttribution.interpolate(found.relu(), size, "bilinear")
    return enlarged


def last_block(model: nn.Module) -> LayerPoint | None:
    """The input of the last block of a network, or None if its blocks are not known."""
    stages = [stage for stage in probe_spec(model).stages if stage.blocks]
    return LayerPoint(stages[-1].blocks[-1], "input") if stages else None


def through_map(features: Tensor, layout: Layout, module: nn.Module) -> Tensor:
    """Features of a layer, the positions of which have passed through ``module`` as a map ``[N, C, h, w]``."""
    if layout.kind == "NCHW":
        found: Tensor = module(features)
        return found
    if layout.kind == "NHWC":
        last: Tensor = module(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return last
    tokens = [layout.token_at(place) for place in np.ndindex(layout.size)]
    sequence = features if layout.kind == "NLC" else features.transpose(1, 2)
    channels_first = sequence[:, tokens].transpose(1, 2)
    through: Tensor = module(channels_first.reshape(*channels_first.shape[:2], *layout.size))
    changed = sequence.clone()
    changed[:, tokens] = through.flatten(2).transpose(1, 2)
    return changed if layout.kind == "NLC" else changed.transpose(1, 2).contiguous()


@contextmanager
def rerouted(model: nn.Module, point: LayerPoint, change: Change) -> Iterator[None]:
    """Replace the features of a layer by ``change(features)`` in every forward pass in this context."""
    if point.side == "operation":
        with _ChangedOperation(model, point, change):
            yield
        return
    calls = 0

    def changed(given: Any) -> Any:
        nonlocal calls
        calls += 1
        if point.call not in (None, calls):
            return given
        features = tensor_of(given, point, 1)
        return _replaced(given, features, change(features))

    if point.path is None:
        with _changed_method(model, changed):
            yield
        return
    module = model.get_submodule(point.path)
    if point.side == "output":
        handle = module.register_forward_hook(lambda _module, _args, output: changed(output))
    else:

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            values = changed((*args, *kwargs.values()))
            return values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True))

        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _changed_method(model: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """Let ``model.forward_features`` return ``change(features)`` in this context."""
    own, method = vars(model).get("forward_features"), model.forward_features

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(method(*args, **kwargs))  # type: ignore[operator]

    model.forward_features = changed  # type: ignore[assignment]
    try:
        yield
    finally:
        if own is None:
            del model.forward_features
        else:
            model.forward_features = own


class _ChangedOperation(ModuleCalls):
    """Replaces the result of one function that the code of a module calls."""

    def __init__(self, model: nn.Module, point: LayerPoint, change: Change) -> None:
        super().__init__(model)
        self._place = point.path, point.call or 1, point.operation
        self._change = change

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        call = self.current
        if isinstance(result, Tensor) and call is not None:
            if (call.path, call.number, call.operations) == self._place:
                return self._change(result)
        return result


def _replaced(given: Any, old: Tensor, new: Tensor) -> Any:
    """The value with one of its tensors replaced, in nested tuples, lists and dictionaries."""
    if given is old:
        return new
    if isinstance(given, dict):
        copied = copy.copy(given)
        for name, value in given.items():
            copied[name] = _replaced(value, old, new)
        return copied
    if isinstance(given, (tuple, list)):
        values = [_replaced(value, old, new) for value in given]
        return type(given)(*values) if hasattr(given, "_fields") else type(given)(values)
    return given
