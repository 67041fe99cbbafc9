"""The record of one set of published weights, and how images are normalized for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


@dataclass(frozen=True)
class DataConfig:
    """How images are prepared for a network.

    Attributes:
        mean: Mean of each channel, for inputs in [0, 1].
        std: Standard deviation of each channel, for inputs in [0, 1].
        input_size: ``(H, W)`` in pixels that the weights were trained for.
    """

    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    input_size: tuple[int, int] = (224, 224)


@dataclass(frozen=True)
class CatalogEntry:
    """One set of weights, published elsewhere or included in this package."""

    name: str  # name, MODEL.TAG
    model: str  # registry name of the model that the weights are for
    url: str | None  # HTTPS address, or None if only Google Drive or the Hugging Face hub has the file
    drive_id: str | None  # Google Drive id of the authors' file, or None
    sha256: str | None  # first digits of the SHA-256 of the file, or None if none is published
    license: str  # license, and what it was stated for
    provenance: str  # publisher of the weights
    training: str  # training data and schedule
    top1: float | None  # published ImageNet-1K top-1 accuracy in percent, or None for other class sets
    input_size: int  # side in pixels at which top1 was measured
    num_classes: int | None = 1000  # number of outputs of the classifier, or None if it is not stated
    size: int | None = None  # length of the file in bytes, or None if it is not published
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN  # mean of each channel, for inputs in [0, 1]
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD  # standard deviation of each channel, for inputs in [0, 1]
    remark: str | None = None  # additional information for users of these weights
    hub_id: str | None = None  # repository on the Hugging Face hub
    hub_file: str | None = None  # name of the file in that repository; None for weights of timm, which finds it
    embedded: Path | None = None  # path of the file if it is included in this package

    @property
    def host(self) -> str:
        """``"this package"``, ``"OpenMMLab"``, ``"Google Drive"``, ``"HF hub"`` or ``"timm hub"``."""
        if self.embedded:
            return "this package"
        if self.hub_id:
            return "HF hub" if self.hub_file else "timm hub"
        return "OpenMMLab" if self.url else "Google Drive"

    @property
    def data_config(self) -> DataConfig:
        """Normalization and input size."""
        return DataConfig(self.mean, self.std, (self.input_size, self.input_size))

    @property
    def filename(self) -> str:
        """Name of the file in the cache."""
        if self.hub_file:
            return self.hub_file
        return self.url.rsplit("/", 1)[-1] if self.url else f"{self.name}.pth"
