"""The result of one ERF measurement, saved as JSON, arrays and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.results import Result, Row, as_plain, csv_text, interval_cells, npz_bytes, strict_json
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.file_reading import decode, folder_of, read_arrays, read_json, reading
from replk_probe.runtime.provenance import RunInfo

from .area_protocols import RATIO_NAMES
from .convergence import CRITERION, Convergence
from .latex import booktabs, latex_interval, latex_number, latex_text
from .map_numbers import ALL_LABELS, NUMBER_COLUMNS, ErfNumbers, number_cells
from .occlusion_rows import OcclusionRow
from .position_rule import CENTER, parse_position

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
READABLE_VERSIONS = (1,)

JSON_NAME = "erf.json"
ARRAYS_NAME = "erf.npz"
CSV_NAME = "erf.csv"

IMPORTED = "imported"  # entry of the configuration of an imported map: the name of its file

CenterSource: TypeAlias = Literal["receptive field", "stride rule", "middle pixel", "given"]

# Names of fields in the JSON file that differ from those of the attributes.
_JSON_NAMES = {"center": "centre", "center_source": "centre_source"}

_ADVICE = folder_of("erf")

_RUN_COLUMNS = ("model", "weights", "images", "seed", "precision", "n_images", "input_height", "input_width", "layer")
_RATIO_COLUMNS = ("protocol", "threshold", "side", "ratio", "ci95_low", "ci95_high")
_CSV_COLUMNS = (*_RUN_COLUMNS, *_RATIO_COLUMNS, *NUMBER_COLUMNS)
# Values of further columns in the rows of results that were measured as usual.
_USUAL: Row = {"convention": "replknet", "attribution": "gradient", "target": "features", "position": CENTER}


@dataclass(frozen=True)
class RatioRow:
    """The area ratio of one protocol at one threshold.

    Attributes:
        protocol: ``"paper"``, ``"linear"``, ``"centred"`` or ``"pixels"``.
        threshold: Share of the total contribution, in (0, 1).
        side: Side of the window in input pixels.
        ratio: Area as a fraction of the input, in [0, 1].
        ci95: 95 % confidence interval of ``ratio``, or None where it is undefined (fewer than two images).
    """

    protocol: str
    threshold: float
    side: float
    ratio: float
    ci95: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the ratio."""
        if not 0 <= self.ratio <= 1:
            raise InvalidInputError(
                f"An area ratio cannot be {self.ratio}. It is a fraction of the input. Give a number in [0, 1]."
            )


