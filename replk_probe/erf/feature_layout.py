"""Which axes of a layer's output are rows and columns of the image: maps, channels-last maps and tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

# Numbers of prefix tokens in published transformers (class, distillation, 4 or 8 registers), most likely first.
_USUAL_PREFIXES = (0, 1, 2, 5, 4, 9, 8, 3)


@dataclass(frozen=True)
class Layout:
    """How the positions of the image are arranged in a tensor."""

    kind: Literal["NCHW", "NHWC", "NLC"]  # "NCHW", "NHWC" or "NLC" (tokens, row after row)
    size: tuple[int, int]  # number of rows and columns
    prefix: int = 0  # number of tokens before those of the image (class, distillation, registers)

    @property
    def middle(self) -> tuple[int, int]:
        """The position at which the effective receptive field is measured: (h // 2, w // 2)."""
        return self.size[0] // 2, self.size[1] // 2

    def at_middle(self, feature: Tensor) -> Tensor:
        """The features at the middle position of every image: ``[N, C]``."""
        y, x = self.middle
        if self.kind == "NCHW":
            return feature[:, :, y, x]
        if self.kind == "NHWC":
            return feature[:, y, x, :]
        return feature[:, self.prefix + y * self.size[1] + x, :]

    def __str__(self) -> str:
        """The layout as written in results."""
        axes = {"NCHW": "[N, C, h, w]", "NHWC": "[N, h, w, C]", "NLC": "[N, L, C]"}[self.kind]
        prefix = f", {self.prefix} of them prefix tokens" if self.prefix else ""
        return axes + (f" tokens{prefix}" if self.kind == "NLC" else "")


def layout_of(
    shape: Sequence[int],
    input_size: tuple[int, int],
    model: nn.Module,
    label: str,
    shape_at: Callable[[tuple[int, int]], Sequence[int] | None],
) -> Layout:
    """Find rows and columns in the output of a layer, whose first axis counts images.

    ``label`` names the layer in messages. ``shape_at`` gives the shape of the same output for images of another size,
    or None if the model does not accept them. Raises InvalidInputError if the output has no rows and columns.
    """
    layout = None
    if len(shape) == 4:
        layout = _of_map((shape[1], shape[2], shape[3]), input_size, model, shape_at)
    elif len(shape) == 3:
        layout = _of_tokens(shape[1], input_size, model)
    if layout is None:
        axes = ", ".join(["N", *(str(size) for size in shape[1:])])
        raise InvalidInputError(
            f"Layer {label!r} gives [{axes}] for images of {input_size[0]}x{input_size[1]}, in which no rows and "
            "columns of the image can be found. Name a layer that gives a map [N, C, h, w] or [N, h, w, C], or tokens "
            "[N, L, C] of a whole image."
        )
    return layout


def _of_map(
    shape: tuple[int, int, int],
    input_size: tuple[int, int],
    model: nn.Module,
    shape_at: Callable[[tuple[int, int]], Sequence[int] | None],
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


def _proportional(size: tuple[int, int], input_size: tuple[int, int]) -> bool:
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
