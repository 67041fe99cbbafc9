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
    """One set of weights, published elsewhere or included in this package.

    Attributes:
        name: Name, ``MODEL.TAG``.
        model: Registry name of the model that the weights are for.
        url: HTTPS address, or None if only Google Drive has the file.
        drive_id: Google Drive id of the authors' file, or None.
        sha256: First digits of the SHA-256 of the file at ``url``, or None if none is published.
        size: Length of the file in bytes, or None if it is not published.
        license: License, and what it was stated for.
        provenance: Publisher of the weights.
        training: Training data and schedule.
        top1: Published ImageNet-1K top-1 accuracy in percent, or None for other class sets.
        input_size: Side in pixels at which ``top1`` was measured.
        num_classes: Number of outputs of the classifier, or None if it is not stated.
        mean: Mean of each channel, for inputs in [0, 1].
        std: Standard deviation of each channel, for inputs in [0, 1].
        remark: Additional information for users of these weights.
        hub_id: Repository on the Hugging Face hub, for weights of timm.
        embedded: Path of the file if it is included in this package.
    """

    name: str
    model: str
    url: str | None
    drive_id: str | None
    sha256: str | None
    license: str
    provenance: str
    training: str
    top1: float | None
    input_size: int
    num_classes: int | None = 1000
    size: int | None = None
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    remark: str | None = None
    hub_id: str | None = None
    embedded: Path | None = None

    @property
    def host(self) -> str:
        """``"this package"``, ``"OpenMMLab"``, ``"Google Drive"`` or ``"timm hub"``."""
        if self.embedded:
            return "this package"
        if self.hub_id:
            return "timm hub"
        return "OpenMMLab" if self.url else "Google Drive"

    @property
    def data_config(self) -> DataConfig:
        """Normalization and input size."""
        return DataConfig(self.mean, self.std, (self.input_size, self.input_size))

    @property
    def filename(self) -> str:
        """Name of the file in the cache."""
        return self.url.rsplit("/", 1)[-1] if self.url else f"{self.name}.pth"
