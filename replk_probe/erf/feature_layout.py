"""Which axes of a layer's output are rows and columns of the image: maps, channels-last maps and tokens.

The positions are followed back to the image (:func:`followed_layout`). Where an operation prevents that, they are
inferred from the shape (:func:`layout_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.formatting import dimensions

from .dataflow import Value
from .positions import NO_PIXEL, UNKNOWN, Coords, pixels_of
from .receptive_field.span import AXES

# Numbers of prefix tokens in published transformers (class, distillation, 4 or 8 registers), most likely first.
_USUAL_PREFIXES = (0, 1, 2, 5, 4, 9, 8, 3)


# Along an axis of positions, pixels differ by at least half of the image; along channels, by a fraction of a stride.
_SPREAD = 0.4
# Two or three positions of a network without padding are closer together: a stride is a smaller share of the image.
_SPREAD_PER_POSITION = 0.1


@dataclass(frozen=True)
class Layout:
    """How the positions of the image are arranged in a tensor."""

    # "NLC" and "NCL": tokens of images or volumes, or positions of sequences; "NC": one vector for the whole image
    kind: Literal["NCHW", "NHWC", "NCDHW", "NDHWC", "NLC", "NCL", "NC"]
    size: tuple[int, ...]  # number of rows and columns, or of positions along each axis of the input
    prefix: int = 0  # number of tokens before those of the image (class, distillation, registers)
    # Index of the token of every position, row by row, if the tokens of the image are not one row after the other
    # behind the prefix; None if they are.
    tokens: tuple[int, ...] | None = None
    # The position in the middle that a convention chooses on maps of an even size; None for (h // 2, w // 2).
    chosen: tuple[int, ...] | None = None

    @property
    def middle(self) -> tuple[int, ...]:
        """The position at which the effective receptive field is measured."""
        return self.chosen or tuple(length // 2 for length in self.size)

    def at(self, feature: Tensor, place: Sequence[int]) -> Tensor:
        """The features at one position of every image: ``[N, C]``."""
        if self.kind == "NC":
            return feature
        if "L" not in self.kind:
            before = 2 if self.kind[1] == "C" else 1
            index: tuple[Any, ...] = (*(slice(None),) * before, *place)
            return feature[index]
        token = self.token_at(place)
        return feature[:, token, :] if self.kind == "NLC" else feature[:, :, token]

    def everywhere(self, feature: Tensor) -> Tensor:
        """The features at all positions of every image: ``[N, P, C]``, in reading order."""
        if self.kind == "NC":
            return feature[:, None]
        if "L" not in self.kind:
            return feature.flatten(2).transpose(1, 2) if self.kind[1] == "C" else feature.flatten(1, -2)
        tokens = [self.token_at(place) for place in np.ndindex(self.size)]
        return feature[:, tokens, :] if self.kind == "NLC" else feature[:, :, tokens].transpose(1, 2)

    def token_at(self, place: Sequence[int]) -> int:
        """Index of the token of a position."""
        index = int(np.ravel_multi_index(tuple(place), self.size))
        return self.prefix + index if self.tokens is None else self.tokens[index]

    def __str__(self) -> str:
        """The layout as written in results."""
        names = {"D": "d", "H": "h", "W": "w"}
        axes = f"[{', '.join(names.get(name, name) for name in self.kind)}]"
        if "L" not in self.kind:
            return axes
        if len(self.size) == 1 and not self.prefix and self.tokens is None:
            return axes.replace("L", "l")
        prefix = f", {self.prefix} of them prefix tokens" if self.prefix else ""
        order = "" if self.tokens is None else f", the middle one at index {self.token_at(self.middle)}"
        return f"{axes} tokens{prefix}{order}"


def followed_layout(value: Value, input_size: Sequence[int]) -> Layout | Literal["unknown"] | None:
    """The layout of a value, from the pixels that its elements belong to.

    Args:
        value: The value, for one image.
        input_size: (H, W) of the image, or as many sides as the input has axes.

    Returns:
        The layout; None if the value has no rows and columns; ``"unknown"`` if its elements could not be followed.
    """
    shape, rank = value.shape, len(input_size)
    if len(shape) not in (3, rank + 2) or shape[0] != 1 or min(shape) == 0:
        return None
    lines = [_line(shape, axis) for axis in range(1, len(shape))]
    pixels = pixels_of(value, np.concatenate(lines, axis=1))
    if (pixels == UNKNOWN).any():
        return "unknown"
    along = np.split(pixels, np.cumsum([line.shape[1] for line in lines])[:-1], axis=1)
    kinds = "".join(_kind_of_axis(part, input_size) for part in along)
    if kinds in ("-yx", "-xy"):
        return Layout("NCHW", (shape[2], shape[3]))
    if kinds in ("yx-", "xy-"):
        return Layout("NHWC", (shape[1], shape[2]))
    if rank == 3 and len(shape) == 5 and kinds != "----":
        if kinds[0] == "-" and _are_axes(kinds[1:], shape[2:]):
            return Layout("NCDHW", shape[2:])
        if kinds[-1] == "-" and _are_axes(kinds[:-1], shape[1:-1]):
            return Layout("NDHWC", shape[1:-1])
    if kinds in ("t-", "z-", "y-", "x-"):
        return _ordered_tokens(along[0], "NLC")
    if kinds in ("-t", "-z", "-y", "-x"):
        return _ordered_tokens(along[1], "NCL")
    # A single row or column cannot be told from a mean over rows or columns.
    return "unknown" if len(shape) == rank + 2 and min(shape[1:]) == 1 else None


def _are_axes(kinds: str, sizes: Sequence[int]) -> bool:
    """Whether three axes are those of a volume in order; one of a single position has no kind."""
    return all(kind == name or (kind == "-" and n == 1) for kind, name, n in zip(kinds, AXES, sizes, strict=True))


def _line(shape: Sequence[int], axis: int) -> Coords:
    """All elements along one axis, in the middle of the others."""
    coords = np.repeat(np.array(shape, dtype=np.int64)[:, None] // 2, shape[axis], axis=1)
    coords[axis] = np.arange(shape[axis])
    return coords


def _kind_of_axis(pixels: Coords, input_size: Sequence[int]) -> str:
    """``"y"`` for rows, ``"x"`` for columns, ``"t"`` for tokens with several of the axes, ``"-"`` for none."""
    known = pixels[:, (pixels != NO_PIXEL).all(0)]
    if known.shape[1] < 2:
        return "-"
    least = min(_SPREAD, _SPREAD_PER_POSITION * known.shape[1])
    spread = zip(AXES[-len(input_size) :], np.ptp(known, axis=1), input_size, strict=True)
    found = [name for name, pixels_apart, side in spread if pixels_apart >= least * side]
    return "t" if len(found) > 1 else found[0] if found else "-"


def _ordered_tokens(pixels: Coords, kind: Literal["NLC", "NCL"]) -> Layout | None:
    """The layout of tokens that belong to these pixels; None unless they are all positions of a grid."""
    indices = (pixels != NO_PIXEL).all(0).nonzero()[0]
    axes = [np.unique(values, return_inverse=True) for values in pixels[:, indices]]
    size = tuple(len(values) for values, _ in axes)
    place = np.ravel_multi_index(tuple(inverse for _, inverse in axes), size)
    if math.prod(size) != len(indices) or len(np.unique(place)) != len(indices):
        return None
    prefix = int(indices[0])
    in_order = bool((np.diff(indices) == 1).all() and (np.diff(place) == 1).all())
    return Layout(kind, size, prefix, None if in_order else tuple(indices[np.argsort(place)].tolist()))


def layout_of(
    shape: Sequence[int],
    input_size: Sequence[int],
    model: nn.Module,
    label: str,
    shape_at: Callable[[tuple[int, ...]], Sequence[int] | None],
) -> Layout:
    """Find rows and columns in the output of a layer, whose first axis counts images.

    ``label`` names the layer in messages. ``shape_at`` gives the shape of the same output for images of another size,
    or None if the model does not accept them. Raises InvalidInputError if the output has no rows and columns.
    """
    layout, rank = None, len(input_size)
    if rank != 2:
        if len(shape) == rank + 2:
            layout = Layout("NCL" if rank == 1 else "NCDHW", tuple(shape[2:]))
    elif len(shape) == 4:
        size = input_size[0], input_size[1]
        layout = _of_map((shape[1], shape[2], shape[3]), size, model, shape_at)
    elif len(shape) == 3:
        layout = _of_tokens(shape[1], (input_size[0], input_size[1]), model)
    if layout is None:
        raise no_layout(shape, input_size, label)
    return layout


def no_layout(shape: Sequence[int], input_size: Sequence[int], label: str) -> InvalidInputError:
    """The error for an output without rows and columns; arguments as for :func:`layout_of`."""
    axes = ", ".join(["N", *(str(size) for size in shape[1:])])
    if len(input_size) != 2:
        spatial = "l" if len(input_size) == 1 else "d, h, w"
        return InvalidInputError(
            f"Layer {label!r} gives [{axes}] for inputs of size {dimensions(input_size)}, in which no positions of the "
            f"input can be found. Name a layer that gives [N, C, {spatial}] or [N, {spatial}, C]."
        )
    return InvalidInputError(
        f"Layer {label!r} gives [{axes}] for images of {input_size[0]}x{input_size[1]}, in which no rows and "
        "columns of the image can be found. Name a layer that gives a map [N, C, h, w] or [N, h, w, C], or tokens "
        "[N, L, C] of a whole image."
    )


def _of_map(
    shape: tuple[int, int, int],
    input_size: tuple[int, int],
    model: nn.Module,
    shape_at: Callable[[tuple[int, ...]], Sequence[int] | None],
) -> Layout | None:
    first = Layout("NCHW", (shape[1], shape[2]))
    last = Layout("NHWC", (shape[0], shape[1]))
    if any(shape[1] == shape[2] == tokens for tokens in _token_counts(input_size, model)):
        return None  # attention probabilities [N, heads, L, L], not a map
    likely = [layout for layout in (first, last) if _proportional(layout.size, input_size)]
    if len(likely) == 1:
        return likely[0]

    other = shape_at((2 * input_size[0], 2 * input_size[1]))
    if other is not None and len(other) == 4:
        grown = [after > 1.5 * before for before, after in zip(shape, other[1:], strict=True)]
        if grown == [False, True, True]:
            return first
        if grown == [True, True, False]:
            return last
    if not likely:
        return None
    declared = getattr(model, "output_fmt", None)  # set by timm's channels-last networks
    return last if str(getattr(declared, "value", declared)) == "NHWC" else first


def _proportional(size: Sequence[int], input_size: tuple[int, int]) -> bool:
    """Whether a map of this size can be the downsampled image; padding may change it by one position."""
    aspect = input_size[0] / input_size[1]
    return size[0] <= 4 * input_size[0] and abs(size[0] - size[1] * aspect) <= max(1.0, aspect)


def _of_tokens(tokens: int, input_size: tuple[int, int], model: nn.Module) -> Layout | None:
    declared = list(_declared_prefixes(model))
    prefixes = list(dict.fromkeys([*declared, *_USUAL_PREFIXES]))
    grids = list(_grids(input_size, model))
    for prefix in prefixes:
        for grid in grids:
            if prefix + grid[0] * grid[1] == tokens:
                return Layout("NLC", grid, prefix)
    for prefix in prefixes:
        rows = round(math.sqrt(max(tokens - prefix, 0) * input_size[0] / input_size[1]))
        columns = (tokens - prefix) // rows if rows > 0 else 0
        fits = rows > 0 and rows * columns == tokens - prefix and rows <= input_size[0] and columns <= input_size[1]
        # A prefix that is not declared is accepted only where the rest are patches that tile the image.
        tiles = fits and input_size[0] % rows == input_size[1] % columns == 0
        tiles = tiles and rows * input_size[1] == columns * input_size[0]
        if fits and _proportional((rows, columns), input_size) and (tiles or prefix in (0, *declared)):
            return Layout("NLC", (rows, columns), prefix)
    return None


def _token_counts(input_size: tuple[int, int], model: nn.Module) -> Iterator[int]:
    prefixes = [*_declared_prefixes(model), 0]
    for rows, columns in _grids(input_size, model):
        yield from (prefix + rows * columns for prefix in prefixes)


def _declared_prefixes(model: nn.Module) -> Iterator[int]:
    for module in model.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            yield count
        names = ("class_token", "cls_token", "dist_token", "reg_token")
        extra = [getattr(module, name, None) for name in names]
        counted = sum(token.shape[1] for token in extra if isinstance(token, Tensor) and token.dim() == 3)
        if counted:
            yield counted


def _grids(input_size: tuple[int, int], model: nn.Module) -> Iterator[tuple[int, int]]:
    """Numbers of rows and columns of patches, for every module that divides the image into patches."""
    for module in model.modules():
        patch = _two_ints(getattr(module, "patch_size", None))
        if patch is not None and min(patch) > 0:
            yield input_size[0] // patch[0], input_size[1] // patch[1]
            yield -(-input_size[0] // patch[0]), -(-input_size[1] // patch[1])
        grid = _two_ints(getattr(module, "grid_size", None))
        if grid is not None and _proportional(grid, input_size):
            yield grid


def _two_ints(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(item, int) for item in value):
        return value[0], value[1]
    return None
