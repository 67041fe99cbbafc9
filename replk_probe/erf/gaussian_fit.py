"""Least-squares fit of a two-dimensional Gaussian to a map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from .area_protocols import FloatArray

# Exponents (of y, of x) of the terms of the logarithm of a Gaussian, which is a quadratic polynomial.
_POWERS = np.array([(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)])
_PRODUCTS = _POWERS[:, None] + _POWERS  # exponents of the products of two terms, [6, 6, 2]
_HIGHEST = 4

# The loss is at most about one. Where its gradient is this small, a step changes it by less than float64 resolves.
_GRADIENT = 1e-8
_MOST_STEPS = 200
_TOO_LARGE = 1e30  # loss of polynomials that are not the logarithm of a Gaussian; the search turns back
_LARGEST_EXPONENT = 100.0  # exp(2 * 100) is far from the overflow of float64
# Beyond these sigmas, in pixels and in lengths of the map, the map does not determine the Gaussian: next to its center
# it is below 0.4 % of the maximum, or it is almost uniform.
_NARROWEST = 0.3
_NARROWEST_START = 0.5  # from narrower ones, the gradient of the sum of squares is too small to begin with
_WIDEST = 10.0
_FILTER_SIGMA = 2.0  # of the filter that finds a start, in cells of each level of the pyramid


class Gaussian(NamedTuple):
    """``amplitude * exp(-(u / sigma[0])**2 / 2 - (v / sigma[1])**2 / 2)``; see :class:`~.map_numbers.GaussianFit`.

    Attributes:
        amplitude: Value at the center, in the units of the map.
        center: (y, x) in pixels.
        sigma: Standard deviations in pixels along the axes nearest to y and nearest to x.
        angle: Angle of the second axis from x towards y, in degrees.
        r_squared: One minus the ratio of the sums of squares of the residuals and of the deviations from the mean.
    """

    amplitude: float
    center: tuple[float, float]
    sigma: tuple[float, float]
    angle: float
    r_squared: float


def fit_gaussian(scores: FloatArray, start: Gaussian | None = None) -> Gaussian | None:
    """The Gaussian with the smallest sum of squared differences from a map.

    The logarithm of a Gaussian is a quadratic polynomial, so that the gradient and the Hessian of the sum are moments
    of products of maps, and a few steps of Newton's method with a trust region suffice.

    Args:
        scores: Map, ``[H, W]``, >= 0 and not zero everywhere.
        start: Gaussian from which the search starts. The angle of the result is the one nearest to its angle. By
            default, the search starts once from the moments of the map and once from the best circular Gaussian at
            several scales; the better fit is returned, with an angle in [-45, 45) degrees.

    Returns:
        The Gaussian; None if the map does not determine one: the sum of squares has no minimum, or only one with a
        standard deviation below 0.3 pixels or above ten lengths of the map, or its center lies outside the map, or the
        Gaussian is no closer to the map than its mean.
    """
    spread = float(np.sum((scores - scores.mean()) ** 2))
    if min(scores.shape) < 3 or spread <= 1e-24 * float(np.sum(scores * scores)):
        return None
    starts = _starts(scores) if start is None else iter([(start.center, _covariance(start), start.amplitude)])
    turn = 0.0 if start is None else start.angle
    found = [fit for fit in (_Search(scores, *one).result(spread, turn) for one in starts) if fit is not None]
    return max(found, key=lambda fit: fit.r_squared, default=None)


_Start = tuple[tuple[float, float], FloatArray, float]  # center, covariance and amplitude


def _starts(scores: FloatArray) -> Iterator[_Start]:
    """Gaussians with the moments of the map, and the best of those that are as wide as they are high.

    The sum of squares that a Gaussian of given center and sigma explains is the square of the map filtered with it, so
    that the best one is found by filtering the map at several scales, here those of a pyramid.
    """
    y, x = np.arange(scores.shape[0]), np.arange(scores.shape[1])
    total = scores.sum()
    rows, columns = scores.sum(axis=1) / total, scores.sum(axis=0) / total
    center = float(np.sum(rows * y)), float(np.sum(columns * x))
    variances = [np.sum(rows * (y - center[0]) ** 2), np.sum(columns * (x - center[1]) ** 2)]
    yield center, np.diag(np.maximum(variances, _NARROWEST_START**2)), float(scores.max())

    level, cell, found = scores, 1, []
    while True:
        filtered = gaussian_filter(level, _FILTER_SIGMA, mode="constant")
        row, column = divmod(int(filtered.argmax()), level.shape[1])
        response = float(filtered[row, column])
        middle = (row + 0.5) * cell - 0.5, (column + 0.5) * cell - 0.5
        found.append((response * cell, middle, (_FILTER_SIGMA * cell) ** 2 * np.eye(2), 2 * response))
        if min(level.shape) < 4:
            break
        height, width = (length // 2 for length in level.shape)
        level = level[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3))
        cell *= 2
    yield max(found, key=lambda one: one[0])[1:]


def _covariance(gaussian: Gaussian) -> FloatArray:
    """Covariance matrix, in (y, x)."""
    turn = math.radians(gaussian.angle)
    axes = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])  # columns are the axes
    return np.asarray((axes * np.square(gaussian.sigma)) @ axes.T)


class _Search:
    """Search from one start, in coordinates in which the start is of unit size and at the origin."""

    def __init__(self, scores: FloatArray, center: tuple[float, float], covariance: FloatArray, amplitude: float):
        self._scores = scores
        self._center = np.array(center)
        self._unit = np.sqrt(np.diagonal(covariance))
        y, x = (
            (np.arange(length) - middle) / unit
            for length, middle, unit in zip(scores.shape, self._center, self._unit, strict=True)
        )
        self._y = y ** np.arange(_HIGHEST + 1)[:, None]  # [5, H]
        self._x = x ** np.arange(_HIGHEST + 1)[:, None]  # [5, W]
        self._norm = float(np.sum(scores * scores))
        precision = np.linalg.inv(covariance / np.outer(self._unit, self._unit))
        self._start = np.array(
            [math.log(amplitude), 0.0, 0.0, -precision[0, 0] / 2, -precision[0, 1], -precision[1, 1] / 2]
        )
        self._terms, self._last = self._start, self._evaluate(self._start)

    def result(self, spread: float, turn: float) -> Gaussian | None:
        """The minimum, with the angle nearest to ``turn``; ``spread`` is the sum of squares about the mean."""
        found = minimize(
            self._loss,
            self._start.tolist(),
            jac=self._gradient,
            hess=self._hessian,
            method="trust-exact",
            tol=_GRADIENT,
            options={"maxiter": _MOST_STEPS},
        )
        terms = np.asarray(found.x)
        loss, gradient, _ = self._at(terms)
        if not _is_gaussian(terms) or loss >= _TOO_LARGE or np.abs(gradient).max() > 1e3 * _GRADIENT:
            return None
        precision = -np.array([[2 * terms[3], terms[4]], [terms[4], 2 * terms[5]]])
        curvatures, axes = np.linalg.eigh(precision)
        widest = _WIDEST * max(self._scores.shape)
        if curvatures[0] * (widest / self._unit.min()) ** 2 < 1:  # wider than that, perhaps too wide to invert
            return None
        covariance = (axes / curvatures) @ axes.T
        offset = covariance @ terms[1:3]
        variances, axes = np.linalg.eigh(covariance * np.outer(self._unit, self._unit))
        # Axis 1 has the smallest angle from the x axis, or from the direction of the start; axes have no sign.
        angles = (np.degrees(np.arctan2(axes[0], axes[1])) - turn + 90) % 180 - 90
        along_x = int(-45 <= angles[1] < 45)
        sigma = np.sqrt(np.maximum(variances[[1 - along_x, along_x]], 0.0))
        if sigma.min() < _NARROWEST or sigma.max() > widest:
            return None
        center = self._center + offset * self._unit
        r_squared = 1.0 - 2 * loss * self._norm / spread
        # Pixels have a length of one.
        if r_squared <= 0 or (center < -0.5).any() or (center > np.array(self._scores.shape) - 0.5).any():
            return None
        return Gaussian(
            amplitude=math.exp(terms[0] + float(np.sum(terms[1:3] * offset)) / 2),
            center=(float(center[0]), float(center[1])),
            sigma=(float(sigma[0]), float(sigma[1])),
            angle=float(angles[along_x]) + turn,
            r_squared=r_squared,
        )

    def _loss(self, terms: FloatArray) -> float:
        return self._at(terms)[0]

    def _gradient(self, terms: FloatArray) -> FloatArray:
        return self._at(terms)[1]

    def _hessian(self, terms: FloatArray) -> FloatArray:
        return self._at(terms)[2]

    def _at(self, terms: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Half the sum of squares relative to that of the map, its gradient and its Hessian, kept for the next call."""
        if not np.array_equal(terms, self._terms):
            self._terms, self._last = terms.copy(), self._evaluate(terms)
        return self._last

    def _evaluate(self, terms: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        if not _is_gaussian(terms):
            return _TOO_LARGE, np.zeros(6), np.eye(6)
        values = np.multiply.outer(terms[4] * self._y[1], self._x[1])
        values += (terms[0] + terms[1] * self._y[1] + terms[3] * self._y[2])[:, None]
        values += terms[2] * self._x[1] + terms[5] * self._x[2]
        if values.max() > _LARGEST_EXPONENT:
            return _TOO_LARGE, np.zeros(6), np.eye(6)
        np.exp(values, out=values)
        residuals = values - self._scores
        loss = float(np.einsum("ij,ij", residuals, residuals)) / (2 * self._norm)
        residuals *= values
        gradient = self._moments(residuals, 2)[tuple(_POWERS.T)]
        # The second derivatives of the sum are the moments of 2 g**2 - g m, for a Gaussian g and a map m.
        values *= values
        values += residuals
        hessian = self._moments(values, _HIGHEST)[_PRODUCTS[..., 0], _PRODUCTS[..., 1]]
        return loss, gradient / self._norm, hessian / self._norm

    def _moments(self, values: FloatArray, highest: int) -> FloatArray:
        """Sums of ``values * y**i * x**j``, without BLAS, whose rounding depends on the number of threads."""
        by_row = np.array([np.einsum("hw,w->h", values, power) for power in self._x[: highest + 1]])
        return np.asarray((self._y[: highest + 1, None] * by_row).sum(axis=2))


def _is_gaussian(terms: FloatArray) -> bool:
    """Whether the quadratic polynomial has a maximum."""
    return bool(terms[3] < 0 and terms[5] < 0 and 4 * terms[3] * terms[5] > terms[4] ** 2)
