"""The layers of a network that have a kernel, and the selection among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from replk_probe.errors import InvalidInputError
from replk_probe.models import large_kernel_layers, resolve_layer
from replk_probe.models.branches.compose import Composition
from replk_probe.models.branches.find import ParallelBranches, find_parallel_branches
from replk_probe.models.branches.own_methods import OwnMerging, has_merge_methods, merge_method
from replk_probe.models.branches.recording import stored_tensors
from replk_probe.models.layers.large_kernel import LargeKernelConv
from replk_probe.models.stages import Specified

from .own_merging import OwnKernel, common_path, is_equal, is_merged_elsewhere, own_kernel

# A block of parallel branches of this package, one found in any other network, one that such a network merges by its
# own methods, convolutions that are composed, or one convolution of any type.
KernelModule: TypeAlias = LargeKernelConv | ParallelBranches | OwnKernel | Composition | nn.Module
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
    note: str | None = None  # on its selection, for the reader
    is_apart: bool = False  # whether it is one of several parallel branches that cannot be added up
    own_note: str | None = None  # on its merging by the network's own methods


def find_layers(
    model: nn.Module, layer: LayerSpec | Sequence[LayerSpec] = ALL, own: OwnMerging | None = None
) -> tuple[KernelLayer, ...]:
    """Find the layers with the requested kernels.

    Parallel convolutions of one input whose outputs are added are one layer, named after the module that contains them.
    They are found by following a forward pass; see
    :func:`~replk_probe.models.branches.find.find_parallel_branches`. A module other than ``nn.Conv2d`` is a convolution
    if it has one parameter ``[O, I / groups, Kh, Kw]`` whose name contains "weight" or "kernel".

    Args:
        model: Any network.
        layer: ``"all"`` (the large kernel of every block in the families of this package; in other networks every
            depthwise convolution, or all of those larger than 1 x 1 if none is depthwise); ``"paper"`` (the first
            layer of stride 1 at the last resolution, as in the RepLKNet paper's appendix); ``"stage4.0"`` or
            ``"stage4"``; a module path; a pattern with ``*``, ``?`` or ``[...]``; an ``nn.Module`` of the model; or a
            sequence of these. A pattern, or a module that contains several convolutions, selects the depthwise ones if
            there are any, otherwise all.
        own: A copy of the network that was merged by its own methods, from which kernels are taken that cannot be
            found by following a forward pass.

    Returns:
        Each layer once, in the order of ``layer`` and then of the network.

    Raises:
        InvalidInputError: A layer does not exist or has no kernel; the message names existing layers.

    Examples:
        >>> from replk_probe.kernels import find_layers
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> [layer.name for layer in find_layers(network)]
        ['stage1.0', 'stage2.0']
        >>> find_layers(network, "stage2")[0].path
        'stages.1.blocks.0.large_kernel'
    """
    found = _Network(model, own or OwnMerging())
    specs = [layer] if isinstance(layer, (str, nn.Module)) else layer
    paths = dict.fromkeys(path for spec in specs for path in found.select(spec))
    return tuple(
        KernelLayer(
            found.name(path),
            path,
            found.kernels[path],
            found.branch_of(path),
            found.note(path),
            path in found.apart,
            found.own_note(path),
        )
        for path in paths
    )


def need_own_methods(model: nn.Module, layers: Sequence[KernelLayer]) -> bool:
    """Whether some of the layers may be merged by methods of the network, into a kernel that is not known otherwise."""
    return has_merge_methods(model) and any(_is_unknown(model, layer.path, layer.module) for layer in layers)


def _is_unknown(model: nn.Module, path: str, module: KernelModule) -> bool:
    if isinstance(module, LargeKernelConv) or (isinstance(module, ParallelBranches) and not module.others):
        return False
    return is_merged_elsewhere(model, path)


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
        if merge_method(around):
            convs = [inner for inner in around.modules() if isinstance(inner, nn.Conv2d)]
            parallel = [inner for inner in convs if _is_parallel(inner, conv)]
            # An entire network may also have such a method, but its convolutions are not parallel.
            if len(parallel) > 1 and {*parallel} >= {inner for inner in convs if max(inner.kernel_size) > 1}:
                return ".".join(parts[:end])
    return None


def _is_parallel(first: nn.Conv2d, second: nn.Conv2d) -> bool:
    """Whether two convolutions have inputs and outputs of the same shape, so that they may be added."""
    return all(getattr(first, name) == getattr(second, name) for name in ("in_channels", "out_channels", "stride"))


def groups_of(module: KernelModule) -> int:
    """Number of groups of a convolution."""
    if isinstance(module, LargeKernelConv):
        return next(conv.groups for conv in module.modules() if isinstance(conv, nn.Conv2d))
    if isinstance(module, OwnKernel):
        return module.merged.groups
    groups = getattr(module, "groups", None)
    if isinstance(groups, int):
        return groups
    outputs, inputs = weight_of(module).shape[:2]
    return outputs if inputs == 1 else 1


def operation_of(module: KernelModule) -> str:
    """``"depthwise"``, ``"grouped"`` or ``"dense"``."""
    if isinstance(module, Composition):
        return "depthwise"
    groups = groups_of(module)
    inputs = 1
    if not isinstance(module, LargeKernelConv):
        weight = module.first.weight if isinstance(module, ParallelBranches) else weight_of(module)
        inputs = weight.shape[1]
    if groups > 1 and inputs == 1:
        return "depthwise"
    return "grouped" if groups > 1 else "dense"


def weight_of(module: KernelModule) -> Tensor:
    """The weight ``[O, I / groups, Kh, Kw]`` of a single convolution of any type."""
    if isinstance(module, OwnKernel):
        return module.merged.weight
    assert isinstance(module, nn.Module)
    weight = getattr(module, "weight" if isinstance(module, nn.Conv2d) else _weight_name(module) or "weight")
    assert isinstance(weight, Tensor)
    return weight


def _weight_name(module: nn.Module) -> str | None:
    """Name of the one kernel of a module that is not a convolution of torch's, by its shape."""
    if isinstance(module, _ConvNd):
        return None
    found = [
        name
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 4 and max(parameter.shape[2:]) > 1 and ("weight" in name or "kernel" in name)
    ]
    return found[0] if len(found) == 1 else None


def _is_kernel(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return max(module.kernel_size) > 1
    return isinstance(module, LargeKernelConv) or _weight_name(module) is not None


def _kernels(module: nn.Module, path: str = "") -> dict[str, KernelModule]:
    """Blocks of branches, and convolutions larger than 1 x 1 elsewhere, by their paths."""
    found: dict[str, KernelModule] = {}
    for name, inner in module.named_modules(prefix=path):
        if any(isinstance(block, LargeKernelConv) and name.startswith(f"{at}.") for at, block in found.items()):
            continue  # a branch
        if _is_kernel(inner):
            found[name] = inner
    return found


class _Network:
    """The kernels of one network, by path and by name."""

    def __init__(self, model: nn.Module, own: OwnMerging) -> None:
        """Find the kernels."""
        self.model, self._own = model, own
        self.kernels = _kernels(model)
        self._blocks: dict[str, str] = {}  # path of a convolution in parallel branches -> path of these
        self.apart: dict[str, str] = {}  # path of a convolution -> why it is not added to its parallel ones
        if not isinstance(model, Specified):
            self._join(find_parallel_branches(model))
            self._join_own(own)
        places = large_kernel_layers(model)
        self.places = {name: self._blocks.get(path, path) for name, path in places.items()}
        self._names = {path: name for name, path in self.places.items()} if isinstance(model, Specified) else {}
        self._notes: dict[str, str] = {}

    def _join(self, blocks: Sequence[ParallelBranches]) -> None:
        """Replace the convolutions of each block of parallel branches by the block."""
        for block in blocks:
            members = [path for path in block.modules if path in self.kernels]
            if not members or any(path in self._blocks for path in members):
                continue  # only 1 x 1, or in a block of this package
            if block.problem is not None:
                where = block.path or type(self.model).__name__
                note = f"is one of several branches that {where} adds up, but they are not one convolution"
                self.apart |= {path: f"{note}: {block.problem}." for path in members}
                continue
            path = block.path
            if path in self.kernels:
                path = max(members, key=lambda member: max(weight_of(self.kernels[member]).shape[2:]))
            self._blocks |= dict.fromkeys(members, path)
            self._replace(members, path, block)

    def _join_own(self, own: OwnMerging) -> None:
        """Replace convolutions that a method of the network merges by the merged one, unless it is known already."""
        for block in own.blocks if own.network is not None else ():
            assert own.network is not None
            members = [path for path in self.kernels if not block or f"{path}.".startswith(f"{block}.")]
            merged = _kernels(own.network.get_submodule(block), block)
            if not members or len(merged) != 1:
                continue
            ((place, conv),) = merged.items()
            if not isinstance(conv, nn.Conv2d) or (len(members) == 1 and self._is_known(members[0], conv)):
                continue
            path = common_path([*members, place])
            self._blocks |= dict.fromkeys(_kernels(self.model.get_submodule(path), path), path)
            self._replace(members, path, own_kernel(self.model, conv, path))
            for member in members:
                self.apart.pop(member, None)

    def _is_known(self, path: str, merged: nn.Conv2d) -> bool:
        """Whether a kernel, with its batch norm folded in, equals the merged one."""
        known = self.kernels[path]
        if isinstance(known, ParallelBranches):
            return is_equal(known.total(known.branches, stored_tensors(self.model))[0], merged.weight)
        if not isinstance(known, nn.Conv2d):
            return False
        branch = next(iter(own_kernel(self.model, known, path).branches.values()))
        return is_equal(branch.folded(), merged.weight)

    def _replace(self, members: Sequence[str], path: str, block: KernelModule) -> None:
        """Put a block in the place of the first of its convolutions, so that the order of the network remains."""
        self.kernels = {
            path if name == members[0] else name: block if name == members[0] else module
            for name, module in self.kernels.items()
            if name == members[0] or name not in members
        }

    def own_note(self, path: str) -> str | None:
        """Note on the methods of the network that merge a kernel."""
        if isinstance(self.kernels[path], OwnKernel):
            merged = (
                "Kernels that the network's own methods merge include everything that these add up, such as identities."
            )
            return f"{merged} {self._own.note}".strip()
        return self._own.note if self._own.reason and _is_unknown(self.model, path, self.kernels[path]) else None

    def note(self, path: str) -> str | None:
        """Note on the selection of a kernel."""
        apart = self.apart.get(path)
        return self._notes.get(path) if apart is None else f"{self.name(path)} {apart}"

    def name(self, path: str) -> str:
        """Layer name such as ``stage4.0`` if the family has such names, otherwise the path."""
        return self._names.get(path, path) or type(self.model).__name__

    def branch_of(self, path: str) -> tuple[str, str] | None:
        """Name of the block that a convolution is a branch of, and of the branch in it; None if it is not a branch."""
        for block, module in self.kernels.items():
            if isinstance(module, LargeKernelConv) and path.startswith(f"{block}."):
                name = path.removeprefix(f"{block}.").split(".")[0]
                return (self.name(block), name) if name in module.branches() else None
            if isinstance(module, ParallelBranches) and path != block and path in module.modules:
                return self.name(block), next(one.name for one in module.branches if one.module == path)
            if isinstance(module, OwnKernel) and path != block and f"{path}.".startswith(f"{block}." if block else ""):
                return self.name(block), path.removeprefix(block).removeprefix(".")
        return None

    def select(self, spec: LayerSpec) -> list[str]:
        """Paths of the kernels that one spec selects."""
        if isinstance(spec, nn.Module):
            path = path_of(self.model, spec)
            return self._inside(path, path or type(self.model).__name__)
        spec = spec.strip()
        if spec == ALL:
            chosen = self._depthwise([*self._names] or [*self.kernels])
            if chosen:
                return chosen
            if not self.kernels:
                raise InvalidInputError(
                    f"No layer of {type(self.model).__name__} has a kernel to measure. {self._existing()}"
                )
            note = (
                f"{type(self.model).__name__} has no depthwise convolution: its {len(self.kernels)} convolutions "
                "larger than 1 x 1 are aggregated over output and input channels."
            )
            self._notes |= dict.fromkeys(self.kernels, note)
            return [*self.kernels]
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
            what = f"It is a module of type {type(module).__name__}, without a convolution larger than 1 x 1"
            if isinstance(module, nn.Conv2d):
                what = "It is a 1 x 1 convolution"
            elif any(isinstance(inner, _ConvNd) and not isinstance(inner, nn.Conv2d) for inner in module.modules()):
                what = (
                    f"It is a module of type {type(module).__name__}, and only kernels of two-dimensional convolutions "
                    "can be measured"
                )
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
        strided = [index for index, path in enumerate(order) if _stride_of(self.kernels[path]) > 1]
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
            return "It has no two-dimensional convolution larger than 1 x 1: use another model."
        kind = "its kernels" if depthwise else "its convolutions, which are aggregated over both channel axes"
        more = f", ... ({len(names)} in total)" if len(names) > _SHOWN else ""
        return f"Choose one of {kind}: {', '.join(names[:_SHOWN])}{more}."


def _stride_of(module: KernelModule) -> int:
    """The larger stride of a convolution; 1 if its type does not have any."""
    stride = getattr(module, "stride", 1)
    return max(stride) if isinstance(stride, tuple) else int(stride)
