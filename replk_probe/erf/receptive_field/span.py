"""Receptive fields of tensors: which axes are rows and columns of the image, and the input pixels of each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Span:
    """Along one axis, position ``i`` of a map depends on input pixels ``jump * i + low`` to ``jump * i + high``."""

    jump: int = 1
    low: int = 0
    high: int = 0

    @property
    def extent(self) -> int:
        """Number of input pixels."""
        return self.high - self.low + 1

    def center(self, index: float) -> float:
        """Center of the receptive field of position ``index``, in input pixels (whole numbers are pixel centers)."""
        return self.jump * index + (self.low + self.high) / 2

    def window(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Span:
        """Receptive field of a sliding window over this map."""
        first = self.low - padding * self.jump
        last = self.high + ((kernel - 1) * dilation - padding) * self.jump
        return Span(self.jump * stride, first, last)

    def union(self, other: Span) -> Span:
        """Receptive field of a sum of both maps, which have the same jump."""
        return Span(self.jump, min(self.low, other.low), max(self.high, other.high))


# Names of the axes of the input, the last ones if there are fewer than three.
AXES = "zyx"

# One axis of a tensor is a product of atoms: rows ("y"), columns ("x"), the first of three axes of the input ("z"), or
# anything else ("o"), with their sizes. The only axis of a sequence is "x".
Atom: TypeAlias = tuple[str, int]
Axis: TypeAlias = tuple[Atom, ...]


@dataclass(frozen=True)
class Field:
    """Receptive field of one tensor."""

    # Atoms of each tensor axis, slowest first. A tensor without rows and columns summarizes the whole map (a pooled
    # vector, a gate).
    axes: tuple[Axis, ...]
    y: Span = Span()  # rows that one position depends on
    x: Span = Span()  # columns that one position depends on
    # Whether every position also depends on the whole map, through a gate or a global normalization.
    everywhere: bool = False
    z: Span = Span()  # along the first axis of an input with three, such as the frames of a video

    @property
    def spans(self) -> dict[str, Span]:
        """The input positions that one position depends on, by the name of the axis."""
        return {"z": self.z, "y": self.y, "x": self.x}

    @property
    def spatial(self) -> bool:
        """Whether the tensor has rows or columns."""
        return any(has_place(axis) for axis in self.axes)

    def center(self, place: Sequence[float]) -> tuple[float, ...]:
        """Center of the receptive field of a position (row, column) of the map, in input pixels."""
        names = AXES[-len(place) :]
        return tuple(self.spans[name].center(index) for name, index in zip(names, place, strict=True))

    @property
    def extent(self) -> int | None:
        """Side of the theoretical receptive field in pixels, the longer one; None if it is the whole image."""
        return None if self.everywhere else max(span.extent for span in self.spans.values())


@dataclass(frozen=True)
class Lost:
    """A tensor whose receptive field could not be followed, and the operation that is the reason."""

    reason: str


class CannotFollowError(Exception):
    """Raised by a rule that does not cover a case; the outputs become :class:`Lost`."""


def has_place(axis: Axis) -> bool:
    """Whether an axis runs over rows or columns of the image."""
    return any(kind != "o" for kind, _ in axis)
