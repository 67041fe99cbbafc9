"""The attributions of the images of one model, saved as JSON, arrays and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError, close_hint
from replk_probe.results import Result, Row, as_plain, csv_text, nan_if_null, npz_bytes, strict_json
from replk_probe.runtime.checks import whole
from replk_probe.runtime.file_reading import decode, folder_of, read_arrays, read_json, reading
from replk_probe.runtime.provenance import RunInfo

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "attribution.json"
ARRAYS_NAME = "attribution.npz"
CSV_NAME = "attribution.csv"

_ADVICE = folder_of("attribute")
_COLUMNS = (
    *("model", "weights", "method", "image", "target", "target_name", "predicted", "predicted_name", "score"),
    *("probability", "total", "entropy_bits", "effective_area", "peak_y", "peak_x", "layer", "erf", "position_y"),
    *("position_x", "threshold", "window_height", "window_width", "window_area", "share"),
)


@dataclass(frozen=True, kw_only=True)
class ErfWindow:
    """The window of the effective receptive field for one threshold, and the share of the attribution inside it.

    Attributes:
        threshold: Share of the contribution that the window holds, in (0, 1), by the protocol ``"centred"``.
        top: First row of pixels.
        left: First column of pixels.
        bottom: Row of pixels after the last one.
        right: Column of pixels after the last one.
        area: Area as a fraction of the image, in (0, 1]: the share of a uniform attribution.
        share: Share of the absolute attribution inside the window, in [0, 1].
    """

    threshold: float
    top: int
    left: int
    bottom: int
    right: int
    area: float
    share: float


@dataclass(frozen=True, kw_only=True)
class AttributedImage:
    """The numbers of one image.

    All but ``total`` are those of the absolute attribution, and are None where that is zero everywhere.

    Attributes:
        id: Name of the image.
        target: Index of the class whose score was attributed.
        target_name: Its name, or None if it is unknown.
        predicted: Index of the class with the highest score.
        predicted_name: Its name, or None if it is unknown.
        score: Output of the network for the target: its logit, or its probability if the network ends in a softmax.
        probability: Probability of the target by the softmax of all outputs.
        total: Sum of the signed attribution, in units of the score (for ``"saliency"``, score per standard deviation
            of the input).
        entropy_bits: Entropy of the absolute attribution as a distribution over pixels, in bits.
        effective_area: Exponential of the entropy as a fraction of the image, in (0, 1], as in
            :class:`~replk_probe.erf.ErfNumbers`.
        peak: Pixel (y, x) with the largest absolute attribution.
        position: Most attributed position (row, column) of the layer, from 0: the one whose pixels have the largest
            mean of absolute attributions. A pixel belongs to the position with the nearest center of its receptive
            field. None if the network has no such layer.
        center: Center (y, x) of the receptive field of the position, in input pixels.
        windows: Windows of the effective receptive field of this position, one for each threshold; empty if there is
            none.
    """

    id: str
    target: int
    target_name: str | None
    predicted: int
    predicted_name: str | None
    score: float
    probability: float
    total: float
    entropy_bits: float | None = None
    effective_area: float | None = None
    peak: tuple[int, int] | None = None
    position: tuple[int, int] | None = None
    center: tuple[float, float] | None = None
    windows: tuple[ErfWindow, ...] = ()

    @property
    def target_label(self) -> str:
        """Name and index of the target."""
        return class_label(self.target, self.target_name)


@dataclass(frozen=True, eq=False, repr=False)
class AttributionResult(Result):
    """The attributions of the class scores of one model to the pixels of images.

    Attributes:
        maps: Signed attribution of every pixel, ``[N, H, W]`` float32, finite, read-only.
        pictures: The images as the network receives them, ``[N, H, W, 3]`` uint8 RGB before normalization, read-only.
        images: The numbers of each image.
        run: Provenance of the measurement.
        method: Method of attribution.
        layer: Layer whose positions have the windows, or None if there is none.
        erf: Source of the windows: ``"image"`` if they were measured on each image, or else the name of the result.
        notes: Caveats of one or more sentences each.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> layers = nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        >>> from replk_probe import AttributionResult, measure_attribution
        >>> result = measure_attribution(nn.Sequential(*layers), torch.rand(2, 3, 32, 32))
        >>> len(result.images), result.maps.shape
        (2, (2, 32, 32))
        >>> result.save("attribution")
        >>> AttributionResult.load("attribution") == result
        True
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]] = (
        "image", "target", "target_name", "probability", "effective_area", "threshold", "window_area", "share",
    )  # fmt: skip

    maps: npt.NDArray[np.float32]
    pictures: npt.NDArray[np.uint8]
    images: tuple[AttributedImage, ...]
    run: RunInfo
    method: str
    layer: str | None = None
    erf: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Copy and check the arrays, so that they cannot change."""
        maps, pictures = np.array(self.maps, dtype=np.float32), np.array(self.pictures, dtype=np.uint8)
        size = tuple(self.run.input_size)
        if not self.images or len(size) != 2 or maps.shape != (len(self.images), *size):
            raise InvalidInputError(
                f"The attributions have shape {list(maps.shape)}, but there are {len(self.images)} images of size "
                f"{list(size)}. There must be one number for each pixel of at least one image. Give them as [N, H, W]."
            )
        if pictures.shape != (*maps.shape, 3):
            raise InvalidInputError(
                f"The pictures have shape {list(pictures.shape)}, but the attributions {list(maps.shape)}. Each image "
                "has a picture of its size. Give them as [N, H, W, 3]."
            )
        if not np.isfinite(maps).all():
            raise InvalidInputError(
                "The attributions have entries that are not finite. Their sums would be undefined. Leave out these "
                "images."
            )
        for window in (window for image in self.images for window in image.windows):
            if not (0 <= window.top < window.bottom <= size[0] and 0 <= window.left < window.right <= size[1]):
                raise InvalidInputError(
                    f"A window has rows {window.top} to {window.bottom} and columns {window.left} to {window.right}, "
                    f"but the images have {size[0]} x {size[1]} pixels. Windows lie inside the image. Clip them to it."
                )
        for name, array in (("maps", maps), ("pictures", pictures)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def index_of(self, image: int | str) -> int:
        """The index of an image that is given by its index or its name.

        Args:
            image: Index, which may be negative, or name.

        Returns:
            Index in :attr:`images`, from 0.

        Raises:
            InvalidInputError: The result does not contain the image.
        """
        names = [one.id for one in self.images]
        if isinstance(image, str):
            if image in names:
                return names.index(image)
            hint = close_hint(image, names)
        else:
            index = whole(image)
            if index is not None and -len(names) <= index < len(names):
                return index % len(names)
            hint = ""
        raise InvalidInputError(
            f"There is no image {image!r}{hint}. This result has {len(names)}, whose indices count from 0. Give an "
            "index or the name of an image."
        )

    def to_json(self) -> dict[str, Any]:
        """The result without its arrays, as plain dictionaries, lists and numbers."""
        own = [field.name for field in fields(self) if field.name not in ("maps", "pictures", "run")]
        record = {name: as_plain(getattr(self, name)) for name in own}
        return {"schema_version": SCHEMA_VERSION, "run": self.run.to_json(), "attribution": record}

    def to_dataframe(self) -> pd.DataFrame:
        """The numbers of the images as a table with one row per image and threshold.

        Returns:
            A data frame with the columns of ``attribution.csv``: ``model``, ``weights``, ``method``, ``image``,
            ``target``, ``target_name``, ``predicted``, ``predicted_name``, ``score``, ``probability``, ``total``,
            ``entropy_bits``, ``effective_area`` (fraction of the image), ``peak_y``, ``peak_x`` (pixels), ``layer``,
            ``erf``, ``position_y``, ``position_x``, ``threshold``, ``window_height``, ``window_width`` (pixels),
            ``window_area`` (fraction of the image) and ``share`` (fraction of the absolute attribution). Undefined
            numbers are NaN. An image without windows has one row.
        """
        return super().to_dataframe()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw one image; arguments and errors are those of :func:`~replk_probe.attribution.plot_attribution`."""
        from .plot import plot_attribution

        return plot_attribution(self, ax, **kwargs)

    def _files(self) -> Mapping[str, bytes]:
        return {
            ARRAYS_NAME: npz_bytes({"maps": self.maps, "pictures": self.pictures}),
            CSV_NAME: csv_text(self._rows(), _COLUMNS).encode("utf-8"),
            JSON_NAME: strict_json(self.to_json()).encode("utf-8"),
        }

    @classmethod
    def load(cls, directory: str | Path) -> AttributionResult:
        """Load a result written by :meth:`save`.

        Args:
            directory: Folder with ``attribution.json`` and ``attribution.npz``.

        Returns:
            The result, equal to the one that was saved.

        Raises:
            InvalidInputError: A file is missing or damaged, or has a schema version that cannot be read.
        """
        folder = Path(directory)
        record = read_json(folder / JSON_NAME, _ADVICE, READABLE_VERSIONS)
        arrays = read_arrays(folder / ARRAYS_NAME, _ADVICE, {"maps": (np.float32, 3), "pictures": (np.uint8, 4)})
        with reading(folder / JSON_NAME, "attribution record"):
            return decode(cls, {**record["attribution"], **arrays, "run": record["run"]})

    def _summary(self) -> Mapping[str, object]:
        summary = {"model": self.run.model, "weights": self.run.weights.label, "method": self.method}
        return summary | {"images": len(self.images)}

    def _rows(self) -> list[Row]:
        rows = []
        shared: Row = {"model": self.run.model, "weights": self.run.weights.label, "method": self.method}
        shared |= {"layer": self.layer, "erf": self.erf}
        for image in self.images:
            cells = shared | {name: getattr(image, name) for name in _COLUMNS if hasattr(image, name)}
            cells |= {"image": image.id}
            for name in ("peak", "position"):
                y, x = getattr(image, name) or (None, None)
                cells |= {f"{name}_y": y, f"{name}_x": x}
            for window in image.windows or (None,):
                found = {} if window is None else _window_cells(window)
                rows.append({name: nan_if_null((cells | found).get(name)) for name in _COLUMNS})
        return rows


def class_label(index: int, name: str | None) -> str:
    """Name and index of a class."""
    return f"class {index}" if name is None else f"{name} ({index})"


def _window_cells(window: ErfWindow) -> Row:
    height, width = window.bottom - window.top, window.right - window.left
    cells = {"threshold": window.threshold, "window_height": height, "window_width": width}
    return cells | {"window_area": window.area, "share": window.share}
