"""The rows of an occlusion check, and what they say about the contribution map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FILLS = ("mean color", "blurred image", "other image")
ALL_FILLS = "all"
KEPT = ("window", "surroundings")

# Share of the contribution from which on a window should matter more than the rest of the image.
_MOST_OF_IT = 0.5


@dataclass(frozen=True)
class OcclusionRow:
    """Features at the measured position with a part of the image replaced, compared with those of the whole image.

    Attributes:
        threshold: Share of the contribution that the window exceeds, in (0, 1).
        window: Height and width of the window in pixels: that of protocol ``"centred"``.
        kept: ``"window"`` if everything outside of the window was replaced, ``"surroundings"`` if the window was.
        fill: What the part was replaced with: ``"mean color"`` (of the image), ``"blurred image"`` (resized to 1/32 of
            its sides and back), ``"other image"`` (the one before it in the measurement), or ``"all"`` for the mean of
            the three.
        n_images: Number of images; at most 12 occlusions are computed for each image, so that more take turns.
        cosine: Cosine between the two feature vectors, mean over images, in [-1, 1]; None if it is undefined.
        cosine_ci95: 95 % confidence interval of ``cosine``; None for fewer than two images.
        distance: Norm of the difference divided by the norm of the features of the whole image, mean over images.
        distance_ci95: 95 % confidence interval of ``distance``.
    """

    threshold: float
    window: tuple[int, int]
    kept: str
    fill: str
    n_images: int
    cosine: float | None
    cosine_ci95: tuple[float, float] | None
    distance: float | None
    distance_ci95: tuple[float, float] | None


def disagreement_note(rows: Sequence[OcclusionRow]) -> str | None:
    """A note where windows with most of the contribution matter less than the rest of the image, or None."""
    means = {(row.threshold, row.kept): row for row in rows if row.fill == ALL_FILLS}
    found = []
    for threshold in dict.fromkeys(row.threshold for row in rows):
        window, rest = (means.get((threshold, kept)) for kept in KEPT)
        if threshold < _MOST_OF_IT or window is None or rest is None:
            continue
        if window.distance is not None and rest.distance is not None and window.distance >= rest.distance:
            found.append(f"{100 * threshold:g} %")
    if not found:
        return None
    return (
        f"Gradient and occlusion disagree at {', '.join(found)}: replacing the surroundings of the window changes the "
        "features more than replacing the window itself."
    )
