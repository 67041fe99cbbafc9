"""Depthwise convolutions in series, in parallel and on parts of the channels, composed into one kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from .recording import (
    Absent,
    Channels,
    Concatenation,
    Convolution,
    Node,
    Padded,
    Recording,
    Scaling,
    Sum,
    Values,
    record,
)

# What is applied to some channels, with the first of them in the tensor that it is applied to.
_Step: TypeAlias = tuple[Convolution | Scaling | Padded, int]


@dataclass(frozen=True, eq=False)
class ChannelPart:
    """Consecutive channels that are computed from equally many channels of one tensor by the same convolutions.

    Attributes:
        source: The tensor.
        start: The first of its channels.
        channels: Number of channels.
        chains: Convolutions, scales and borders in series; the outputs of all chains are added. An empty chain is the
            identity.
    """

    source: Node
    start: int
    channels: int
    chains: tuple[tuple[_Step, ...], ...]

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """All of its convolutions, in the order of the chains."""
        return tuple(step for chain in self.chains for step, _ in chain if isinstance(step, Convolution))

    @property
    def is_identity(self) -> bool:
        """Whether there is no convolution."""
        return not self.convolutions

    @property
    def is_residual(self) -> bool:
        """Whether its input is only added to a single chain."""
        return () in self.chains and len(self.chains) == 2

    @property
    def stride(self) -> tuple[int, int]:
        """Product of the strides of its convolutions."""
        return _stride(self.chains[0])

    def sliced(self, start: int, channels: int) -> ChannelPart:
        """Some of its channels."""
        chains = tuple(tuple((step, first + start) for step, first in chain) for chain in self.chains)
        return ChannelPart(self.source, self.start + start, channels, chains)

    def then(self, step: Convolution | Scaling | Padded, first: int) -> ChannelPart:
        """The part after another step, which is applied to each of the summands."""
        return replace(self, chains=tuple((*chain, (step, first)) for chain in self.chains))

    def kernel(self, values: Values) -> tuple[Tensor, tuple[int, int]]:
        """Kernel ``[C, H, W]`` in float64, and the row and column of the input that its first entry is applied to.

        The latter are relative to the row and column of the output times the stride.
        """
        placed = [_kernel(chain, self.channels, values) for chain in self.chains]
        return _aligned([(weight[None], place) for weight, place in placed])


@dataclass(frozen=True, eq=False)
class Composition:
    """Depthwise convolutions that together are one depthwise convolution, away from the borders.

    At the borders they differ from it, since each of them sees the padding and the bias of the one before.

    Attributes:
        path: Path of the innermost module that computes all of them, of the last convolution if another composition
            has that module, or of the only convolution.
        names: Names of the convolutions, in the order in which they are computed.
        parts: Parts of the channels in their order, which have one source.
    """

    path: str
    names: tuple[str, ...]
    parts: tuple[ChannelPart, ...] = field(repr=False)

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """All convolutions, each once."""
        return tuple(dict.fromkeys(conv for part in self.parts for conv in part.convolutions))

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules that compute the convolutions."""
        return tuple(conv.module for conv in self.convolutions)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the output that are convolved; the others are those of the input, possibly scaled."""
        first = 0
        found: list[int] = []
        for part in self.parts:
            found += [] if part.is_identity else range(first, first + part.channels)
            first += part.channels
        return tuple(found)

    @property
    def stride(self) -> tuple[int, int]:
        """Stride of the whole."""
        return self.parts[0].stride

    @property
    def _steps(self) -> tuple[Convolution | Scaling | Padded, ...]:
        return tuple(dict.fromkeys(step for part in self.parts for chain in part.chains for step, _ in chain))

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers that the kernel is computed from."""
        names = [step.weight.names for step in self._steps if isinstance(step, Convolution)]
        return frozenset().union(*names, *(step.names for step in self._steps if isinstance(step, Scaling)))

    @property
    def is_series(self) -> bool:
        """Whether some of the convolutions read the output of others, with which they differ at the borders."""
        return any(_length(chain) > 1 for part in self.parts for chain in part.chains)

    def norms(self) -> tuple[str, ...]:
        """Paths of the modules that scale or shift, such as batch norms."""
        return tuple(dict.fromkeys(step.module for step in self._steps if isinstance(step, Scaling) and step.names))

    def stored(self, values: Values) -> Tensor:
        """All weights as they are stored, as one row."""
        return torch.cat([conv.weight.evaluate(values).flatten() for conv in self.convolutions])

    def kernel(self, values: Values) -> tuple[Tensor, tuple[int, int]]:
        """The composed kernel of all channels, with batch norms and scales folded in.

        Args:
            values: Parameters and buffers of the network, from :func:`~.recording.stored_tensors`.

        Returns:
            Weight ``[C, 1, H, W]`` in float64 on the CPU, with the gaps of dilations filled by zeros, where an identity
            is one entry; and the row and column of its first entry relative to the output, times the stride.
        """
        kernels = [part.kernel(values) for part in self.parts]
        top, left, bottom, right = _box(kernels)
        weight = torch.cat([_placed(kernel, place, (top, left, bottom, right)) for kernel, place in kernels])
        return weight[:, None], (top, left)


