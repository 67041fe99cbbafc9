"""Layers whose kernels are composed: convolutions in series, spread out by dilation, or on parts of the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from replk_probe.models.branches.compose import ChannelPart, Composition, find_compositions
from replk_probe.models.branches.find import ParallelBranches
from replk_probe.models.branches.recording import Values

from .kernel import COMPOSED
from .layers import KernelLayer, operation_of
from .variants import Part, Variant


@dataclass(frozen=True)
class ComposedLayers:
    """The composed kernels of some layers.

    Attributes:
        layers: Layers whose kernels are composed, in the order of the network.
        notes: Notes for the reader about what was not composed, by the path of a stored layer.
    """

    layers: tuple[KernelLayer, ...]
    notes: Mapping[str, tuple[str, ...]]


def compose_layers(network: nn.Module, layers: Sequence[KernelLayer]) -> ComposedLayers:
    """Find the composed kernels that some layers are part of.

    Args:
        network: The network that contains the layers.
        layers: Layers from :func:`~replk_probe.kernels.find_layers`.

    Returns:
        The composed kernels that consist of at least one convolution in these layers, and notes.
    """
    composed = find_compositions(network)
    names = {path: layer.name for layer in layers for path in _convolutions(layer)}
    found = tuple(
        KernelLayer(one.path or type(network).__name__, one.path, one)
        for one in composed.found
        if any(path in names for path in one.modules)
    )
    notes: dict[str, tuple[str, ...]] = {
        layer.path: (f"{layer.name} is not composed with another kernel: {composed.separated[path]}.",)
        for layer in layers
        for path in _convolutions(layer)
        if path in composed.separated and not any(path in one.modules for one in composed.found)
    }
    if layers and not found:
        if not composed.is_traced:
            reason = "no forward pass of the network could be recorded"
        elif not any(operation_of(layer.module) == "depthwise" for layer in layers):
            reason = "only depthwise convolutions are composed, and none of the layers is one"
        else:
            reason = (
                "none of the depthwise convolutions is dilated, or directly follows another one with the same channels"
            )
        first = layers[0].path
        notes[first] = (f"No kernels were composed: {reason}.", *notes.get(first, ()))
    return ComposedLayers(found, notes)


def composed_variant(composition: Composition, values: Values) -> Variant:
    """The kernel of a composition; ``values`` are the parameters and buffers of the network by name."""
    channels = composition.channels

    def weight() -> Tensor:
        return composition.kernel(values)[0][list(channels)]

    notes = []
    if composition.is_series:
        notes.append(
            "Composed kernels equal the convolutions in series away from the borders of the feature map only: there, "
            "each convolution sees the padding and the bias of the one before."
        )
    if any(part.is_identity for part in composition.parts):
        notes.append("Composed kernels do not include channels that are passed on without a convolution.")
    return Variant(
        COMPOSED,
        (Part(partial(composition.stored, values), weight),),
        len(channels),
        composition.norms(),
        notes=tuple(notes),
        names=_names(composition),
        channels=channels,
    )


def _names(composition: Composition) -> tuple[str, ...]:
    """Names of the convolutions, with their channels if they do not apply to all of them."""
    names = dict(zip(composition.convolutions, composition.names, strict=True))
    if len(composition.parts) == 1:
        return tuple(names.values())
    found: dict[str, list[str]] = {}
    first = 0
    for part in composition.parts:
        for conv in dict.fromkeys(part.convolutions):
            found.setdefault(names[conv], []).append(_channels(part, first))
        first += part.channels
    return tuple(f"{name} (channels {', '.join(ranges)})" for name, ranges in found.items())


def _channels(part: ChannelPart, first: int) -> str:
    return str(first) if part.channels == 1 else f"{first}-{first + part.channels - 1}"


def _convolutions(layer: KernelLayer) -> tuple[str, ...]:
    """Paths of the convolutions of a layer."""
    if isinstance(layer.module, ParallelBranches):
        return layer.module.modules
    if isinstance(layer.module, nn.Module):
        # A block of this package has its convolutions inside.
        convs = [path for path, inner in layer.module.named_modules() if isinstance(inner, nn.Conv2d)]
        return tuple(f"{layer.path}.{path}".strip(".") for path in convs)
    return ()
