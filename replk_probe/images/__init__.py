"""Which images are measured and how they become arrays: folders, seeded samples, decoding, the embedded set.

Free of torch; PIL and numpy only.
"""

from __future__ import annotations

from ._decode import UnreadableImageError, normalise
from ._sample import SAMPLINGS, ImageSet, sample_images

__all__ = ["SAMPLINGS", "ImageSet", "UnreadableImageError", "normalise", "sample_images"]