@dataclass(frozen=True)
class Composed:
    """The compositions of a network.

    Attributes:
        found: All compositions, in the order of the forward pass.
        separated: Why a convolution was not composed with the one before it, by its path.
        is_traced: Whether a forward pass of the network, or of modules in it, could be recorded.
    """

    found: tuple[Composition, ...]
    separated: Mapping[str, str]
    is_traced: bool


def find_compositions(model: nn.Module) -> Composed:
    """Find depthwise convolutions that are linear in one tensor, by following a forward pass.

    Convolutions are composed if nothing but batch norms in eval mode, scales and shifts for each channel, borders of
    any kind, sums, and parts of the channels and their concatenation lies between them. The strides may be larger
    than 1. Each output channel depends on one input channel: dense and grouped convolutions, and depthwise ones with
    several outputs for each input, are not composed, since the result would be a dense kernel with a sum over the
    channels in between, many times larger than what is stored. A residual connection around a chain, which adds its
    input, is not included, and nothing is composed across it. Parallel convolutions alone are left to
    :func:`~.find.find_parallel_branches`.

    Args:
        model: Any network, which is not changed and may be on the meta device.

    Returns:
        The compositions, and why others were not composed.
    """
    recordings = record(model)
    found: list[Composition] = []
    separated: dict[str, str] = {}
    for recording in recordings:
        composer = _Composer(recording)
        found += composer.found
        separated |= composer.separated
    return Composed(tuple(_with_distinct_paths(found)), separated, bool(recordings))


