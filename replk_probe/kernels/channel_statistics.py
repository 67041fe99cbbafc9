"""Statistics of the signed kernels of single channels: spectrum, orientation, distance, rank, and their change.

Unlike those in ``statistics``, these do not follow from the magnitude, in which the channels are aggregated. Each pair
of an output and an input channel has one kernel, which counts the same whatever its scale; kernels without mass are
left out. Frequencies are in cycles per pixel, those of both axes in [-1/2, 1/2]. A 2-D spectrum is that of the kernel
surrounded by zeros, which is continuous; its integrals are computed exactly, as sums over the autocorrelation of the
kernel, because the spectrum of the energy is the Fourier transform of the autocorrelation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.fft import next_fast_len, rfft2
from scipy.special import j1

from .statistics import FloatArray

IntArray: TypeAlias = npt.NDArray[np.int64]

# Radii between the low, middle and high spatial frequencies, in cycles per pixel: periods of 6 and 3 pixels.
BANDS = (1 / 6, 1 / 3)
# Share of the energy that the rank refers to.
ENERGY = 0.9
_ROUNDING = 1e-9
# Entries of a kernel up to which its spectrum is computed as a product of matrices.
_LARGEST_PRODUCT = 64
_MOST_ENTRIES = 1 << 18  # entries of the arrays that are in memory at the same time


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of the kernels of the channels of one layer; None if they are undefined, as without mass.

    Attributes:
        low_frequency_share: Share of the energy (sum of squares) at spatial frequencies of at most 1/6 cycle per pixel
            in any direction, mean over channels. A kernel with one nonzero entry has a flat spectrum, so that its
            share is the area of the band, pi/36.
        middle_frequency_share: Share from 1/6 to 1/3 cycle per pixel; pi/12 for a flat spectrum.
        high_frequency_share: Share above 1/3 cycle per pixel, including the corners of the spectrum; 1 - pi/9 for a
            flat spectrum. The three shares add up to 1.
        orientation: Direction in degrees, in [0, 180), along which the kernels vary least: 0 for horizontal stripes, 90
            for vertical ones, 45 for stripes from the lower left to the upper right. It is perpendicular to the
            principal axis of the structure tensor, the second moments of the energy spectrum, whose mean over channels
            is taken with the trace of each set to 1. None if no direction is preferred.
        anisotropy: Difference over sum of the eigenvalues of that mean tensor, in [0, 1]: 0 if the layer prefers no
            direction, 1 if all kernels vary along one direction only.
        channel_anisotropy: Mean over channels of the same number for single kernels. It exceeds ``anisotropy`` if the
            channels prefer different directions.
        distance_mean: Mean over channels of the mean distance of a kernel's entries from its center, weighted by the
            absolute weights, relative to the largest distance (that of the corners): 0 if all mass is in the center, 1
            if all is in the corners. None for a 1 x 1 kernel.
        distance_median: Median over channels of this mean distance.
        rank_mean: Mean over channels of the number of singular values that together have at least 90 % of the energy of
            a kernel, as a matrix: 1 for a separable kernel.
        rank_median: Median over channels of this number.

    Source:
        Spectrum and the transform of a disk: Bracewell, The Fourier Transform and Its Applications. Structure tensor:
        Bigun and Granlund, Optimal orientation detection of linear symmetry, ICCV 1987. Weighted distance: as the mean
        attention distance of Dosovitskiy et al., arXiv:2010.11929, appendix D.7, with absolute weights in the place
        of attention. Rank: the separability that decompositions of large kernels rely on, as in Liu et al. (SLaK),
        arXiv:2207.03620, and Lau et al. (LSKA), arXiv:2309.01439.

    Examples:
        A kernel with one nonzero entry has a flat spectrum, of which pi/36 is at low frequencies:

        >>> import torch
        >>> from replk_probe import measure_kernels
        >>> convolution = torch.nn.Conv2d(8, 8, 5, padding=2, groups=8)
        >>> _ = torch.nn.init.dirac_(convolution.weight, groups=8)
        >>> statistics = measure_kernels(torch.nn.Sequential(convolution)).kernels[0].channel_statistics
        >>> round(statistics.low_frequency_share, 3), statistics.distance_mean, statistics.rank_mean
        (0.087, 0.0, 1.0)
    """

    low_frequency_share: float | None = None
    middle_frequency_share: float | None = None
    high_frequency_share: float | None = None
    orientation: float | None = None
    anisotropy: float | None = None
    channel_anisotropy: float | None = None
    distance_mean: float | None = None
    distance_median: float | None = None
    rank_mean: float | None = None
    rank_median: float | None = None


