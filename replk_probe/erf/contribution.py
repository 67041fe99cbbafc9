"""Contribution scores: the gradient of the middle of a feature map with respect to the image."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ReplkProbeError
from replk_probe.models.inference.prepare import evaluating
from replk_probe.models.model_id import check_network
from replk_probe.runtime.devices import without_autocast

from .probe_layer import check_takes, find, find_layout
from .target_layer import Feature, place_of, reach, value_of


def contribution_scores(model: nn.Module, batch: Tensor, layer: str | Feature | None = None) -> Tensor:
    """Contribution of every input pixel to the middle place of a layer, per image.

    The gradient of the sum over channels of ReLU(feature at (h // 2, w // 2)) with respect to the normalised input;
    negative entries become zero and the colour channels are added up. Nothing after the layer is computed.

    The model is evaluated in eval mode as it is, whatever ``torch.autocast`` the caller stands in, and left as it was:
    modes, ``requires_grad``, ``.grad``, hooks.

    Args:
        model: Any module that maps ``[N, C, H, W]`` to something differentiable. It may be in train mode, frozen, on
            any device and of any floating dtype.
        batch: Normalised images ``[N, C, H, W]``, floating point; a copy is moved to the model's device and dtype.
        layer: ``"stage3.5"``, a module path, or None for the last map before the final norm (without
            ``forward_features``: the last 4-D map before pooling).

    Returns:
        Scores ``[N, H, W]``, >= 0, in the dtype of the model (at least float32) and on its device. Images do not
        influence each other. Non-finite gradients stay non-finite, and an image that is not finite itself, or whose
        features in the middle are not, has NaN everywhere.

    Raises:
        InvalidInputError: The model, the batch or the layer cannot be used: the message says what the layer gave, or
            what the model says to images of this shape.

    Source:
        Ding et al., CVPR 2022, arXiv:2203.06717, section 4.2 and the script published with it.
    """
    gradient = input_gradient(model, batch, layer)
    # clamp_min keeps NaN and infinity: they must be seen by whoever adds the scores up.
    positive = gradient.clamp_min(0).to(torch.promote_types(gradient.dtype, torch.float32))
    return positive.sum(dim=1)


def input_gradient(model: nn.Module, batch: Tensor, layer: str | Feature | None = None) -> Tensor:
    """The signed gradient under :func:`contribution_scores`, per colour channel.

    Args:
        model: As :func:`contribution_scores`.
        batch: As :func:`contribution_scores`.
        layer: As :func:`contribution_scores`.

    Returns:
        ``[N, C, H, W]`` in the dtype and on the device of the model: the derivative of the sum over channels of
        ReLU(feature at the middle) of each image with respect to that image.

    Raises:
        InvalidInputError: As :func:`contribution_scores`.
    """
    check_network(model)
    batch = _matching(batch, model)
    feature = layer if isinstance(layer, Feature) else find(model, (1, *batch.shape[1:]), layer)
    if batch.shape[0] == 0:
        return batch
    with evaluating(model), without_autocast(batch.device):
        images = torch.split(batch, 1) if _couples_images(model) else (batch,)
        return torch.cat([_gradient(model, part, feature) for part in images])


def _gradient(model: nn.Module, batch: Tensor, feature: Feature) -> Tensor:
    size = (int(batch.shape[2]), int(batch.shape[3]))
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made under inference_mode stay unfit for autograd until cloned.
        leaf = batch.clone().requires_grad_(True)
        # The second clone lets a network write into its input.
        output = value_of(_reach(model, leaf.clone(), feature), feature, batch.shape[0])
        layout = feature.layout or find_layout(model, feature, tuple(output.shape), size, batch.shape[1])
        if not output.is_floating_point():
            raise InvalidInputError(
                f"Layer {feature.label!r} gives {output.dtype} values, which have no gradient. Name another layer."
            )
        if not output.requires_grad:
            raise _cut_off(feature)
        middle = layout.at_middle(output)
        usable = _finite(middle.detach()) & _finite(batch)
        total = middle.relu().sum()
        del output, middle
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    if gradient is None:  # the output depends on parameters alone
        raise _cut_off(feature)
    # A network of convolutions and ReLUs hands a NaN forward only: the gradient past it would look like any other.
    return gradient.detach().masked_fill(~usable.view(-1, 1, 1, 1), math.nan)


def _finite(values: Tensor) -> Tensor:
    """Per image: whether all of its values are."""
    return values.isfinite().flatten(1).all(1)


def _reach(model: nn.Module, batch: Tensor, feature: Feature) -> Any:
    try:
        return reach(model, batch, feature)
    except (ReplkProbeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" not in str(error):
            check_takes(model, (1, *batch.shape[1:]), feature)
        raise


def _cut_off(feature: Feature) -> InvalidInputError:
    return InvalidInputError(
        f"Layer {feature.label!r} has no gradient with respect to the image: the network is cut off from it by "
        "no_grad, detach or a step without derivative, or the layer does not depend on the image. "
        "Name another layer."
    )


def _matching(batch: Tensor, model: nn.Module) -> Tensor:
    """The batch on the device and in the dtype of the model; never the caller's own tensor."""
    if not isinstance(batch, Tensor) or batch.dim() != 4:
        given = f"[{', '.join(map(str, batch.shape))}]" if isinstance(batch, Tensor) else type(batch).__name__
        raise InvalidInputError(
            f"The batch is {given}. Contribution scores need images as a tensor [N, C, H, W]; "
            "add the axis that counts images to a single one."
        )
    if not batch.is_floating_point():
        raise InvalidInputError(
            f"The batch has dtype {batch.dtype}. Contribution scores are gradients with respect to the normalised "
            "image; scale it to floating point and subtract the model's mean first."
        )
    if any(tensor.is_inference() for tensor in model.parameters()):
        raise InvalidInputError(
            "The model was built under torch.inference_mode(), so that autograd cannot use its weights. "
            "Build it under torch.no_grad() instead."
        )
    with torch.inference_mode(False):
        batch = batch.detach().clone()
        place = place_of(model)
        return batch.to(**place) if place else batch


def _couples_images(model: nn.Module) -> bool:
    """Whether an image's features depend on its batch: norms without running statistics use the batch's own."""
    norms = nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, norms) and module.running_mean is None for module in model.modules())
