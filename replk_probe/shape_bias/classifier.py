"""The outputs of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.models.inference.check import Check, check_on, evaluating, random_image
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.runtime.devices import out_of_memory_explained


def compute_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the outputs of a classifier.

    Args:
        model: The classifier.
        images: Inputs ``[N, 3, H, W]``, which are converted to the device and dtype of the model.

    Returns:
        Logits ``[N, classes]``.

    Raises:
        InvalidInputError: The output of the model has another form.
    """
    images = images.to(**device_and_dtype(model), non_blocking=True)
    output = model(images)
    logits = getattr(output, "logits", output)
    if isinstance(logits, (tuple, list)) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images) or not logits.shape[1]:
        found = str(list(logits.shape)) if isinstance(logits, Tensor) else f"an object of type {type(logits).__name__}"
        raise InvalidInputError(
            f"{type(model).__name__} gives {found} for images {list(images.shape)}. A decision requires one number per "
            "class. Give a classifier whose output is [N, classes]."
        )
    return logits


def count_outputs(model: nn.Module, size: tuple[int, int]) -> int:
    """Number of classes of a classifier for images of ``(H, W)`` pixels.

    Raises:
        InvalidInputError: The model does not accept images of this size, or is not a classifier.
        BackendError: The memory does not suffice.
    """
    try:
        with out_of_memory_explained(size), evaluating(model), torch.inference_mode():
            return compute_logits(model, torch.zeros(1, 3, *size)).shape[1]
    except ReplkProbeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(
            f"{type(model).__name__} fails on images of {size[0]}x{size[1]} px. The forward pass raised: "
            f"{reason[:300]} Give an image classifier, or the size that it accepts."
        ) from error


def outputs_check(model: nn.Module, size: tuple[int, int]) -> Check:
    """Check that a copy of the model gives the same outputs for one random image of ``(H, W)`` pixels."""
    return check_on(random_image(size), model, compute_logits)
