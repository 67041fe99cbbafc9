"""The options of an ERF measurement, shared by the function, the plan and the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.images.sample import check_sample
from replk_probe.models.inference.prepare import check_precision
from replk_probe.runtime.devices import resolve_device

from .area_protocols import DEFAULT_THRESHOLDS
from .arguments import check_seed, check_size, check_thresholds


@dataclass(frozen=True, kw_only=True)
class ErfConfig:
    """Options of :func:`~replk_probe.measure_erf`, validated on construction.

    Attributes:
        images: Number of images to take from a folder or from the embedded set.
        size: Side in pixels, or (H, W), to which images are resized without keeping their aspect ratio.
        layer: ``"stage3.5"``, a module path, a module of the model (``model.layer4``), or None for the last map before
            the final norm.
        thresholds: Shares of the total contribution, each in (0, 1).
        precision: ``"fp32"``: float32 throughout. ``"fast"``: float32 forward pass, reduced-precision matrix products
            in the backward pass. ``"bf16"``: reduced precision in both passes. A prepared model keeps its precision.
        device: ``"auto"`` (an NVIDIA GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... A prepared model
            stays on its device.
        seed: Random seed for image sampling and weight initialization.
        sampling: ``"stratified"`` by class folder, or ``"first"``.
        weights: For a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file.
        ema: Whether to use the averaged entry of a weights file.
        name: Name of the model in the result; None for the name it was created with, or that of its class.
        batch_size: Images per step. A larger value needs more memory and changes results only by rounding.

    Raises:
        InvalidInputError: A value is invalid.
        BackendError: The device is not available.
    """

    images: int = 50
    size: int | tuple[int, int] = 1024
    layer: str | nn.Module | None = None
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS
    precision: str = "fp32"
    device: str | torch.device = "auto"
    seed: int = 0
    sampling: str = "stratified"
    weights: str | None = "auto"
    ema: bool = False
    name: str | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        """Check every value and normalize sizes and thresholds."""
        if self.name is not None and not isinstance(self.name, str):
            raise InvalidInputError(f"The name {self.name!r} is not a string. Give a name for the result.")
        check_sample(self.images, self.sampling)
        check_precision(self.precision)
        resolve_device(self.device)
        if not isinstance(self.batch_size, int) or isinstance(self.batch_size, bool) or self.batch_size < 1:
            raise InvalidInputError(
                f"Batch size {self.batch_size!r} is invalid. It is a positive whole number of images. Give 1 or more."
            )
        object.__setattr__(self, "size", check_size(self.size))
        object.__setattr__(self, "thresholds", check_thresholds(self.thresholds))
        object.__setattr__(self, "seed", check_seed(self.seed))
