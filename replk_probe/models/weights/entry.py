"""What the catalog of weights knows of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


@dataclass(frozen=True)
class CatalogEntry:
    """One set of weights: published, or a part of this package.

    Attributes:
        name: As ``MODEL.TAG``.
        model: Name in the registry of the model that the weights are for.
        url: Plain HTTPS address, or None where only Google Drive has the file.
        drive_id: Google Drive's id of the authors' own file, or None.
        sha256: First digits of the SHA-256 of the file at ``url``, or None where none is published.
        size: Length of the file in bytes, or None where it is not published.
        licence: Licence, and of what.
        provenance: Who published the weights.
        training: Data and schedule in a few words.
        top1: Published ImageNet-1K top-1 accuracy in percent, or None for other class sets.
        input_size: Side in pixels that ``top1`` was measured at.
        num_classes: Outputs of the classifier, or None where it is not stated.
        mean: Per channel, of an input in [0, 1].
        std: Per channel, of an input in [0, 1].
        remark: What else a user of these weights should know.
        hub_id: Repository on the Hugging Face hub, for weights of timm.
        embedded: The file itself, where it is a part of this package.
    """

    name: str
    model: str
    url: str | None
    drive_id: str | None
    sha256: str | None
    licence: str
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
    def filename(self) -> str:
        """Name in the cache."""
        return self.url.rsplit("/", 1)[-1] if self.url else f"{self.name}.pth"
