"""Sums of contribution maps over fixed blocks of images: the same bytes whoever computed which block."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checkpoint import Checkpoint

# Enough groups for a jackknife interval; each costs one float64 map of memory.
MAX_BLOCKS = 20

FloatArray = npt.NDArray[np.float64]


def block_bounds(n_images: int) -> tuple[int, ...]:
    """First image of every block, and the number of images at the end.

    Args:
        n_images: Images asked for, whether or not they turn out to be readable.

    Returns:
        ``min(n_images, 20) + 1`` increasing indices; blocks differ by at most one image in size.
    """
    blocks = min(n_images, MAX_BLOCKS)
    return tuple(block * n_images // blocks for block in range(blocks + 1))


@dataclass
class BlockSums:
    """Sums in float64, each block in image order.

    Attributes:
        n_images: Images of the whole measurement.
        size: ``(H, W)`` of the maps.
        done: Images dealt with so far, from the first on; skipped ones included.
        sums: Per block ``[H, W]``, or None while it has no image.
        counts: Images in each sum.
    """

    n_images: int
    size: tuple[int, int]
    done: int = 0
    sums: list[FloatArray | None] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start empty."""
        self._bounds = block_bounds(self.n_images)
        blocks = len(self._bounds) - 1
        self.sums = self.sums or [None] * blocks
        self.counts = self.counts or [0] * blocks

    @property
    def block(self) -> int:
        """The block of the next image (or the last one, when all are done)."""
        index = min(self.done, self.n_images - 1)
        return next(block for block in range(len(self.counts)) if index < self._bounds[block + 1])

    def add(self, scores: npt.ArrayLike) -> int:
        """Add the map of the next image, ``[H, W]``; returns the block that changed."""
        block = self.block
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != self.size:
            raise InvalidInputError(
                f"A map of shape {list(values.shape)} cannot be added to maps of {list(self.size)}."
            )
        total = self.sums[block]
        if total is None:
            self.sums[block] = values.copy()
        else:
            total += values
        self.counts[block] += 1
        self.done += 1
        return block

    def skip(self) -> None:
        """Leave the next image out."""
        self.done += 1

    @property
    def n_added(self) -> int:
        """Images in all sums together."""
        return sum(self.counts)

    def stacked(self) -> FloatArray:
        """``[B, H, W]``: the sums of all blocks, zero for those without an image."""
        return np.stack([np.zeros(self.size) if block is None else block for block in self.sums])

    def mean(self) -> FloatArray:
        """``[H, W]``: blocks added in their order, divided by the number of images."""
        total = np.zeros(self.size)
        for block in self.sums:
            if block is not None:
                total += block
        return total / self.n_added


class RunState:
    """How far a measurement has come.

    Attributes:
        sums: The maps so far.
        used: Ids of the images in them.
        skipped: Images that could not be used: ``{"id": ..., "reason": ...}``.
        seconds: Time spent, also by the runs that this one continues.
        methods: How depthwise convolutions were computed, here and in those runs.
    """

    def __init__(self, sums: BlockSums) -> None:  # noqa: D107
        self.sums = sums
        self.used: list[str] = []
        self.skipped: list[dict[str, str]] = []
        self.seconds = 0.0
        self.methods: set[str] = set()

    def save(self, store: Checkpoint, changed: set[int]) -> None:
        """Save everything; ``changed`` names the blocks that are not as they were saved before."""
        state = {
            "done": self.sums.done,
            "counts": self.sums.counts,
            "used": self.used,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "methods": sorted(self.methods),
        }
        sums = {block: self.sums.sums[block] for block in changed}
        store.save(state, {f"block-{block:02d}": array for block, array in sums.items() if array is not None})

    def restore(self, store: Checkpoint) -> None:
        """Go on from what was saved, if anything was."""
        saved = store.load()
        if saved is None:
            return
        self.sums.done = saved.state["done"]
        self.sums.counts = saved.state["counts"]
        self.sums.sums = [saved.arrays.get(f"block-{block:02d}") for block in range(len(self.sums.counts))]
        self.used, self.skipped = saved.state["used"], saved.state["skipped"]
        self.seconds = saved.state["seconds"]
        self.methods = {*saved.state["methods"]}
