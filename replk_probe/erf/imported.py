"""Contribution maps from files of other tools, as results with all numbers and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.runtime.checks import check_name
from replk_probe.runtime.file_reading import folder_of, read_array, read_arrays, unreadable
from replk_probe.runtime.paths import usable_path
from replk_probe.runtime.provenance import UNKNOWN, RunInfo, WeightsInfo

from .area_protocols import (
    DEFAULT_THRESHOLDS,
    FloatArray,
    area_ratios,
    check_center,
    check_threshold,
    logarithm_note,
    saturation_note,
)
from .map_statistics import erf_numbers
from .result import ARRAYS_NAME, IMPORTED, JSON_NAME, ErfResult, RatioRow

_ADVICE = "Give a map [H, W] of real numbers >= 0 in an .npy or .npz file, or the folder of a result."
_OWN_ARRAY = "contribution"
_SUFFIXES = (".npy", ".npz")
_NOTE = "Imported map: its weights, layer and images are unknown, and it has no intervals."
_SMALL = "The scores of this imported map are too small for the paper's logarithm, so that 'paper' is 'linear' here."


def import_erf(
    source: str | Path | npt.ArrayLike,
    name: str | None = None,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    center: Sequence[float] | None = None,
) -> ErfResult:
    """A contribution map that was not measured here, as a result with all numbers and figures.

    The provenance says that the map is imported, with the SHA-256 of its file. Its weights, layer and images are
    unknown, and there are no intervals, which need the maps of several images.

    Args:
        source: An ``.npy`` file, or an ``.npz`` file with one array or with one called ``contribution``; an array; or
            the folder of a result of this package (or its ``erf.npz``), which is loaded with its own provenance,
            thresholds and intervals. Nothing is unpickled.
        name: Name of the model in the result; None for the name of the file without its suffix, or for the name in the
            result that is loaded.
        thresholds: Shares of the total contribution, each in (0, 1).
        center: Center (y, x) of the receptive field in input pixels, where whole numbers are centers of pixels; default
            (H // 2, W // 2).

    Returns:
        The result. The scale of the map matters only to the protocol ``paper``, which takes logarithms.

    Raises:
        InvalidInputError: The file cannot be read; it is not a map ``[H, W]`` of finite real numbers >= 0, not all of
            them zero; a threshold is not in (0, 1); or ``center`` lies outside the map.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import import_erf
        >>> np.save("their_map.npy", np.ones((32, 32)))
        >>> result = import_erf("their_map.npy", name="resnet101.a1_in1k")
        >>> round(result.row("pixels", 0.5).ratio * 32 * 32)  # more than half of 1024 pixels
        513
    """
    check_name(name)
    thresholds = tuple(dict.fromkeys(map(check_threshold, thresholds)))
    if not isinstance(source, (str, Path)):
        return _result(_checked(source, "the array"), name or "array", {IMPORTED: "array"}, thresholds, center)
    path = usable_path(source, "The path")
    folder = _own_folder(path)
    if folder is not None:
        result = ErfResult.load(folder)
        return result if name is None else replace(result, run=replace(result.run, model=name))
    array, entry = _read(path)
    origin = {IMPORTED: path.name, "sha256": sha256_of(path)} | ({} if entry is None else {"array": entry})
    return _result(_checked(array, str(path)), name or path.stem, origin, thresholds, center)


def maps_in(path: Path) -> list[Path]:
    """The sources for :func:`import_erf` that a path stands for: itself, or the maps or results in a folder.

    Raises:
        InvalidInputError: The folder has neither a result nor files of maps.
    """
    if not path.is_dir() or _own_folder(path) is not None:
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in _SUFFIXES)
    # A command with several results writes each to a folder of its own, and a series of sizes to one below.
    found = found or sorted(one.parent for one in [*path.glob(f"*/{JSON_NAME}"), *path.glob(f"*/*/{JSON_NAME}")])
    if not found:
        raise unreadable(path, "neither it nor its folders have erf.json, .npy or .npz files", folder_of("erf"))
    return found


def _own_folder(path: Path) -> Path | None:
    """The folder of a result of this package to which a path belongs, or None."""
    folder = path.parent if path.name == ARRAYS_NAME else path
    return folder if (folder / JSON_NAME).is_file() else None


def _read(path: Path) -> tuple[npt.NDArray[Any], str | None]:
    """The array of a file, and its name in an archive."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_array(path, _ADVICE), None
    if suffix != ".npz":
        raise unreadable(path, "maps are read from .npy and .npz files", _ADVICE)
    arrays = read_arrays(path, _ADVICE, None)
    entry = _OWN_ARRAY if _OWN_ARRAY in arrays else next(iter(arrays), "")
    if len(arrays) != 1 and entry != _OWN_ARRAY:
        listed = f"the arrays {', '.join(map(repr, arrays))}" if arrays else "no array"
        raise unreadable(
            path, f"it has {listed}, but one array or one called {_OWN_ARRAY!r} is needed", "Save the map on its own."
        )
    return arrays[entry], entry


def _checked(values: npt.ArrayLike, what: str) -> FloatArray:
    """A map in float64, or an InvalidInputError that names its source ``what``."""
    try:
        given = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise InvalidInputError(f"Cannot import {what}. It is not an array ({error}). {_ADVICE}") from error
    if given.dtype.kind not in "fiub":
        reason = f"values of type {given.dtype}, which are not real numbers"
    elif given.ndim != 2:
        reason = f"shape {list(given.shape)}, but a map has two axes"
    elif given.size == 0:
        reason = f"shape {list(given.shape)} and no values"
    else:
        array = given.astype(np.float64)
        unusable = int((~np.isfinite(array)).sum())
        if unusable:
            reason = f"{unusable} of {array.size} values that are not finite"
        elif array.min() < 0:
            reason = f"negative values (smallest {array.min():.3g}), but contributions are positive"
        elif array.max() == 0:
            reason = "zeros only, so that no share of the total is defined"
        else:
            return array
    raise InvalidInputError(f"Cannot import {what}. It has {reason}. {_ADVICE}")


def _result(
    scores: FloatArray,
    name: str,
    origin: dict[str, str],
    thresholds: tuple[float, ...],
    center: Sequence[float] | None,
) -> ErfResult:
    size = (scores.shape[0], scores.shape[1])
    place = check_center(center, size)
    numbers = erf_numbers(scores, thresholds, place)
    small = None if logarithm_note(scores) is None else _SMALL
    return ErfResult(
        contribution=scores,
        run=RunInfo(
            model=name,
            weights=WeightsInfo(UNKNOWN),
            image_source=f"imported:{origin[IMPORTED]}",
            image_ids=(),
            input_size=size,
            mean=(),
            std=(),
            seed=0,
            device=UNKNOWN,
            precision=UNKNOWN,
            backend=UNKNOWN,
            seconds=0.0,
            config={**origin, "thresholds": list(thresholds)},
        ),
        n_images=None,
        n_skipped=0,
        input_size=size,
        layer=UNKNOWN,
        feature_size=None,
        center=place,
        center_source="middle pixel" if center is None else "given",
        theoretical_rf=None,
        ratios=tuple(
            RatioRow(protocol, threshold, answer.side, answer.ratio)
            for (protocol, threshold), answer in area_ratios(scores, thresholds, center=place).items()
        ),
        notes=tuple(note for note in (_NOTE, small, saturation_note(scores, place, numbers.border_share)) if note),
        numbers=numbers,
    )
