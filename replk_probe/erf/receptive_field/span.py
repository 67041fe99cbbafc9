"""Receptive fields of tensors: which axes are rows and columns of the image, and what one place of them sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Span:
    """Along one axis, place ``i`` of a map sees input pixels ``jump * i + low`` to ``jump * i + high``."""

    jump: int = 1
    low: int = 0
    high: int = 0

    @property
    def extent(self) -> int:
        """Input pixels from the first to the last that is seen."""
        return self.high - self.low + 1

    def centre(self, index: int) -> float:
        """Middle of what place ``index`` sees, in input pixels (whole numbers are centres of pixels)."""
        return self.jump * index + (self.low + self.high) / 2

    def window(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Span:
        """What a sliding window over this map sees."""
        first = self.low - padding * self.jump
        last = self.high + ((kernel - 1) * dilation - padding) * self.jump
        return Span(self.jump * stride, first, last)

    def union(self, other: Span) -> Span:
        """What a sum over both maps sees; their places must advance alike."""
        return Span(self.jump, min(self.low, other.low), max(self.high, other.high))


# One axis of a tensor is a product of atoms: rows ("y"), columns ("x") or anything else ("o"), with their sizes.
Atom: TypeAlias = tuple[str, int]
Axis: TypeAlias = tuple[Atom, ...]


@dataclass(frozen=True)
class Field:
    """What is known about one tensor.

    Attributes:
        axes: Per tensor axis the atoms it is made of, slowest first. A tensor without any row or column left is a
            summary of the whole map (a pooled vector, a gate).
        y: Rows seen by one place.
        x: Columns seen by one place.
        everywhere: True where every place also depends on the whole map, through a gate or a global normalisation.
    """

    axes: tuple[Axis, ...]
    y: Span = Span()
    x: Span = Span()
    everywhere: bool = False

    @property
    def spatial(self) -> bool:
        """True while the tensor still has rows and columns."""
        return any(has_place(axis) for axis in self.axes)

    def centre(self, place: tuple[int, int]) -> tuple[float, float]:
        """Middle of the receptive field of a place (row, column) of the map, in input pixels."""
        return self.y.centre(place[0]), self.x.centre(place[1])

    @property
    def extent(self) -> int | None:
        """Side of the theoretical receptive field in pixels, the longer one; None where it is the whole image."""
        return None if self.everywhere else max(self.y.extent, self.x.extent)


@dataclass(frozen=True)
class Lost:
    """A tensor whose receptive field could not be followed, and the operation that is to blame."""

    reason: str


class CannotFollowError(Exception):
    """Raised by a rule that does not cover a case; the outputs become :class:`Lost`."""


def has_place(axis: Axis) -> bool:
    """Whether an axis runs over rows or columns of the image."""
    return any(kind != "o" for kind, _ in axis)
