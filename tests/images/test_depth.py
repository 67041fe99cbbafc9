"""Images with more than eight bits per value: the depth of their data, and unsuitable values."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from replk_probe.images import UnreadableImageError, sample_images
from replk_probe.images.depth import depth_note


def levels(bits: int) -> np.ndarray:
    return np.linspace(0, 2**bits - 1, 1200).round().reshape(30, 40).astype(np.uint16)


def load(path: Path) -> tuple[np.ndarray, int | None]:
    return sample_images(path.parent, n=9).load_with_depth(path.name, (30, 40))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, color: int = 0, significant: int | None = None) -> bytes:
    """A PNG of 16 bits per value, which PIL writes for gray only."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    marks = b"" if significant is None else chunk(b"sBIT", bytes([significant]) * (3 if color == 2 else 1))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + marks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("bits", "depth"), [(8, 8), (9, 10), (10, 10), (12, 12), (13, 14), (14, 14), (16, 16)])
def test_the_depth_is_the_smallest_that_holds_all_values(tmp_path: Path, bits: int, depth: int, suffix: str) -> None:
    values = levels(bits)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    array, found = load(tmp_path / f"a.{suffix}")
    assert found == depth
    assert (array == np.rint(values * 255.0 / (2**depth - 1))[:, :, None]).all()


@pytest.mark.parametrize(
    ("tags", "depth"), [({281: 4095}, 12), ({281: 65535}, 16), ({341: 4095}, 12), ({281: 255}, 10)]
)
def test_tags_of_tiff_have_precedence_unless_values_exceed_them(
    tmp_path: Path, tags: dict[int, int], depth: int
) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    Image.fromarray(levels(10)).save(tmp_path / "a.tif", tiffinfo=info)
    array, found = load(tmp_path / "a.tif")
    assert found == depth and array.max() == round(1023 * 255 / (2**depth - 1))


def test_a_dark_scan_of_known_depth_stays_dark(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 40 30 4095\n" + levels(8).astype(">u2").tobytes())
    array, found = load(tmp_path / "a.pgm")
    assert found == 16 and array.max() == round(255 * 255 / 4095)


@pytest.mark.parametrize(
    ("values", "significant", "depth"),
    [
        (levels(12), 12, 12),  # written as they are
        (levels(12) << 4, 12, 16),  # scaled, as the specification requires
        (levels(8) << 4, 12, 16),  # scaled and dark
        (levels(8), 8, 8),
        (levels(16), 16, 16),
    ],
)
def test_significant_bits_of_png(tmp_path: Path, values: np.ndarray, significant: int, depth: int) -> None:
    (tmp_path / "a.png").write_bytes(png(values, significant=significant))
    array, found = load(tmp_path / "a.png")
    assert found == depth and (array == np.rint(values * 255.0 / (2**depth - 1))[:, :, None]).all()


def test_color_values_of_16_bits_are_read_by_their_upper_bytes(tmp_path: Path) -> None:
    values = np.stack([levels(16), levels(15), levels(14)], axis=2)
    (tmp_path / "a.png").write_bytes(png(values, color=2))
    array, found = load(tmp_path / "a.png")
    assert found == 16 and (array == values >> 8).all()
    for bits in (8, 12, 14):
        (tmp_path / "a.png").write_bytes(png(np.stack([levels(bits)] * 3, axis=2), color=2))
        with pytest.raises(UnreadableImageError, match=rf"16-bit color values below {2**bits}.*Convert it to 8 bits"):
            load(tmp_path / "a.png")


@pytest.mark.parametrize("values", [np.full((4, 4), -1, np.int32), np.full((4, 4), 70000, np.int32)])
def test_values_that_are_no_levels_are_refused(tmp_path: Path, values: Any) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match=f"values from {values[0, 0]} to .*not within 0 to 65535"):
        load(tmp_path / "a.tif")


def test_other_images_have_no_depth(tmp_path: Path) -> None:
    Image.fromarray(levels(8).astype(np.uint8)).save(tmp_path / "a.png")
    assert load(tmp_path / "a.png")[1] is None
    embedded = sample_images(n=1)
    assert embedded.load_with_depth(embedded.ids[0], (8, 8))[1] is None


def test_the_note_counts_images_by_depth() -> None:
    assert depth_note([]) is None
    assert "3 images have more than 8 bits" in str(depth_note([16, 12, 12]))
    assert "12 bits: 2, 16 bits: 1" in str(depth_note([16, 12, 12]))
    assert str(depth_note([12])).startswith("1 image has more than 8 bits per value and was scaled")
