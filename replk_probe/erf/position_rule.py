"""Which positions of a feature map are measured: the option ``position`` and the positions that follow from it."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import whole
from replk_probe.runtime.formatting import counted, dimensions

Place: TypeAlias = tuple[int, ...]  # indices of a position along the axes of a feature map, from 0

CENTER, MEAN = "center", "mean"


@dataclass(frozen=True)
class PositionRule:
    """A rule that chooses positions in feature maps of any size.

    Attributes:
        kind: ``"center"``: the middle position, ``(h // 2, w // 2)``. ``"at"``: one position. ``"grid"``: positions
            spread evenly over the map. ``"random"``: different positions drawn at random. ``"mean"``: all positions at
            once.
        values: The position, the numbers of rows and columns of the grid, or the number of positions.
    """

    kind: Literal["center", "at", "grid", "random", "mean"]
    values: Place = ()

    def __str__(self) -> str:
        """The rule as it is given and recorded."""
        if self.kind == "at":
            return ",".join(map(str, self.values))
        return f"{self.kind}:{dimensions(self.values)}" if self.values else self.kind

    def recorded(self) -> dict[str, str]:
        """The entry in the record of a measurement; none for the middle position, as in earlier versions."""
        return {} if self.kind == CENTER else {"position": str(self)}

    @property
    def is_several(self) -> bool:
        """Whether one map is kept for each of several positions."""
        return self.kind in ("grid", "random")

    def places(self, size: Sequence[int], layer: str, seed: int) -> tuple[Place, ...]:
        """The positions in a feature map, in reading order.

        Args:
            size: Numbers of positions along each axis of the map.
            layer: Label of the layer, for messages.
            seed: Seed of random positions.

        Returns:
            Indices of each position; one for ``"center"`` and ``"at"``, none for ``"mean"``.

        Raises:
            InvalidInputError: The map does not have these positions.
        """
        if self.kind == "mean":
            return ()
        if self.kind == "center":
            return (tuple(length // 2 for length in size),)
        whole_map = f"The feature map of layer {layer!r} has {dimensions(size)} positions"
        if self.kind == "random":
            (count,) = self.values
            known = [*itertools.product(*map(range, size))]
            if count > len(known):
                raise InvalidInputError(
                    f"{count} different positions cannot be drawn. {whole_map}. Give at most random:{len(known)}."
                )
            # By a hash, so that the choice is the same with every version of Python and NumPy.
            known.sort(key=lambda place: hashlib.sha256(f"{seed}:{place}".encode()).digest())
            return tuple(sorted(known[:count]))
        values = self.values * len(size) if self.kind == "grid" and len(self.values) == 1 else self.values
        if len(values) != len(size):
            raise InvalidInputError(
                f"Position {str(self)!r} has {counted(len(values), 'number')}. {whole_map}. Give one number for each "
                f"of its {len(size)} axes."
            )
        if self.kind == "grid":
            if any(count > length for count, length in zip(values, size, strict=True)):
                raise InvalidInputError(
                    f"A grid of {dimensions(values)} positions is too large. {whole_map}. Give at most "
                    f"grid:{dimensions(size)}."
                )
            return tuple(itertools.product(*(_spread(*pair) for pair in zip(values, size, strict=True))))
        if any(not 0 <= index < length for index, length in zip(values, size, strict=True)):
            last = ",".join(str(length - 1) for length in size)
            raise InvalidInputError(
                f"Position {self} is outside the feature map. {whole_map}, which are counted from 0. Give a position "
                f"from {','.join('0' * len(size))} to {last}."
            )
        return (values,)


MIDDLE = PositionRule("center")


def _spread(count: int, length: int) -> tuple[int, ...]:
    """``count`` of ``length`` indices from the first to the last, in steps as equal as possible; one: the middle."""
    if count == 1:
        return (length // 2,)
    return tuple((2 * index * (length - 1) + count - 1) // (2 * (count - 1)) for index in range(count))


def parse_position(value: Any) -> PositionRule:
    """The rule for a value of the option ``position``: a string, an index or a sequence of indices.

    Raises:
        InvalidInputError: It is none of the known forms.
    """
    if isinstance(value, PositionRule):
        return value
    if isinstance(value, str):
        text = value.strip()
        if text in (CENTER, MEAN):
            return PositionRule("center" if text == CENTER else "mean")
        if re.fullmatch(r"-?\d+(\s*,\s*-?\d+)*", text):
            return PositionRule("at", tuple(int(one) for one in text.split(",")))
        found = re.fullmatch(r"grid:(\d+(?:x\d+)*)|random:(\d+)", text)
        if found:
            kind: Literal["grid", "random"] = "grid" if found[1] else "random"
            values = tuple(int(one) for one in (found[1] or found[2]).split("x"))
            if min(values) > 0:
                return PositionRule(kind, values)
    elif isinstance(value, Iterable) or whole(value) is not None:
        indices = [whole(one) for one in (value if isinstance(value, Iterable) else (value,))]
        if indices and None not in indices:
            return PositionRule("at", tuple(index for index in indices if index is not None))
    raise InvalidInputError(
        f"Unknown position {value!r}. A position is center, a row and column of the feature map such as 0,3, "
        "grid:RxC, random:N or mean, with positive numbers R, C and N. Give for instance grid:3x3."
    )
