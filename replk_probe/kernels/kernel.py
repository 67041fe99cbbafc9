"""The magnitude of one kernel and its statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from replk_probe.results import ByValue, as_plain, null_if_nan

from . import statistics
from .channel_statistics import ChannelStatistics, KernelChange
from .statistics import EFFECTIVE_SHARES, FloatArray

if TYPE_CHECKING:
    from .result import KernelResult

# Branch name of a kernel that is one of several parallel ones that another package merges.
ONE_OF_SEVERAL = "one of several"
# Variant of a kernel that several convolutions amount to.
COMPOSED = "composed"


@dataclass(frozen=True, eq=False)
class Kernel(ByValue):
    """The magnitude of the kernel of one layer.

    Attributes:
        layer: Layer name such as ``stage4.0`` in the families of this package, otherwise the module path.
        path: Module path.
        variant: ``"merged"``: all branches added up; ``"large"``: without the small branch; ``"small"``: the small
            branch only; ``"column"`` and ``"row"``: the strips of a decomposed kernel, whose sum is ``"large"``;
            ``"composed"``: the kernel that convolutions in series, dilated, or on parts of the channels amount to.
        magnitude: ``[Kh, Kw]`` float64, read-only: absolute weights, their batch norm folded in, aggregated over
            channels; not normalized.
        channels: Output channels.
        operation: ``"depthwise"``, ``"grouped"`` or ``"dense"``; the latter two are aggregated over input channels as
            well.
        branches: Names of the parallel branches of the layer: ``("large", "small")``, ``("large",)`` for a single
            kernel, ``("column", "row", "small")``; empty if they are merged in the weights and cannot be known;
            ``("one of several",)`` for one branch of a block that another package merges; names of the convolutions,
            with their channels if these are only some, of a composed kernel.
        zero_fraction: Share of the weights that are exactly 0 as they are stored, before branches are padded or added.
        small_branch_share: Sum of the small branch's absolute weights over that of all branches; None if the
            layer has no small branch or its weights are merged.
        batch_norm: Paths of the batch norms that were folded in; empty if none follows or the file had them folded.
        strongest: Signed kernels ``[N, Kh, Kw]`` of single channels with the largest sums of absolute weights.
        strongest_channels: Channels of these kernels: (channel,), or (output, input) channel if an output has several.
        notes: Notes for the reader.
        composed_of: Paths of the convolutions of a composed kernel in their order; empty for other kernels.
        channel_statistics: Statistics of the signed kernels of single channels; None in files of earlier versions.
        dilation: Distance in rows and columns between the entries of the magnitude, which has no gaps.
        change: Difference from the other checkpoint; None if none was given, or if that one has no such kernel.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.kernels import Kernel
        >>> kernel = Kernel("conv", "conv", "merged", np.ones((5, 5)), channels=8)
        >>> round(kernel.center3x3_share, 3), round(kernel.skeleton_share, 3)  # 9 and 9 of 25 entries
        (0.36, 0.36)
        >>> kernel.effective_size
        {50: 5, 90: 5, 99: 5}
    """

    layer: str
    path: str
    variant: str
    magnitude: FloatArray
    channels: int
    operation: str = "depthwise"
    branches: tuple[str, ...] = ("large",)
    zero_fraction: float = math.nan
    small_branch_share: float | None = None
    batch_norm: tuple[str, ...] = ()
    strongest: FloatArray = field(default_factory=lambda: np.zeros((0, 1, 1)))
    strongest_channels: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()
    composed_of: tuple[str, ...] = ()
    channel_statistics: ChannelStatistics | None = None
    change: KernelChange | None = None
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        """Copy the arrays and make them read-only."""
        for name, values in (
            ("magnitude", statistics.as_magnitude(self.magnitude)),
            ("strongest", np.array(self.strongest, dtype=np.float64)),
        ):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(Kh, Kw)."""
        height, width = self.magnitude.shape
        return height, width

    @property
    def spread(self) -> FloatArray:
        """:attr:`normalized` with zeros in the gaps of the dilation."""
        (height, width), (down, across) = self.kernel_size, self.dilation
        found = np.zeros((down * (height - 1) + 1, across * (width - 1) + 1))
        found[::down, ::across] = self.normalized
        return found

    @property
    def maximum(self) -> float:
        """Largest entry of the magnitude, by which figures are normalized."""
        return float(self.magnitude.max())

    @property
    def normalized(self) -> FloatArray:
        """The magnitude over its maximum, in [0, 1]; zeros if there is no mass."""
        return np.asarray(self.magnitude / (self.maximum or 1.0))

    @property
    def relative_mass(self) -> float:
        """Sum of :attr:`normalized`: the number of maximal entries with the same mass."""
        return float(self.normalized.sum())

    def center_share(self, side: int) -> float:
        """Share of the mass in the centered square of ``side``; see :func:`statistics.center_share`."""
        return statistics.center_share(self.magnitude, side)

    @property
    def center_shares(self) -> dict[int, float]:
        """Value of :meth:`center_share` for every side of a centered square in the kernel."""
        longest = max(self.kernel_size)
        return {side: self.center_share(side) for side in range(2 - longest % 2, longest + 1, 2)}

    @property
    def center3x3_share(self) -> float:
        """Share of the mass in the central 3 x 3 entries."""
        return self.center_share(3)

    @property
    def skeleton_share(self) -> float:
        """Share of the mass in the central row and column (kernel skeleton)."""
        return statistics.skeleton_share(self.magnitude)

    @property
    def effective_size(self) -> dict[int, int | None]:
        """Side of the smallest centered square with 50, 90 and 99 % of the mass, by percent."""
        return {percent: statistics.effective_size(self.magnitude, percent / 100) for percent in EFFECTIVE_SHARES}

    @property
    def radial_profile(self) -> FloatArray:
        """Mean magnitude at each distance from the center, relative to the maximum, ``[R]``."""
        return statistics.radial_profile(self.magnitude)

    @property
    def entropy(self) -> float:
        """Entropy of the mass in bits."""
        return statistics.entropy(self.magnitude)

    @property
    def relative_entropy(self) -> float:
        """:attr:`entropy` over that of a uniform kernel of this size; NaN for one entry."""
        return self.entropy / math.log2(self.magnitude.size) if self.magnitude.size > 1 else math.nan

    @property
    def symmetry(self) -> dict[str, float]:
        """Overlap with the mirrored kernel: left_right, up_down, rotation, transpose."""
        return statistics.symmetry(self.magnitude)

    @property
    def center3x3_mean(self) -> float:
        """Mean of the central 3 x 3 entries, relative to the maximum."""
        return statistics.means_inside_and_outside(self.magnitude, 3)[0]

    @property
    def outside3x3_mean(self) -> float:
        """Mean of the entries outside the central 3 x 3, relative to the maximum."""
        return statistics.means_inside_and_outside(self.magnitude, 3)[1]

    def to_json(self) -> dict[str, Any]:
        """Convert everything except the arrays to JSON values; undefined values are None."""
        return {
            "layer": self.layer,
            "path": self.path,
            "variant": self.variant,
            "kernel_size": list(self.kernel_size),
            "channels": self.channels,
            "operation": self.operation,
            "aggregated_over": "channels" if self.operation == "depthwise" else "output and input channels",
            "branches": list(self.branches),
            "batch_norm": list(self.batch_norm),
            "maximum": self.maximum,
            "relative_mass": self.relative_mass,
            "centre3x3_share": null_if_nan(self.center3x3_share),
            "centre_shares": {str(side): null_if_nan(share) for side, share in self.center_shares.items()},
            "centre3x3_mean": null_if_nan(self.center3x3_mean),
            "outside3x3_mean": null_if_nan(self.outside3x3_mean),
            "skeleton_share": null_if_nan(self.skeleton_share),
            "effective_size": {str(percent): side for percent, side in self.effective_size.items()},
            "radial_profile": [null_if_nan(value) for value in self.radial_profile.tolist()],
            "entropy_bits": null_if_nan(self.entropy),
            "relative_entropy": null_if_nan(self.relative_entropy),
            "symmetry": {name: null_if_nan(value) for name, value in self.symmetry.items()},
            "zero_fraction": null_if_nan(self.zero_fraction),
            "small_branch_share": self.small_branch_share,
            "strongest_channels": [list(place) for place in self.strongest_channels],
            "notes": list(self.notes),
            "composed_of": list(self.composed_of),
            "channel_statistics": as_plain(self.channel_statistics),
            "change": as_plain(self.change),
            "dilation": list(self.dilation),
        }


def folding_text(kernels: Sequence[Kernel]) -> str:
    """``"batch norms folded in, "`` for a sentence about all kernels; empty if there were no batch norms."""
    folded = [bool(kernel.batch_norm) for kernel in kernels]
    return "batch norms folded in" + ("" if all(folded) else " where present") + ", " if any(folded) else ""


def distinct_names(results: Sequence[KernelResult]) -> list[str]:
    """Names of the models, with a number appended to those that are not unique."""
    names = [result.run.model for result in results]
    return [
        f"{name} #{names[: index + 1].count(name)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
