"""The whole measurement, from images and a model to an :class:`ErfResult`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor, nn

from replk_probe.images import ImageSet
from replk_probe.models.inference.prepare import PreparedModel

from .config import ErfConfig
from .plan import plan_erf
from .result import ErfResult


def measure_erf(
    model: nn.Module | PreparedModel | str,
    data: ImageSet | str | Path | Tensor | npt.NDArray[Any] | None = None,
    *,
    config: ErfConfig | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **options: Any,
) -> ErfResult:
    """Measure the effective receptive field of a model over images.

    ::

        replk_probe.measure_erf("resnet50", "photos/", images=100, layer="stage4", thresholds=[0.5, 0.99])

    On Linux, the allocator of the C library keeps freed memory for reuse during the measurement.

    Args:
        model: A module, which is not changed; a model returned by :func:`~replk_probe.erf.prepare`; or a name for
            :func:`replk_probe.create_model`.
        data: An :class:`~replk_probe.images.ImageSet`, a folder, or normalized images ``[N, C, H, W]`` (then the
            options ``images``, ``size`` and ``sampling`` do not apply); None for the embedded dead-leaves images.
        config: Options as one object.
        checkpoint: Folder for the state of an unfinished run, saved after every step; None to save no state. It is
            kept after the last step, so that nothing is lost before the result is saved; remove it afterwards.
        resume: Whether to continue from the state in ``checkpoint``, if there is one; the result is then byte for byte
            that of an uninterrupted run, except for its seconds.
        progress: Whether to draw a progress bar on stderr, if that is a terminal.
        **options: Any attribute of :class:`~replk_probe.erf.ErfConfig` (``images``, ``size``, ``layer``,
            ``thresholds``, ``precision``, ``device``, ``seed``, ``sampling``, ``weights``, ``ema``, ``name``,
            ``batch_size``), overriding ``config``.

    Returns:
        The mean contribution map and its area ratios.

    Raises:
        InvalidInputError: An argument is invalid, or none of the images can be used.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found or do not match the model.
        BackendError: The device or precision is not available, or there is not enough memory.
        ResumeError: The saved state belongs to another run.
    """
    settings = ErfConfig(**options) if config is None else replace(config, **options)
    return plan_erf(model, data, settings).run(checkpoint=checkpoint, resume=resume, progress=progress)
