"""Images loaded in threads."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

from replk_probe.shape_bias.loading import InputImages, Loader, default_workers
from replk_probe.shape_bias.stimulus_source import open_stimuli


def images_of(folder: Path, size: tuple[int, int] = (32, 32)) -> InputImages:
    return InputImages(open_stimuli(folder), size, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))


def test_values_are_normalized(small_stimuli: Path) -> None:
    images = images_of(small_stimuli)
    pixels = np.asarray(images.stimuli.load(3)) / 255
    np.testing.assert_allclose(images(3), (pixels - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5], rtol=0, atol=1e-6)
    assert images(3).dtype == np.float32
    assert images_of(small_stimuli, (20, 40))(3).shape == (20, 40, 3)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batches_come_in_order(small_stimuli: Path, workers: int, batch_size: int) -> None:
    images = images_of(small_stimuli)
    expected = np.stack([images(index) for index in range(32)])
    batches = [range(start, min(start + batch_size, 32)) for start in range(0, 32, batch_size)]
    with Loader(images, workers) as loader:
        found = list(loader.batches(batches))
        np.testing.assert_array_equal(np.concatenate(found), expected)
        # A second pass, over some of them.
        np.testing.assert_array_equal(next(loader.batches([[31, 2]])), expected[[31, 2]])


def test_threads_end_with_the_loader(small_stimuli: Path) -> None:
    images = images_of(small_stimuli)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Loader(images, 2) as loader:
        next(loader.batches([[0], [1], [2], [3], [4], [5], [6]]))
        assert threading.active_count() > before
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_without_workers_the_calling_thread_loads(small_stimuli: Path) -> None:
    stimuli = open_stimuli(small_stimuli)
    threads = set[threading.Thread]()

    def load(index: int) -> Image:
        threads.add(threading.current_thread())
        return stimuli.load(index)

    with Loader(InputImages(replace(stimuli, loader=load), (32, 32), (0.5,) * 3, (0.2,) * 3), 0) as loader:
        list(loader.batches([[0, 1], [2]]))
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_stimulus_reaches_the_caller(small_stimuli: Path, workers: int) -> None:
    def load(index: int) -> Image:
        raise ZeroDivisionError(index)

    stimuli = replace(open_stimuli(small_stimuli), loader=load)
    with Loader(InputImages(stimuli, (32, 32), (0.5,) * 3, (0.2,) * 3), workers) as loader:
        with pytest.raises(ZeroDivisionError, match="3"):
            list(loader.batches([[3, 4], [5]]))


def test_workers_by_default() -> None:
    assert 1 <= default_workers(accelerated=False) <= default_workers(accelerated=True) <= 16
