"""The layers of a network that have a kernel, and the selection among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn
from torch.nn.modules.conv import _ConvNd

from replk_probe.errors import InvalidInputError
from replk_probe.models import large_kernel_layers, resolve_layer
from replk_probe.models.layers.large_kernel import LargeKernelConv
from replk_probe.models.layers.reparam import MERGE_METHODS
from replk_probe.models.stages import Specified

KernelModule: TypeAlias = LargeKernelConv | nn.Conv2d
LayerSpec: TypeAlias = str | nn.Module

ALL, PAPER = "all", "paper"
_STAGE = re.compile(r"stage\d+")
_SHOWN = 4  # layers in an error message


@dataclass(frozen=True)
class KernelLayer:
    """One layer with a kernel."""

    name: str  # layer name such as stage4.0 in the families of this package, otherwise the module path
    path: str
    module: KernelModule  # block of parallel branches, or convolution
    # Name of the block and of the branch in it, if the layer is one branch of a block.
    branch_of: tuple[str, str] | None = None


def find_layers(model: nn.Module, layer: LayerSpec | Sequence[LayerSpec] = ALL) -> tuple[KernelLayer, ...]:
    """Find the layers with the requested kernels.

    Args:
        model: Any network.
        layer: ``"all"`` (the large kernel of every block in the families of this package, every depthwise convolution
            in other networks); ``"paper"`` (the first layer of stride 1 at the last resolution, as in the RepLKNet
            paper's appendix); ``"stage4.0"`` or ``"stage4"``; a module path; a pattern with ``*``, ``?`` or
            ``[...]``; an ``nn.Module`` of the model; or a sequence of these. A pattern, or a module that contains
            several convolutions, selects the depthwise ones if there are any, otherwise all.

    Returns:
        Each layer once, in the order of ``layer`` and then of the network.

    Raises:
        InvalidInputError: A layer does not exist or has no kernel; the message names existing layers.
    """
    found = _Network(model)
    specs = [layer] if isinstance(layer, (str, nn.Module)) else layer
    paths = dict.fromkeys(path for spec in specs for path in found.select(spec))
    return tuple(KernelLayer(found.name(path), path, found.kernels[path], found.branch_of(path)) for path in paths)


def path_of(model: nn.Module, module: nn.Module) -> str:
    """Path of a module in its model; ``""`` for the model itself."""
    for path, other in model.named_modules():
        if other is module:
            return str(path)
    raise InvalidInputError(
        f"The layer is a {type(module).__name__} that is not part of {type(model).__name__}. Copies of a module, and "
        "modules of a model given by name, are different modules. Pass a module of the measured model, or a layer name."
    )


def merger_of(model: nn.Module, path: str) -> str | None:
    """Path of the nearest parent module that merges a convolution with parallel ones by its own method, if any."""
    conv = model.get_submodule(path)
    if not isinstance(conv, nn.Conv2d):
        return None
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        around = model.get_submodule(".".join(parts[:end]))
        if any(hasattr(around, name) for name in MERGE_METHODS):
            convs = [inner for inner in around.modules() if isinstance(inner, nn.Conv2d)]
            # An entire network may also have such a method, but its convolutions are not parallel.
            if len(convs) > 1 and all(_is_parallel(inner, conv) for inner in convs if max(inner.kernel_size) > 1):
                return ".".join(parts[:end])
    return None


def _is_parallel(first: nn.Conv2d, second: nn.Conv2d) -> bool:
    """Whether two convolutions have inputs and outputs of the same shape, so that they may be added."""
    return all(getattr(first, name) == getattr(second, name) for name in ("in_channels", "out_channels", "stride"))


def operation_of(module: KernelModule) -> str:
    """``"depthwise"``, ``"grouped"`` or ``"dense"``."""
    if isinstance(module, LargeKernelConv) or module.groups == module.in_channels > 1:
        return "depthwise"
    return "grouped" if module.groups > 1 else "dense"


def _kernels(module: nn.Module, path: str = "") -> dict[str, KernelModule]:
    """Blocks of branches, and convolutions larger than 1 x 1 elsewhere, by their paths."""
    found: dict[str, KernelModule] = {}
    for name, inner in module.named_modules(prefix=path):
        if any(name.startswith(f"{block}.") for block in found):
            continue  # a branch
        if isinstance(inner, LargeKernelConv) or (isinstance(inner, nn.Conv2d) and max(inner.kernel_size) > 1):
            found[name] = inner
    return found


class _Network:
    """The kernels of one network, by path and by name."""

    def __init__(self, model: nn.Module) -> None:
        """Find the kernels."""
        self.model = model
        self.kernels = _kernels(model)
        self.places = large_kernel_layers(model)
        self._names = {path: name for name, path in self.places.items()} if isinstance(model, Specified) else {}

    def name(self, path: str) -> str:
        """Layer name such as ``stage4.0`` if the family has such names, otherwise the path."""
        return self._names.get(path, path) or type(self.model).__name__

    def branch_of(self, path: str) -> tuple[str, str] | None:
        """Name of the block that a convolution is a branch of, and of the branch in it; None if it is not a branch."""
        for block, module in self.kernels.items():
            if isinstance(module, LargeKernelConv) and path.startswith(f"{block}."):
                name = path.removeprefix(f"{block}.").split(".")[0]
                return (self.name(block), name) if name in module.branches() else None
        return None

    def select(self, spec: LayerSpec) -> list[str]:
        """Paths of the kernels that one spec selects."""
        if isinstance(spec, nn.Module):
            path = path_of(self.model, spec)
            return self._inside(path, path or type(self.model).__name__)
        spec = spec.strip()
        if spec == ALL:
            chosen = self._depthwise([*self._names] or [*self.kernels])
            if not chosen:
                raise InvalidInputError(
                    f"{type(self.model).__name__} has no depthwise convolution. Layer {ALL!r} selects those. "
                    f"{self._existing()}"
                )
            return chosen
        if spec == PAPER:
            return [self._paper()]
        if any(letter in spec for letter in "*?["):
            return self._matching(spec)
        if not self._is_module(spec):
            if spec in self.places:
                return [self.places[spec]]
            blocks = [path for name, path in self.places.items() if name.startswith(f"{spec}.")]
            if _STAGE.fullmatch(spec) and blocks:
                return blocks
        return self._inside(resolve_layer(self.model, spec).path, spec)

    def _inside(self, path: str, spec: str) -> list[str]:
        """The kernels in a module, which may also be inside a branch of a block."""
        module = self.model.get_submodule(path)
        inside = [kernel for kernel in self.kernels if not path or f"{kernel}.".startswith(f"{path}.")]
        if not inside:
            branches = _kernels(module, path)
            self.kernels |= branches
            inside = [*branches]
        if not inside:
            what = f"It is {type(module).__name__}, without a convolution larger than 1 x 1"
            if isinstance(module, nn.Conv2d):
                what = "It is a 1 x 1 convolution"
            elif any(isinstance(inner, _ConvNd) and not isinstance(inner, nn.Conv2d) for inner in module.modules()):
                what = f"It is {type(module).__name__}, and only kernels of nn.Conv2d can be measured"
            raise InvalidInputError(
                f"Layer {spec!r} of {type(self.model).__name__} has no kernel. {what}. {self._existing()}"
            )
        return self._depthwise(inside) or inside

    def _matching(self, pattern: str) -> list[str]:
        """Kernels whose name matches; otherwise those whose path, or that of a parent module, matches."""

        def fits(path: str) -> bool:
            parts = path.split(".")
            return any(fnmatchcase(".".join(parts[: index + 1]), pattern) for index in range(len(parts)))

        named = self.places if self._names or pattern.startswith("stage") else {}
        chosen = [path for name, path in named.items() if fnmatchcase(name, pattern)]
        chosen = chosen or [path for path in self.kernels if fits(path)]
        if not chosen:
            raise InvalidInputError(
                f"No kernel of {type(self.model).__name__} matches the pattern {pattern!r}. It is compared with "
                f"complete module paths and with names such as stage4.0. {self._existing()}"
            )
        return self._depthwise(chosen) or chosen

    def _paper(self) -> str:
        """The first stride-1 depthwise kernel after the last strided one, or, if none is strided, of the last stage."""
        order = self._depthwise([*self._names] or [*self.kernels])
        strided = [index for index, path in enumerate(order) if max(self.kernels[path].stride) > 1]
        last_stage = [
            path for name, path in self.places.items() if name.split(".")[0] == [*self.places][-1].split(".")[0]
        ]
        after = order[strided[-1] + 1 :] if strided else [path for path in self._depthwise(last_stage) if path in order]
        if not after:
            raise InvalidInputError(
                f"{type(self.model).__name__} has no layer that corresponds to the paper's. This is the first "
                f"depthwise convolution of stride 1 at the last resolution. {self._existing()}"
            )
        return after[0]

    def _depthwise(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if operation_of(self.kernels[path]) == "depthwise"]

    def _is_module(self, path: str) -> bool:
        try:
            return bool(path) and isinstance(self.model.get_submodule(path), nn.Module)
        except AttributeError:
            return False

    def _existing(self) -> str:
        """A sentence that names existing layers."""
        depthwise = [*self._names] or self._depthwise([*self.kernels])
        names = [self.name(path) for path in depthwise or self.kernels]
        if not names:
            return "It has no nn.Conv2d larger than 1 x 1: use another model."
        kind = "its kernels" if depthwise else "its convolutions, which are aggregated over both channel axes"
        more = f", ... ({len(names)} in total)" if len(names) > _SHOWN else ""
        return f"Choose one of {kind}: {', '.join(names[:_SHOWN])}{more}."