class _Composer:
    """The compositions in one forward pass."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._parts: dict[Node, tuple[ChannelPart, ...]] = {}
        self._inner: set[Node] = set()  # tensors that another composition continues
        self.separated: dict[str, str] = {}
        for node in recording.nodes:
            for source in node.inputs:
                self._parts.setdefault(source, _opaque(source))
            self._parts[node] = self._composed(node) or _opaque(node)
        found = (self._result(node) for node in recording.nodes if node not in self._inner)
        # A module that is called again computes the same.
        self.found = list({one.modules + one.norms(): one for one in found if one is not None}.values())

    def _composed(self, node: Node) -> tuple[ChannelPart, ...] | None:
        """The parts of a tensor; None if it is not linear in single channels of another one."""
        if isinstance(node, Channels):
            return _slice(self._continued(node.inputs[0]), node.start, node.shape[1])
        if isinstance(node, Concatenation):
            inputs = [self._continued(source) for source in node.inputs]
            parts = tuple(part for source in inputs for part in source)
            if len({part.source for part in parts}) > 1 or len({part.stride for part in parts}) > 1:
                return None
            self._use(*node.inputs)
            return parts
        if isinstance(node, Sum):
            sources = [source for source in node.inputs if not isinstance(source, Absent)]
            added = _sum([self._parts[source] for source in sources]) if sources else None
            if added is not None:
                self._use(*sources, across=True)
            return added
        if isinstance(node, Scaling):
            parts = self._parts[node.inputs[0]]
            # A norm before all convolutions is not part of them, unless it is all that happens to a summand.
            is_summand = len(node.users) == 1 and isinstance(node.users[0], (Sum, Scaling))
            if all(part.is_identity for part in parts) and not is_summand:
                return None
            self._use(node.inputs[0], across=True)
            return _then(parts, node)
        if isinstance(node, Padded) or (isinstance(node, Convolution) and _is_depthwise(node)):
            if isinstance(node, Convolution):
                self._explain(node)
            self._use(node.inputs[0])
            return _then(self._continued(node.inputs[0]), node)
        return None

    def _continued(self, node: Node) -> tuple[ChannelPart, ...]:
        """The parts of a tensor for a further step, which does not continue a residual connection."""
        parts = self._parts[node]
        return _opaque(node) if any(part.is_residual for part in parts) else parts

    def _use(self, *nodes: Node, across: bool = False) -> None:
        """Mark tensors that are continued, also if they are residual connections, and what they are channels of."""
        for node in nodes:
            if across or not any(part.is_residual for part in self._parts[node]):
                self._inner.add(node)
            if isinstance(node, Channels):
                self._use(*node.inputs)

    def _explain(self, conv: Convolution) -> None:
        """Remember what separates a convolution from one before it."""
        source = conv.inputs[0]
        while isinstance(source, (Scaling, Padded, Channels)):
            source = source.inputs[0]
        if type(source) is Node and len(source.inputs) == 1 and source.operation:
            before = [one for part in self._parts[source.inputs[0]] for one in part.convolutions]
            if before:
                self.separated[conv.module] = f"{source.operation} lies between it and {before[-1].module}"

    def _result(self, node: Node) -> Composition | None:
        if isinstance(node, Channels):
            return None
        parts = tuple(
            replace(part, chains=tuple(chain for chain in part.chains if chain)) if part.is_residual else part
            for part in self._parts[node]
        )
        convs = tuple(dict.fromkeys(conv for part in parts for conv in part.convolutions))
        if not any(max(conv.weight.shape[2:]) > 1 for conv in convs):
            return None
        composition = Composition(*_names([conv.module for conv in convs], self.recording), _joined(parts))
        is_spread = len(convs) == 1 and max(convs[0].dilation) > 1
        has_parts = len(convs) > 1 and len(composition.parts) > 1
        return composition if composition.is_series or is_spread or has_parts else None


def _opaque(node: Node) -> tuple[ChannelPart, ...]:
    """A tensor by itself."""
    channels = node.shape[1] if len(node.shape) > 1 else 1
    return (ChannelPart(node, 0, channels, ((),)),)


def _slice(parts: Sequence[ChannelPart], start: int, channels: int) -> tuple[ChannelPart, ...]:
    """Consecutive channels of some parts."""
    found, first = [], 0
    for part in parts:
        low, high = max(start, first), min(start + channels, first + part.channels)
        if low < high:
            found.append(part.sliced(low - first, high - low))
        first += part.channels
    return tuple(found)


def _then(parts: Sequence[ChannelPart], step: Convolution | Scaling | Padded) -> tuple[ChannelPart, ...]:
    found, first = [], 0
    for part in parts:
        found.append(part.then(step, first))
        first += part.channels
    return tuple(found)


def _sum(summands: Sequence[tuple[ChannelPart, ...]]) -> tuple[ChannelPart, ...] | None:
    """The sum of tensors that are computed from the same channels; None if they are not."""
    limits = sorted({end for parts in summands for end in _ends(parts)})
    found = []
    for start, end in zip([0, *limits], limits, strict=False):
        same = [_slice(parts, start, end - start)[0] for parts in summands]
        if len({(one.source, one.start, one.stride) for one in same}) > 1:
            return None
        found.append(replace(same[0], chains=tuple(chain for one in same for chain in one.chains)))
    return tuple(found)


def _ends(parts: Sequence[ChannelPart]) -> Iterator[int]:
    end = 0
    for part in parts:
        end += part.channels
        yield end


def _joined(parts: Sequence[ChannelPart]) -> tuple[ChannelPart, ...]:
    """The parts, of which neighbors with the same convolutions of neighboring channels are joined."""
    found: list[ChannelPart] = []
    for part in parts:
        last = found[-1] if found else None
        if last is not None and last.sliced(last.channels, part.channels).chains == part.chains:
            if (last.source, last.start + last.channels) == (part.source, part.start):
                found[-1] = replace(last, channels=last.channels + part.channels)
                continue
        found.append(part)
    return tuple(found)


def _is_depthwise(conv: Convolution) -> bool:
    outputs, inputs = conv.weight.shape[:2]
    return inputs == 1 and outputs == conv.groups == conv.inputs[0].shape[1]


def _length(chain: Sequence[_Step]) -> int:
    """Number of convolutions larger than 1 x 1 in series."""
    return sum(isinstance(step, Convolution) and max(step.weight.shape[2:]) > 1 for step, _ in chain)


def _stride(chain: Sequence[_Step]) -> tuple[int, int]:
    down, across = 1, 1
    for step, _ in chain:
        if isinstance(step, Convolution):
            down, across = down * step.stride[0], across * step.stride[1]
    return down, across


def _kernel(chain: Sequence[_Step], channels: int, values: Values) -> tuple[Tensor, tuple[int, int]]:
    """Kernel ``[C, H, W]`` of some steps in series, and the place of its first entry."""
    weight = torch.ones(channels, 1, 1, dtype=torch.float64)
    place, stride = (0, 0), (1, 1)
    with torch.no_grad():
        for step, first in chain:
            if isinstance(step, Scaling):
                scale = step.coefficients(values)[0].to(weight.device).reshape(-1)
                weight = weight * (scale if len(scale) == 1 else scale[first : first + channels]).reshape(-1, 1, 1)
                continue
            before = step.before if isinstance(step, Padded) else step.padding
            place = place[0] - stride[0] * before[0], place[1] - stride[1] * before[1]
            if isinstance(step, Convolution):
                own = step.weight.evaluate(values)[first : first + channels]
                # An entry of the kernel before and one of this kernel add up their places: no mirroring.
                weight = functional.conv_transpose2d(
                    weight.to(own.device)[None],
                    own,
                    groups=channels,
                    dilation=(stride[0] * step.dilation[0], stride[1] * step.dilation[1]),
                )[0]
                stride = stride[0] * step.stride[0], stride[1] * step.stride[1]
    return weight, place


def _box(kernels: Sequence[tuple[Tensor, tuple[int, int]]]) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the smallest rectangle that contains all kernels."""
    ends = [(top + kernel.shape[-2], left + kernel.shape[-1]) for kernel, (top, left) in kernels]
    places = [place for _, place in kernels]
    return (
        *(min(place[axis] for place in places) for axis in (0, 1)),
        *(max(end[axis] for end in ends) for axis in (0, 1)),
    )  # type: ignore[return-value]


