"""The position of a layer with the most attribution, and the window of its effective receptive field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from replk_probe.erf.area_protocols import FloatArray, centered_windows
from replk_probe.erf.contribution import InputGradient
from replk_probe.erf.result import ErfResult
from replk_probe.erf.target_layer import TargetLayer
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.formatting import dimensions
from replk_probe.runtime.provenance import WeightsInfo

from .result import ErfWindow


def most_attributed(absolute: FloatArray, target: TargetLayer) -> tuple[int, int]:
    """The position (row, column) of a layer whose pixels have the largest mean; the first of several.

    The mean, because positions at the border may have more pixels than others.

    Args:
        absolute: Absolute attributions ``[H, W]``.
        target: The layer.
    """
    rows, columns = target.layout.size
    row_of = _nearest([target.center_of((row, 0))[0] for row in range(rows)], absolute.shape[0])
    column_of = _nearest([target.center_of((0, column))[1] for column in range(columns)], absolute.shape[1])
    cells = row_of[:, None] * columns + column_of
    sums = np.bincount(cells.ravel(), weights=absolute.ravel(), minlength=rows * columns)
    pixels = np.bincount(cells.ravel(), minlength=rows * columns)
    row, column = divmod(int((sums / np.maximum(pixels, 1)).argmax()), columns)
    return row, column


def _nearest(centers: Sequence[float], length: int) -> npt.NDArray[np.intp]:
    """The index of the nearest center of every pixel along one axis."""
    distances = np.abs(np.arange(length)[:, None] - np.asarray(centers))
    return np.asarray(distances.argmin(axis=1))


def windows_on_image(
    model: nn.Module, target: TargetLayer, place: tuple[int, int], image: Tensor, thresholds: Sequence[float]
) -> list[tuple[slice, ...]] | None:
    """The windows of the effective receptive field of a position, measured on one image ``[1, C, H, W]``.

    They are those of the protocol ``"centred"`` around the center of the receptive field. None if the features at the
    position have no positive gradient.
    """
    scores = InputGradient(model, target.at(place)).scores(image)[0].double().cpu().numpy()
    if not np.isfinite(scores).all() or not scores.any():
        return None
    return centered_windows(scores, thresholds, target.center_of(place))


def windows_of_result(
    erf: ErfResult, thresholds: Sequence[float], center: Sequence[float], size: Sequence[int]
) -> list[tuple[slice, ...]]:
    """The windows of a measured effective receptive field around another center, clipped to images of ``size``."""
    found = []
    for window in centered_windows(erf.contribution, thresholds, erf.center):
        # Where the map clips the window, its other side shows how far it extends.
        half = max(
            max(middle - edges.start, edges.stop - 1 - middle) for edges, middle in zip(window, erf.center, strict=True)
        )
        inside = [
            np.flatnonzero(np.abs(np.arange(length) - middle) <= half)
            for length, middle in zip(size, center, strict=True)
        ]
        # A center between pixels has a window of at least the nearest one.
        nearest = (np.array([round(middle)]) for middle in center)
        edges = [own if own.size else one for own, one in zip(inside, nearest, strict=True)]
        found.append(tuple(slice(int(own[0]), int(own[-1]) + 1) for own in edges))
    return found


def measured_windows(
    absolute: FloatArray, windows: Sequence[tuple[slice, ...]], thresholds: Sequence[float]
) -> tuple[ErfWindow, ...]:
    """The area of each window, and its share of absolute attributions ``[H, W]``."""
    found = []
    for threshold, (rows, columns) in zip(thresholds, windows, strict=True):
        inside = absolute[rows, columns]
        found.append(
            ErfWindow(
                threshold=threshold,
                top=rows.start,
                left=columns.start,
                bottom=rows.stop,
                right=columns.stop,
                area=inside.size / absolute.size,
                share=min(float(inside.sum() / absolute.sum()), 1.0),
            )
        )
    return tuple(found)


def check_erf(erf: ErfResult, name: str, weights: WeightsInfo, target: TargetLayer) -> list[str]:
    """Check that a result is an effective receptive field of these positions; returns notes on what differs.

    An imported map, whose model and layer are not known, is only checked for its axes.

    Args:
        erf: The result.
        name: Name of the model.
        weights: Source of its weights.
        target: The layer.

    Raises:
        InvalidInputError: It is that of another model or layer, or not of images.
    """
    if len(erf.input_size) != 2:
        raise InvalidInputError(
            f"The effective receptive field of {erf.run.model} cannot be used. Its inputs have {len(erf.input_size)} "
            "axes, and images have two. Give one that was measured on images."
        )
    if not erf.is_imported:
        for what, theirs, own in (("model", erf.run.model, name), ("layer", erf.layer, target.label)):
            if theirs != own:
                raise InvalidInputError(
                    f"The effective receptive field is that of {what} {theirs!r}, but the attribution that of {own!r}. "
                    f"A window describes only its own positions. Give a result of the same {what}, or omit it to "
                    "measure the windows on the images."
                )
    notes = []
    if erf.run.weights != weights and not erf.is_imported:
        notes.append(f"The effective receptive field was measured with other weights: {erf.run.weights.label}.")
    if erf.input_size != target.input_size:
        notes.append(
            f"The effective receptive field was measured on images of {dimensions(erf.input_size)} px: its windows "
            f"have the same number of pixels here, where images have {dimensions(target.input_size)} px."
        )
    return notes
