"""The whole measurement: images and a model in, :class:`ErfResult` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.images import ImageSet

from .area_protocols import DEFAULT_THRESHOLDS
from .plan import ErfPlan as ErfPlan
from .plan import plan_erf as plan_erf
from .result import ErfResult


def measure_erf(
    model: nn.Module | str,
    images: ImageSet | str | Path | Tensor | npt.NDArray[Any] | None = None,
    *,
    n_images: int = 50,
    size: int | tuple[int, int] = 1024,
    layer: str | None = None,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    precision: str = "fp32",
    device: str | torch.device = "auto",
    seed: int = 0,
    sampling: str = "stratified",
    weights: str | None = "auto",
    ema: bool = False,
    name: str | None = None,
    batch_size: int = 1,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> ErfResult:
    """Measure the effective receptive field of a model over images.

    Args:
        model: A module, which is never changed, or a name for :func:`replk_probe.create_model`.
        images: An :class:`~replk_probe.images.ImageSet`, a folder, or normalised images ``[N, C, H, W]`` (then
            ``n_images``, ``size`` and ``sampling`` do not apply); None for the embedded dead-leaves images.
        n_images: How many images to take of a folder or of the embedded set.
        size: Side in pixels, or (H, W), that images are warped to.
        layer: ``"stage3.5"``, a module path, or None for the last map before the final norm.
        thresholds: Shares of the total contribution, each in (0, 1).
        precision: ``"fp32"`` strict; ``"fast"`` float32 forward and reduced-precision matrix units backward; ``"bf16"``
            reduced both ways.
        device: ``"auto"`` (an NVIDIA GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        seed: Of the image sample, and of a random initialisation.
        sampling: ``"stratified"`` by class folder, or ``"first"``.
        weights: For a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file.
        ema: Take the averaged entry of a weights file.
        name: What to call a module in the record; default its class name.
        batch_size: Images per step; more need more memory and change results by rounding only.
        checkpoint: Folder for the state of an unfinished run, saved after every step; None for none. It stays after the
            last step, so that nothing is lost before the result is saved: remove it then.
        resume: Continue from ``checkpoint`` if there is a state; the result is then byte for byte that of an
            uninterrupted run, except for its seconds.
        progress: Draw a progress bar on a terminal's stderr.

    Returns:
        The mean contribution map and its area ratios.

    Raises:
        InvalidInputError: An argument cannot be used, or not one image can.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found or do not fit.
        BackendError: The device or precision is not available, or its memory does not suffice.
        ResumeError: The saved state belongs to another run.
    """
    plan = plan_erf(
        model,
        images,
        n_images=n_images,
        size=size,
        layer=layer,
        thresholds=thresholds,
        precision=precision,
        device=device,
        seed=seed,
        sampling=sampling,
        weights=weights,
        ema=ema,
        name=name,
        batch_size=batch_size,
    )
    return plan.run(checkpoint=checkpoint, resume=resume, progress=progress)