def _placed(kernel: Tensor, place: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """A kernel with zeros around it up to a rectangle."""
    top, left, bottom, right = box
    height, width = kernel.shape[-2:]
    pad = (place[1] - left, right - place[1] - width, place[0] - top, bottom - place[0] - height)
    return functional.pad(kernel, pad)


def _aligned(kernels: Sequence[tuple[Tensor, tuple[int, int]]]) -> tuple[Tensor, tuple[int, int]]:
    """Sum of kernels ``[1, C, H, W]`` as ``[C, H, W]``, and the place of its first entry."""
    box = _box(kernels)
    total = torch.cat([_placed(kernel, place, box) for kernel, place in kernels]).sum(0)
    return total, (box[0], box[1])


def _names(paths: Sequence[str], recording: Recording) -> tuple[str, tuple[str, ...]]:
    """Path of the innermost module that contains all of these and is called, and their paths in it."""
    parts = [path.split(".") for path in paths]
    common = [column[0] for column in takewhile(lambda names: len({*names}) == 1, zip(*parts, strict=False))]
    if len({*paths}) == 1:
        return paths[0], tuple(part[-1] for part in parts)
    while common and (common in parts or not recording.calls[".".join(common)]):  # as is a list of modules
        common = common[:-1]
    return ".".join(common), tuple(".".join(part[len(common) :]) for part in parts)


def _with_distinct_paths(found: Sequence[Composition]) -> Iterator[Composition]:
    """The compositions, each with a path of its own."""
    counts = Counter(one.path for one in found)
    taken: Counter[str] = Counter()
    for one in found:
        path = one.path if counts[one.path] == 1 else one.modules[-1]
        taken[path] += 1
        yield replace(one, path=path if taken[path] == 1 else f"{path} #{taken[path]}")
