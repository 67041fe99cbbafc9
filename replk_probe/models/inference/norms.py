"""Batch norms that directly follow convolutions, according to the code of the network rather than names."""

from __future__ import annotations

from collections.abc import Collection

from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn

from ..branches.recording import Convolution, Scaling, record
from ..layers.depthwise import activation_of
from ..layers.reparam import FOLDABLE_NORMS
from .fold_bn import Tracer, traced


class _ShallowTracer(Tracer):
    """Traces one module only; each module that it calls is recorded as one node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Always."""
        return True


def norms_behind(model: nn.Module, paths: Collection[str]) -> dict[str, str | None]:
    """The batch norms that are the only consumers of convolutions.

    The parent module of a convolution is traced without the modules that it calls, and if the convolution is its last
    step, the parent of that one. This needs few modules, and also works for a network that torch.fx cannot trace as a
    whole. For convolutions in modules that cannot be traced, one forward pass is recorded on the meta device. Norms
    that include an activation count as well.

    Args:
        model: Any network, possibly on the meta device, since nothing is computed.
        paths: Module paths of convolutions.

    Returns:
        Mapping from the path of each convolution to that of its norm, or to None if none follows; convolutions for
        which this is unknown are missing.
    """
    graphs: dict[str, fx.Graph | None] = {}
    found: dict[str, str | None] = {}
    for path in paths:
        if activation_of(model.get_submodule(path)) is not None or not path:
            found[path] = None
            continue
        last, outer = path, path
        while outer:
            outer = outer.rpartition(".")[0]
            if outer not in graphs:
                graphs[outer] = traced(model.get_submodule(outer), _ShallowTracer())
            reader = _reader(graphs[outer], last.removeprefix(f"{outer}."), model.get_submodule(outer))
            if reader is None:  # not called by this module: in a list of modules, for instance
                continue
            if reader.op != "output":
                found[path] = _norm_at(model, f"{outer}.{reader.target}".removeprefix("."), reader.op)
                break
            last = outer
        else:
            if last == "":  # nothing in the network follows
                found[path] = None
    unknown = [path for path in paths if path not in found]
    return found | _recorded(model, unknown) if unknown else found


def _recorded(model: nn.Module, paths: Collection[str]) -> dict[str, str | None]:
    """The same for convolutions that are computed once, from a recorded forward pass."""
    found: dict[str, str | None] = {}
    for recording in record(model):
        outputs = [node for node in recording.nodes if isinstance(node, Convolution) and node.module in paths]
        for node in outputs:
            is_only = recording.calls[node.module] == 1 and sum(one.module == node.module for one in outputs) == 1
            if is_only and node.users:  # otherwise the norm may be outside of the module that was run
                reader = node.users[0] if len(node.users) == 1 else None
                is_norm = isinstance(reader, Scaling) and recording.calls[reader.module] == 1
                found[node.module] = _norm_at(model, reader.module, "call_module") if reader and is_norm else None
    return found


def _reader(graph: fx.Graph | None, name: str, module: nn.Module) -> fx.Node | None:
    """The only consumer, not an identity, of the module ``name``; that module without one, None if it is not called."""
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name] if graph else []
    if not calls:
        return None
    node: fx.Node = calls[0]
    reader = node
    while len(calls) == 1 and len(reader.users) == 1:
        reader = next(iter(reader.users))
        called = module.get_submodule(str(reader.target)) if reader.op == "call_module" else None
        if not isinstance(called, nn.Identity):
            return reader
    return node


def _norm_at(model: nn.Module, path: str, op: str) -> str | None:
    """The path of the norm that is called there, possibly as the first of a sequence, if it can be folded."""
    module = model.get_submodule(path) if op == "call_module" else None
    while isinstance(module, nn.Sequential) and len(module) and type(module).forward is nn.Sequential.forward:
        name, module = next(iter(module.named_children()))
        path = f"{path}.{name}"
    known = type(module) in FOLDABLE_NORMS or isinstance(module, BatchNormAct2d)
    return path if known and getattr(module, "running_mean", None) is not None else None
