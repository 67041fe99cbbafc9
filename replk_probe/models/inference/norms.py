"""Which batch norm directly follows a convolution: as the network is written, not as it is named."""

from __future__ import annotations

from collections.abc import Collection

from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn

from ..layers.depthwise import activation_of
from ..layers.reparam import FOLDABLE_NORMS
from .fold_bn import Tracer, traced


class _ShallowTracer(Tracer):
    """Follows the code of one module alone; what it calls is recorded as it is."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Always."""
        return True


def norms_behind(model: nn.Module, paths: Collection[str]) -> dict[str, str | None]:
    """The batch norms that alone read what convolutions give.

    The module around a convolution is traced, without what it calls, and where the convolution is its last step the
    module around that one: of a network that torch.fx cannot trace as a whole, few modules are needed. An activation
    that a norm computes after itself does not matter here.

    Args:
        model: Any network, of which nothing is computed: it may be on the meta device.
        paths: Module paths of convolutions.

    Returns:
        Path of the convolution -> path of its norm, or None where none follows; left out where that is not known.
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
            if reader is None:  # not called here: in a list of modules, for instance
                continue
            if reader.op != "output":
                found[path] = _norm_at(model, f"{outer}.{reader.target}".removeprefix("."), reader.op)
                break
            last = outer
        else:
            if last == "":  # nothing in the network follows
                found[path] = None
    return found


def _reader(graph: fx.Graph | None, name: str, module: nn.Module) -> fx.Node | None:
    """The node that alone reads what the module called ``name`` gives, identities left aside.

    That module's own node where there is no such reader, None where it is not called.
    """
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
    """The path if a norm that can be folded is called there, be it first in a sequence."""
    module = model.get_submodule(path) if op == "call_module" else None
    while isinstance(module, nn.Sequential) and len(module) and type(module).forward is nn.Sequential.forward:
        name, module = next(iter(module.named_children()))
        path = f"{path}.{name}"
    known = type(module) in FOLDABLE_NORMS or isinstance(module, BatchNormAct2d)
    return path if known and getattr(module, "running_mean", None) is not None else None
