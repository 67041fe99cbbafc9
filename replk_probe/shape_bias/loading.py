"""Stimuli decoded and normalised beside the forward passes, in processes of their own. Free of torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from replk_probe.errors import BackendError
from replk_probe.images import UnreadableImageError, normalise

from .stimuli.stimulus_set import StimulusSet

# Not multiprocessing: its processes begin by importing the caller's main module once more, or, forked, with the locks
# that other threads of the caller happened to hold.
_SERVE = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from replk_probe.shape_bias.loading import serve; serve()"
)
_HEADER = struct.Struct("<BQ")
_DONE, _REFUSED, _FAILED = 0, 1, 2

# Images that a process does at a time: their decoding takes much longer than asking for them.
_CHUNK = 8
# Below so many stimuli a process is not worth its start.
_FEW = 64


@dataclass(frozen=True)
class InputImages:
    """Stimuli as a network takes them.

    Attributes:
        stimuli: Which.
        size: ``(H, W)`` in pixels; stimuli of another size are warped to it, by PIL's bicubic filter.
        mean: Per channel, of an input in [0, 1].
        std: Per channel, of an input in [0, 1].
    """

    stimuli: StimulusSet
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, index: int) -> npt.NDArray[np.float32]:
        """One normalised image, ``[H, W, 3]``.

        Raises:
            UnreadableImageError: Its file is gone or damaged.
        """
        picture, (height, width) = self.stimuli.load(index), self.size
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        channels = normalise(np.asarray(picture), self.mean, self.std)
        return np.moveaxis(channels, 0, 2)


class Loader:
    """Batches of images, made ahead of their use.

    A context manager: its processes start when it is entered, and have ended when it is left.

    Args:
        images: By index.
        workers: Processes; 0 to decode in a thread of this one.
    """

    def __init__(self, images: InputImages, workers: int) -> None:  # noqa: D107
        self._images = images
        self._processes = workers
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Loader:
        """Start the processes."""
        payload = _payload(self._images) if self._processes else None
        self._workers = [_Worker(self._images, payload) for _ in range(max(1, self._processes))]
        self._threads = ThreadPoolExecutor(len(self._workers), "stimuli")
        for worker in self._workers:
            self._idle.put(worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def batches(
        self,
        batches: Sequence[Sequence[int]],
        allocate: Callable[[tuple[int, ...]], npt.NDArray[np.float32]] = lambda shape: np.empty(shape, np.float32),
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Load, in order.

        Args:
            batches: Indices of the stimuli of each batch.
            allocate: Makes the array of a batch, contiguous, from its shape.

        Yields:
            ``[N, H, W, 3]`` for each batch.

        Raises:
            UnreadableImageError: The file of a stimulus is gone or damaged.
            BackendError: A process that decodes has ended by itself.
            RuntimeError: A stimulus of the caller's own cannot be loaded; without processes, whatever it raises.
        """
        chunk = max(1, min(_CHUNK, math.ceil(max(map(len, batches), default=1) / len(self._workers))))
        jobs_ahead = 2 * len(self._workers)
        pending: deque[tuple[npt.NDArray[np.float32], list[Future[None]]]] = deque()
        for indices in batches:
            batch = allocate((len(indices), *self._images.size, 3))
            jobs = [
                self._threads.submit(self._fill, indices[start : start + chunk], batch[start : start + chunk])
                for start in range(0, len(indices), chunk)
            ]
            pending.append((batch, jobs))
            # Always one batch besides the one in use, more where batches are small.
            if len(pending) > 2 and sum(len(waiting) for _, waiting in pending) > jobs_ahead:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())

    def _fill(self, indices: Sequence[int], images: npt.NDArray[np.float32]) -> None:
        worker = self._idle.get()
        try:
            worker.fill(indices, images)
        finally:
            self._idle.put(worker)


