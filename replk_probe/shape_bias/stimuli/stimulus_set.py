"""The stimuli of one measurement: their names, their source and how their pixels are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .names import Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..decision_mapping import LabelMapping

CUE_CONFLICT = "cue-conflict"
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class StimulusSet:
    """Stimuli in the order of the measurement; nothing is decoded before :meth:`load`.

    Attributes:
        source: ``"cue-conflict"``, ``"folder:NAME"``, ``"set:NAME"``, or the name of another source.
        categories: Categories of shapes and textures, which are also the possible decisions.
        stimuli: Stimuli in the order of torchvision's ImageFolder: by shape, then by name as a string.
        size: ``(H, W)`` of every stimulus in pixels; None if they differ.
        digest: SHA-256 in hex over names and contents, in order.
        loader: Function that returns the RGB image of a stimulus by its index; it may be called from several threads.
        notes: Notes for the reader of a result.
        record: Entries for the configuration in the result, as JSON values.
        mapping: Class indices of the categories, if the set defines them.
        cues: Cue of each stimulus, ``[N]``, if each has one cue only: it is not a decision between cues, but scored by
            the rank of the right classes. Its category is both shape and texture. Empty for stimuli with two cues.

    Examples:
        >>> from PIL import Image
        >>> from replk_probe.shape_bias import StimulusSet, parse_stimulus_name
        >>> stimuli = tuple(parse_stimulus_name(name) for name in ("cat1-dog1.png", "dog1-cat1.png"))
        >>> gray = Image.new("RGB", (64, 64), "gray")
        >>> stimulus_set = StimulusSet("gray", ("cat", "dog"), stimuli, (64, 64), digest="", loader=lambda index: gray)
        >>> stimulus_set.load(1).size
        (64, 64)
    """

    source: str
    categories: tuple[str, ...]
    stimuli: tuple[Stimulus, ...]
    size: tuple[int, int] | None
    digest: str
    loader: Callable[[int], Image] = field(repr=False)
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    mapping: LabelMapping | None = None
    cues: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of stimuli."""
        return len(self.stimuli)

    def load(self, index: int) -> Image:
        """Load the RGB image of ``stimuli[index]`` at its own size.

        Args:
            index: Index in ``stimuli``, from 0.

        Returns:
            The image, in mode RGB.

        Raises:
            UnreadableImageError: The file is missing or damaged.
            IndexError: The index is out of range.
        """
        if not 0 <= index < len(self.stimuli):
            raise IndexError(f"stimulus {index} of {len(self.stimuli)}")
        return self.loader(index)
