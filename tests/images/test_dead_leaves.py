from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest

from replk_probe.images import dead_leaves, sample_images


def spectrum_slope(gray: np.ndarray, low: int, high: int) -> float:
    size = len(gray)
    window = np.hanning(size)
    amplitude = np.abs(np.fft.fft2((gray - gray.mean()) * window[:, None] * window))
    frequency = np.fft.fftfreq(size) * size
    radius = np.hypot(frequency[:, None], frequency).astype(int).ravel()
    mean = np.bincount(radius, amplitude.ravel()) / np.bincount(radius)
    k = np.arange(low, high)
    return float(np.polyfit(np.log(k), np.log(mean[k]), 1)[0])


def test_the_embedded_set_is_named_and_large_enough():
    images = sample_images(None, n=50)
    assert images.source == "embedded:dead-leaves"
    assert len(set(images.ids)) == 50 and images.available >= 50
    assert "dead-leaves-0001" in sample_images(None, n=50, sampling="first").ids
    assert sample_images(None, n=50, seed=0).ids == images.ids != sample_images(None, n=50, seed=1).ids
    too_many = sample_images(None, n=10_000)
    assert len(too_many) == too_many.available and too_many.shortfall_note


@pytest.mark.parametrize(
    ("image_id", "size", "digest"),
    [
        ("dead-leaves-0001", (64, 64), "57add977e084d9b8"),
        ("dead-leaves-0002", (96, 48), "dbf9b8148c644d3f"),
        ("dead-leaves-1000", (224, 224), "8801a4e30fb56a8f"),
    ],
)
def test_the_bytes_never_change(image_id, size, digest):
    image = dead_leaves.draw(image_id, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 1), (33, 500)])
def test_any_size_works(size):
    assert dead_leaves.draw("dead-leaves-0007", size).shape == (*size, 3)


def test_a_scene_is_the_same_at_every_size():
    large = dead_leaves.draw("dead-leaves-0003", (512, 512)).reshape(32, 16, 32, 16, 3).mean((1, 3))
    small = dead_leaves.draw("dead-leaves-0003", (256, 256)).reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.97


def test_images_differ_and_use_the_range():
    images = np.stack([dead_leaves.draw(name, (64, 64)) for name in dead_leaves.IDS[:12]]).astype(float)
    for i in range(12):
        assert images[i].std() > 30 and 70 < images[i].mean() < 185
        for j in range(i):
            assert abs(np.corrcoef(images[i].ravel(), images[j].ravel())[0, 1]) < 0.4


def test_the_amplitude_spectrum_falls_about_as_one_over_f():
    slopes = [spectrum_slope(dead_leaves.draw(name, (256, 256)).mean(2), 4, 64) for name in dead_leaves.IDS[:6]]
    assert -1.5 < np.mean(slopes) < -0.8
    assert np.std(slopes) < 0.2


def test_radii_follow_the_inverse_cube():
    leaves = dead_leaves._scatter(dead_leaves._Uniform(1))
    # Large leaves reach into the image from a wider margin than small ones, unless their centers are inside.
    radii = leaves.reach[(0 <= leaves.y) & (leaves.y < 1) & (0 <= leaves.x) & (leaves.x < 1)]
    assert len(radii) == pytest.approx(dead_leaves._LEAVES / 1.5**2, rel=0.02)
    # Of r**-3 on [a, b]: the share above x is (x**-2 - b**-2) / (a**-2 - b**-2).
    a, b = dead_leaves._SMALLEST, dead_leaves._LARGEST
    for x in (2 * a, 5 * a, 20 * a):
        expected = (x**-2 - b**-2) / (a**-2 - b**-2)
        assert (radii > x).mean() == pytest.approx(expected, abs=4 * math.sqrt(expected / len(radii)))
    assert pytest.approx(math.log(b / a), abs=1e-6) == dead_leaves._LOG_RANGE


@pytest.mark.parametrize("size", [(24, 20), (5, 40), (96, 80)])
def test_leaves_drawn_together_and_separately_agree(size):
    leaves = dead_leaves._scatter(dead_leaves._Uniform(3))
    literal = np.zeros(size, dtype=np.int32)
    y, x = (np.mgrid[: size[0], : size[1]] + 0.5) / np.array(size).reshape(2, 1, 1)
    for leaf in range(1, len(leaves.y)):
        a, b, c = leaves.form[:, leaf]
        dy, dx = y - leaves.y[leaf], x - leaves.x[leaf]
        literal[a * dy * dy + b * dy * dx + c * dx * dx <= 1] = leaf
    together = dead_leaves._topmost(leaves, size)
    np.testing.assert_array_equal(together, literal)
    seen = leaves.reach[together] * max(size)
    assert all(
        ((low <= seen) & (seen < high)).any() for low, high in pairwise(dead_leaves._REACHES) if high < 0.4 * max(size)
    )


def test_a_leaf_outside_of_the_image_changes_nothing():
    uniform = dead_leaves._Uniform(5)
    everywhere = [uniform() for _ in range(3)]
    kept = np.array([0, 7, 500])
    uniform = dead_leaves._Uniform(5)
    uniform.keep(kept)
    for numbers in everywhere:
        np.testing.assert_array_equal(uniform(), numbers[kept])


def test_the_lowest_leaf_of_each_square():
    top = np.random.default_rng(0).integers(0, 99, (5, 7), dtype=np.int32)
    found = dead_leaves._lowest(top, 3)
    assert found.shape == (9, 11)
    for row in range(-2, 5):
        for column in range(-2, 7):
            square = top[max(row, 0) : row + 3, max(column, 0) : column + 3]
            assert found[row + 3, column + 3] == square.min()
