"""Reach one layer of a network: run it as far as that and no further, and read the one tensor found there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from .feature_layout import Layout


@dataclass(frozen=True)
class Feature:
    """Where in a network the effective receptive field is measured.

    Attributes:
        path: Module path; "" is the network itself, None what its ``forward_features`` returns.
        side: Whether the module's output is meant or its input.
        layout: Rows and columns of the tensor found there, once known.
        note: What the reader should know about how the layer was chosen, or None.
    """

    path: str | None
    side: Literal["output", "input"] = "output"
    layout: Layout | None = None
    note: str | None = None

    @property
    def label(self) -> str:
        """As shown in tables and records."""
        if self.path is None:
            return "forward_features"
        name = self.path or "output of the model"
        return f"{name} (input)" if self.side == "input" else name


class _ReachedError(Exception):
    """Ends the forward pass as soon as the layer was reached."""


def reach(model: nn.Module, batch: Tensor, feature: Feature) -> Any:
    """What the layer gives, with nothing computed after it."""
    if feature.path is None:
        return model.forward_features(batch)  # type: ignore[operator]
    if feature.path == "" and feature.side == "output":
        return model(batch)
    found: list[Any] = []

    def stop(value: Any) -> None:
        found.append(value)
        raise _ReachedError

    with watching(model.get_submodule(feature.path), feature.side, stop):
        try:
            model(batch)
        except _ReachedError:
            pass
    if not found:
        raise never_called(feature)
    return found[0]


@contextmanager
def watching(module: nn.Module, side: str, see: Callable[[Any], None]) -> Iterator[None]:
    """Show ``see`` every output (or the input) of a module; the hook is gone afterwards, whatever happens.

    Only calls of this thread are shown: others may be running the same module for themselves.
    """
    # Taken off again, so that a copy made meanwhile, hooks and all, does not show anything later.
    watcher: int | None = threading.get_ident()

    def show(value: Any) -> None:
        if threading.get_ident() == watcher:
            see(value)

    if side == "output":
        handle = module.register_forward_hook(lambda _module, _args, output: show(output))
    else:
        handle = module.register_forward_pre_hook(
            lambda _module, args, kwargs: show((*args, *kwargs.values())), with_kwargs=True
        )
    try:
        yield
    finally:
        watcher = None
        handle.remove()


def value_of(given: Any, feature: Feature, images: int) -> Tensor:
    """The one tensor that the layer gave."""
    value = given
    if isinstance(given, (tuple, list)):
        tensors = [item for item in given if isinstance(item, Tensor)]
        # An input may come with masks or sizes: the image's features are its first tensor.
        if len(tensors) == 1 or (tensors and feature.side == "input"):
            value = tensors[0]
    if not isinstance(value, Tensor):
        raise InvalidInputError(
            f"Layer {feature.label!r} gives {_describe(given)}, where one tensor is needed. Name one of the layers "
            "inside it, or wrap the model in a module that returns one tensor."
        )
    if value.dim() == 0 or value.shape[0] != images:
        raise InvalidInputError(
            f"Layer {feature.label!r} gives [{', '.join(map(str, value.shape))}] for a batch of {images}: its first "
            "axis does not count images. Name a layer that sees whole images."
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


def never_called(feature: Feature) -> InvalidInputError:
    """The error for a layer that the forward pass leaves out."""
    return InvalidInputError(
        f"Layer {feature.label!r} was never called in the forward pass, so that it has no output. "
        "Name a layer that the network uses."
    )


def place_of(model: nn.Module) -> dict[str, Any]:
    """Device and floating dtype of a network, as keywords; empty for one without weights."""
    weight = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
