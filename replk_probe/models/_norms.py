"""Which batch norm directly follows a convolution: as the network is written, not as it is named."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn

from ._depthwise import activation_of
from ._fold import Tracer, traced
from ._reparam import FOLDABLE_NORMS


class _NormTracer(Tracer):
    """Takes a batch norm with an activation of its own for one call as well."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call is recorded as it is."""
        return isinstance(m, BatchNormAct2d) or super().is_leaf_module(m, module_qualified_name)


def norms_behind(model: nn.Module, paths: Collection[str]) -> dict[str, str]:
    """The batch norms that alone read what convolutions give.

    Neighbours in an ``nn.Sequential`` are seen at once; for the others the calls are traced, where torch.fx can. An
    activation that a norm computes after itself does not matter here.

    Args:
        model: Any network, of which nothing is computed: it may be on the meta device.
        paths: Module paths of convolutions.

    Returns:
        Path of the convolution -> path of its norm; those without one are left out.
    """
    found = {conv: norm for conv, norm in _neighbours(model) if conv in paths}
    rest = set(paths) - set(found)
    if rest and any(_is_foldable(module) for module in model.modules()):
        found |= {conv: norm for conv, norm in _calls(model) if conv in rest}
    return found


def _neighbours(model: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules():
        if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
            continue
        before = ""
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if before and _is_foldable(child):
                yield before, child_path
            if not isinstance(child, nn.Identity):
                before = child_path if _is_linear(child) else ""


def _calls(model: nn.Module) -> Iterator[tuple[str, str]]:
    graph = traced(model, _NormTracer())
    if graph is None:
        return
    targets = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        if not _is_linear(_called(model, node)) or targets.count(str(node.target)) != 1:
            continue
        reader: fx.Node | None = node
        while reader is not None:
            reader = next(iter(reader.users)) if len(reader.users) == 1 else None
            if not isinstance(_called(model, reader), nn.Identity):
                break
        if reader is not None and _is_foldable(_called(model, reader)):
            yield str(node.target), str(reader.target)


def _called(model: nn.Module, node: fx.Node | None) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _is_linear(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Conv2d) and activation_of(module) is None


def _is_foldable(module: nn.Module | None) -> bool:
    known = type(module) in FOLDABLE_NORMS or isinstance(module, BatchNormAct2d)
    return known and getattr(module, "running_mean", None) is not None
