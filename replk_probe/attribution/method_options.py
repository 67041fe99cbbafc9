"""The options of a method of attribution, as captum takes them and as they are recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from replk_probe.erf.attribution import DEFAULT as GRADIENT
from replk_probe.erf.attribution import options_of
from replk_probe.errors import InvalidInputError
from replk_probe.runtime.formatting import dimensions

from .config import GRAD_CAM, OCCLUSION, SALIENCY, AttributionConfig, check_stride

# The value of a pixel in [0, 1] by the name of the baseline; the mean is zero after normalization.
_VALUES = {"black": 0.0, "white": 1.0}
_WINDOWS = 16  # windows of an occlusion along each axis, by default


@dataclass(frozen=True)
class MethodOptions:
    """The options of one method.

    Attributes:
        given: Those that replace the usual ones, by captum's names.
        record: All of them, as they are recorded.
        baseline: Value of each channel of the normalized baseline, or None for zero.
    """

    given: dict[str, Any]
    record: dict[str, Any]
    baseline: tuple[float, ...] | None
    _usual: dict[str, Any]

    @classmethod
    def of(
        cls, config: AttributionConfig, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> MethodOptions:
        """The options of a configuration, whose method has all that were given.

        Args:
            config: The configuration.
            size: (H, W) of the images in pixels.
            mean: Mean of each channel that is subtracted from the images.
            std: Standard deviation of each channel.

        Raises:
            InvalidInputError: A window is larger than the images, or there are pixels between the windows.
        """
        if config.method == GRAD_CAM:
            return cls({}, {}, None, {})
        name = GRADIENT if config.method == SALIENCY else config.method
        names = {"n_steps": config.steps, "nt_samples": config.samples, "noise": config.noise}
        given: dict[str, Any] = {option: value for option, value in names.items() if value is not None}
        usual = options_of(name, {}, config.seed)
        record = usual | given
        if config.method == OCCLUSION and (config.window or config.stride):
            window = config.window or _usual_window(size)
            stride = config.stride or window
            if any(side > length for side, length in zip(window, size, strict=True)):
                raise InvalidInputError(
                    f"The window {dimensions(window)} is larger than the images, which have {dimensions(size)} px. "
                    "Occlusion replaces a part of an image. Use a smaller window."
                )
            check_stride(window, stride)
            given |= {"sliding_window_shapes": (len(mean), *window), "strides": (len(mean), *stride)}
            del record["windows"]
            record |= {"window": list(window), "stride": list(stride)}
        baseline = None
        if config.baseline in _VALUES:
            value = _VALUES[config.baseline]
            baseline = tuple((value - one) / spread for one, spread in zip(mean, std, strict=True))
            record["baselines"] = config.baseline
        return cls(given, record, baseline, usual)

    def captum(self, image: Tensor) -> dict[str, Any]:
        """All options for one image ``[1, C, H, W]``, as for :func:`~replk_probe.erf.attribution.attributed`."""
        options = self._usual | self.given
        if self.baseline is not None:
            options["baselines"] = image.new_tensor(self.baseline)[:, None, None].expand_as(image).contiguous()
        return options


def _usual_window(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the windows of an occlusion that are used by default."""
    height, width = (math.ceil(length / _WINDOWS) for length in size)
    return height, width
