"""Damaged and odd image files: unusual modes, sizes, depths and formats, and files with changed bytes."""

from __future__ import annotations

import functools
import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, TiffImagePlugin

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.images import UnreadableImageError, check_image, decode_rgb, sample_images

T = TypeVar("T")

_MODES = {
    ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    ".tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    ".jpg": ("L", "RGB", "CMYK", "YCbCr"),
    ".webp": ("RGB", "RGBA"),
    ".bmp": ("1", "L", "P", "RGB"),
    ".pgm": ("L", "I"),
    ".ppm": ("RGB",),
}


def run(rng: random.Random, folder: Path) -> str:
    """Write one file, read it by every public function, and measure a small network on it.

    Returns:
        ``"read"``, or ``"refused"`` if the file is unreadable.

    Raises:
        AssertionError: Neither a result nor an error of this package came out, or functions disagree.
    """
    kind = rng.choice((_by_pil, _by_pil, _png, _pnm))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL's encoders
        suffix, content = kind(rng)
    path = folder / f"image{rng.choice((suffix, suffix, suffix, *_MODES))}"
    path.write_bytes(_damaged(rng, content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _read(rng, path)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}; first bytes {content[:80]!r}") from error


def _read(rng: random.Random, path: Path) -> str:
    size = rng.randint(1, 40), rng.randint(1, 40)
    checked = _outcome(lambda: check_image(path, "image"))
    decoded = _outcome(lambda: decode_rgb(path, "image"))
    images = sample_images(path.parent, n=1)
    loaded = _outcome(lambda: images.load_with_depth(path.name, size))
    if loaded is None:
        assert decoded is None, "decoded, but not loaded"
    else:
        array, depth = loaded
        assert decoded is not None and decoded.mode == "RGB", "loaded, but not decoded"
        assert checked in (None, decoded.size[::-1])  # checksums that decoders ignore are checked
        assert array.shape == (*size, 3) and array.dtype == np.uint8 and depth in (None, 8, 10, 12, 14, 16)
        assert (np.array(decoded.resize(size[::-1], Image.Resampling.BICUBIC)) == array).all()
    try:
        _measure(path.parent, rng.choice((1, 3, 4)))
    except InvalidInputError as error:
        reason = str(error)
        # Random images may have no gradient, but what could be loaded is not the reason.
        assert (loaded is None) == ("unreadable" in reason), reason
    else:
        assert loaded is not None, "measured, but not loaded"
    return "refused" if loaded is None else "read"


def _outcome(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except UnreadableImageError as error:
        assert error.reason and "\n" not in error.reason, f"no reason in one line: {error.reason!r}"
        return None
    except ReplkProbeError as error:
        raise AssertionError(f"{type(error).__name__} instead of UnreadableImageError: {error}") from error


def _measure(folder: Path, channels: int) -> None:
    from replk_probe import measure_erf

    result = measure_erf(_network(channels), folder, images=1, size=8)
    assert np.isfinite(result.contribution).all() and len(result.run.mean) == channels


@functools.cache
def _network(channels: int):  # type: ignore[no-untyped-def]  # torch is imported when it is needed
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1))


# -- files ------------------------------------------------------------------------------------------------------------


def _side(rng: random.Random) -> int:
    return rng.choice((1, 2, 3, 7, 8, 16, 33, rng.randint(1, 64)))


def _values(rng: random.Random, shape: tuple[int, ...], bits: int) -> np.ndarray:
    generator = np.random.default_rng(rng.getrandbits(32))
    return generator.integers(0, 2**bits, shape, dtype=np.int64)


def _by_pil(rng: random.Random) -> tuple[str, bytes]:
    suffix = rng.choice(list(_MODES))
    mode = rng.choice(_MODES[suffix])
    shape = _side(rng), _side(rng)
    options: dict[str, object] = {}
    if mode == "I;16":
        image = Image.fromarray(_values(rng, shape, rng.randint(1, 16)).astype(np.uint16))
    elif mode == "I":
        high = rng.choice((8, 12, 16, 16, 20, 31))
        image = Image.fromarray((_values(rng, shape, high) - rng.choice((0, 0, 5))).astype(np.int32))
    elif mode == "F":
        image = Image.fromarray(_values(rng, shape, 8).astype(np.float32))
    else:
        image = Image.fromarray(_values(rng, (*shape, 3), 8).astype(np.uint8))
        image = image.convert("L").convert(mode) if mode in ("1", "LA") else image.convert(mode)
    if suffix == ".tif" and rng.random() < 0.5:
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[rng.choice((281, 341))] = rng.choice((0, 1, 255, 1023, 4095, 65535))
        options["tiffinfo"] = info
    if suffix == ".png" and mode == "P" and rng.random() < 0.5:
        options["transparency"] = bytes(range(256))
    stream = io.BytesIO()
    name = {".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM", ".ppm": "PPM"}.get(suffix, suffix[1:].upper())
    try:
        image.save(stream, name, **options)
    except (OSError, ValueError, KeyError, struct.error):  # not a mode that PIL writes
        image.convert("RGB" if suffix != ".pgm" else "L").save(stream, name)
    return suffix, stream.getvalue()


def _png(rng: random.Random) -> tuple[str, bytes]:
    """PNG files of any declared type, which PIL cannot write: 16 bits per color, sBIT, wrong lengths."""
    depth, color = rng.choice(((16, 0), (16, 2), (16, 4), (16, 6), (8, 2), (4, 0), (3, 0), (16, 3)))
    height, width = _side(rng), _side(rng)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(color, 1)
    values = _values(rng, (height, width * channels), min(depth, rng.randint(1, 16)))
    rows = b"".join(bytes([rng.choice((0, 0, 1, 2, 4))]) + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, rng.choice((0, 0, 0, 1)))
    bits = bytes(rng.randint(0, 17) for _ in range(rng.randint(0, channels)))
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if rng.random() < 0.5:
        chunks.insert(rng.choice((0, 1, 1, 1, 2)), (b"sBIT", bits))
    parts = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return ".png", b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _pnm(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(("P1", "P2", "P3", "P4", "P5", "P6", "Pf", "P7"))
    highest = rng.choice((0, 1, 15, 255, 256, 1023, 4095, 4163, 65535, 65536, -1))
    height, width = _side(rng), _side(rng)
    values = _values(rng, (height * width * rng.choice((1, 3)),), 12)
    text = kind in ("P1", "P2", "P3")
    body = " ".join(map(str, values.tolist())).encode() if text else values.astype(">u2").tobytes()
    return rng.choice((".pgm", ".ppm")), f"{kind}\n{width} {height}\n{highest}\n".encode() + body


def _damaged(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8, 64))):
        if not data:
            break
        # Headers decide more than pixels.
        place = rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))
        match rng.randrange(5):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del data[place : place + rng.choice((1, 4, 100))]
            case 3:
                data[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 16))))
            case 4:
                del data[place:]
    return bytes(data)
