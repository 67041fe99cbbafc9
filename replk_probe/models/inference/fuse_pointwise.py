"""Replacing pairs of pointwise layers by one layer, in any network whose forward pass can be traced."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn

from replk_probe.ops import is_pointwise_native, is_same_depthwise

from ..layers.depthwise import PLAIN_CONVS
from .fold_bn import Calls, is_pointwise, on_one_side, replace_module, source_of
from .pointwise import ACTIVATIONS, PointwiseBlock, activation_name

# What does not change its input in inference mode.
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
# Share of the weights of dense convolutions with larger kernels up to which planes are the faster layout.
_MOST_DENSE = 0.1


def fuse_pointwise(model: nn.Module, graph: fx.Graph, keep: str = "") -> None:
    """Replace pointwise layers and the activation between or after them by a :class:`PointwiseBlock`, in place.

    The block takes the place of the first layer, and identities that of the others. Layers whose output or weight is
    used elsewhere and layers with hooks are not changed, nor is a network that the native library does not support.

    Args:
        model: The network with its norms folded.
        graph: The calls in it.
        keep: Path of a module whose input and output must not change.
    """
    if not _is_supported(model):
        return
    calls, used = Calls(model, graph), set[fx.Node]()
    planes = prefers_planes(model)
    for node in graph.nodes:
        act = calls.only(node, *ACTIVATIONS)
        first = None if act is None or activation_name(act) is None else _neighbor(calls, node, source_of)
        layer = None if first is None or first in used else _layer(calls, first)
        if first is None or layer is None or not on_one_side(first, node, keep):
            continue
        second = _neighbor(calls, node, _only_reader)
        after = None if second is None else _layer(calls, second)
        if second is not None and type(after) is type(layer) and on_one_side(node, second, keep):
            replace_module(model, str(second.target), nn.Identity())
            used.add(second)
        elif planes:
            after = None
        else:  # torch's own convolution of channels-last maps is as fast
            continue
        replace_module(model, str(first.target), PointwiseBlock(layer, act, after))
        replace_module(model, str(node.target), nn.Identity())
        used.add(first)
    for node in graph.nodes if planes else ():
        layer = None if node in used else _layer(calls, node)
        if isinstance(layer, nn.Conv2d):
            replace_module(model, str(node.target), PointwiseBlock(layer))


def prefers_planes(model: nn.Module) -> bool:
    """Whether contiguous planes are the faster layout of all maps of a network.

    That is the case if 1 x 1 convolutions and native depthwise convolutions, which need planes, do nearly all of the
    work, and no dense convolution, for which channels-last maps are faster.
    """
    if not _is_supported(model):
        return False
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    pointwise = sum(conv.weight.numel() for conv in convs if is_pointwise(conv))
    dense = sum(conv.weight.numel() for conv in convs if conv.groups == 1 and not is_pointwise(conv))
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    return dense + linear <= _MOST_DENSE * pointwise and any(map(is_same_depthwise, convs))


def stores_derivatives(model: nn.Module) -> bool:
    """Whether a network keeps rounded derivatives of activations for its backward pass; those of ReLU are exact."""
    blocks = (module for module in model.modules() if isinstance(module, PointwiseBlock))
    return any(activation_name(block.act) == "gelu" for block in blocks)


def _is_supported(model: nn.Module) -> bool:
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return bool(weights) and all(is_pointwise_native(weight) for weight in weights)


def _layer(calls: Calls, node: fx.Node) -> nn.Conv2d | nn.Linear | None:
    """The pointwise layer that a node calls, or None."""
    layer = calls.only(node, *PLAIN_CONVS, nn.Linear)
    if isinstance(layer, nn.Conv2d):
        return layer if is_pointwise(layer) and layer.stride == (1, 1) and type(layer) is nn.Conv2d else None
    return layer if isinstance(layer, nn.Linear) else None


def _only_reader(node: fx.Node) -> fx.Node | None:
    """The only consumer of a node."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _neighbor(calls: Calls, node: fx.Node, step: Callable[[fx.Node], fx.Node | None]) -> fx.Node | None:
    """The next node in one direction that is not an identity, if no other node reads a value in between."""
    found = step(node)
    while found is not None and calls.only(found, *_IDENTITIES) is not None and len(found.users) == 1:
        found = step(found)
    is_before = step is source_of
    return found if found is None or not is_before or len(found.users) == 1 else None
