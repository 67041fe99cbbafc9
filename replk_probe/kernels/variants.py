"""Weights of the variants of a layer: batch norms folded in, branches padded and added, all in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models.layers.depthwise import PLAIN_CONVS
from replk_probe.models.layers.large_kernel import LargeKernelConv
from replk_probe.models.layers.reparam import folded_weight, merged_weight

from .kernel import ONE_OF_SEVERAL
from .layers import KernelLayer

Branch: TypeAlias = tuple[nn.Conv2d, nn.Module]

_NAMES = {"large_conv": "large", "column_conv": "column", "row_conv": "row", "small_conv": "small"}
_SMALL = "small"


@dataclass(frozen=True)
class Variant:
    """One variant of a layer, computed on request.

    Attributes:
        name: Name, as in :attr:`replk_probe.kernels.Kernel.variant`.
        branches: Convolutions to add up, each with its batch norm or an identity.
        batch_norm: Paths of those batch norms.
        large: All branches except the small one, for a layer that has both.
        small: The small branch of such a layer.
        notes: Notes for the reader.
        names: Names of all branches of the layer, as in :attr:`replk_probe.kernels.Kernel.branches`.
    """

    name: str
    branches: tuple[Branch, ...]
    batch_norm: tuple[str, ...]
    large: tuple[Branch, ...] = ()
    small: tuple[Branch, ...] = ()
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ("large",)

    def weight(self) -> Tensor:
        """``[O, I / groups, Kh, Kw]`` float64."""
        if len(self.branches) > 1:
            return merged_weight(self.branches)[0]
        ((conv, norm),) = self.branches
        # A single convolution may have any padding and dilation, and may even compute an activation.
        return conv.weight.detach().cpu().double() if isinstance(norm, nn.Identity) else folded_weight(conv, norm)[0]

    def zero_fraction(self) -> float:
        """Share of exact zeros among the weights as they are stored."""
        zeros = sum(int((conv.weight.detach() == 0).sum()) for conv, _ in self.branches)
        return zeros / sum(conv.weight.numel() for conv, _ in self.branches)

    def small_branch_share(self) -> float | None:
        """Sum of the small branch's absolute weights over that of all branches; None if it is not known."""
        small, large = (
            sum(float(folded_weight(*branch)[0].abs().sum()) for branch in branches)
            for branches in (self.small, self.large)
        )
        return small / (small + large) if self.small and small + large else None


def variants_of(
    layer: KernelLayer, variant: str, norms: Mapping[str, nn.Module] | None, merger: str | None = None
) -> list[Variant]:
    """The requested variants of one layer.

    Args:
        layer: Layer from :func:`~replk_probe.kernels.layers.find_layers`.
        variant: ``"merged"``, ``"large"``, ``"small"``, or ``"all"`` for every variant of the layer, including the
            strips of a decomposed kernel; the kernel of a layer without branches is called merged.
        norms: Path and batch norm after a single convolution, empty if there is none; None if it is not known.
        merger: Path of the parent module that merges the convolution with others by its own method, if any.

    Raises:
        InvalidInputError: The layer has no such variant, or its branches are merged.
    """
    if not isinstance(layer.module, LargeKernelConv):
        return [_of_conv(layer, layer.module, variant, norms, merger)]
    if layer.module.is_merged:
        return [_of_merged(layer, layer.module, variant)]
    return _of_branches(layer, layer.module, variant)


