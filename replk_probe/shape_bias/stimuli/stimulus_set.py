"""The stimuli of one measurement: which they are, where they come from, and how their pixels are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .names import Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image

CUE_CONFLICT = "cue-conflict"
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class StimulusSet:
    """Stimuli in the order to measure them; nothing is decoded before :meth:`load`. Can be sent to other processes.

    Attributes:
        source: ``"cue-conflict"``, ``"folder:NAME"``, or as the maker of a drawn set calls it.
        categories: What shapes and textures there are, and so what a model may answer.
        stimuli: In the order of torchvision's ImageFolder: by shape, then by name as a string.
        size: ``(H, W)`` of every stimulus in pixels; None where they differ.
        digest: SHA-256 in hex over names and contents, in order.
        loader: From the index of a stimulus to its picture (RGB).
        notes: What the reader of a result should know, a sentence or two each.
        record: The same for the result's configuration, ready for JSON.
    """

    source: str
    categories: tuple[str, ...]
    stimuli: tuple[Stimulus, ...]
    size: tuple[int, int] | None
    digest: str
    loader: Callable[[int], Image] = field(repr=False)
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of stimuli."""
        return len(self.stimuli)

    def load(self, index: int) -> Image:
        """The picture of ``stimuli[index]``, RGB, at its own size.

        Raises:
            UnreadableImageError: Its file is gone or damaged.
            IndexError: There are not so many.
        """
        if not 0 <= index < len(self.stimuli):
            raise IndexError(f"stimulus {index} of {len(self.stimuli)}")
        return self.loader(index)
