"""Batch norms folded into their neighbours in any network whose forward can be traced."""

from __future__ import annotations

import warnings
from collections import Counter

import torch
from torch import fx, nn

from ._reparam import fuse_conv_bn

# Exact types, as a subclass may do more than its name says.
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def fold_batch_norms(model: nn.Module, keep: str = "") -> None:
    """Fold every batch norm that has a convolution next to it into that convolution, in place.

    A norm behind a convolution goes into any kernel; a norm before one only where the kernel is 1 x 1, since zero
    padding comes after the norm. ReLUs that are the only reader of their input write over it. Inference mode only.
    A network that torch.fx cannot trace is left as it is.

    Args:
        model: Changed in place; the folded norms become identities of the same name.
        keep: Path of a module whose input and output must stay what they are.
    """
    graph = _traced(model)
    if graph is None:
        return
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def only(node: object, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> nn.Module | None:
        """The module that ``node`` calls, if of exactly this kind and called nowhere else."""
        if not isinstance(node, fx.Node) or node.op != "call_module" or calls[str(node.target)] != 1:
            return None
        module = model.get_submodule(str(node.target))
        return module if type(module) in (kind if isinstance(kind, tuple) else (kind,)) else None

    for node in graph.nodes:
        source = node.args[0] if node.args else None
        relu = only(node, nn.ReLU)
        if isinstance(relu, nn.ReLU) and isinstance(source, fx.Node) and len(source.users) == 1:
            relu.inplace = source.op == "call_module"
        bn = only(node, _NORMS)
        if bn is None or bn.running_var is None or not isinstance(source, fx.Node):
            continue
        conv = only(source, nn.Conv2d)
        if isinstance(conv, nn.Conv2d) and len(source.users) == 1 and _apart(source, node, keep):
            _replace(model, str(source.target), fuse_conv_bn(conv, bn))
            _replace(model, str(node.target), nn.Identity())
            continue
        if len(node.users) != 1:
            continue
        reader = next(iter(node.users))
        conv = only(reader, nn.Conv2d)
        if isinstance(conv, nn.Conv2d) and _is_pointwise(conv) and _apart(node, reader, keep):
            _replace(model, str(reader.target), _fuse_bn_conv(bn, conv))
            _replace(model, str(node.target), nn.Identity())


def _traced(model: nn.Module) -> fx.Graph | None:
    """The calls that the model makes, or those up to its head where that alone can be traced."""
    tracer = fx.Tracer()
    for method in ("forward", "forward_features"):
        if not hasattr(model, method):
            continue
        tracer.traced_func_name = method
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return tracer.trace(model)
        except Exception:  # tracing runs the model's own code, which may raise anything
            continue
    return None


def _apart(first: fx.Node, second: fx.Node, keep: str) -> bool:
    """Whether nothing that ``keep`` names lies between two neighbours."""
    inside = [f"{node.target}.".startswith(f"{keep}.") for node in (first, second)]
    return not keep or inside[0] == inside[1]


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "valid") and conv.groups == 1


def _fuse_bn_conv(bn: nn.Module, conv: nn.Conv2d) -> nn.Conv2d:
    """The 1 x 1 convolution that equals ``conv(bn(x))``; float64 inside."""
    # The norm alone as a 1 x 1 depthwise convolution; the product of the two matrices is the answer.
    channels = conv.in_channels
    unit = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=conv.weight.device).double()
    nn.init.ones_(unit.weight)
    norm = fuse_conv_bn(unit, bn)
    fused = fuse_conv_bn(conv, nn.Identity())
    weight = conv.weight.detach().double()
    assert norm.bias is not None and fused.bias is not None  # fuse_conv_bn always gives one
    shift = (weight[:, :, 0, 0] @ norm.bias) + (0 if conv.bias is None else conv.bias.detach().double())
    with torch.no_grad():
        fused.weight.copy_(weight * norm.weight.reshape(1, -1, 1, 1))
        fused.bias.copy_(shift)
    return fused


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module.eval())
