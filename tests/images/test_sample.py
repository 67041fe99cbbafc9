from __future__ import annotations

import numpy as np

from replk_probe.images import dead_leaves, sample, sample_images


def test_small_embedded_images_are_drawn_once_and_belong_to_the_caller():
    images = sample_images(n=2)
    name = images.ids[0]
    sample._draw_once.cache_clear()
    first = images.load(name, (24, 32))
    expected = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(images.load(name, [24, 32]), expected)
    assert sample._draw_once.cache_info()[:2] == (1, 1)
    np.testing.assert_array_equal(dead_leaves.draw(name, (24, 32)), expected)
    images.load(name, (257, 256))
    assert sample._draw_once.cache_info().currsize == 1
