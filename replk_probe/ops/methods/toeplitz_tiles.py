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

# Columns of the tensor memory of a multiprocessor with a compute capability of 10.
_TENSOR_MEMORY_COLUMNS = 512

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


# Four numbers of the tables below.
_Shape = tuple[int, int, int, int]


# Convolution ------------------------------------------------------------------------------------------------------

# Rows of a product, output rows for each of them, warps, stages.
_WIDE_SHAPES: tuple[_Shape, ...] = ((256, 4, 8, 3),)
_SHAPES: tuple[_Shape, ...] = (
    (128, 4, 8, 3),
    (128, 2, 4, 3),
    (64, 2, 4, 3),
    (64, 1, 4, 3),
    (64, 1, 4, 2),
    (32, 1, 4, 2),
    (16, 1, 4, 2),
)
# The three products of float32 take more registers: larger tiles would use the stack.
_SHAPES_OF_FLOAT32: tuple[_Shape, ...] = ((128, 1, 8, 2), (64, 1, 4, 2), (32, 1, 4, 2), (16, 1, 4, 2))
_WIDE_SHAPES_OF_FLOAT32: tuple[_Shape, ...] = ((128, 2, 8, 2), (64, 2, 4, 2))


def _of_convolution(problem: ConvProblem, capability: tuple[int, int]) -> Iterator[Tiling]:
    is_float32 = problem.dtype == "float32"
    shapes = _SHAPES_OF_FLOAT32 if is_float32 else _SHAPES
    if _is_wide(capability):
        shapes = (_WIDE_SHAPES_OF_FLOAT32 if is_float32 else _WIDE_SHAPES) + shapes
    # A group of rows takes kh + group - 1 steps instead of kh.
    shapes = tuple(shape for shape in shapes if shape[1] <= max(1, (problem.kh + 2) // 3))
    rows = power_of_two(problem.n * problem.h)
    shapes = tuple(shape for shape in shapes if shape[0] * shape[1] <= rows) or shapes[-1:]
    found = [_convolution(problem, capability, *shape) for shape in shapes]
    if capability[0] == 10:
        found = [tiling for tiling in found if _tensor_memory_columns(tiling) <= _TENSOR_MEMORY_COLUMNS]
    yield from sorted(found, key=lambda tiling: tiling.blocks < _ENOUGH_BLOCKS)


def _tensor_memory_columns(tiling: Tiling) -> int:
    """Columns of 128 sums for ``tcgen05``: one set for each chunk of a step, and one for the next step."""
    rows, group, bn, chunks = (int(tiling.constants[name]) for name in ("BM", "GROUP", "BN", "CHUNKS"))
    return -(-rows // 128) * group * bn * (chunks + 1)


def _convolution(
    problem: ConvProblem, capability: tuple[int, int], bm: int, group: int, warps: int, stages: int
) -> Tiling:
    vec, kh, kw = vector_of(problem.dtype), problem.kh, problem.kw
    width = round_up(problem.w, vec)
    bn = _columns(problem)
    lead, window = _window(kw, bn, vec)
    is_whole = round_up(width, 16) <= round_up(window, 16)
    if is_whole:
        lead, window = 0, width
    bk, chunks = _chunks(window, _largest_chunk(problem, capability))
    # Taps of the Toeplitz matrices run from `least` to `most` over all tiles, far beyond the kernel.
    furthest = round_up(problem.w, bn) - bn if is_whole else lead
    least, most = kw // 2 - furthest - (bn - 1), kw // 2 - lead + bk * chunks - 1
    offset = max(0, -least)
    nb = _images(problem, bm, group)
    tiles = -(-problem.n // nb) * -(-problem.h // (bm // nb * group)) * -(-problem.w // bn)
    constants: dict[str, int | bool | str] = {
        "KH": kh, "KW": kw, "GROUP": group, "NB": nb, "BM": bm, "BN": bn, "BK": bk, "CHUNKS": chunks, "LEAD": lead,
        "WHOLE": is_whole, "VEC": vec, "YVEC": vec if problem.w % vec == 0 else 1, "OFFSET": offset,
        "LENGTH": round_up(most + offset + 1, vec), "PRECISION": _precision(problem),
    }  # fmt: skip
    shared = _shared_bytes(problem, capability, stages, bm * bk * chunks, group * bn * bk * chunks)
    shared = max(shared, _shared_bytes(problem, capability, 1, bm * group * bn, 0))
    return Tiling(MappingProxyType(constants), problem.c * tiles, warps, stages, shared)


def _images(problem: ConvProblem, bm: int, group: int) -> int:
    """Images of a tile, a power of two: those with the fewest steps of all tiles, then the fewest."""
    half = problem.kh // 2

    def steps(nb: int) -> int:
        rows, total = bm // nb * group, 0
        for h0 in range(0, problem.h, rows):
            low = -min(h0 + rows - group, problem.h - 1, half)
            total += min(problem.h - h0, half + group) - low
        return total * -(-problem.n // nb)

    return min(_powers(bm), key=lambda nb: (steps(nb), nb))


# Gradient of the weight -------------------------------------------------------------------------------------------

# Rows of a tile, columns of the gradient of the output for all kernel rows of a group, warps, stages.
_SHAPES_OF_GRADIENT: tuple[_Shape, ...] = ((64, 128, 8, 3), (64, 64, 4, 3), (32, 64, 4, 2), (16, 32, 4, 2))
_WIDE_SHAPES_OF_GRADIENT: tuple[_Shape, ...] = ((128, 128, 8, 2), (64, 128, 4, 3), (64, 64, 4, 2), (16, 32, 4, 2))
_SHAPES_OF_FLOAT32_GRADIENT: tuple[_Shape, ...] = ((32, 128, 8, 2), (16, 128, 8, 2), (16, 64, 4, 2))
_WIDE_SHAPES_OF_FLOAT32_GRADIENT: tuple[_Shape, ...] = ((64, 64, 4, 2), (32, 64, 4, 2), (16, 64, 4, 2))


def _of_correlation(problem: ConvProblem, capability: tuple[int, int]) -> Iterator[Tiling]:
    if problem.dtype == "float32":
        shapes = _WIDE_SHAPES_OF_FLOAT32_GRADIENT if _is_wide(capability) else _SHAPES_OF_FLOAT32_GRADIENT
    else:
        shapes = _WIDE_SHAPES_OF_GRADIENT if _is_wide(capability) else _SHAPES_OF_GRADIENT
    rows = power_of_two(problem.n * problem.h)
    for shape in tuple(shape for shape in shapes if shape[0] <= rows) or shapes[-1:]:
        yield _correlation(problem, capability, *shape)


def _correlation(
    problem: ConvProblem, capability: tuple[int, int], bm: int, columns: int, warps: int, stages: int
) -> Tiling:
    vec, kh, kw = vector_of(problem.dtype), problem.kh, problem.kw
    width = round_up(problem.w, vec)
    bn = _columns(problem)
    lead, window = (0, width) if width <= bn else _window(kw, bn, vec)
    bk = min(max(16, power_of_two(window)), 64)
    chunks = -(-window // bk)
    group = min(columns // bn, power_of_two(kh))

    def tiles(nb: int) -> int:
        return -(-problem.n // nb) * -(-problem.h // (bm // nb)) * -(-width // bn)

    nb = min(_powers(bm), key=lambda nb: (tiles(nb), nb))
    blocks = problem.c * -(-kh // group) * chunks
    splits = max(1, min(-(-_SPLIT_BELOW // max(1, blocks)), tiles(nb) // _TILES_OF_A_SPLIT))
    kwp = power_of_two(kw)
    constants: dict[str, int | bool | str] = {
        "KH": kh, "KW": kw, "KWP": kwp, "GROUP": group, "NB": nb, "BM": bm, "BN": bn, "BK": bk, "CHUNKS": chunks,
        "LEAD": lead, "VEC": vec, "PRECISION": _precision(problem),
    }  # fmt: skip
    shared = _shared_bytes(problem, capability, stages, bm * bk, bm * group * bn)
    shared = max(shared, 4 * group * bn * max(bk, kwp) + _BARRIERS)
    return Tiling(MappingProxyType(constants), blocks * splits, warps, stages, shared, splits)


# Both -------------------------------------------------------------------------------------------------------------

# Bytes for the barriers of a pipeline and for exchange between warps.
_BARRIERS = 1024


def _columns(problem: ConvProblem) -> int:
    """Output columns of a tile; narrow ones waste less of a window when the kernel is small."""
    return 16 if problem.kw <= 15 or problem.w <= 16 else 32


def _window(kw: int, bn: int, vec: int) -> tuple[int, int]:
    """Pixels from the start of a window to its tile, and pixels of the window."""
    lead = round_up(kw // 2, vec)
    return lead, lead + bn + kw // 2


def _chunks(window: int, most: int) -> tuple[int, int]:
    """Power of two and number of chunks of it that cover a window with the fewest pixels, then the fewest chunks."""
    sizes = [size for size in ((16, 32, 64) if window <= 48 else (32, 64)) if size <= most]
    size = min(sizes, key=lambda size: (round_up(window, size), -size))
    return size, round_up(window, size) // size


def _largest_chunk(problem: ConvProblem, capability: tuple[int, int]) -> int:
    """Pixels of a window that are multiplied at a time, limited by the registers of the three products of float32."""
    return 32 if problem.dtype == "float32" and not _is_wide(capability) else 64


def _is_wide(capability: tuple[int, int]) -> bool:
    """Whether tensor cores read operands from shared memory (``wgmma`` and ``tcgen05``), not only from registers."""
    return capability[0] in (9, 10)


def _shared_bytes(problem: ConvProblem, capability: tuple[int, int], stages: int, first: int, second: int) -> int:
    """Upper bound of the shared memory of a pipeline with two operands of these numbers of elements."""
    size = 16 // vector_of(problem.dtype)
    if problem.dtype == "float32":  # the small parts of the second operand as well
        return (stages * (first + second) + second) * size + _BARRIERS
    buffers = stages if _is_wide(capability) else max(1, stages - 1)
    return buffers * (first + second) * size + _BARRIERS


def _powers(most: int) -> tuple[int, ...]:
    return tuple(1 << bit for bit in range(most.bit_length()))


def _precision(problem: ConvProblem) -> str:
    return "tf32x3" if problem.dtype == "float32" else "ieee"