@dataclass(frozen=True)
class KernelChange:
    """Difference between the kernels of a layer in two checkpoints of one network.

    Attributes:
        relative_norm: ``|w - v| / |v|`` with the Euclidean norm of all weights of the layer, where ``v`` are those of
            the other checkpoint: 0 for equal kernels. None if ``v`` is zero.
        cosine: Cosine of the angle between ``w`` and ``v``: 1 for kernels that differ only by a positive factor. None
            if one of them is zero.

    Source:
        Zhang, Bengio and Singer, Are all layers created equal?, arXiv:1902.01996, which compares the layers of a
        network with those of an earlier checkpoint by norms of their difference.

    Examples:
        >>> import torch
        >>> from replk_probe import measure_kernels
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 5, padding=2, groups=8))
        >>> torch.save(network.state_dict(), "first.pth")
        >>> _ = network[0].weight.data.mul_(3)
        >>> change = measure_kernels(network, against="first.pth").kernels[0].change
        >>> round(change.relative_norm, 6), round(change.cosine, 6)
        (2.0, 1.0)
    """

    relative_norm: float | None
    cosine: float | None


def measure_channels(kernels: FloatArray) -> ChannelStatistics:
    """Compute the statistics of the kernels ``[N, Kh, Kw]`` of N channels, which must be finite."""
    largest = np.abs(kernels).max((1, 2), initial=0.0)
    kernels, largest = kernels[largest > 0], largest[largest > 0]
    if not len(kernels):
        return ChannelStatistics()
    height, width = kernels.shape[1:]
    size = [next_fast_len(2 * side - 1, real=True) for side in (height, width)]
    forms = _quadratic_forms(height, width, size)
    chunk = max(1, _MOST_ENTRIES // math.prod(size))
    parts: list[FloatArray] = []
    for start in range(0, len(kernels), chunk):
        some = kernels[start : start + chunk] / largest[start : start + chunk, None, None]
        parts.append(np.stack([*(_energies(some, size) @ forms).T, _distances(some), _ranks(some)]))
    total, low, middle, across, down, mixed, distance, rank = np.concatenate(parts, axis=1)
    first, second = (min(max(float((band / total).mean()), 0.0), 1.0) for band in (low, middle))
    trace = across + down
    across, down, mixed = across / trace, down / trace, mixed / trace
    mean_across, mean_down, mean_mixed = (float(part.mean()) for part in (across, down, mixed))
    anisotropy = math.hypot(mean_across - mean_down, 2 * mean_mixed)
    # The angle of the principal axis, with rows that count downwards.
    axis = math.degrees(math.atan2(2 * mean_mixed, mean_across - mean_down)) / 2
    is_point = height == width == 1
    return ChannelStatistics(
        low_frequency_share=first,
        middle_frequency_share=second - first,
        high_frequency_share=1 - second,
        orientation=(90 - axis) % 180 if anisotropy > _ROUNDING else None,
        anisotropy=min(anisotropy, 1.0),
        channel_anisotropy=min(float(np.hypot(across - down, 2 * mixed).mean()), 1.0),
        distance_mean=None if is_point else float(distance.mean()),
        distance_median=None if is_point else float(np.median(distance)),
        rank_mean=float(rank.mean()),
        rank_median=float(np.median(rank)),
    )


def compare_kernels(kernels: FloatArray, others: FloatArray) -> KernelChange:
    """Compare the kernels of a layer with those of the other checkpoint, which have the same shape."""
    # Relative to the largest entry, so that no square overflows.
    largest = max(float(np.abs(values).max(initial=0.0)) for values in (kernels, others)) or 1.0
    first, second = kernels.ravel() / largest, others.ravel() / largest
    norms = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    cosine = float(first @ second) / math.prod(norms) if all(norms) else None
    return KernelChange(
        relative_norm=float(np.linalg.norm(first - second)) / norms[1] if norms[1] else None,
        cosine=None if cosine is None else max(-1.0, min(1.0, cosine)),
    )


def _energies(kernels: FloatArray, size: list[int]) -> FloatArray:
    """Energy spectrum ``[N, F]`` of each kernel, sampled on a grid of ``size``."""
    count, height, width = kernels.shape
    if height * width > _LARGEST_PRODUCT:
        spectrum = rfft2(kernels, size)
        return np.asarray((spectrum.real**2 + spectrum.imag**2).reshape(count, -1))
    # Many small transforms are much faster as one product of matrices.
    basis = rfft2(np.eye(height * width).reshape(-1, height, width), size).reshape(height * width, -1)
    flat = kernels.reshape(count, -1)
    return np.asarray((flat @ basis.real) ** 2 + (flat @ basis.imag) ** 2)


def _quadratic_forms(height: int, width: int, size: list[int]) -> FloatArray:
    """Weights ``[F, 6]`` of the F entries of an energy spectrum, sampled on a grid of ``size``, in six integrals.

    These are its total, those over the disks of the two radii, and the horizontal, vertical and mixed second moments.
    Each is a sum over the autocorrelation, times the integral of exp(-2 pi i f n) over the same frequencies at lag n.
    """
    rows, columns = np.arange(1 - height, height), np.arange(1 - width, width)
    lag = np.hypot(rows[:, None], columns)
    point = (lag == 0).astype(np.float64)
    disks = [
        np.where(lag == 0, math.pi * radius**2, radius * j1(2 * math.pi * radius * lag) / np.maximum(lag, 1.0))
        for radius in BANDS
    ]
    moments = [
        np.where(rows[:, None] == 0, _second_moment(columns), 0.0),
        np.where(columns == 0, _second_moment(rows)[:, None], 0.0),
        -_first_moment(rows)[:, None] * _first_moment(columns),
    ]
    grid = np.zeros((6, *size))
    grid[:, rows[:, None], columns] = np.stack([point, *disks, *moments])
    # rfft2 leaves out half of the spectrum, which is symmetric.
    twice = np.full(size[1] // 2 + 1, 2.0)
    twice[0] = 1.0
    if size[1] % 2 == 0:
        twice[-1] = 1.0
    return np.asarray((rfft2(grid, size).real * twice / math.prod(size)).reshape(6, -1).T)


def _second_moment(lags: IntArray) -> FloatArray:
    """Integral of f^2 exp(-2 pi i f n) over the frequencies f of one axis, for each lag n."""
    return np.where(lags == 0, 1 / 12, (1 - 2 * (lags % 2)) / (2 * math.pi**2 * np.where(lags == 0, 1, lags) ** 2.0))


def _first_moment(lags: IntArray) -> FloatArray:
    """Integral of f exp(-2 pi i f n) over the frequencies f of one axis, divided by i, for each lag n."""
    return np.where(lags == 0, 0.0, (1 - 2 * (lags % 2)) / (2 * math.pi * np.where(lags == 0, 1, lags)))


def _distances(kernels: FloatArray) -> FloatArray:
    """Mean distance of the entries of each kernel from its center, weighted by absolute values, over the largest."""
    rows, columns = (np.arange(side) - (side - 1) / 2 for side in kernels.shape[1:])
    distance = np.hypot(rows[:, None], columns)
    weights = np.abs(kernels)
    return np.asarray((weights * distance).sum((1, 2)) / weights.sum((1, 2)) / (distance.max() or 1.0))


def _ranks(kernels: FloatArray) -> FloatArray:
    """Number of singular values of each kernel that have at least 90 % of its energy."""
    mirrored = kernels.transpose(0, 2, 1)
    square = kernels @ mirrored if kernels.shape[1] <= kernels.shape[2] else mirrored @ kernels
    # Squares of the singular values, the largest first; faster than the singular values themselves.
    energy = np.linalg.eigvalsh(square)[:, ::-1]
    held = energy.cumsum(1) / energy.sum(1, keepdims=True)
    return np.asarray((held < ENERGY - _ROUNDING).sum(1) + 1.0)
