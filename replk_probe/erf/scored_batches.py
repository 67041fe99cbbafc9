"""Batches of images from their loading to their scores, of which several may be in progress on a GPU."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from replk_probe.runtime.memory import with_smaller_batches
from replk_probe.runtime.transfer import Transfer

from .accumulator import FloatArray
from .contribution import InputGradient
from .convention import Convention

# A normalized image [C, H, W], or the reason why it cannot be used; and its depth if it exceeds 8 bits.
Loaded = tuple[Tensor | str, int | None]


@dataclass(frozen=True)
class ScoredBatch:
    """A batch whose scores are being computed.

    Attributes:
        depths: Depth in bits of each image with more than eight bits per value.
        methods: Methods used for its depthwise convolutions.
    """

    depths: tuple[int, ...]
    methods: frozenset[str]
    _reasons: Sequence[str | None]  # of images that cannot be used
    _scores: Callable[[], Tensor] | None  # None if no image can be used
    _convention: Convention

    def __len__(self) -> int:
        """Number of images, including those that cannot be used."""
        return len(self._reasons)

    def scores(self) -> list[FloatArray | str]:
        """Wait for the scores ``[H, W]`` of each image, or the reasons why it cannot be used."""
        found = iter(() if self._scores is None else self._scores().double().numpy())
        return [self._convention.summand(next(found)) if reason is None else reason for reason in self._reasons]


class BatchScorer:
    """Takes images in order and computes their scores.

    Args:
        gradient: What computes the scores.
        images: The images.
        transfer: Copies to and from the device of the model.
        convention: Definition of what is added.
        take_methods: Function that returns the methods used for depthwise convolutions since its last call.
    """

    def __init__(  # noqa: D107
        self,
        gradient: InputGradient,
        images: Iterator[Loaded],
        transfer: Transfer,
        convention: Convention,
        take_methods: Callable[[], Sequence[str]],
    ) -> None:
        self._gradient, self._images, self._transfer = gradient, images, transfer
        self._convention, self._take_methods = convention, take_methods
        self._waiting: deque[Loaded] = deque()  # loaded, but not part of a batch whose computation has begun

    def next_batch(self, count: int, release: Callable[[], object]) -> ScoredBatch:
        """Begin to compute the scores of the next images.

        Args:
            count: Number of images; there are fewer if the memory does not suffice.
            release: Function that is called before an attempt with fewer images.
        """
        self._waiting.extend(itertools.islice(self._images, max(count - len(self._waiting), 0)))
        scores, count = with_smaller_batches(self._begin, count, release)
        images, depths = zip(*(self._waiting.popleft() for _ in range(count)), strict=True)
        return ScoredBatch(
            depths=tuple(depth for depth in depths if depth is not None),
            methods=frozenset(self._take_methods()),
            _reasons=[image if isinstance(image, str) else None for image in images],
            _scores=scores,
            _convention=self._convention,
        )

    def _begin(self, count: int) -> Callable[[], Tensor] | None:
        usable = [image for image, _ in itertools.islice(self._waiting, count) if isinstance(image, Tensor)]
        return self._transfer.download(self._gradient.scores(self._on_device(usable))) if usable else None

    def _on_device(self, images: Sequence[Tensor]) -> Tensor:
        """The images as a batch ``[N, C, H, W]``."""
        first = images[0]
        if first.device == self._transfer.device:
            return torch.stack([*images])
        memory = self._transfer.empty((len(images), *first.shape), first.dtype)
        return self._transfer.upload(torch.stack([image.cpu() for image in images], out=memory))
