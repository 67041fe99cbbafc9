"""The state of an unfinished attribution, in memory and on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from replk_probe.runtime.checkpoint import Checkpoint, SavedState
from replk_probe.runtime.parts import ChosenMethods

from .result import AttributedImage


class AttributionState:
    """State of a measurement or a part of it.

    Attributes:
        part: Indices of the images.
        done: Index of the next image.
        images: Numbers of the images before it.
        maps: Their attributions, ``[N, H, W]``; zero for the other images of the part.
        notes: Notes on these images.
        seconds: Time that they took.
        device_notes: Notes on devices that the measurement was continued on.
        chosen: Methods of convolutions, which are the usual ones.
    """

    def __init__(self, part: range, size: tuple[int, int]) -> None:  # noqa: D107
        self.part = part
        self.done = part.start
        self.images: list[AttributedImage] = []
        self.maps: npt.NDArray[np.float32] = np.zeros((len(part), *size), dtype=np.float32)
        self.notes: list[str] = []
        self.seconds = 0.0
        self.device_notes: list[str] = []
        self.chosen = ChosenMethods({}, [])

    def add(self, numbers: AttributedImage, values: npt.NDArray[Any], notes: list[str]) -> None:
        """Add the next image."""
        self.maps[len(self.images)] = values
        self.images.append(numbers)
        self.notes += notes
        self.done += 1

    def extend(self, part: AttributionState) -> None:
        """Add the state of the part that follows."""
        first = len(self.images)
        self.maps[first : first + len(part.images)] = part.maps[: len(part.images)]
        self.images += part.images
        self.notes += part.notes
        self.seconds += part.seconds
        self.done = part.done

    def save(self, store: Checkpoint) -> None:
        """Save the state."""
        state = {"images": [asdict(one) for one in self.images], "notes": self.notes, "seconds": self.seconds}
        store.save(state, {"maps": self.maps})

    def restore(self, store: Checkpoint) -> None:
        """Take over the saved state, if there is one."""
        saved = store.load({"images": list[AttributedImage], "notes": list[str], "seconds": float}, self._fault)
        if saved is None:
            return
        self.images, self.maps, self.notes = saved.state["images"], saved.arrays["maps"], saved.state["notes"]
        self.done, self.seconds = self.part.start + len(self.images), saved.state["seconds"]

    def _fault(self, saved: SavedState) -> str | None:
        """What is wrong with a saved state of these images."""
        maps = saved.arrays.get("maps")
        is_known = maps is not None and (maps.shape, maps.dtype) == (self.maps.shape, self.maps.dtype)
        if not is_known or len(saved.state["images"]) > len(self.part) or saved.state["seconds"] < 0:
            return "Its arrays are not those of its images."
        return None
