"""Parallel branches: convolutions of one input, and identities of it, whose outputs are added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeGuard

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from ..layers.reparam import dilated, summed_kernels
from .recording import Absent, Convolution, Node, Recording, Scaling, Sum, Values, record


@dataclass(frozen=True, eq=False)
class Branch:
    """One summand: a convolution of the common input, or the input itself, scaled and shifted for each channel.

    Attributes:
        name: Path of its module in the block, shortened; ``"input"`` for the input itself.
        conv: The convolution; None for an identity.
        own: Batch norms and scales between the convolution and the first sum.
        shared: Batch norms and scales after that sum.
    """

    name: str
    conv: Convolution | None
    own: tuple[Scaling, ...]
    shared: tuple[Scaling, ...]

    @property
    def is_bare(self) -> bool:
        """Whether it is the input itself, without a batch norm or a scale of its own."""
        return self.conv is None and not self.own

    @property
    def module(self) -> str | None:
        """Path of the module that computes the convolution; None for an identity."""
        return None if self.conv is None else self.conv.module

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the kernel, with the gaps of its dilation."""
        if self.conv is None:
            return 1, 1
        (height, width), (dy, dx) = self.conv.weight.shape[2:], self.conv.dilation
        return dy * (height - 1) + 1, dx * (width - 1) + 1

    @property
    def padding(self) -> tuple[int, int]:
        """Zero padding of the convolution."""
        return (0, 0) if self.conv is None else self.conv.padding

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers of the branch."""
        conv = () if self.conv is None else (self.conv.weight, self.conv.bias)
        names = [constant.names for constant in conv if constant is not None]
        return frozenset().union(*names, *(step.names for step in (*self.own, *self.shared)))

    def norms(self) -> tuple[str, ...]:
        """Paths of the modules that scale or shift the branch, such as batch norms."""
        return tuple(dict.fromkeys(step.module for step in (*self.own, *self.shared) if step.names))


@dataclass(frozen=True, eq=False)
class ParallelBranches:
    """Convolutions of one input whose outputs are added, which is one convolution with the sum of the kernels.

    Only one of them is left after :func:`~.merge.merge_parallel_branches`.

    Attributes:
        path: Path of the innermost module that contains all of them; ``""`` for the network itself.
        branches: The summands in the order of the sum.
        others: Number of further summands, which are not linear in the same input.
        is_in_place: Whether some of the sums overwrite their first summand.
        recording: The forward pass in which they were found.
    """

    path: str
    branches: tuple[Branch, ...]
    others: int
    is_in_place: bool
    recording: Recording

    @property
    def first(self) -> Convolution:
        """The first convolution."""
        return next(branch.conv for branch in self.branches if branch.conv is not None)

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.first.weight.shape[1] * self.groups

    @property
    def groups(self) -> int:
        """Groups of the convolutions."""
        return self.first.groups

    @property
    def stride(self) -> tuple[int, int]:
        """Stride of the convolutions."""
        return self.first.stride

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the sum of the kernels."""
        extents = [branch.extent for branch in self.branches]
        return max(height for height, _ in extents), max(width for _, width in extents)

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules that compute the convolutions."""
        return tuple(branch.module for branch in self.branches if branch.module is not None)

    @property
    def problem(self) -> str | None:
        """The reason why the branches are not one convolution, as a clause; None if they are."""
        return _problem(self.branches)

    def kernel(self, branch: Branch, values: Values, *, shared: bool = True) -> tuple[Tensor, Tensor]:
        """Kernel and bias of one branch, with its batch norms and scales folded in.

        Args:
            branch: One of the branches.
            values: Parameters and buffers of the network, from :func:`~.recording.stored_tensors`.
            shared: Whether to fold what follows the first sum as well, except for its shifts.

        Returns:
            Weight ``[O, I/groups, Kh, Kw]``, with the gaps of its dilation filled by zeros, and bias ``[O]``, in
            float64 on the CPU.
        """
        conv = branch.conv
        with torch.no_grad():
            if conv is None:
                weight = _identity(self.in_channels, self.groups)
                weight = weight.to(self.first.weight.evaluate(values).device)
            else:
                weight = dilated(conv.weight.evaluate(values), conv.dilation)
            bias = weight.new_zeros(len(weight))
            if conv is not None and conv.bias is not None:
                bias = conv.bias.evaluate(values)
            for step in branch.own:
                scale, shift = (number.to(weight.device) for number in step.coefficients(values))
                weight, bias = weight * scale.reshape(-1, 1, 1, 1), bias * scale + shift
            for step in branch.shared if shared else ():
                scale = step.coefficients(values)[0].to(weight.device)
                weight, bias = weight * scale.reshape(-1, 1, 1, 1), bias * scale
            return weight, bias

    def total(self, branches: Sequence[Branch], values: Values, *, shared: bool = True) -> tuple[Tensor, Tensor]:
        """Sum of the kernels, aligned on one center, and of the biases of some branches; see :meth:`kernel`."""
        folded = [self.kernel(branch, values, shared=shared) for branch in branches]
        weight, _ = summed_kernels(
            [(weight, branch.padding) for branch, (weight, _) in zip(branches, folded, strict=True)]
        )
        bias = torch.stack([bias for _, bias in folded]).sum(0)
        added: set[Scaling] = set()  # what follows a sum shifts it once, however many branches it has
        with torch.no_grad():
            for branch in branches if shared else ():
                for index, step in enumerate(branch.shared):
                    if step not in added:
                        added.add(step)
                        shift = step.coefficients(values)[1]
                        for later in branch.shared[index + 1 :]:
                            shift = shift * later.coefficients(values)[0]
                        bias = bias + shift.to(bias.device)
        return weight, bias


def find_parallel_branches(model: nn.Module) -> tuple[ParallelBranches, ...]:
    """Find the parallel branches of a network by following one forward pass, whatever its modules are called.

    Each branch may have its own batch norm, scale by a parameter, identity and dropout; what follows the sum is folded
    as well if nothing else reads the sum. Differences count as sums. Batch norms are those of eval mode. Branches with
    an activation, and an input that is only added to one convolution (a residual connection), do not count.

    Args:
        model: Any network, which is not changed and may be on the meta device.

    Returns:
        Each set of branches, in the order of the forward pass; none if no forward pass can be recorded.
    """
    return tuple(found for recording in record(model) for found in _find(recording))


def _find(recording: Recording) -> Iterator[ParallelBranches]:
    for node in recording.nodes:
        if not isinstance(node, (Sum, Scaling)) or _is_inner(node):
            continue
        sums: list[Sum] = []
        leaves = list(_leaves(node, (), (), sums, outermost=True))
        in_place = any(one.in_place for one in sums)
        for source in dict.fromkeys(leaf.inputs[0] for leaf, _, _ in leaves if _is_branch(leaf)):
            branches = [
                Branch("", leaf if isinstance(leaf, Convolution) and leaf is not source else None, own, shared)
                for leaf, own, shared in leaves
                if leaf is source or (_is_branch(leaf) and leaf.inputs[0] is source)
            ]
            absent = sum(isinstance(leaf, Absent) and leaf.inputs[0] is source for leaf, _, _ in leaves)
            if sum(not one.is_bare for one in branches) + absent > 1:
                yield _named(branches, len(leaves) - len(branches) - absent, in_place, recording)


def _is_branch(node: Node) -> TypeGuard[Convolution]:
    """Whether it is a convolution that nothing else reads."""
    return isinstance(node, Convolution) and len(node.users) == 1


def _leaves(
    node: Node, own: tuple[Scaling, ...], shared: tuple[Scaling, ...], sums: list[Sum], *, outermost: bool = False
) -> Iterator[tuple[Node, tuple[Scaling, ...], tuple[Scaling, ...]]]:
    """The summands of a node, each with the scales before and after the first sum; appends the sums to ``sums``."""
    if isinstance(node, Scaling) and (outermost or len(node.users) == 1):
        yield from _leaves(node.inputs[0], (node, *own), shared, sums, outermost=outermost)
    elif isinstance(node, Sum) and (outermost or len(node.users) == 1):
        sums.append(node)
        for summand in node.inputs:
            yield from _leaves(summand, (), (*own, *shared), sums)
    else:
        yield node, own, shared


def _is_inner(node: Node) -> bool:
    """Whether a sum or scale is only part of another one."""
    return len(node.users) == 1 and isinstance(node.users[0], (Sum, Scaling))


def _named(branches: Sequence[Branch], others: int, in_place: bool, recording: Recording) -> ParallelBranches:
    """The branches with their names, which are as short as possible."""
    paths = [_path(branch).split(".") for branch in branches if not branch.is_bare]
    common = [parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))]
    while common and (common in paths or not recording.calls[".".join(common)]):  # as is a list of modules
        common = common[:-1]
    inside = [path[len(common) :] for path in paths]
    depth = next((n for n in range(1, 1 + max(map(len, inside))) if _differ([path[:n] for path in inside])), None)
    names = [".".join(path[:depth]) for path in inside]
    if depth is None:
        names = [f"branch {number}" for number in range(1, len(names) + 1)]
    given = iter(names)
    named = tuple(
        Branch("input" if branch.is_bare else next(given), branch.conv, branch.own, branch.shared)
        for branch in branches
    )
    return ParallelBranches(".".join(common), named, others, in_place, recording)


def _path(branch: Branch) -> str:
    """Path of the module of a branch; if the block itself computes it, the name of its weight."""
    if branch.conv is None:
        return branch.own[0].module
    names = sorted(branch.conv.weight.names)
    module = branch.conv.module
    owned = [name for name in names if name.startswith(f"{module}.") and name != f"{module}.weight"]
    return owned[0] if len(names) == 1 and owned and "parametrizations" not in owned[0] else module


def _differ(names: list[list[str]]) -> bool:
    return all(names) and len({*map(tuple, names)}) == len(names)


def _problem(branches: Sequence[Branch]) -> str | None:
    convs = [branch.conv for branch in branches if branch.conv is not None]
    first = convs[0]
    for name, values in (
        ("groups", [conv.groups for conv in convs]),
        ("strides", [conv.stride for conv in convs]),
    ):
        if len({*values}) > 1:
            return f"their {name} differ ({', '.join(map(str, dict.fromkeys(values)))})"
    if len(convs) < len(branches):
        if max(first.stride) > 1:
            return f"an identity is added to convolutions of stride {max(first.stride)}"
        if first.weight.shape[0] != first.weight.shape[1] * first.groups:
            return "an identity is added to convolutions with another number of output channels"
    try:
        empty = [(torch.empty(1, 1, *branch.extent, device="meta"), branch.padding) for branch in branches]
        summed_kernels(empty)
    except InvalidInputError:
        sides = [f"{h}x{w} with padding {py}, {px}" for (h, w), (py, px) in ((b.extent, b.padding) for b in branches)]
        return f"their kernels and paddings do not share one center ({'; '.join(sides)})"
    return None


def _identity(channels: int, groups: int) -> Tensor:
    """The 1 x 1 kernel ``[C, C/groups, 1, 1]`` that returns its input."""
    inputs = channels // groups
    weight = torch.zeros(channels, inputs, 1, 1, dtype=torch.float64)
    weight[torch.arange(channels), torch.arange(channels) % inputs] = 1
    return weight
