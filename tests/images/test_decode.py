from __future__ import annotations

import io
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from replk_probe.errors import InvalidInputError
from replk_probe.images import UnreadableImageError, check_image, decode_rgb, normalize, sample_images


def photo(height: int = 30, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * y, 6 * x, 3 * (x + y)], axis=-1).astype(np.uint8)


def load(path, size=(30, 40)):
    images = sample_images(path.parent, n=100, sampling="first")
    return images.load(path.name, size)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.webp", "a.bmp", "a.tif"])
def test_lossless_files_are_decoded_exactly(tmp_path, name):
    Image.fromarray(photo()).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert (load(tmp_path / name) == photo()).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "PA", "1", "CMYK", "YCbCr"])
def test_every_mode_is_converted_to_rgb_as_in_the_script(tmp_path, mode):
    name = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    image = (
        Image.fromarray(photo()).convert("L").convert(mode) if mode == "PA" else Image.fromarray(photo()).convert(mode)
    )
    if mode == "RGBA":
        image.putalpha(77)
    if mode == "PA":
        name = tmp_path / "a.tif"
    image.save(name)
    with Image.open(name) as stored:
        expected = np.array(stored.convert("RGB"))
    array = load(name)
    assert array.dtype == np.uint8 and array.shape == (30, 40, 3)
    assert (array == expected).all()


def test_a_transparent_palette_is_silent(tmp_path):
    image = Image.fromarray(photo()).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert load(tmp_path / "a.png").shape == (30, 40, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    levels = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    array = load(tmp_path / f"a.{suffix}")
    assert (array == np.rint(levels / 257)[:, :, None]).all()


def test_the_warp_is_torchvision_s_bicubic_resize(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    Image.fromarray(photo()).save(tmp_path / "a.png")
    resize = transforms.Resize((50, 20), interpolation=transforms.InterpolationMode.BICUBIC)
    assert (load(tmp_path / "a.png", (50, 20)) == np.array(resize(Image.fromarray(photo())))).all()


def test_the_orientation_tag_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo()).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert abs(load(tmp_path / "a.jpg").astype(int) - photo()).mean() < 8


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo(200, 300)).save(stream, "JPEG")
    return stream.getvalue()


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo(200, 300)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.jpg", b"this is no image\n" * 20, "not an image"),
        ("empty.png", b"", "the file is empty"),
        ("cut.jpg", jpeg()[:1500], "truncated"),
        ("cut.png", png()[: len(png()) // 2], "truncated"),
        ("head.jpg", jpeg()[:4], "not an image"),
        ("zeros.webp", bytes(4096), "not an image"),
        ("damaged.png", png()[:60] + b"\xff" * 40 + png()[100:], ""),
    ],
)
def test_unreadable_files_are_explained(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=name) as caught:
        load(tmp_path / name)
    assert isinstance(caught.value, InvalidInputError)
    assert caught.value.image_id == name and caught.value.reason and reason in caught.value.reason


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    Image.fromarray(photo(200, 300)).save(tmp_path / "a.png")
    for limit in (50_000, 10_000):  # a warning of PIL's, then an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UnreadableImageError, match="more pixels"):
            load(tmp_path / "a.png")


def test_the_number_of_pixels_does_not_depend_on_filters_of_warnings(tmp_path, monkeypatch):
    """Filters are global: another thread may restore them while a file is decoded."""
    Image.fromarray(photo(200, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    simplefilter = warnings.simplefilter
    monkeypatch.setattr("warnings.simplefilter", lambda *_: simplefilter("ignore"))
    with pytest.raises(UnreadableImageError, match="more pixels"):
        load(tmp_path / "a.png")


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match="floating-point"):
        load(tmp_path / "a.tif")


def test_a_deleted_file_is_unreadable(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    images = sample_images(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UnreadableImageError, match="no such file"):
        images.load("a.png", (8, 8))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        load(tmp_path / "a.jpg")


def test_only_images_of_the_set_are_loaded(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    Image.fromarray(photo()).save(tmp_path / "b.png")
    images = sample_images(tmp_path, n=1, sampling="first")
    for other in ("b.png", "../a.png", ""):
        with pytest.raises(InvalidInputError, match="No image"):
            images.load(other, (8, 8))
    with pytest.raises(InvalidInputError, match="0 x 8"):
        images.load("a.png", (0, 8))


def test_normalize_is_torchvision_s_to_tensor_and_normalize():
    transforms = pytest.importorskip("torchvision.transforms")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(photo()).numpy()
    array = normalize(photo(), mean, std)
    assert array.dtype == np.float32 and array.flags.c_contiguous
    assert (array == reference).all()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.jpg"])
def test_native_size_and_check_without_decoding(tmp_path, name):
    Image.fromarray(photo()).save(tmp_path / name)
    assert check_image(tmp_path / name, name) == (30, 40)
    image = decode_rgb(tmp_path / name, name)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert (np.array(image) == load(tmp_path / name)).all()


def test_check_image_finds_every_kind_of_damage_to_a_png(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(photo()).save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", b"no png", whole[:20], whole[: len(whole) // 2], whole[:-12], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableImageError, match=r"a\.png"):
            check_image(path, "a.png")
    with pytest.raises(UnreadableImageError, match="no such file"):
        check_image(tmp_path / "b.png", "b.png")
