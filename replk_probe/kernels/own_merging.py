"""Kernels that networks merge by methods of their own, where following the forward pass is not enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from replk_probe.models.branches.own_methods import merge_method
from replk_probe.models.inference.norms import norms_behind
from replk_probe.models.layers.reparam import folded_weight

# Largest relative difference between kernels that count as equal: some methods merge in float32.
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class OwnBranch:
    """One of the convolutions that are merged.

    Attributes:
        conv: The convolution.
        norm: Path and batch norm that is its only consumer; None if there is none or it is not known.
    """

    conv: nn.Conv2d
    norm: tuple[str, nn.Module] | None

    def folded(self) -> Tensor:
        """The kernel ``[O, I / groups, Kh, Kw]`` in float64, its batch norm folded in."""
        return folded_weight(self.conv, self.norm[1] if self.norm else nn.Identity())[0].cpu()


@dataclass(frozen=True, eq=False)
class OwnKernel:
    """Convolutions that the network's own methods merge into one, possibly with identities and scales.

    Attributes:
        merged: The merged convolution, in float64.
        branches: The convolutions that have its channels, by their paths in the block.
    """

    merged: nn.Conv2d
    branches: Mapping[str, OwnBranch]


def own_kernel(model: nn.Module, merged: nn.Conv2d, block: str) -> OwnKernel:
    """The kernel of the module ``block`` of a network, which becomes the convolution ``merged``."""
    convs = {
        path: conv
        for path, conv in model.get_submodule(block).named_modules()
        if isinstance(conv, nn.Conv2d) and conv.weight.shape[:2] == merged.weight.shape[:2]
    }
    paths = {name: f"{block}.{name}".strip(".") for name in convs}
    norms = norms_behind(model, [*paths.values()])
    branches = {}
    for name, conv in convs.items():
        norm = norms.get(paths[name])
        # The name of a block that is itself the convolution is empty.
        branches[name or block.rpartition(".")[2]] = OwnBranch(
            conv, (norm, model.get_submodule(norm)) if norm else None
        )
    return OwnKernel(merged, branches)


def is_equal(weight: Tensor, other: Tensor) -> bool:
    """Whether two kernels are equal except for rounding."""
    weight, other = weight.detach().cpu().double(), other.detach().cpu().double()
    if weight.shape != other.shape:
        return False
    return bool((weight - other).abs().max() <= _ROUNDING * other.abs().max()) if other.numel() else True


def is_merged_elsewhere(model: nn.Module, path: str) -> bool:
    """Whether a module, one that contains it, or the network itself merges its branches by a method of its own."""
    parts = path.split(".") if path else []
    return any(merge_method(model.get_submodule(".".join(parts[:end]))) for end in range(len(parts) + 1))


def common_path(paths: Collection[str]) -> str:
    """Path of the innermost module that is, or contains, all of the modules at these paths."""
    common = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len({*names}) > 1:
            break
        common.append(names[0])
    return ".".join(common)


def stored_weights(block: OwnKernel) -> Tensor:
    """All weights of the branches as they are stored, in one dimension."""
    return torch.cat([branch.conv.weight.detach().flatten() for branch in block.branches.values()])
