"""Images decoded in other processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from replk_probe.errors import BackendError
from replk_probe.shape_bias.loading import InputImages, Loader, default_workers
from replk_probe.shape_bias.stimulus_source import open_stimuli


def images_of(folder: Path, size: tuple[int, int] = (32, 32)) -> InputImages:
    return InputImages(open_stimuli(folder), size, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))


def test_values_are_normalised(small_stimuli: Path) -> None:
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


def test_processes_end_with_the_loader(small_stimuli: Path) -> None:
    with pytest.raises(ZeroDivisionError), Loader(images_of(small_stimuli), 2) as loader:
        next(loader.batches([[0], [1], [2], [3], [4], [5], [6]]))
        processes = [worker._process for worker in loader._workers]
        raise ZeroDivisionError
    assert all(process is not None and process.poll() is not None for process in processes)


def test_a_process_that_dies_is_an_error(small_stimuli: Path) -> None:
    with Loader(images_of(small_stimuli), 1) as loader:
        batches = loader.batches([[index] for index in range(32)])
        next(batches)
        process = loader._workers[0]._process
        assert process is not None
        process.kill()
        with pytest.raises(BackendError, match="ended by itself"):
            list(batches)


def test_the_main_module_is_not_imported_again(small_stimuli: Path, tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from replk_probe.shape_bias.loading import InputImages, Loader\n"
        "from replk_probe.shape_bias import open_stimuli\n"
        f"images = InputImages(open_stimuli({str(small_stimuli)!r}), (32, 32), (0, 0, 0), (1, 1, 1))\n"
        "with Loader(images, 2) as loader:\n"
        "    print(len(list(loader.batches([[0], [1], [2]]))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_workers_by_default() -> None:
    assert default_workers(16, accelerated=True) == 0
    assert 1 <= default_workers(1280, accelerated=False) <= default_workers(1280, accelerated=True) <= 16