def _of_branches(layer: KernelLayer, block: LargeKernelConv, variant: str) -> list[Variant]:
    modules = {_NAMES[name]: (name, branch) for name, branch in block.branches().items()}
    branches = {name: (branch.conv, branch.bn) for name, (_, branch) in modules.items()}
    large = [name for name in branches if name != _SMALL]
    small = [name for name in branches if name == _SMALL]
    chosen = {"large": large, "small": small, "merged": large + small}
    if variant == "all":
        strips = {name: [name] for name in large if name != "large"}
        chosen = strips | (chosen if small else {"merged": large})
    elif chosen[variant]:
        chosen = {variant: chosen[variant]}
    else:
        raise _no_small_branch(layer)
    both = bool(small)
    return [
        Variant(
            name,
            tuple(branches[part] for part in parts),
            tuple(
                f"{layer.path}.{modules[part][0]}.bn"
                for part in parts
                if not isinstance(branches[part][1], nn.Identity)
            ),
            tuple(branches[part] for part in large if both),
            tuple(branches[part] for part in small),
            names=tuple(branches),
        )
        for name, parts in chosen.items()
    ]


def _of_merged(layer: KernelLayer, block: LargeKernelConv, variant: str) -> Variant:
    """The variant of a block whose branches are merged into one convolution."""
    if variant in ("large", "small"):
        raise InvalidInputError(
            f"The {variant} kernel of {layer.name} is unknown. In these weights the branches are merged into one "
            "kernel, which cannot be split. Use variant 'merged', or the checkpoint from before merging."
        )
    conv = block.get_submodule("reparam_conv")
    assert isinstance(conv, nn.Conv2d)  # created by reparameterize()
    note = (
        "In these weights the branches are merged: the small one cannot be separated, and zeros are counted in "
        "the merged kernel" + (", including the corners around the strips." if block.is_decomposed else ".")
    )
    return Variant("merged", ((conv, nn.Identity()),), (), notes=(note,), names=())


def _of_conv(
    layer: KernelLayer, conv: nn.Conv2d, variant: str, norms: Mapping[str, nn.Module] | None, merger: str | None
) -> Variant:
    if layer.branch_of is not None:
        block, name = layer.branch_of[0], _NAMES[layer.branch_of[1]]
        if variant not in ("all", "merged", name):
            raise InvalidInputError(
                f"{layer.path} is the {name} branch of {block} and has no {variant} kernel. A branch is one "
                f"convolution. Use layer {block!r} and variant {variant!r}."
            )
        note = f"{layer.path} is the {name} branch of {block}; the other branches are not included."
        norm = next(iter((norms or {}).values()), nn.Identity())
        return Variant(name, ((conv, norm),), tuple(norms or ()), notes=(note,), names=(name,))
    if variant == "small":
        raise _no_small_branch(layer)
    notes = []
    if type(conv) not in PLAIN_CONVS and not hasattr(conv, "parametrizations"):
        notes.append(f"{type(conv).__name__} may transform its weights in the forward pass: stored weights are shown.")
    if "weight" not in conv._parameters and not hasattr(conv, "parametrizations"):
        notes.append(
            f"The weights of {layer.name} are recomputed by a hook in each forward pass (pruning, weight_norm): those "
            "of the last pass are shown. After loading other weights, run the network once."
        )
    if merger is not None:
        notes.append(
            f"{merger} adds up several branches and merges them by its own method: {layer.name} is only one of them. "
            "Merge the network first, for a timm model by timm.utils.reparameterize_model(model), to measure their sum."
        )
    if max(conv.dilation) > 1:
        notes.append(f"{layer.name} is dilated by {max(conv.dilation)}: its kernel is shown without the gaps.")
    if norms is None:
        notes.append(
            "No batch norm was folded into some kernels: the network cannot be traced, so it is not known which batch "
            "norm follows the convolution."
        )
    elif not norms:
        notes.append("No batch norm was folded into kernels without a batch norm directly after the convolution.")
    norm = next(iter((norms or {}).values()), nn.Identity())
    name = "merged" if variant == "all" else variant
    names = ("large",) if merger is None else (ONE_OF_SEVERAL,)
    return Variant(name, ((conv, norm),), tuple(norms or ()), notes=tuple(notes), names=names)


def _no_small_branch(layer: KernelLayer) -> InvalidInputError:
    return InvalidInputError(
        f"{layer.name} has no small branch. It was built with a single kernel. Use variant 'merged' for it."
    )
