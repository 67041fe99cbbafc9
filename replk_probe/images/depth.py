"""Images with more than eight bits per value, scaled to eight bits by the depth of their data."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Entry of PIL's Image.info with the depth that was found for an image with more than eight bits per value.
DEPTH = "replk-probe depth"

_DEPTHS = (8, 10, 12, 14, 16)
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE = 258, 281, 341  # tags of TIFF

# PIL's decoders that keep the upper byte; BGR;16 is another one, with five or six bits per color.
_UPPER_BYTES = re.compile(";16[BLN]")


class UnsuitableLevelsError(ValueError):
    """Values that cannot be scaled to eight bits; the message is a clause."""


def eight_bits(image: Image.Image) -> Image.Image:
    """A gray image with integer values of any depth (PIL's modes I and I;16), scaled to eight bits.

    The depth is that of the file (a tag of TIFF, the sBIT chunk of PNG), or else the smallest of 8, 10, 12, 14 and 16
    bits that holds all values. The result has it in ``info[DEPTH]``.

    Raises:
        UnsuitableLevelsError: A value is negative or needs more than 16 bits.
    """
    levels = np.asarray(image).astype(np.int64)
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise UnsuitableLevelsError(f"values from {low} to {high}, which are not within 0 to 65535")
    depth = max(_depth_of_file(image, levels) or _depth_of(high), _depth_of(high))
    most = 2**depth - 1
    scaled = Image.fromarray(((levels * 255 + most // 2) // most).astype(np.uint8))  # rounded
    scaled.info[DEPTH] = depth
    return scaled


def check_upper_bytes(image: Image.Image) -> bool:
    """Whether PIL decoded only the upper bytes of 16-bit color values, which is then sufficient.

    Raises:
        UnsuitableLevelsError: The values need 14 bits or less, so that the upper bytes have lost most of them.
    """
    tiles: Any = getattr(image, "tile", ())
    if image.mode.startswith("I") or not any(_UPPER_BYTES.search(str(tile[3])) for tile in tiles):
        return False
    image.load()
    colors = np.asarray(image.convert("RGB"))
    if _depth_of((int(colors.max()) << 8) + 255) < 16:
        raise UnsuitableLevelsError(
            f"16-bit color values below {(int(colors.max()) + 1) << 8}, of which only the upper bytes can be decoded. "
            "Convert it to 8 bits per color"
        )
    return True


def depth_note(depths: Iterable[int]) -> str | None:
    """Note on the images with more than eight bits per value, from the depth of each of them; None without any."""
    found = sorted(depths)
    if not found:
        return None
    counts = ", ".join(f"{depth} bits: {found.count(depth)}" for depth in dict.fromkeys(found))
    has, was = ("1 image has", "was") if len(found) == 1 else (f"{len(found)} images have", "were")
    return (
        f"{has} more than 8 bits per value and {was} scaled to 8 bits, by the depth in the file or by the largest "
        f"value (number of images by depth: {counts})."
    )


def _depth_of(highest: int) -> int:
    return next(depth for depth in _DEPTHS if highest < 2**depth)


def _depth_of_file(image: Image.Image, levels: npt.NDArray[np.int64]) -> int | None:
    if image.format == "PPM":  # PIL scales its values to 16 bits
        return 16
    if image.format == "PNG":
        return _depth_of_png(image, levels)
    tags: Any = getattr(image, "tag_v2", None)
    if not tags:
        return None
    for tag in (_MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE):
        values = tags.get(tag)
        value = values[0] if isinstance(values, tuple) and values else values
        if isinstance(value, (int, float)) and 0 < value < 65536:
            return _depth_of(int(value))
    bits = tags.get(_BITS_PER_SAMPLE)
    return bits[0] if isinstance(bits, tuple) and bits and 8 < bits[0] < 16 else None


def _depth_of_png(image: Image.Image, levels: npt.NDArray[np.int64]) -> int | None:
    """By the sBIT chunk, whose bits are the upper ones of each value; some programs write them as the lower ones."""
    bits = _significant_bits(image)
    if bits is None or not 0 < bits < 16:
        return None
    lower = levels & ((1 << (16 - bits)) - 1)
    # Scaling to 16 bits leaves at most a rounding in the lower bits of values as small as these.
    return max(bits, 8) if int(levels.max()) < 2**bits and int(lower.max()) > 1 else 16


def _significant_bits(image: Image.Image) -> int | None:
    with Path(image.filename).open("rb") as file:  # type: ignore[attr-defined]
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                return file.read(1)[0] if length else None
            if kind in (b"IDAT", b"IEND"):
                return None
            file.seek(length + 4, 1)
    return None
