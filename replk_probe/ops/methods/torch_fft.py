"""The convolution by the fast Fourier transforms of torch, on any device.

A plane is transformed as a whole or in tiles that overlap by the reach of the kernel (overlap-save), whichever is
faster, and its products with the spectrum of the kernel are transformed back. The rounding errors of a result are
relative to the norms of its plane and kernel, not to its own terms.

A non-finite value in a plane or a kernel may spread over the results of all tiles that contain it, but never disappears
from one that depends on it: the term of frequency zero is added to every result of a tile, and is not finite if any of
the values is not. Taps that overlap only padding for every result are not read.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._layout import layout_of
from .interface import ConvProblem

# Limit of the memory of a call beyond its arguments and its result; one tile of one plane is computed in any case.
# On a CPU, larger buffers are mapped and cleared by the system in each call, which takes longer than the transforms:
# (1,64,128,128) with 31x31 takes 25 ms with 256 MB and 13 ms with 32 MB.
WORKSPACE_BYTES, _WORKSPACE_BYTES_OF_CPU = 256 << 20, 32 << 20
# Dtypes that are computed, and those of the computation.
_COMPUTED_IN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
# The memory accesses of a point cost as much as this number of passes of the transform, and half as much again in tiles
# that exceed the cache of a core: four planes of 512x512 with 31x31 take 17 ms as a whole and 11 ms in four tiles each.
_ACCESSES, _CACHE_BYTES, _BEYOND_CACHE = 8, 1 << 20, 1.5


class _Axis(NamedTuple):
    """How one axis of a plane is divided into tiles."""

    size: int  # size of the plane
    reach: int  # number of taps on each side of the middle one that are read
    step: int  # number of results of a tile
    length: int  # length of the transform

    @property
    def number(self) -> int:
        """Number of tiles."""
        return -(-self.size // self.step)

    def tiles(self) -> Iterator[tuple[slice, slice, slice]]:
        """For every tile the part of the plane that is read, and its results, within that part and in the plane."""
        for start in range(0, self.size, self.step):
            stop = min(start + self.step, self.size)
            first = max(0, start - self.reach)
            read = slice(first, min(stop + self.reach, self.size))
            yield read, slice(start - first, stop - first), slice(start, stop)


class _Plan(NamedTuple):
    """Transforms of a convolution."""

    rows: _Axis
    columns: _Axis
    itemsize: int  # size of an element of the computation, in bytes
    limit: int  # limit of the memory of a call, in bytes

    @property
    def axes(self) -> tuple[int, ...]:
        """The transformed axes: those along which the kernel has more than one tap."""
        return tuple(axis for axis, of in ((-2, self.rows), (-1, self.columns)) if of.reach)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple((self.rows, self.columns)[axis].length for axis in self.axes)

    @property
    def plane_bytes(self) -> int:
        """Memory of one padded tile."""
        return self.rows.length * self.columns.length * self.itemsize

    @property
    def spectrum_bytes(self) -> int:
        """Memory of the spectrum of one tile, of whose last axis half is stored."""
        return self.plane_bytes // self.lengths[-1] * (self.lengths[-1] // 2 + 1) * 2 if self.axes else self.plane_bytes

    def channel_bytes(self, is_weight_gradient: bool) -> int:
        """Memory for every channel of a chunk."""
        return self.spectrum_bytes + (self.spectrum_bytes + 2 * self.plane_bytes if is_weight_gradient else 0)

    def image_bytes(self, is_weight_gradient: bool) -> int:
        """Memory for every plane of a chunk."""
        # Two spectra and the padded planes, or one spectrum, two copies of it within the inverse, and its result; and a
        # spectrum for the scratch memory of a library on a GPU.
        return (3 if is_weight_gradient else 4) * self.spectrum_bytes + (1 + is_weight_gradient) * self.plane_bytes

    def chunk(self, n: int, c: int, is_weight_gradient: bool) -> tuple[int, int]:
        """Numbers of images and channels that are computed at once within the limit."""
        channel, image = self.channel_bytes(is_weight_gradient), self.image_bytes(is_weight_gradient)
        channels = max(1, min(c, self.limit // (channel + image)))
        return max(1, min(n, (self.limit // channels - channel) // image)), channels

    def workspace_bytes(self, n: int, c: int, is_weight_gradient: bool) -> int:
        """Largest memory of a call beyond its arguments and its result."""
        images, channels = self.chunk(n, c, is_weight_gradient)
        return channels * (self.channel_bytes(is_weight_gradient) + images * self.image_bytes(is_weight_gradient))

    def spectra(self, part: Tensor, rows: int = 0, columns: int = 0) -> Tensor:
        """Spectra of planes or parts of planes, padded with zeros to the size of a tile.

        Args:
            part: Planes, ``[..., H, W]``, of any dtype and strides.
            rows: Number of rows of padding at the top.
            columns: Number of columns of padding at the left.
        """
        return self._transformed(self._padded(part, (self.rows.length, self.columns.length), rows, columns))

    def kernel_spectra(self, taps: Tensor, is_transposed: bool) -> Tensor:
        """Factors of the spectra of planes in the convolution, or in its transpose.

        Args:
            taps: The taps within reach, ``[C, Kh, Kw]``.
            is_transposed: Whether the factors are those of the input gradient.
        """
        # The axes that are not transformed are broadcast.
        sizes = tuple(of.length if of.reach else 1 for of in (self.rows, self.columns))
        centered = self._padded(taps, sizes).roll((-self.rows.reach, -self.columns.reach), (-2, -1))
        found = self._transformed(centered)
        return found if is_transposed else found.conj_physical_()

    def _padded(self, part: Tensor, sizes: tuple[int, ...], rows: int = 0, columns: int = 0) -> Tensor:
        dtype = torch.float64 if self.itemsize == 8 else torch.float32
        tile = torch.zeros((*part.shape[:-2], *sizes), dtype=dtype, device=part.device)
        tile[..., rows : rows + part.shape[-2], columns : columns + part.shape[-1]] = part
        return tile

    def _transformed(self, tile: Tensor) -> Tensor:
        found: Tensor = torch.fft.rfftn(tile, dim=self.axes) if self.axes else tile
        return found

    def summed(self, products: Tensor) -> Tensor:
        """Sum of the products of spectra over images and the axes that are not transformed, ``[C, ...]``."""
        for axis in (0, *(axis for axis in (-2, -1) if axis not in self.axes)):
            products = _folded(products, axis)
        return products[0]

    def restored(self, spectra: Tensor) -> Tensor:
        """Tiles of spectra."""
        found: Tensor = torch.fft.irfftn(spectra, s=self.lengths, dim=self.axes) if self.axes else spectra
        return found


class TorchFFT:
    """Depthwise convolution and its gradients by :mod:`torch.fft`; see :class:`.interface.ConvMethod`.

    float64 is computed in float64, everything else in float32 with one rounding of the result. The largest error of a
    plane is, with random rounding errors, below ``4 u ||x|| ||w||``: u is the unit roundoff of the computation, x and w
    are the plane and the kernel, or the planes of all images whose products are summed. The order of that sum depends
    only on the sizes.
    """

    name = "torch-fft"

    def refusal(self, problem: ConvProblem, device: torch.device) -> str | None:
        """Why the method does not compute a problem on a device, or None; a sentence without a period."""
        if problem.torch_dtype not in _COMPUTED_IN:
            return f"dtype is {problem.torch_dtype} and only floating-point dtypes of 16 to 64 bits are transformed"
        if device.type == "cpu" and not torch._C.has_spectral:
            return "this build of torch has no Fourier transforms on a CPU"
        return "the device has no memory" if device.type == "meta" else None

    def workspace_bytes(self, problem: ConvProblem) -> int:
        """Largest memory of a call beyond its arguments and its result, in bytes; on a CPU it may be less."""
        return self.tile_and_workspace(problem, None)[1]

    def points(self, problem: ConvProblem, device: torch.device) -> int:
        """Number of points of the transforms of one plane."""
        plan = _plan(problem.h, problem.w, problem.kh, problem.kw, problem.torch_dtype, _limit(device))
        return plan.rows.number * plan.rows.length * plan.columns.number * plan.columns.length

    def tile_and_workspace(self, problem: ConvProblem, device: torch.device | None) -> tuple[tuple[int, int], int]:
        """Rows and columns of a tile, and the memory of a call on a device, in bytes; zeros if the result is empty."""
        if not problem.multiply_adds:
            return (0, 0), 0
        plan = _plan(problem.h, problem.w, problem.kh, problem.kw, problem.torch_dtype, _limit(device))
        memory = plan.workspace_bytes(problem.n, problem.c, problem.direction == "grad_weight")
        return (plan.rows.length, plan.columns.length), memory

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        """``act(conv(input, weight) + bias)``, ``[N, C, H, W]``."""
        return _convolved(input, weight, bias, relu, is_transposed=False)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``."""
        return _convolved(grad, weight, None, False, is_transposed=True)

    def grad_weight(self, input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
        """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous."""
        n, c, h, w = input.shape
        output = input.new_zeros((c, 1, kh, kw))
        if not input.numel():
            return output
        plan = _plan(h, w, kh, kw, input.dtype, _limit(input.device))
        reach = plan.rows.reach, plan.columns.reach
        images, channels = plan.chunk(n, c, True)
        for some in _slices(c, channels):
            total: Tensor | None = None
            for several in _slices(n, images):
                for (read_rows, rows, own_rows), (read_columns, columns, own_columns) in itertools.product(
                    plan.rows.tiles(), plan.columns.tiles()
                ):
                    products = plan.spectra(grad[several, some, own_rows, own_columns], rows.start, columns.start)
                    products.conj_physical_().mul_(plan.spectra(input[several, some, read_rows, read_columns]))
                    added = plan.summed(products)
                    total = added.clone() if total is None else total.add_(added)
            assert total is not None
            # The product with the tap at distance d from the middle one is at d modulo the length.
            taps = plan.restored(total).roll(reach, (-2, -1))[:, : 2 * reach[0] + 1, : 2 * reach[1] + 1]
            _middle(output[some, 0], reach).copy_(taps)
        return output


def _limit(device: torch.device | None) -> int:
    is_cpu = device is not None and device.type == "cpu"
    return min(WORKSPACE_BYTES, _WORKSPACE_BYTES_OF_CPU) if is_cpu else WORKSPACE_BYTES


def _convolved(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, *, is_transposed: bool) -> Tensor:
    output = torch.empty_like(input, memory_format=layout_of(input))
    if not input.numel():
        return output
    n, c, h, w = input.shape
    plan = _plan(h, w, weight.shape[2], weight.shape[3], input.dtype, _limit(input.device))
    reach = plan.rows.reach, plan.columns.reach
    images, channels = plan.chunk(n, c, False)
    for some in _slices(c, channels):
        factors = plan.kernel_spectra(_middle(weight[some, 0], reach), is_transposed)
        offset = None if bias is None else bias[some, None, None]
        for several, rows, columns in itertools.product(_slices(n, images), plan.rows.tiles(), plan.columns.tiles()):
            products = plan.spectra(input[several, some, rows[0], columns[0]]).mul_(factors)
            found = plan.restored(products)[..., rows[1], columns[1]]
            del products
            output[several, some, rows[2], columns[2]] = _activated(found, offset, relu)
    return output


def _activated(found: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """``act(found + bias)``, computed in place if possible."""
    # A ReLU would turn -inf, which may have spread from elsewhere, into a plausible zero. Here it becomes NaN.
    mark = found * 0 if relu else None
    if bias is not None:
        found += bias
    return found if mark is None else found.relu_().add_(mark)


def _middle(taps: Tensor, reach: tuple[int, int]) -> Tensor:
    """The taps ``[..., Kh, Kw]`` that overlap the plane for any result."""
    top, left = (size // 2 - one for size, one in zip(taps.shape[-2:], reach, strict=True))
    return taps[..., top : top + 2 * reach[0] + 1, left : left + 2 * reach[1] + 1]


def _folded(products: Tensor, axis: int) -> Tensor:
    """Sum over an axis, which is kept, in an order that depends only on its size; ``products`` is overwritten."""
    while (count := products.shape[axis]) > 1:
        half = (count + 1) // 2
        products.narrow(axis, 0, count - half).add_(products.narrow(axis, half, count - half))
        products = products.narrow(axis, 0, half)
    return products


def _slices(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


@functools.lru_cache(maxsize=512)
def _plan(h: int, w: int, kh: int, kw: int, dtype: torch.dtype, limit: int) -> _Plan:
    """The transforms with the fewest operations of which one plane does not exceed the memory limit."""
    itemsize = _COMPUTED_IN[dtype].itemsize
    plans = (_Plan(*axes, itemsize, limit) for axes in itertools.product(_divisions(h, kh), _divisions(w, kw)))

    def cost(plan: _Plan) -> tuple[int, float]:
        points = plan.rows.number * plan.columns.number * plan.plane_bytes // itemsize
        passes = _ACCESSES + math.log2(math.prod(plan.lengths))
        excess = max(0, plan.workspace_bytes(1, 1, True) - limit)
        return excess, points * passes * (_BEYOND_CACHE if plan.plane_bytes > _CACHE_BYTES else 1)

    return min(plans, key=cost)


def _divisions(size: int, kernel: int) -> Iterator[_Axis]:
    """The plane as a whole, and divided into more and more tiles, of which at least a third is results."""
    reach = min(kernel // 2, size - 1)
    count = 1
    while count <= size:
        step = -(-size // count)
        if count > 1 and step < reach:
            return
        # A whole plane needs padding on one side only: its other side is reached around the end of the transform.
        least = size + reach if count == 1 else step + 2 * reach
        yield _Axis(size, reach, step, _good_length(least) if reach else least)
        count += max(1, count // 2)


def _good_length(least: int) -> int:
    """The smallest even length with the factors 2, 3, 5 and 7 only, for which transforms are fast."""
    length = least + least % 2
    while not _is_smooth(length):
        length += 2
    return length


def _is_smooth(number: int) -> bool:
    for factor in (2, 3, 5, 7):
        while number % factor == 0:
            number //= factor
    return number == 1
