"""Folding of batch norms and ReLUs into adjacent layers, in any network whose forward pass can be traced."""

from __future__ import annotations

import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.activations import GELU
from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn

from replk_probe.ops import DepthwiseConv2d, is_same_depthwise
from replk_probe.runtime.devices import as_float64

from ..layers.depthwise import PLAIN_CONVS
from ..layers.reparam import FOLDABLE_NORMS, fuse_conv_bn, is_foldable

# If two traces overlap, the one that ends last leaves the patches of the other in place.
_TRACING = threading.Lock()
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Tracer(fx.Tracer):
    """Traces its own thread only: torch.fx replaces the calls of every module in all threads while it traces."""

    def __init__(self) -> None:
        """Remember the current thread."""
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call is recorded as one node: modules of torch, and subclasses of them that can be folded."""
        return type(m) in (DepthwiseConv2d, BatchNormAct2d, GELU) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record the call, unless another thread makes it."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the access to a parameter, unless another thread makes it."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class Calls:
    """The modules that a traced network calls."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        """Count the calls of each module, and find the modules whose weights are also used elsewhere."""
        self._model = model
        self._counts = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        self._read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def only(self, node: object, *kinds: type[nn.Module]) -> nn.Module | None:
        """The module that ``node`` calls, if it is of exactly one of these types and used nowhere else."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        path = str(node.target)
        module = self._model.get_submodule(path)
        hooked = any(getattr(module, name) for name in _HOOKS)
        alone = self._counts[path] == 1 and path not in self._read and not hooked
        return module if alone and type(module) in kinds else None


def fold_neighbors(model: nn.Module, keep: str = "") -> fx.Graph | None:
    """Fold batch norms into the convolutions next to them, and ReLUs into the depthwise ones before them, in place.

    A norm after a convolution is folded into any kernel; a norm before one only if the kernel is 1 x 1, since zero
    padding comes after the norm. A ReLU that is the only consumer of a depthwise convolution of stride 1 is computed
    with it; one that is the only consumer of another layer operates in place. The model must be in inference mode.
    Modules with hooks, modules called twice and weights that are used elsewhere are not changed, nor is a network
    that torch.fx cannot trace.

    A trace is one path through the code, which may differ from the one for real images, so compare the results.

    Args:
        model: The network, changed in place; folded norms and ReLUs become identities of the same name,
            and norms that include an activation become that activation.
        keep: Path of a module whose input and output must not change. The output of ``forward_features``, if there is
            such a method, is always preserved.

    Returns:
        The calls in the network, or None if torch.fx cannot trace it.
    """
    graph = traced(model)
    if graph is None:
        return None
    only = Calls(model, graph).only
    folded: set[fx.Node] = set()  # norms that have become identities
    for node in graph.nodes:
        bn, source = only(node, *FOLDABLE_NORMS, BatchNormAct2d), source_of(node)
        if bn is None or bn.running_var is None or source is None:
            continue
        conv = only(source, *PLAIN_CONVS)
        if isinstance(conv, nn.Conv2d) and is_foldable(conv) and on_one_side(source, node, keep):
            if len(source.users) == 1:
                replace_module(model, str(source.target), fuse_conv_bn(conv, bn))
                replace_module(model, str(node.target), _rest_of(bn))
                if not isinstance(bn, BatchNormAct2d):
                    folded.add(node)
                continue
        reader = next(iter(node.users)) if len(node.users) == 1 and not isinstance(bn, BatchNormAct2d) else None
        conv = only(reader, *PLAIN_CONVS)
        if reader is not None and isinstance(conv, nn.Conv2d) and is_foldable(conv) and is_pointwise(conv):
            if on_one_side(node, reader, keep):
                replace_module(model, str(reader.target), _fuse_bn_conv(bn, conv))
                replace_module(model, str(node.target), nn.Identity())
    for node in graph.nodes:
        relu, source = only(node, nn.ReLU), source_of(node)
        while source in folded and len(source.users) == 1 and on_one_side(source, node, keep):
            source = source_of(source)
        # Only these return a new tensor that their own gradient does not read once they are frozen.
        layer = only(source, *PLAIN_CONVS, nn.Linear, *FOLDABLE_NORMS)
        if not isinstance(relu, nn.ReLU) or source is None or layer is None or len(source.users) != 1:
            continue
        fits = isinstance(layer, nn.Conv2d) and is_foldable(layer) and is_same_depthwise(layer)
        if isinstance(layer, nn.Conv2d) and fits and on_one_side(source, node, keep):
            replace_module(model, str(source.target), DepthwiseConv2d.from_conv(layer, "relu"))
            replace_module(model, str(node.target), nn.Identity())
        else:
            relu.inplace = True
    return graph


def traced(model: nn.Module, tracer: Tracer | None = None) -> fx.Graph | None:
    """The calls in ``forward_features``, or else in ``forward``; None if torch.fx cannot trace the network.

    ``tracer`` decides which modules are recorded as one node, by default those of torch; the network is in eval mode.
    """
    tracer = tracer or Tracer()
    tracer.traced_func_name = "forward_features" if hasattr(model, "forward_features") else "forward"
    try:
        with _TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return tracer.trace(model)
    except Exception:  # tracing runs the model's own code, which may raise anything
        return None


def source_of(node: fx.Node) -> fx.Node | None:
    """The node whose output is the first argument of ``node``."""
    return node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None


def on_one_side(first: fx.Node, second: fx.Node, keep: str) -> bool:
    """Whether two neighbors are both within the module ``keep`` or both outside of it."""
    inside = [f"{node.target}.".startswith(f"{keep}.") for node in (first, second)]
    return not keep or inside[0] == inside[1]


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is 1 x 1, without padding and groups, of any stride."""
    return conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "valid") and conv.groups == 1


def _rest_of(bn: nn.Module) -> nn.Module:
    """What a norm computes after the normalization, under the same names."""
    if not isinstance(bn, BatchNormAct2d):
        return nn.Identity()
    return nn.Sequential(OrderedDict(drop=bn.drop, act=bn.act))


def _fuse_bn_conv(bn: nn.Module, conv: nn.Conv2d) -> nn.Conv2d:
    """The 1 x 1 convolution that equals ``conv(bn(x))``, computed in float64."""
    # The norm as a 1 x 1 depthwise convolution; the result is the product of the two matrices.
    channels = conv.in_channels
    weight = as_float64(conv.weight.detach())
    unit = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=weight.device).double()
    nn.init.ones_(unit.weight)
    norm = fuse_conv_bn(unit, bn)
    fused = fuse_conv_bn(conv, nn.Identity())
    assert norm.bias is not None and fused.bias is not None  # fuse_conv_bn always gives one
    shift = (weight[:, :, 0, 0] @ norm.bias) + (0 if conv.bias is None else as_float64(conv.bias.detach()))
    with torch.no_grad():
        fused.weight.copy_(weight * norm.weight.reshape(1, -1, 1, 1))
        fused.bias.copy_(shift)
    return fused


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another one, in inference mode."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module.eval())
