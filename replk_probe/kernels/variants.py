"""Weights of the variants of a layer: batch norms folded in, branches padded and added, all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models.branches.find import Branch, ParallelBranches
from replk_probe.models.branches.recording import Values
from replk_probe.models.layers.depthwise import PLAIN_CONVS
from replk_probe.models.layers.large_kernel import ConvBN, LargeKernelConv
from replk_probe.models.layers.reparam import dilated, folded_weight, summed_kernels

from .kernel import ONE_OF_SEVERAL
from .layers import KernelLayer, groups_of, weight_of
from .own_merging import OwnBranch, OwnKernel, stored_weights

_NAMES = {"large_conv": "large", "column_conv": "column", "row_conv": "row", "small_conv": "small"}
_LARGE = ("large_conv", "column_conv", "row_conv")
_SMALL = "small"
_MERGED = (
    "In these weights the branches are merged: the small one cannot be separated, and zeros are counted in the merged "
    "kernel"
)


@dataclass(frozen=True)
class Part:
    """One summand of a kernel, computed on request.

    Attributes:
        stored: Function that returns the weight as it is stored; an empty tensor for an identity.
        folded: Function that returns the kernel ``[O, I / groups, Kh, Kw]`` in float64, its batch norm folded in.
        padding: Zero padding of the convolution, by which the parts are aligned.
    """

    stored: Callable[[], Tensor]
    folded: Callable[[], Tensor]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Variant:
    """One variant of a layer, computed on request."""

    name: str  # name, as in replk_probe.kernels.Kernel.variant
    parts: tuple[Part, ...]  # kernels to add up
    groups: int  # groups of the convolutions
    batch_norm: tuple[str, ...]  # paths of the batch norms that are folded in
    large: tuple[Part, ...] = ()  # all parts except the small one, for a layer that has both
    small: tuple[Part, ...] = ()  # the small part of such a layer
    notes: tuple[str, ...] = ()  # notes for the reader
    names: tuple[str, ...] = ("large",)  # names of all branches of the layer, as in replk_probe.kernels.Kernel.branches
    channels: tuple[int, ...] | None = None  # output channels that the weights are those of; None for all
    dilation: tuple[int, int] = (1, 1)  # of a kernel without the gaps between its entries

    def weight(self) -> Tensor:
        """``[O, I / groups, Kh, Kw]`` float64."""
        if len(self.parts) == 1:
            return self.parts[0].folded()
        return summed_kernels([(part.folded(), part.padding) for part in self.parts])[0]

    def stored(self) -> list[Tensor]:
        """The weights as they are stored."""
        return [part.stored() for part in self.parts]

    def zero_fraction(self) -> float:
        """Share of exact zeros among the weights as they are stored."""
        stored = self.stored()
        return sum(int((weight == 0).sum()) for weight in stored) / (sum(weight.numel() for weight in stored) or 1)

    def small_branch_share(self) -> float | None:
        """Sum of the small branch's absolute weights over that of all branches; None if it is not known."""
        small, large = (sum(float(part.folded().abs().sum()) for part in parts) for parts in (self.small, self.large))
        return small / (small + large) if self.small and small + large else None


def _part(conv: nn.Module, norm: nn.Module) -> Part:
    """A convolution of any type with its batch norm or an identity."""

    def folded() -> Tensor:
        # A single convolution may have any padding and dilation, and may even compute an activation.
        if isinstance(norm, nn.Identity):
            return weight_of(conv).detach().cpu().double()
        if isinstance(conv, nn.Conv2d):
            return folded_weight(conv, norm)[0]
        return _scaled(weight_of(conv).detach().cpu(), norm)

    return Part(lambda: weight_of(conv).detach(), folded)


def _branch_part(branch: ConvBN, norm: nn.Module) -> Part:
    """A branch with its own batch norm and the one after the sum of the branches, its dilation filled with zeros."""

    def folded() -> Tensor:
        weight = dilated(folded_weight(branch.conv, branch.bn)[0], branch.conv.dilation)
        return weight if isinstance(norm, nn.Identity) else _scaled(weight, norm)

    return replace(_part(branch.conv, branch.bn), folded=folded, padding=_pair(branch.conv.padding))


def _scaled(weight: Tensor, norm: nn.Module) -> Tensor:
    """A kernel ``[O, I / groups, Kh, Kw]`` of any convolution in float64 with its batch norm."""
    plain = nn.Conv2d(weight.shape[1], len(weight), 1, bias=False, device="meta")
    plain.weight = nn.Parameter(weight)
    return folded_weight(plain, norm)[0]


