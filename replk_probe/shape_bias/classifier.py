"""The outputs of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.models.inference.check import Check, check_on, evaluating, random_image
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.models.inference.cudnn_passes import with_engines
from replk_probe.models.inference.failure import explain
from replk_probe.runtime.devices import out_of_memory_explained

# Largest distance of the sum of probabilities from 1, by rounding to the type of the outputs.
_SUM_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_SUM_TOLERANCE_HALF = 2e-2


def compute_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the outputs of a classifier.

    Args:
        model: The classifier.
        images: Inputs ``[N, C, H, W]``, which are converted to the device and dtype of the model.

    Returns:
        Logits ``[N, classes]``: the output itself, its entry ``logits``, or its first tensor of this form.

    Raises:
        InvalidInputError: The output of the model has another form.
    """
    place = device_and_dtype(model)
    output = with_engines(lambda: model(images.to(**place, non_blocking=True)), place.get("device", images.device))
    logits = _logits_in(output, len(images))
    if not _is_logits(logits, len(images)):
        found = str(list(logits.shape)) if isinstance(logits, Tensor) else f"an object of type {type(output).__name__}"
        raise InvalidInputError(
            f"{type(model).__name__} gives {found} for images {list(images.shape)}. A decision requires one number per "
            "class. Give a classifier whose output is [N, classes]."
        )
    return logits


def _logits_in(output: Any, images: int) -> Any:
    """The entry ``logits`` of an object or a dictionary, or else its first or only tensor ``[N, classes]``."""
    if isinstance(output, Mapping):
        output = output["logits"] if "logits" in output else list(output.values())
        several = [value for value in output if _is_logits(value, images)] if isinstance(output, list) else []
        return several[0] if len(several) == 1 else output
    output = getattr(output, "logits", output)
    if isinstance(output, (tuple, list)) and output:
        return next((value for value in output if _is_logits(value, images)), output[0])
    return output


def _is_logits(value: Any, images: int) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() == 2 and len(value) == images and value.shape[1] > 0


@dataclass(frozen=True)
class Outputs:
    """The outputs of a classifier.

    Attributes:
        classes: Number of classes.
        channels: Number of input channels.
        are_probabilities: Whether the network ends in a softmax: for two images, no output is negative, each row sums
            to 1 and its numbers differ.
    """

    classes: int
    channels: int
    are_probabilities: bool


def find_outputs(model: nn.Module, size: tuple[int, int], channels: int | None = None) -> Outputs:
    """The outputs of a classifier for images of ``(H, W)`` pixels.

    Args:
        model: The classifier.
        size: ``(H, W)`` in pixels.
        channels: Number of input channels; None for 3, or what the network takes if it does not accept 3.

    Raises:
        InvalidInputError: The model does not accept images of this size, or is not a classifier.
        BackendError: The memory does not suffice.
    """
    shape = (1, channels or 3, *size)
    images = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    try:
        with out_of_memory_explained(size), evaluating(model), torch.inference_mode():
            logits = torch.cat([compute_logits(model, image) for image in images])
    except ReplkProbeError:
        raise
    except Exception as error:
        failure = explain(error, model, shape)
        if failure.channels is not None and channels is None:
            return find_outputs(model, size, failure.channels)
        raise InvalidInputError(failure.message) from error
    bound, logits = _SUM_TOLERANCE.get(logits.dtype, _SUM_TOLERANCE_HALF), logits.float()
    sums_to_one = bool(((logits.sum(1) - 1).abs() <= bound).all())
    differ = bool((logits.amax(1) > logits.amin(1)).all())
    return Outputs(logits.shape[1], shape[1], sums_to_one and differ and bool((logits >= 0).all()))


def outputs_check(model: nn.Module, size: tuple[int, int], channels: int = 3) -> Check:
    """Check that a copy of the model gives the same outputs for one random image of ``(H, W)`` pixels."""
    return check_on(random_image(size, channels), model, compute_logits)
