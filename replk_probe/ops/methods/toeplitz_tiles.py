"""Tile sizes of the Triton kernels, by problem and by the shared memory of a card; Triton itself is not imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from .interface import ConvProblem

# Largest shared memory of a block by compute capability, in KB, from the tables of the CUDA C++ Programming Guide.
_SHARED_KB = {(8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227, (10, 3): 227, (12, 0): 99}
_SMALLEST_SHARED_KB = 99

# Elements of 16 bytes.
_ELEMENTS = {"float16": 8, "bfloat16": 8, "float32": 4}
DTYPES = tuple(_ELEMENTS)

# Blocks from which a kernel is assumed to fill a card, so that larger tiles are preferred to more of them.
_ENOUGH_BLOCKS = 256
# Blocks at which the sums of a gradient of a weight are split, and the fewest tiles of each part.
_SPLIT_BELOW, _TILES_OF_A_SPLIT = 512, 4


@dataclass(frozen=True)
class Tiling:
    """One compiled kernel, and how many blocks of it a problem takes.

    Attributes:
        constants: Compile-time arguments of the kernel, by name.
        blocks: Number of blocks of the grid.
        warps: Warps of a block.
        stages: Stages of the software pipeline, as the option of Triton.
        shared_bytes: Upper bound of the shared memory of a block.
        splits: Number of parts of the sum over rows; 1 but for the gradient of the weight.
    """

    constants: Mapping[str, int | bool | str]
    blocks: int
    warps: int
    stages: int
    shared_bytes: int
    splits: int = 1


def shared_limit(capability: tuple[int, int]) -> int:
    """Largest shared memory of a block, in bytes; for unknown cards, the smallest of those known."""
    return _SHARED_KB.get(capability, _SMALLEST_SHARED_KB) * 1024


def vector_of(dtype: str) -> int:
    """Number of elements of 16 bytes, of which the starts of rows are multiples."""
    return _ELEMENTS[dtype]


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not less than ``size``."""
    return -(-size // multiple) * multiple


def power_of_two(size: int) -> int:
    """The smallest power of two that is not less than ``size``."""
    return 1 << max(0, size - 1).bit_length()


@lru_cache(maxsize=1024)
def tiling_of(problem: ConvProblem, capability: tuple[int, int]) -> Tiling | None:
    """The first of :func:`tilings` that fits the card, or None."""
    limit = shared_limit(capability)
    return next((tiling for tiling in tilings(problem, capability) if tiling.shared_bytes <= limit), None)


def tilings(problem: ConvProblem, capability: tuple[int, int]) -> Iterator[Tiling]:
    """All configurations for a problem, in order of preference, including those that do not fit the card."""
    if problem.direction == "grad_weight":
        yield from _of_correlation(problem, capability)
    else:
        yield from _of_convolution(problem, capability)


# Convolution ------------------------------------------------------------------------------------------------------


def _of_convolution(problem: ConvProblem, capability: tuple[int, int]) -> Iterator[Tiling]:
    shapes = _SHAPES_3XTF32 if problem.dtype == "float32" else _SHAPES
    found = [_convolution(problem, *shape) for shape in shapes]
    rows = problem.n * problem.h
    fitting = [one for one in found if _rows(one) <= power_of_two(rows)] or found[-1:]
    yield from sorted(fitting, key=lambda one: one.blocks < _ENOUGH_BLOCKS)


# Rows of a product, output rows for each row of it, columns of the Toeplitz matrices together, warps, stages.
_SHAPES = (
    (256, 4, 8, 3),
    (256, 4, 8, 2),
    (128, 4, 8, 3),
    (128, 4, 8, 2),
    (64, 4, 4, 2),
    (64, 2, 4, 2),
    (64, 1, 4, 2),
    (32, 1, 4, 2),
    (16, 1, 4, 2),
)
_SHAPES_3XTF32 = _SHAPES


def _rows(tiling: Tiling) -> int:
    return int(tiling.constants["BM"]) * int(tiling.constants["GROUP"])


def _convolution(problem: ConvProblem, bm: int, group: int, warps: int, stages: int) -> Tiling:
    vec, kh, kw = vector_of(problem.dtype), problem.kh, problem.kw
    width = round_up(problem.w, vec)
    bn = _columns(problem)
    lead, window = _window(kw, bn, vec)
    is_whole = round_up(width, 16) <= round_up(window, 16)
    if is_whole:
        lead, window = 0, width
    bk, chunks = _chunks(window)
    # Taps run from `least` to `most` over all tiles.
    furthest = round_up(problem.w, bn) - bn if is_whole else lead
    least, most = kw // 2 - furthest - (bn - 1), kw // 2 - lead + bk * chunks - 1
    offset = max(0, -least)
    nb = _images(problem, bm, group)
    tiles = -(-problem.n // nb) * -(-problem.h // (bm // nb * group)) * -(-problem.w // bn)
    size = 16 // vec
    constants = {
        "KH": kh, "KW": kw, "GROUP": group, "NB": nb, "BM": bm, "BN": bn, "BK": bk, "CHUNKS": chunks, "LEAD": lead,
        "WHOLE": is_whole, "VEC": vec, "YVEC": vec if problem.w % vec == 0 else 1, "OFFSET": offset,
        "LENGTH": round_up(most + offset + 1, vec), "PRECISION": _precision(problem),
    }  # fmt: skip
    shared = stages * (bm + group * bn) * bk * chunks * size
    return Tiling(MappingProxyType(constants), problem.c * tiles, warps, stages, max(shared, bm * group * bn * size))


def _columns(problem: ConvProblem) -> int:
    """Output columns of a tile; narrow ones waste less of a window when the kernel is small."""
    return 16 if problem.kw <= 15 or problem.w <= 16 else 32


def _window(kw: int, bn: int, vec: int) -> tuple[int, int]:
    """Pixels from the start of a window to its tile, and pixels of the window."""
    lead = round_up(kw // 2, vec)
    return lead, lead + bn + kw // 2


def _chunks(window: int) -> tuple[int, int]:
    """Power of two and number of chunks of it that cover a window with the fewest pixels, then the fewest chunks."""
    sizes = (16, 32, 64) if window <= 48 else (32, 64)
    size = min(sizes, key=lambda size: (round_up(window, size), -size))
    return size, round_up(window, size) // size


def _images(problem: ConvProblem, bm: int, group: int) -> int:
    """Images of a tile, a power of two, for which the fewest steps are made, and then the fewest images."""
    half = problem.kh // 2

    def steps(nb: int) -> int:
        rows, total = bm // nb * group, 0
        for h0 in range(0, problem.h, rows):
            low = -min(h0 + rows - group, problem.h - 1, half)
            total += min(problem.h - h0, half + group) - low
        return total * -(-problem.n // nb)

    return min((1 << bit for bit in range(bm.bit_length())), key=lambda nb: (steps(nb), nb))


def _precision(problem: ConvProblem) -> str:
    return "tf32x3" if problem.dtype == "float32" else "ieee"


# Gradient of the weight -------------------------------------------------------------------------------------------


def _of_correlation(problem: ConvProblem, capability: tuple[int, int]) -> Iterator[Tiling]:
    for bm, columns, warps, stages in _SHAPES_OF_GRADIENT:
        yield _correlation(problem, bm, columns, warps, stages)


# Rows of a tile, columns of the gradient together, warps, stages.
_SHAPES_OF_GRADIENT = ((64, 128, 4, 3), (64, 128, 4, 2), (64, 64, 4, 2), (32, 64, 4, 2), (32, 32, 4, 2))


def _correlation(problem: ConvProblem, bm: int, columns: int, warps: int, stages: int) -> Tiling:
    vec, kh, kw = vector_of(problem.dtype), problem.kh, problem.kw
    width = round_up(problem.w, vec)
    bn = _columns(problem)
    lead, window = (0, width) if width <= bn else _window(kw, bn, vec)
    bk = min(max(16, power_of_two(window)), 64)
    chunks = -(-window // bk)
    group = min(columns // bn, power_of_two(kh))
    # Images of a tile, a power of two, with which there are the fewest tiles, and then the fewest images.
    nb = min(
        (1 << bit for bit in range(bm.bit_length())),
        key=lambda nb: (-(-problem.n // nb) * -(-problem.h // (bm // nb)), nb),
    )
    tiles = -(-problem.n // nb) * -(-problem.h // (bm // nb)) * -(-width // bn)
    blocks = problem.c * -(-kh // group) * chunks
    splits = max(1, min(-(-_SPLIT_BELOW // blocks), tiles // _TILES_OF_A_SPLIT)) if blocks else 1
    kwp = power_of_two(kw)
    size = 16 // vec
    constants = {
        "KH": kh, "KW": kw, "KWP": kwp, "GROUP": group, "NB": nb, "BM": bm, "BN": bn, "BK": bk, "CHUNKS": chunks,
        "LEAD": lead, "VEC": vec, "PRECISION": _precision(problem),
    }  # fmt: skip
    shared = max(stages * bm * (bk + group * bn) * size, group * bn * max(bk, kwp) * 4)
    return Tiling(MappingProxyType(constants), blocks * splits, warps, stages, shared, splits)
