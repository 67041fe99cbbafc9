"""Validated options of an attribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from replk_probe.erf.area_protocols import DEFAULT_THRESHOLDS
from replk_probe.erf.arguments import check_thresholds
from replk_probe.erf.attribution import WITH_OWN_MODULES
from replk_probe.erf.target_layer import check_layer
from replk_probe.errors import InvalidInputError
from replk_probe.models.network_options import checked_network_options
from replk_probe.runtime import checks
from replk_probe.runtime.formatting import dimensions

GRAD_CAM, OCCLUSION, SALIENCY = "grad-cam", "occlusion", "saliency"
INTEGRATED_GRADIENTS, SMOOTH_GRAD = "integrated-gradients", "smooth-grad"
METHODS = (
    SALIENCY, "input-x-gradient", INTEGRATED_GRADIENTS, SMOOTH_GRAD, "guided-backprop", "deconvolution", GRAD_CAM,
    OCCLUSION,
)  # fmt: skip
BASELINES = ("mean", "black", "white")
# The options that only some methods have.
_METHODS_WITH = {
    "steps": (INTEGRATED_GRADIENTS,),
    "samples": (SMOOTH_GRAD,),
    "noise": (SMOOTH_GRAD,),
    "window": (OCCLUSION,),
    "stride": (OCCLUSION,),
    "baseline": (INTEGRATED_GRADIENTS, OCCLUSION),
}


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
    steps: int | None = None
    samples: int | None = None
    noise: float | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    baseline: str | None = None
    precision: str = "fp32"
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
        if self.baseline is not None:
            checks.check_choice("baseline", self.baseline, BASELINES)
        checks.check_name(self.name)
        checks.set_checked(
            self,
            **checked_network_options(self),
            target=_check_target(self.target),
            size=None if self.size is None else checks.check_size(self.size),
            thresholds=check_thresholds(self.thresholds),
            steps=None if self.steps is None else checks.check_integer("number of steps", self.steps, 1),
            samples=None if self.samples is None else checks.check_integer("number of samples", self.samples, 1),
            noise=_check_noise(self.noise),
            window=None if self.window is None else checks.check_size(self.window),
            stride=None if self.stride is None else checks.check_size(self.stride),
        )

    def check_method(self) -> None:
        """Check that the method has the options that were given.

        This is no part of the creation of the object, because a sweep checks each option by itself.

        Raises:
            InvalidInputError: The method does not have one of them, or cannot be computed with this precision.
        """
        for option, methods in _METHODS_WITH.items():
            if getattr(self, option) is not None and self.method not in methods:
                raise InvalidInputError(
                    f"The option {option} cannot be used with method {self.method!r}. It is an option of "
                    f"{' and '.join(methods)}. Omit it or choose another method."
                )
        if self.method in WITH_OWN_MODULES and self.precision != "fp32":
            raise InvalidInputError(
                f"Method {self.method!r} cannot be computed with precision {self.precision!r}. It needs the network as "
                "it is, not a prepared copy. Use precision 'fp32'."
            )
        if self.window is not None and self.stride is not None:
            check_stride(self.window, self.stride)


def check_stride(window: tuple[int, int], stride: tuple[int, int]) -> None:
    """Raise InvalidInputError if there are pixels between the windows of an occlusion."""
    if any(step > side for step, side in zip(stride, window, strict=True)):
        raise InvalidInputError(
            f"The stride {dimensions(stride)} is larger than the window {dimensions(window)}. Pixels between the "
            "windows would have no attribution. Use a stride of at most the window."
        )


def _check_noise(noise: Any) -> float | None:
    """A positive number, or None."""
    if noise is None:
        return None
    is_number = isinstance(noise, (int, float, np.number)) and not isinstance(noise, bool)
    if not is_number or not 0 < float(noise) < math.inf:
        raise InvalidInputError(
            f"The noise {noise!r} is invalid. It is the standard deviation of the noise as a share of the range of the "
            "values of an image. Give a positive number such as 0.15."
        )
    return float(noise)


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