def variants_of(
    layer: KernelLayer,
    variant: str,
    values: Values,
    norms: Mapping[str, nn.Module] | None,
    merger: str | None = None,
) -> list[Variant]:
    """The requested variants of one layer; ``"all"`` includes the strips of a decomposed kernel.

    Each of several small branches is a variant too, and the kernel of a layer without branches is called merged.
    ``values`` are the parameters and buffers of the network by name. ``norms`` maps the path of the batch norm after a
    single convolution or the sum of branches to it; it is None if it is not known. ``merger`` is the path of the parent
    module that merges the convolution with others by its own method. Raises InvalidInputError if the layer has no such
    variant.
    """
    if isinstance(layer.module, ParallelBranches):
        return _of_parallel(layer, layer.module, variant, values)
    if isinstance(layer.module, OwnKernel):
        return _of_own(layer, layer.module, variant)
    if not isinstance(layer.module, LargeKernelConv):
        assert isinstance(layer.module, nn.Module)
        return [_of_conv(layer, layer.module, variant, norms, merger)]
    if layer.module.is_merged:
        return [_of_merged(layer, layer.module, variant, norms or {})]
    return _of_branches(layer, layer.module, variant, norms or {})


def _of_branches(
    layer: KernelLayer, block: LargeKernelConv, variant: str, norms: Mapping[str, nn.Module]
) -> list[Variant]:
    modules = {_name_of(name, branch): (name, branch) for name, branch in block.branches().items()}
    norm = next(iter(norms.values()), nn.Identity())
    branches = {name: _branch_part(branch, norm) for name, (_, branch) in modules.items()}
    large = [name for name, (child, _) in modules.items() if child in _LARGE]
    small = [name for name in branches if name not in large]
    chosen = {"large": large, "small": small, "merged": large + small}
    if variant == "all":
        single = [name for name in large if name != "large"] + (small if len(small) > 1 else [])
        chosen = {name: [name] for name in single} | (chosen if small else {"merged": large})
    elif chosen[variant]:
        chosen = {variant: chosen[variant]}
    else:
        raise _no_small_branch(layer)
    both = bool(small)
    return [
        Variant(
            name,
            tuple(branches[part] for part in parts),
            groups_of(block),
            tuple(
                f"{layer.path}.{modules[part][0]}.bn"
                for part in parts
                if not isinstance(modules[part][1].bn, nn.Identity)
            )
            + tuple(norms),
            tuple(branches[part] for part in large if both),
            tuple(branches[part] for part in small),
            names=tuple(branches),
        )
        for name, parts in chosen.items()
    ]


def _name_of(child: str, branch: ConvBN) -> str:
    """Name of a branch for the reader, such as ``large`` or ``3x3 dilation 2``."""
    (height, width), (rate, _) = branch.conv.kernel_size, branch.conv.dilation
    return _NAMES.get(child, f"{height}x{width} dilation {rate}")


def _of_merged(layer: KernelLayer, block: LargeKernelConv, variant: str, norms: Mapping[str, nn.Module]) -> Variant:
    """The variant of a block whose branches are merged into one convolution."""
    _check_unmerged(layer, variant)
    conv = block.get_submodule("reparam_conv")
    assert isinstance(conv, nn.Conv2d)  # created by reparameterize()
    note = _MERGED + (", including the corners around the strips." if block.is_decomposed else ".")
    norm = next(iter(norms.values()), nn.Identity())
    return Variant("merged", (_part(conv, norm),), conv.groups, tuple(norms), notes=(note,), names=())


def _check_unmerged(layer: KernelLayer, variant: str) -> None:
    if variant in ("large", "small"):
        raise InvalidInputError(
            f"The {variant} kernel of {layer.name} is unknown. In these weights the branches are merged into one "
            "kernel, which cannot be split. Use variant 'merged', or the checkpoint from before merging."
        )


def _of_parallel(layer: KernelLayer, block: ParallelBranches, variant: str, values: Values) -> list[Variant]:
    """The variants of parallel branches: the one with the largest kernel is large, the sum of the others small."""

    def stored(branch: Branch) -> Tensor:
        return torch.empty(0) if branch.conv is None else branch.conv.weight.evaluate(values)

    def folded(branch: Branch) -> Tensor:
        return block.kernel(branch, values)[0]

    parts = {
        branch.name: Part(partial(stored, branch), partial(folded, branch), branch.padding) for branch in block.branches
    }
    area = {branch.name: math.prod(branch.extent) for branch in block.branches}
    largest = [name for name, size in area.items() if size == max(area.values())]
    small = [name for name in parts if name not in largest]
    chosen = {"merged": [*parts]}
    notes = []
    is_merged = len(parts) == 1
    if is_merged:
        _check_unmerged(layer, variant)
        notes.append(f"{_MERGED}.")
    elif len(largest) == 1:
        chosen = {"large": largest, _SMALL: small} | chosen
    if is_merged:
        pass
    elif variant == "all":
        single = small if len(largest) == 1 else [*parts]
        chosen = {f"branch {name}" if name in chosen else name: [name] for name in single if len(single) > 1} | chosen
    elif variant in chosen:
        chosen = {variant: chosen[variant]}
    else:
        raise InvalidInputError(
            f"{layer.name} has no {variant} kernel. Its largest branches, {', '.join(largest)}, have the same size. "
            "Use variant 'merged' or 'all'."
        )
    if block.others:
        count = "1 more summand" if block.others == 1 else f"{block.others} more summands"
        notes.append(
            f"{layer.name} adds up {count} that are not convolutions of the same input: they are not included."
        )
    both = len(largest) == 1 and not is_merged
    return [
        Variant(
            name,
            tuple(parts[one] for one in names),
            block.groups,
            tuple(dict.fromkeys(norm for one in block.branches if one.name in names for norm in one.norms())),
            tuple(parts[one] for one in largest if both),
            tuple(parts[one] for one in small if both),
            notes=tuple(notes),
            names=() if is_merged else tuple(parts),
        )
        for name, names in chosen.items()
    ]


