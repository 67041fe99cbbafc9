"""Images to measure: folders, seeded samples, decoding, and a generated set.

This package uses PIL and numpy, but not torch.
"""

from __future__ import annotations

from replk_probe._lazy import public_names

from .decode import UnreadableImageError, check_image, decode_rgb, normalize
from .folder import list_images
from .sample import SAMPLINGS, ImageSet, sample_images

__all__ = [
    "SAMPLINGS",
    "ImageSet",
    "UnreadableImageError",
    "check_image",
    "decode_rgb",
    "list_images",
    "normalize",
    "sample_images",
]

__dir__ = public_names(__name__)
