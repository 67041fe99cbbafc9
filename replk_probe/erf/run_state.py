"""What an unfinished measurement has to remember, in memory and on disk."""

from __future__ import annotations

from replk_probe.runtime.checkpoint import Checkpoint

from .blocks import BlockSums


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
