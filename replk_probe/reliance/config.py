"""Validated options of a measurement of reliance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from replk_probe.models.network_options import checked_network_options
from replk_probe.runtime import checks
from replk_probe.shape_bias.decision_mapping import LabelMapping, as_mapping

from .suppressions import parse_suppressions


@dataclass(frozen=True, kw_only=True)
class RelianceConfig:
    """Options of a measurement, except the model and the images.

    The attributes are described in :func:`~replk_probe.measure_reliance`.

    Raises:
        InvalidInputError: A value cannot be used.
        WeightsError: ``weights`` is neither a name nor a path.
        BackendError: The device or the precision is not available.

    Examples:
        >>> import dataclasses
        >>> from replk_probe.reliance import RelianceConfig
        >>> config = RelianceConfig(suppressions=["gaussian-blur", "grayscale"], size=160)
        >>> dataclasses.replace(config, images=100).size
        (160, 160)
    """

    suppressions: str | Sequence[str] | None = None
    images: int | None = None
    mapping: LabelMapping | None = None
    batch_size: int = 32
    workers: int | None = None
    size: tuple[int, int] | None = None
    precision: str = "fp32"
    device: str | torch.device = "auto"
    seed: int = 0
    weights: str | None = "auto"
    ema: bool = False
    entry: str | None = None
    prefix: str | None = None
    num_classes: int | None = None
    name: str | None = None
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    bgr: bool = False

    def __post_init__(self) -> None:
        """Check the values, and convert them to the declared types."""
        parse_suppressions(self.suppressions)
        checks.check_name(self.name)
        checks.set_checked(
            self,
            **checked_network_options(self),
            images=None if self.images is None else checks.check_integer("number of images", self.images, 1),
            mapping=None if self.mapping is None else as_mapping(self.mapping),
            batch_size=checks.check_integer("batch size", self.batch_size, 1),
            workers=None if self.workers is None else checks.check_integer("number of workers", self.workers, 0),
            size=None if self.size is None else checks.check_size(self.size),
            num_classes=(
                None if self.num_classes is None else checks.check_integer("number of classes", self.num_classes, 1)
            ),
        )
