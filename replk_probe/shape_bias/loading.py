"""Decode and normalize stimuli in threads while the network runs.

Threads, not processes: PIL and numpy release the GIL while they decode, resize and normalize.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from replk_probe.images import normalize
from replk_probe.images.channels import with_channels
from replk_probe.images.depth import DEPTH


class Stimuli(Protocol):
    """What a measurement needs of its stimuli; the attributes are those of a ``StimulusSet``."""

    @property
    def source(self) -> str:
        """Name of the source."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Possible decisions."""

    @property
    def size(self) -> tuple[int, int] | None:
        """``(H, W)`` of every stimulus in pixels; None if they differ."""

    @property
    def digest(self) -> str:
        """Digest of names and contents."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the reader of a result."""

    @property
    def record(self) -> Mapping[str, Any]:
        """Entries for the configuration in the result."""

    def __len__(self) -> int:
        """Number of stimuli."""

    def load(self, index: int) -> Image.Image:
        """Load an image in mode RGB."""


@dataclass(frozen=True)
class InputImages:
    """Stimuli as inputs of a network."""

    stimuli: Stimuli
    size: tuple[int, int]  # (H, W) in pixels; stimuli of another size are warped to it with PIL's bicubic filter
    mean: tuple[float, ...]  # mean of each channel, for inputs in [0, 1]
    std: tuple[float, ...]  # standard deviation of each channel, for inputs in [0, 1]
    bgr: bool = False  # whether the colors are in the order blue, green, red
    # Depth in bits of every loaded stimulus with more than eight bits per value, by index.
    depths: dict[int, int] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)

    def __call__(self, index: int) -> npt.NDArray[np.float32]:
        """Load one normalized image, ``[H, W, C]``.

        Raises:
            UnreadableImageError: The file is missing or damaged.
        """
        picture, (height, width) = self.stimuli.load(index), self.size
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        if DEPTH in picture.info:
            self.depths[index] = picture.info[DEPTH]
        pixels = with_channels(np.asarray(picture), self.channels, bgr=self.bgr)
        return np.moveaxis(normalize(pixels, self.mean, self.std), 0, 2)


class Loader:
    """Context manager that loads batches of images ahead of their use.

    Args:
        images: The images, by index.
        workers: Number of threads; 0 to load in the calling thread when a batch is requested.
    """

    def __init__(self, images: InputImages, workers: int) -> None:  # noqa: D107
        self._images = images
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, "stimuli") if workers else None

    def __enter__(self) -> Loader:
        """Return the loader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Discard images that were not requested, and stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def batches(
        self,
        batches: Sequence[Sequence[int]],
        allocate: Callable[[tuple[int, ...]], npt.NDArray[np.float32]] = lambda shape: np.empty(shape, np.float32),
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Load batches in order.

        Args:
            batches: Indices of the stimuli of each batch.
            allocate: Function that returns a contiguous array of the given shape for a batch.

        Yields:
            Images ``[N, H, W, C]`` of each batch.

        Raises:
            UnreadableImageError: The file of a stimulus is missing or damaged.
        """
        pending: deque[tuple[npt.NDArray[np.float32], list[Future[None]]]] = deque()
        for indices in batches:
            batch = allocate((len(indices), *self._images.size, self._images.channels))
            if self._pool is None:
                for index, image in zip(indices, batch, strict=True):
                    self._load(index, image)
                yield batch
                continue
            jobs = [self._pool.submit(self._load, index, image) for index, image in zip(indices, batch, strict=True)]
            pending.append((batch, jobs))
            # One batch is always prepared ahead of the one in use; more if batches are small.
            if len(pending) > 2 and sum(len(waiting) for _, waiting in pending) > 2 * self._workers:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())

    def _load(self, index: int, image: npt.NDArray[np.float32]) -> None:
        image[...] = self._images(index)


def default_workers(*, accelerated: bool) -> int:
    """Number of threads that keep up with the forward passes (on the CPU or not) without slowing them down."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores) if accelerated else max(1, min(4, cores // 4))


def _finished(batch: npt.NDArray[np.float32], jobs: Sequence[Future[None]]) -> npt.NDArray[np.float32]:
    for job in jobs:
        job.result()
    return batch