def default_workers(n_stimuli: int, *, accelerated: bool) -> int:
    """Processes that keep up with the forward passes without taking the processor from them.

    Args:
        n_stimuli: How many images there are to decode.
        accelerated: Whether the network runs elsewhere than on the processor.
    """
    if n_stimuli < _FEW:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores) if accelerated else max(1, min(4, cores // 4))


def serve() -> None:
    """The life of a worker process: images for indices, until nobody asks any more."""
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the terminal is the caller's to handle
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing printed may get between the replies
    images = pickle.load(requests)
    _reply(replies, _DONE, b"")
    while header := requests.read(_HEADER.size):
        _, length = _HEADER.unpack(header)
        indices = pickle.loads(requests.read(length))
        try:
            found = np.ascontiguousarray([images(index) for index in indices], dtype=np.float32)
            _reply(replies, _DONE, found.data.cast("B"))
        except UnreadableImageError as error:
            _reply(replies, _REFUSED, json.dumps([error.image_id, error.reason]).encode())
        except Exception:
            _reply(replies, _FAILED, traceback.format_exc().encode())


class _Worker:
    """A process that decodes, or none: then whoever calls :meth:`fill` does it."""

    def __init__(self, images: InputImages, payload: bytes | None) -> None:
        self._images = images
        self._payload = payload
        self._process: subprocess.Popen[bytes] | None = None
        if payload is not None:
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _SERVE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )

    def fill(self, indices: Sequence[int], images: npt.NDArray[np.float32]) -> None:
        """Write the images of ``indices`` into ``images``, ``[N, H, W, 3]``."""
        if self._process is not None and self._payload is not None:
            self._introduce(self._payload)
            self._payload = None
        if self._process is None:
            for position, index in enumerate(indices):
                images[position] = self._images(index)
            return
        requests, replies = _pipes(self._process)
        try:
            request = pickle.dumps(list(indices))
            requests.write(_HEADER.pack(_DONE, len(request)) + request)
            requests.flush()
            kind, length = _HEADER.unpack(_exactly(replies, _HEADER.size))
            if kind == _DONE:
                _read_into(replies, images.reshape(-1).view(np.uint8))
                return
            message = _exactly(replies, length)
        except (OSError, EOFError) as error:
            raise BackendError(
                f"A process that decodes stimuli has ended by itself (status {self._process.wait()}). "
                "The system may have run out of memory. Use a smaller batch, or no such processes (workers=0)."
            ) from error
        if kind == _REFUSED:
            raise UnreadableImageError(*json.loads(message))
        raise RuntimeError(f"a stimulus could not be loaded:\n{message.decode(errors='replace')}")

    def close(self) -> None:
        """End the process, by ending its input."""
        if self._process is None:
            return
        for pipe in _pipes(self._process):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _introduce(self, payload: bytes) -> None:
        """Tell the process what it is for; where it cannot import that (a notebook's own class), do without it."""
        assert self._process is not None
        requests, replies = _pipes(self._process)
        try:
            requests.write(payload)
            requests.flush()
            _exactly(replies, _HEADER.size)
        except (OSError, EOFError):
            self.close()
            self._process = None


def _payload(images: InputImages) -> bytes | None:
    """What a process reads first, or None where that cannot be sent."""
    if not sys.executable:
        return None
    try:
        return pickle.dumps(sys.path) + pickle.dumps(images)
    except Exception:  # whatever the pickling of a foreign object raises
        return None


def _finished(batch: npt.NDArray[np.float32], jobs: Sequence[Future[None]]) -> npt.NDArray[np.float32]:
    for job in jobs:
        job.result()
    return batch


def _pipes(process: subprocess.Popen[bytes]) -> tuple[Any, Any]:
    return process.stdin, process.stdout


def _reply(stream: BinaryIO, kind: int, content: bytes | memoryview) -> None:
    stream.write(_HEADER.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _read_into(stream: Any, target: npt.NDArray[np.uint8]) -> None:
    view = target.data
    while view:
        count = stream.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]
