"""Validated options of an attribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from replk_probe.erf.area_protocols import DEFAULT_THRESHOLDS
from replk_probe.erf.arguments import check_thresholds
from replk_probe.erf.target_layer import check_layer
from replk_probe.errors import InvalidInputError
from replk_probe.runtime import checks
from replk_probe.runtime.devices import resolve_device

GRAD_CAM, OCCLUSION, SALIENCY = "grad-cam", "occlusion", "saliency"
METHODS = (
    SALIENCY, "input-x-gradient", "integrated-gradients", "smooth-grad", "guided-backprop", "deconvolution", GRAD_CAM,
    OCCLUSION,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttributionConfig:
    """Options of a measurement, except the model, the images and the effective receptive field.

    The attributes are described in :func:`~replk_probe.measure_attribution`.

    Raises:
        InvalidInputError: A value cannot be used.
        WeightsError: ``weights`` is neither a name nor a path.
        BackendError: The device is not available.

    Examples:
        >>> import dataclasses
        >>> from replk_probe.attribution import AttributionConfig
        >>> config = AttributionConfig(method="grad-cam", size=64)
        >>> dataclasses.replace(config, method="saliency").size
        (64, 64)
    """

    method: str = SALIENCY
    target: int | str | None = None
    layer: str | nn.Module | None = None
    size: tuple[int, int] | None = None
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS
    device: str | torch.device = "auto"
    seed: int = 0
    weights: str | None = "auto"
    ema: bool = False
    entry: str | None = None
    prefix: str | None = None
    name: str | None = None
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    bgr: bool = False

    def __post_init__(self) -> None:
        """Check the values, and convert them to the declared types."""
        checks.check_choice("method", self.method, METHODS)
        check_layer(self.layer)
        checks.check_selection(self.ema, self.entry, self.prefix)
        checks.check_name(self.name)
        checks.check_bool("bgr", self.bgr)
        resolve_device(self.device)
        checks.set_checked(
            self,
            target=_check_target(self.target),
            size=None if self.size is None else checks.check_size(self.size),
            thresholds=check_thresholds(self.thresholds),
            seed=checks.check_seed(self.seed),
            weights=checks.check_weights(self.weights),
            channels=None if self.channels is None else checks.check_integer("number of channels", self.channels, 1),
            mean=checks.check_statistics("mean", self.mean),
            std=checks.check_statistics("std", self.std, above=0),
        )


def _check_target(target: Any) -> int | str | None:
    """The index of a class, its name, or None."""
    if target is None or (isinstance(target, str) and target.strip()):
        name = None if target is None else target.strip()
        return int(name) if name is not None and name.isascii() and name.isdecimal() and len(name) < 10 else name
    index = checks.whole(target)
    if index is None or index < 0:
        raise InvalidInputError(
            f"The target {target!r} is invalid. It is the class whose score is attributed. Give the index of a class, "
            "which counts from 0, its name, or None for the predicted class."
        )
    return index