def _of_own(layer: KernelLayer, block: OwnKernel, variant: str) -> list[Variant]:
    """The variants of convolutions that the network's own methods merge: each of them, and the merged kernel."""
    names = tuple(f"branch {name}" if name in ("large", _SMALL, "merged") else name for name in block.branches)
    branches = dict(zip(names, block.branches.values(), strict=True))
    area = {name: math.prod(branch.conv.kernel_size) for name, branch in branches.items()}
    largest = [name for name, size in area.items() if size == max(area.values())]
    if variant == _SMALL or (variant == "large" and len(largest) != 1):
        raise InvalidInputError(
            f"{layer.name} has no {variant} kernel. The network's own methods merge it from {', '.join(names)}. "
            "Use variant 'merged' or 'all'."
        )

    def norms(ones: Sequence[OwnBranch]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.norm[0] for one in ones if one.norm))

    def single(name: str, branch: OwnBranch) -> Variant:
        part = Part(lambda: branch.conv.weight.detach(), branch.folded)
        return Variant(name, (part,), branch.conv.groups, norms([branch]), names=names)

    merged = Part(lambda: stored_weights(block), lambda: block.merged.weight.detach().cpu().double())
    found = [Variant("merged", (merged,), block.merged.groups, norms([*branches.values()]), names=names)]
    if variant == "large":
        return [single("large", branches[largest[0]])]
    return [single(*item) for item in branches.items()] + found if variant == "all" else found


def _of_conv(
    layer: KernelLayer, conv: nn.Module, variant: str, norms: Mapping[str, nn.Module] | None, merger: str | None
) -> Variant:
    if layer.branch_of is not None:
        block, name = layer.branch_of[0], _NAMES.get(layer.branch_of[1], layer.branch_of[1])
        if variant not in ("all", "merged", name):
            raise InvalidInputError(
                f"{layer.path} is the {name} branch of {block} and has no {variant} kernel. A branch is one "
                f"convolution. Use layer {block!r} and variant {variant!r}."
            )
        note = f"{layer.path} is the {name} branch of {block}; the other branches are not included."
        norm = next(iter((norms or {}).values()), nn.Identity())
        return Variant(name, (_part(conv, norm),), groups_of(conv), tuple(norms or ()), notes=(note,), names=(name,))
    if variant == "small":
        raise _no_small_branch(layer)
    notes = []
    if type(conv) not in PLAIN_CONVS and not hasattr(conv, "parametrizations"):
        notes.append(f"{type(conv).__name__} may transform its weights in the forward pass: stored weights are shown.")
    if isinstance(conv, nn.Conv2d) and "weight" not in conv._parameters and not hasattr(conv, "parametrizations"):
        notes.append(
            f"The weights of {layer.name} are recomputed by a hook in each forward pass (pruning, weight_norm): those "
            "of the last pass are shown. After loading other weights, run the network once."
        )
    if merger is not None:
        notes.append(
            f"{merger} adds up several branches and merges them by its own method: {layer.name} is only one of them."
        )
    given = getattr(conv, "dilation", 1)
    dilation = (int(given[0]), int(given[-1])) if isinstance(given, tuple) else (int(given), int(given))
    if max(dilation) > 1:
        notes.append(
            f"{layer.name} is dilated by {max(dilation)}: its numbers are those of the kernel without the gaps."
        )
    if norms is None:
        notes.append(
            "No batch norm was folded into some kernels: the network cannot be traced, so it is not known which batch "
            "norm follows the convolution."
        )
    elif not norms:
        notes.append("Some convolutions are not directly followed by a batch norm, so that none was folded into them.")
    norm = next(iter((norms or {}).values()), nn.Identity())
    name = "merged" if variant == "all" else variant
    names = ("large",) if merger is None and not layer.is_apart else (ONE_OF_SEVERAL,)
    return Variant(
        name,
        (_part(conv, norm),),
        groups_of(conv),
        tuple(norms or ()),
        notes=tuple(notes),
        names=names,
        dilation=dilation,
    )


def _pair(padding: Sequence[int | str] | str) -> tuple[int, int]:
    return int(padding[0]), int(padding[1])


def _no_small_branch(layer: KernelLayer) -> InvalidInputError:
    return InvalidInputError(
        f"{layer.name} has no small branch. It was built with a single kernel. Use variant 'merged' for it."
    )