@dataclass(frozen=True)
class MeasuredPosition:
    """A position of the feature map and the area ratios of its own map.

    Attributes:
        place: Row and column in the feature map, from 0.
        center: Center (y, x) of its receptive field in input pixels, within the image.
        middle: Pixel (y, x) in the middle of the windows of ``"paper"`` and ``"linear"``: (H // 2, W // 2) for the
            middle position, and otherwise as far from it, in whole pixels, as the centers of the receptive fields are
            from each other.
        border_distance: Number of positions between it and the nearest border of the feature map, 0 at the border.
        ratios: One row per protocol and threshold; empty if its map is zero everywhere.
    """

    place: tuple[int, ...]
    center: tuple[float, ...]
    middle: tuple[int, ...]
    border_distance: int
    ratios: tuple[RatioRow, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class ErfResult(Result):
    """The effective receptive field of one model, averaged over images.

    Attributes:
        contribution: Contribution scores, mean over images, ``[H, W]`` float64, finite and >= 0, read-only.
        run: Provenance of the measurement.
        n_images: Number of images in the mean, or None where it is unknown (an imported map).
        n_skipped: Number of images left out (``run.skipped`` has their ids and the reasons).
        input_size: ``(H, W)`` in pixels; ``(L,)`` for sequences ``[N, C, L]``, ``(D, H, W)`` for volumes
            ``[N, C, D, H, W]``, whose maps and positions have the same axes.
        layer: Path of the layer, followed by ``(input)`` where its input was taken.
        feature_size: ``(h, w)`` of the feature map, or None where it is unknown (an imported map).
        center: Center (y, x), in input pixels, of the receptive field of the output that was differentiated.
        center_source: ``"receptive field"`` where it was computed layer by layer, otherwise ``"stride rule"``; for an
            imported map ``"middle pixel"`` or ``"given"``.
        theoretical_rf: Side of the theoretical receptive field in input pixels, or None where it is unknown.
        ratios: One row per protocol and threshold.
        notes: Caveats of one or more sentences each.
        numbers: Further numbers of the map; None in files of earlier versions.
        convergence: The area ratios as functions of the number of images; None for an imported map, and in files of
            earlier versions.
        position: Position of the feature map that was measured, as given: ``"center"`` for (h // 2, w // 2). For
            several positions, ``contribution`` is the mean of their maps, each shifted to the center of the receptive
            field of the middle position.
        positions: The positions of the rule, in reading order; empty for ``"center"`` and ``"mean"``.
        occlusion: The rows of the occlusion check; empty if it was not made.
        position_maps: The map of each of several positions, not shifted, ``[P, H, W]`` float64, read-only; otherwise
            None.

    Examples:
        >>> import numpy as np
        >>> from replk_probe import ErfResult
        >>> from replk_probe.erf import import_erf
        >>> result = import_erf(np.ones((32, 32)), name="uniform")
        >>> result.row("paper", 0.5).side
        23
        >>> result.save("erf-uniform")
        >>> ErfResult.load("erf-uniform") == result
        True
    """

    _HTML_COLUMNS: ClassVar[tuple[str, ...]] = _RATIO_COLUMNS

    contribution: npt.NDArray[np.float64]
    run: RunInfo
    n_images: int | None
    n_skipped: int
    input_size: tuple[int, ...]
    layer: str
    feature_size: tuple[int, ...] | None
    center: tuple[float, ...]
    center_source: CenterSource
    theoretical_rf: int | None
    ratios: tuple[RatioRow, ...]
    notes: tuple[str, ...] = ()
    numbers: ErfNumbers | None = None
    convergence: Convergence | None = None
    position: str = "center"
    positions: tuple[MeasuredPosition, ...] = ()
    position_maps: npt.NDArray[np.float64] | None = None
    occlusion: tuple[OcclusionRow, ...] = ()

    def __post_init__(self) -> None:
        """Copy and check the maps, so that they cannot change."""
        contribution = np.array(self.contribution, dtype=np.float64)
        if contribution.shape != tuple(self.input_size):
            raise InvalidInputError(
                f"The contribution map has shape {list(contribution.shape)}, but the input size is "
                f"{list(self.input_size)}. Both must be equal. Give one score per input pixel."
            )
        if not np.isfinite(contribution).all() or (contribution < 0).any():
            raise InvalidInputError(
                "The contribution map has negative or non-finite entries. Contribution scores are positive gradients. "
                "Leave out the images whose gradients are not finite."
            )
        contribution.setflags(write=False)
        object.__setattr__(self, "contribution", contribution)
        axes = {len(self.input_size), len(self.feature_size or self.input_size), len(self.center)}
        axes |= set() if self.numbers is None else {len(self.numbers.peak)}
        if len(axes) != 1 or not 1 <= contribution.ndim <= 3:
            raise InvalidInputError(
                f"The input size, feature size, center and numbers have {sorted(axes)} axes. All must have those of "
                "the input, of which there are one to three. Give one entry for each axis."
            )
        if self.position_maps is not None:
            maps = np.array(self.position_maps, dtype=np.float64)
            expected = (len(self.positions), *self.input_size)
            if maps.shape != expected or not np.isfinite(maps).all() or (maps < 0).any():
                raise InvalidInputError(
                    f"The maps of the positions have shape {list(maps.shape)} or negative or non-finite entries. This "
                    f"result needs finite scores {list(expected)}. Give one map for each position."
                )
            maps.setflags(write=False)
            object.__setattr__(self, "position_maps", maps)

    @property
    def middle(self) -> tuple[int, ...]:
        """Pixel (y, x) in the middle of the windows of ``"paper"`` and ``"linear"``."""
        if self.position_maps is None and self.positions:
            return self.positions[0].middle
        return tuple(length // 2 for length in self.input_size)

    @property
    def ratio_name(self) -> str:
        """``"area ratio"``, ``"length ratio"`` for sequences or ``"volume ratio"`` for volumes."""
        return RATIO_NAMES[self.contribution.ndim]

    @property
    def unusual_options(self) -> dict[str, str]:
        """The convention, attribution and target by name, each only where it is not the usual one."""
        config = self.run.config
        recorded = {name: config[name]["name"] for name in ("convention", "attribution") if config.get(name)}
        return recorded | ({"target": config["target"]} if config.get("target") else {})

    @property
    def definition(self) -> str:
        """Convention and attribution where they are not the usual ones, as written in figures; otherwise ""."""
        parts = {"convention": "", "attribution": ""} | self.unusual_options
        convention = f"{parts['convention']} convention" if parts["convention"] else ""
        return ", ".join(part for part in (convention, parts["attribution"]) if part)

    @property
    def is_imported(self) -> bool:
        """Whether the map was not measured here (:func:`~replk_probe.erf.import_erf`)."""
        return IMPORTED in self.run.config

    @property
    def protocols(self) -> tuple[str, ...]:
        """Protocols of the rows, in order."""
        return tuple(dict.fromkeys(row.protocol for row in self.ratios))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Thresholds of the rows, in order."""
        return tuple(dict.fromkeys(row.threshold for row in self.ratios))

    def row(self, protocol: str, threshold: float) -> RatioRow:
        """The row of one protocol at one threshold.

        Args:
            protocol: One of :attr:`protocols`.
            threshold: One of :attr:`thresholds`, a share of the total contribution.

        Returns:
            Side in input pixels, ratio as a fraction of the input, and interval of the ratio.

        Raises:
            InvalidInputError: The protocol or the threshold was not measured.
        """
        for row in self.ratios:
            if row.protocol == protocol and row.threshold == threshold:
                return row
        raise InvalidInputError(
            f"There is no ratio of protocol {protocol!r} at threshold {threshold}. This result has "
            f"{', '.join(self.protocols)} at {', '.join(f'{value:g}' for value in self.thresholds)}. "
            "Choose one of those, or measure again with other thresholds."
        )

    def to_json(self) -> dict[str, Any]:
        """The result without its arrays, as plain dictionaries, lists and numbers."""
        left_out = {"contribution", "run", "position_maps"}
        if self.position == CENTER:
            left_out |= {"position", "positions"}
        if not self.occlusion:
            left_out |= {"occlusion"}
        own = [field.name for field in fields(self) if field.name not in left_out]
        erf = {_JSON_NAMES.get(name, name): as_plain(getattr(self, name)) for name in own}
        return {"schema_version": SCHEMA_VERSION, "run": self.run.to_json(), "erf": erf}

    def to_dataframe(self) -> pd.DataFrame:
        """The area ratios as a table with one row per protocol and threshold.

        Returns:
            A data frame with the columns of ``erf.csv``: ``model``, ``weights``, ``images``, ``seed``, ``precision``,
            ``n_images``, ``input_height`` and ``input_width`` (pixels), ``layer``, ``protocol``, ``threshold``,
            ``side`` (pixels), ``ratio`` (fraction of the input), ``ci95_low`` and ``ci95_high`` (NaN where undefined),
            and the numbers of :class:`~replk_probe.erf.ErfNumbers`: ``threshold_radius`` (that of the row's threshold),
            and in every row alike ``center_of_mass_y``, ``center_of_mass_x``, ``center_offset_y``,
            ``center_offset_x``, ``standard_deviation_y``, ``standard_deviation_x``, ``standard_deviation_ratio``,
            ``effective_area``, ``peak_y``, ``peak_x``, ``radial_area``, ``border_share``, ``gaussian_amplitude``,
            ``gaussian_center_y``, ``gaussian_center_x``, ``gaussian_sigma_y``, ``gaussian_sigma_x``,
            ``gaussian_angle`` and ``gaussian_r_squared``. Each is followed by the ends of its interval, whose columns
            have the same name with ``_ci95_low`` and ``_ci95_high`` at the end. The curve ``radial_share`` is only in
            ``erf.json``. Columns ``convention``, ``attribution``, ``target`` and ``position`` exist only where that
            option is not the usual one. Results of several positions have rows without numbers for each of them
            (position ``"0,3"``), after those of the mean.
        """
        return super().to_dataframe()

    def to_latex(self) -> str:
        """The area ratios and the numbers of the map as a LaTeX table.

        Returns:
            A ``tabular`` with one row per number: its name, unit, value (four significant digits) and 95 % interval.
            It needs the LaTeX package ``booktabs``.
        """
        groups = [
            [
                _latex_row(f"{self.ratio_name}, {protocol}, {100 * row.threshold:g} %", "%", row.ratio, row.ci95)
                for row in self.ratios
                if row.protocol == protocol
            ]
            for protocol in self.protocols
        ]
        if self.numbers is not None:
            groups.append(
                [
                    _latex_row(f"radius, {100 * threshold:g} %", "px", radius, interval)
                    for threshold, radius, interval in self.numbers.radii()
                ]
            )
            groups.append([_latex_row(*ALL_LABELS[name], *one) for name, one in self.numbers.named().items()])
        head = (
            latex_text(", ".join(part for part in (self.run.model, self.definition) if part)),
            "unit",
            "value",
            r"95 \% interval",
        )
        return booktabs("llrr", head, groups)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw this result; arguments and errors are those of :func:`~replk_probe.erf.plot_erf`."""
        from .plot import plot_erf

        return plot_erf(self, ax, **kwargs)

    def _files(self) -> Mapping[str, bytes]:
        arrays = {"contribution": self.contribution}
        if self.position_maps is not None:
            arrays["position_maps"] = self.position_maps
        return {
            ARRAYS_NAME: npz_bytes(arrays),
            CSV_NAME: _csv_of(self._rows()).encode("utf-8"),
            JSON_NAME: strict_json(self.to_json()).encode("utf-8"),
        }

    @classmethod
    def load(cls, directory: str | Path) -> ErfResult:
        """Load a result written by :meth:`save`.

        Args:
            directory: Folder with ``erf.json`` and ``erf.npz``.

        Returns:
            The result, equal to the one that was saved.

        Raises:
            InvalidInputError: A file is missing or damaged, or has a schema version that cannot be read.
        """
        folder = Path(directory)
        record = read_json(folder / JSON_NAME, _ADVICE, READABLE_VERSIONS)
        with reading(folder / JSON_NAME, "ERF record"):
            later: dict[str, Any] = {"numbers": None, "convergence": None, "position": CENTER, "positions": []}
            later |= {"occlusion": []}
            erf = later | record["erf"] | {name: record["erf"][saved] for name, saved in _JSON_NAMES.items()}
            if erf["convergence"] is not None:
                erf["convergence"] = {"numbers": [], "criterion": CRITERION} | erf["convergence"]
            rule, axes = parse_position(erf["position"]), len(erf["input_size"])
        kinds: dict[str, tuple[type, int]] = {"contribution": (np.float64, axes)}
        if rule.is_several:
            kinds["position_maps"] = (np.float64, axes + 1)
        arrays = read_arrays(folder / ARRAYS_NAME, _ADVICE, kinds)
        with reading(folder / JSON_NAME, "ERF record"):
            return decode(cls, {"position_maps": None, **erf, **arrays, "run": record["run"]})

    def _summary(self) -> Mapping[str, object]:
        summary = {"model": self.run.model, "weights": self.run.weights.label}
        summary |= {name: getattr(self, name) for name in ("layer", "input_size", "n_images")}
        return summary | self.unusual_options | ({} if self.position == CENTER else {"position": self.position})

    def _rows(self) -> list[Row]:
        run = self.run
        cells = (run.model, run.weights.label, run.image_source, run.seed, run.precision, self.n_images)
        *depth, height, width = (math.nan, *self.input_size)[-max(len(self.input_size), 2) :]
        shared: Row = dict(zip(_RUN_COLUMNS, (*cells, height, width, self.layer), strict=True))
        further: Row = {**({"input_depth": depth[0]} if depth else {}), **self.unusual_options}
        rows = [shared | _ratio_cells(row) | number_cells(self.numbers, row.threshold) | further for row in self.ratios]
        if self.position == CENTER:
            return rows
        rows = [row | {"position": self.position} for row in rows]
        further |= number_cells(None, 0.0)
        return rows + [
            shared | _ratio_cells(row) | further | {"position": ",".join(map(str, one.place))}
            for one in (self.positions if self.position_maps is not None else ())
            for row in one.ratios
        ]


def _ratio_cells(row: RatioRow) -> Row:
    cells = {"protocol": row.protocol, "threshold": row.threshold, "side": row.side, "ratio": row.ratio}
    return cells | interval_cells(row.ci95)


def _csv_of(rows: Sequence[Row]) -> str:
    """The rows as CSV, with further columns only if rows have them: unusual options and positions, volumes."""
    columns = tuple(dict.fromkeys((*_CSV_COLUMNS, *(name for row in rows for name in row))))
    absent: Row = dict.fromkeys(columns, math.nan) | _USUAL
    return csv_text([absent | row for row in rows], columns)


def _latex_row(label: str, unit: str, value: float, interval: tuple[float, float] | None) -> tuple[str, ...]:
    scale = 100.0 if unit == "%" else 1.0
    return latex_text(label), latex_text(unit), latex_number(scale * value), latex_interval(interval, scale)


def write_csv(results: Iterable[ErfResult], path: str | Path) -> None:
    """Write one row per model, protocol and threshold to a file, which is replaced if it exists."""
    atomic_write_text(path, _csv_of([row for result in results for row in result._rows()]))
