"""The state of an unfinished measurement, in memory and on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.runtime.checkpoint import Checkpoint, SavedState
from replk_probe.runtime.parts import ChosenMethods


class RelianceState:
    """State of a measurement or a part of it.

    Attributes:
        part: Indices of the images.
        done: Index of the next image.
        decisions: Index of the decided class, without and with each suppression, ``[1 + suppressions, images]`` int32.
        depths: Depth in bits of the images with more than eight bits per value, and 0 for others, ``[images]`` uint8.
        seconds: Time that they took.
        device_notes: Notes on devices that the measurement was continued on.
        chosen: Methods of convolutions, which are the usual ones.
    """

    def __init__(self, part: range, suppressions: int) -> None:  # noqa: D107
        self.part = part
        self.done = part.start
        self.decisions: npt.NDArray[np.int32] = np.zeros((1 + suppressions, len(part)), dtype=np.int32)
        self.depths: npt.NDArray[np.uint8] = np.zeros(len(part), dtype=np.uint8)
        self.seconds = 0.0
        self.device_notes: list[str] = []
        self.chosen = ChosenMethods({}, [])

    @property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"decisions": self.decisions, "depths": self.depths}

    def extend(self, part: RelianceState) -> None:
        """Add the state of the part that follows."""
        rows = slice(self.done - self.part.start, part.done - self.part.start)
        for name, array in self._arrays.items():
            array[..., rows] = part._arrays[name]
        self.done = part.done
        self.seconds += part.seconds

    def save(self, store: Checkpoint) -> None:
        """Save the state."""
        store.save({"done": self.done, "seconds": self.seconds}, self._arrays)

    def restore(self, store: Checkpoint) -> None:
        """Take over the saved state, if there is one."""
        saved = store.load({"done": int, "seconds": float}, self._fault)
        if saved is None:
            return
        self.done, self.seconds = saved.state["done"], saved.state["seconds"]
        self.decisions, self.depths = saved.arrays["decisions"], saved.arrays["depths"]

    def _fault(self, saved: SavedState) -> str | None:
        """What is wrong with a saved state of these images."""
        shapes = [
            {name: (array.shape, array.dtype) for name, array in one.items()} for one in (saved.arrays, self._arrays)
        ]
        if shapes[0] != shapes[1] or not self.part.start <= saved.state["done"] <= self.part.stop:
            return "Its arrays are not those of its images."
        return None
