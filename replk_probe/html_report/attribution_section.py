"""The part of the page on attributions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from replk_probe.attribution.plot import overlay_pixels
from replk_probe.attribution.result import AttributedImage, AttributionResult
from replk_probe.collection import Saved
from replk_probe.runtime.formatting import percent

from .names import numbered
from .number_texts import NO_CELL, Badge, Cell, badge, number, share

_SIDE = 192  # pixels of the longer side of a picture
_QUALITY = 75
_MOST_PICTURES = 4  # pictures of a result; the table has all images


@dataclass(frozen=True)
class AttributedPicture:
    """One image: its name, its target, the picture and the attribution over it, its size, and the drawn windows."""

    name: str
    target: str
    picture: str
    overlay: str
    size: tuple[int, int]
    windows: list[tuple[int, int, int, int]]
    center: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class AttributionPart:
    """The attributions of one model by one method.

    Attributes:
        name: Name of the model.
        badge: Kind of its weights.
        method: Method of attribution.
        pictures: The first images.
        left_out: Number of images that are only in the table.
        head: Names of the columns of the table after the first one.
        rows: Name and cells of every image.
        notes: Notes on the result.
    """

    name: str
    badge: Badge
    method: str
    pictures: list[AttributedPicture]
    left_out: int
    head: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: tuple[str, ...]


def attribution_names(results: Sequence[AttributionResult]) -> list[str]:
    """Names of the models, with a number where one was measured several times by one method."""
    names = numbered([f"{result.run.model}, {result.method}" for result in results])
    return [name.replace(f", {result.method}", "", 1) for name, result in zip(names, results, strict=True)]


def attribution_section(saved: Sequence[Saved[AttributionResult]]) -> list[AttributionPart]:
    """A part for each result."""
    names = attribution_names([one.result for one in saved])
    return [_part(one.result, name) for one, name in zip(saved, names, strict=True)]


def _part(result: AttributionResult, name: str) -> AttributionPart:
    thresholds = list(dict.fromkeys(window.threshold for image in result.images for window in image.windows))
    return AttributionPart(
        name=name,
        badge=badge(result.run.weights),
        method=result.method,
        pictures=[_picture(result, index) for index in range(min(len(result.images), _MOST_PICTURES))],
        left_out=max(len(result.images) - _MOST_PICTURES, 0),
        head=["class", "probability", "entropy, bits", "effective area"]
        + [f"in the {percent(threshold)} window" for threshold in thresholds],
        rows=[(image.id, _cells(image, thresholds)) for image in result.images],
        notes=result.notes,
    )


def _cells(image: AttributedImage, thresholds: Sequence[float]) -> list[Cell]:
    windows = {window.threshold: window for window in image.windows}
    shares = [windows.get(threshold) for threshold in thresholds]
    area = image.effective_area
    return [
        Cell(image.target_label, image.target_label, "", "" if image.target == image.predicted else "not predicted"),
        share(image.probability),
        number(image.entropy_bits),
        NO_CELL if area is None else share(area),
        *(NO_CELL if one is None else share(one.share, detail=f"{percent(one.area, 1)} of the area") for one in shares),
    ]


def _picture(result: AttributionResult, index: int) -> AttributedPicture:
    image = result.images[index]
    height, width = result.maps.shape[1:]
    middle = min(image.windows, key=lambda one: abs(one.threshold - 0.5), default=None)
    text = ""
    if middle is not None:
        text = (
            f"{percent(middle.share, 1)} of the attribution in the {percent(middle.threshold)} window, "
            f"which has {percent(middle.area, 1)} of the area"
        )
    return AttributedPicture(
        name=image.id,
        target=image.target_label,
        picture=_jpeg(result.pictures[index]),
        overlay=_jpeg(np.rint(255 * overlay_pixels(result, index)).astype(np.uint8)),
        size=(height, width),
        windows=[(one.left, one.top, one.right - one.left, one.bottom - one.top) for one in image.windows],
        center=None if image.center is None else (image.center[0] + 0.5, image.center[1] + 0.5),
        text=text,
    )


def _jpeg(pixels: npt.NDArray[np.uint8]) -> str:
    """RGB pixels as a small picture, as a data URI."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
