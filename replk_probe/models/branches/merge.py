"""Replacing the parallel branches of any network by one convolution, without changing or calling its own code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from replk_probe.errors import InvalidInputError

from ..layers.reparam import conv_like
from .find import Branch, ParallelBranches, find_parallel_branches
from .recording import Node, Values, Zero, stored_tensors


@dataclass(frozen=True)
class BranchMerging:
    """The blocks of parallel branches that were merged, and those that could not be.

    Attributes:
        blocks: Paths of the blocks that were merged.
        layers: Those of them that return one tensor, so that their outputs can be compared.
        convolutions: Number of convolutions in all of them before merging.
        left: Reason why a block was left as it is, by its path.
    """

    blocks: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    convolutions: int = 0
    left: tuple[tuple[str, str], ...] = ()

    @property
    def reasons(self) -> str:
        """One sentence for each block that was left as it is, at most three."""
        shown = [f"{path or 'The network'} cannot be merged: {reason}." for path, reason in self.left[:3]]
        more = len(self.left) - len(shown)
        return " ".join([*shown, f"The same holds for {more} more blocks."] if more else shown)


def merge_parallel_branches(model: nn.Module, keep: str = "") -> BranchMerging:
    """Merge parallel convolutions of one input whose outputs are added, in place, whatever the modules are called.

    The branches are found by :func:`~.find.find_parallel_branches`. The merged convolution takes the place of one of
    them, so that the network's own ``forward`` remains valid: the batch norms of the branches become identities, and
    the other branches :class:`~.recording.Zero`. Methods of the network that merge branches are not called. In eval
    mode the outputs remain the same except for rounding; in train mode merging changes them. The arithmetic is done in
    float64.

    Args:
        model: Any network, which is changed.
        keep: Path of a module whose input and output must not change; branches are not merged across it.

    Returns:
        What was merged and what was not, with the reasons.

    Examples:
        >>> from replk_probe.models import RepLKNet, merge_parallel_branches
        >>> network = RepLKNet(kernel_sizes=(13,), layers=(1,), channels=(8,), small_kernel=5).eval()
        >>> merging = merge_parallel_branches(network)
        >>> merging.blocks, merging.convolutions
        (('stages.0.blocks.0.large_kernel',), 2)
    """
    merged: list[ParallelBranches] = []
    left: list[tuple[str, str]] = []
    values = stored_tensors(model)
    for found in find_parallel_branches(model):
        for shared in dict.fromkeys(branch.shared for branch in found.branches):
            branches = [one for one in found.branches if one.shared == shared and not _stays(one, found)]
            if sum(one.conv is not None for one in branches) and len(branches) > 1 and not _crosses(branches, keep):
                part = replace(found, branches=tuple(branches))
                reason = _merge(model, part, values)
                if reason is None:
                    merged.append(part)
                else:
                    left.append((found.path, reason))
    paths = tuple(dict.fromkeys(part.path for part in merged))
    return BranchMerging(
        blocks=paths,
        layers=tuple(dict.fromkeys(part.path for part in merged if part.path and part.path in part.recording.tensors)),
        convolutions=sum(branch.conv is not None for part in merged for branch in part.branches),
        left=tuple(left),
    )


def _merge(model: nn.Module, part: ParallelBranches, values: Values) -> str | None:
    """Merge branches that are added before anything else happens to their sum; the reason if that is not possible."""
    if part.problem is not None:
        return part.problem
    for branch in part.branches:
        if branch.conv is not None and not _is_own(branch.conv, branch, part):
            return (
                f"the convolution {branch.name} is not computed by a module that computes nothing else and is called "
                "once"
            )
        if any(step.shifts and not _is_own(step, branch, part) for step in branch.own):
            return f"{branch.name} is shifted by code that belongs to no module of its own"
    places = [one for one in part.branches if all(_is_own(step, one, part) for step in one.own)]
    if not places or (part.is_in_place and places[0] is not part.branches[0]):
        return "its branches are scaled by code that belongs to no module of their own"
    # A sum in place needs a summand of full size to begin with.
    place = places[0] if part.is_in_place else max(places, key=lambda one: one.extent[0] * one.extent[1])
    try:
        weight, bias = part.total(part.branches, values, shared=False)
    except (RuntimeError, InvalidInputError) as error:
        return f"its kernels cannot be added ({error})"
    padding = [
        p + (side - own) // 2 for p, side, own in zip(place.padding, weight.shape[2:], place.extent, strict=True)
    ]
    conv = conv_like(
        model.get_submodule(part.first.module), weight, bias,
        stride=part.stride, padding=tuple(padding), dilation=1, groups=part.groups, padding_mode="zeros",
    )  # fmt: skip
    for branch in part.branches:
        modules = [step.module for step in branch.own if _is_own(step, branch, part)]
        if branch.conv is not None:
            modules.insert(0, branch.conv.module)
        first, *others = dict.fromkeys(modules)
        _put(model, first, conv if branch is place else Zero())
        for path in others:
            _put(model, path, nn.Identity())
    return None


def _crosses(branches: Sequence[Branch], keep: str) -> bool:
    """Whether the module ``keep`` is, or is inside of, a module of the branches, or contains only some of these."""
    modules = {path for one in branches for path in (one.module, *(step.module for step in one.own)) if path}
    inside = [f"{path}.".startswith(f"{keep}.") for path in modules]
    within = any(f"{keep}.".startswith(f"{path}.") for path in modules)
    return bool(keep) and (within or (any(inside) and not all(inside)))


def _stays(branch: Branch, found: ParallelBranches) -> bool:
    """Whether a branch is an identity that only the network's own code can leave out."""
    return branch.conv is None and not any(_is_own(step, branch, found) for step in branch.own)


def _is_own(node: Node, branch: Branch, found: ParallelBranches) -> bool:
    """Whether the module that computes a node computes nothing but this branch, and is called once."""
    path, recording = node.module, found.recording
    chain: Sequence[Node] = branch.own if branch.conv is None else (branch.conv, *branch.own)
    computed = [other for other in recording.nodes if f"{other.module}.".startswith(f"{path}.")]
    return bool(path) and recording.calls[path] == 1 and all(other in chain for other in computed)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module.train(model.get_submodule(path).training))
