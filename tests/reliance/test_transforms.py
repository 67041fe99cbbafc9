"""The transforms: exact permutations of pixels, and filters next to their definitions in float64."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.reliance import parse_suppressions, suppress
from replk_probe.reliance.suppressions import METHODS

SIZES = [(64, 64), (30, 42), (33, 33)]


def numbered(size: tuple[int, int]) -> Tensor:
    """An image whose pixels all differ: their colors are the digits of their indices."""
    index = torch.arange(size[0] * size[1]).reshape(size)
    return torch.stack([index % 256, index // 256, (7 * index) % 256]).to(torch.uint8)


def indices(image: Tensor) -> Tensor:
    """The indices of the pixels of an image from :func:`numbered`."""
    return image[0].long() + 256 * image[1].long()


def noise(size: int = 24, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", [2, 4, 8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_shuffled_patches_are_a_permutation_of_the_patches(size: tuple[int, int], grid: int) -> None:
    image = numbered(size)
    found = suppress(image, f"patch-shuffle:{grid}", image_id="a.png")
    places = indices(found).flatten()
    assert torch.equal(places.sort().values, torch.arange(size[0] * size[1]))
    rows, columns = size[0] // grid, size[1] // grid
    # Whole patches have moved, each to the place of another one, and the rest of the image has not.
    sources = set()
    for i, j in itertools.product(range(grid), repeat=2):
        patch = indices(found)[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        y, x = divmod(int(patch[0, 0]), size[1])
        assert y % rows == 0 and x % columns == 0
        assert torch.equal(patch, indices(image)[y : y + rows, x : x + columns])
        sources.add((y, x))
    assert len(sources) == grid * grid
    assert torch.equal(found[:, grid * rows :], image[:, grid * rows :])
    assert torch.equal(found[:, :, grid * columns :], image[:, :, grid * columns :])
    # The inverse permutation gives the image.
    restored = torch.empty_like(image.flatten(1))
    restored[:, places] = found.flatten(1)
    assert torch.equal(restored.reshape(image.shape), image)
    assert not torch.equal(found, image)


@pytest.mark.parametrize("grid", [2, 4, 8, 16])
@pytest.mark.parametrize("size", [(64, 64), (33, 33)])
def test_rotated_patches_keep_their_place(size: tuple[int, int], grid: int) -> None:
    image = numbered(size)
    found = suppress(image, f"patch-rotation:{grid}", image_id="a.png")
    side = size[0] // grid
    turns, restored = [], found.clone()
    for i, j in itertools.product(range(grid), repeat=2):
        place = (slice(None), slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
        fits = [k for k in range(4) if torch.equal(torch.rot90(image[place], k, (1, 2)), found[place])]
        assert len(fits) == 1
        turns += fits
        restored[place] = torch.rot90(found[place], -fits[0], (1, 2))
    assert torch.equal(restored, image)
    assert grid < 8 or {*turns} == {0, 1, 2, 3}
    assert torch.equal(found[:, grid * side :], image[:, grid * side :])
    assert [torch.equal(one.flatten().sort().values, other.flatten().sort().values)
            for one, other in zip(found, image, strict=True)] == [True] * 3  # fmt: skip


def test_channels_are_in_one_of_the_five_other_orders() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    orders = [tuple(suppress(image, "channel-shuffle", image_id=str(i))[:, 0, 0].tolist()) for i in range(500)]
    assert {*orders} == {*itertools.permutations((10, 20, 30))} - {(10, 20, 30)}
    # Five standard deviations of a binomial distribution with n = 500 and p = 1/5.
    assert all(abs(orders.count(order) - 100) < 5 * (500 * 0.2 * 0.8) ** 0.5 for order in {*orders})


def test_all_orders_of_four_patches_are_equally_likely() -> None:
    image = numbered((2, 2))
    count = 2400
    orders = [
        tuple(indices(suppress(image, "patch-shuffle:2", image_id=str(i))).flatten().tolist()) for i in range(count)
    ]
    share = 1 / 24
    assert len({*orders}) == 24
    assert all(abs(orders.count(one) - count * share) < 5 * (count * share * (1 - share)) ** 0.5 for one in {*orders})


@pytest.mark.parametrize("name", ["patch-shuffle:4", "patch-rotation:4", "channel-shuffle"])
def test_random_numbers_depend_on_seed_and_name_only(name: str) -> None:
    image = noise()
    state = torch.random.get_rng_state()
    same = suppress(image, name, seed=1, image_id="a")
    assert torch.equal(suppress(image, name, seed=1, image_id="a"), same)
    assert any(not torch.equal(suppress(image, name, seed=seed, image_id="a"), same) for seed in (2, 3, 4))
    assert any(not torch.equal(suppress(image, name, seed=1, image_id=other), same) for other in "bcd")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_numbers_are_the_same_in_all_versions() -> None:
    found = suppress(numbered((3, 3)), "patch-shuffle:3", seed=5, image_id="\udcffa.png")
    # The order of the first nine words of the generator when the function was written.
    assert indices(found).flatten().tolist() == [6, 5, 7, 8, 4, 1, 3, 0, 2]


@pytest.mark.parametrize(("strength", "size"), [(4, 112), (8, 56), (2.5, 90)])
def test_the_blur_is_a_gaussian_in_pixels_of_224(strength: float, size: int) -> None:
    image = noise(size)
    sigma = strength * size / 224
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = image.double().numpy()
    for axis in (1, 2):
        expected = scipy.ndimage.correlate1d(expected, weights, axis, mode="mirror")
    found = suppress(image, f"gaussian-blur:{strength}").numpy()
    # Half a level of rounding, and the rounding of float32 for numbers up to 255.
    assert np.abs(found - expected).max() < 0.5 + 255 * 1e-5
    flat = torch.full((3, size, size), 77, dtype=torch.uint8)
    assert torch.equal(suppress(flat, f"gaussian-blur:{strength}"), flat)


def test_grayscale_is_the_luma() -> None:
    image = noise()
    found = suppress(image, "grayscale")
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    luma = torch.tensordot(torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64), image.double(), 1)
    assert float((found[0] - luma).abs().max()) < 1


def test_the_bilateral_filter_is_its_definition() -> None:
    image, strength = noise(20), 60.0
    sigma = 5 * 20 / 224
    radius = round(1.5 * sigma)
    values = np.pad(image.double().numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
    total, weight = np.zeros((3, 20, 20)), np.zeros((20, 20))
    for y, x in itertools.product(range(-radius, radius + 1), repeat=2):
        if y * y + x * x > radius * radius:  # a circular window
            continue
        other = values[:, radius + y : radius + y + 20, radius + x : radius + x + 20]
        distance = np.abs(other - image.double().numpy()).sum(0)
        factor = np.exp(-(y * y + x * x) / (2 * sigma**2) - distance**2 / (2 * strength**2))
        total += factor * other
        weight += factor
    found = suppress(image, f"bilateral:{strength}").numpy()
    # Half a level of rounding, and tables in float32.
    assert np.abs(found - total / weight).max() < 0.5 + 1e-2


def test_non_local_means_keeps_flat_colors_and_removes_noise() -> None:
    red = torch.zeros(3, 32, 32, dtype=torch.uint8)
    red[0], red[1] = 200, 40
    # The conversion to lightness and color and back is rounded to eight bits.
    for strength in (10, 40):
        found = suppress(red, f"non-local-means:{strength}")
        assert int((found.int() - red.int()).abs().max()) <= 2
    rough = (red.int() + torch.randint(-9, 10, (3, 32, 32))).clamp(0, 255).to(torch.uint8)
    deviations = [float(suppress(rough, f"non-local-means:{h}").double().std((1, 2)).mean()) for h in (5, 20, 40)]
    assert deviations == sorted(deviations, reverse=True) and deviations[0] < float(rough.double().std((1, 2)).mean())


@pytest.mark.parametrize("name", ["bilateral:100", "non-local-means:20"])
def test_the_number_of_threads_changes_no_byte(name: str) -> None:
    cv2 = pytest.importorskip("cv2")
    image, before = noise(96), cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 2, 3):
            cv2.setNumThreads(threads)
            found.append(suppress(image, name))
    finally:
        cv2.setNumThreads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_combination_filters_before_it_moves_patches() -> None:
    image = noise(32)
    one_after_the_other = suppress(suppress(suppress(image, "gaussian-blur:8"), "grayscale"), "patch-shuffle:4")
    for name in ("patch-shuffle:4+gaussian-blur:8+grayscale", "grayscale+gaussian-blur:8+patch-shuffle:4"):
        assert torch.equal(suppress(image, name), one_after_the_other)


@pytest.mark.parametrize("method", METHODS)
def test_the_image_stays_as_it_was(method: str) -> None:
    image = noise(32)
    before = image.clone()
    for one in parse_suppressions([method]):
        found = suppress(image, one)
        assert found.shape == image.shape and found.dtype == torch.uint8
        assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("image", "name", "says"),
    [
        (torch.zeros(3, 8, 8), "grayscale", r"Expected an RGB image \[3, H, W\] of type uint8, but got torch.float32"),
        (noise()[:1], "grayscale", r"but got torch.uint8 \[1, 24, 24\]"),
        ("a.png", "grayscale", "but got str"),
        (noise(), "gaussian-blur", "stands for 4 strengths"),
        (noise(8), "patch-shuffle:16", "Images of 8x8 pixels cannot be divided into 16 x 16 patches"),
        (noise()[:, :12], "patch-rotation:4", "Patches of 3 x 6 pixels cannot be rotated by 90 degrees"),
    ],
)
def test_what_cannot_be_suppressed(image: Tensor, name: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        suppress(image, name)


def test_opencv_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert suppress(noise(), "gaussian-blur:4+patch-shuffle:4").shape == (3, 24, 24)
    with pytest.raises(BackendError, match=r"Cannot compute bilateral. OpenCV is not .* pip install 'replk-probe\[rel"):
        suppress(noise(), "bilateral:50")


@pytest.mark.cuda
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_gives_the_same_bytes(method: str) -> None:
    for one in parse_suppressions([method]):
        found, expected = suppress(noise(64).cuda(), one), suppress(noise(64), one)
        assert found.is_cuda
        difference = int((found.cpu().int() - expected.int()).abs().max())
        assert difference <= (1 if method in ("gaussian-blur", "grayscale") else 0)


def test_images_that_are_too_small_for_a_blur() -> None:
    suppress(torch.zeros(3, 2, 50, dtype=torch.uint8), "gaussian-blur:1")
    with pytest.raises(InvalidInputError, match=r"Images of 1x50 pixels cannot be blurred by gaussian-blur:1\."):
        suppress(torch.zeros(3, 1, 50, dtype=torch.uint8), "gaussian-blur:1")
