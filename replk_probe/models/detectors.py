"""Detection networks of torchvision, which take a list of images and resize and normalize them themselves."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn


class _AsGiven(nn.Module):
    """Replacement of a detector's transform: passes a batch of normalized images on."""

    def forward(self, images: Tensor, targets: Any = None) -> tuple[Any, Any]:
        """The batch as torchvision's list of images, with the targets."""
        from torchvision.models.detection.image_list import ImageList

        height, width = images.shape[-2:]
        return ImageList(images, [(height, width)] * len(images)), targets

    def postprocess(self, detections: Any, *_sizes: Any) -> Any:
        """The detections as they are."""
        return detections


def transforms_images(model: nn.Module) -> bool:
    """Whether a network resizes and normalizes its images with the transform of torchvision's detectors."""
    transform = getattr(model, "transform", None)
    return any(
        cls.__name__ == "GeneralizedRCNNTransform" and cls.__module__.startswith("torchvision.")
        for cls in type(transform).__mro__
    )


def taking_batches(model: nn.Module) -> nn.Module:
    """The network, or for a detector one with the same modules that takes a batch ``[N, C, H, W]`` as it is."""
    if not transforms_images(model):
        return model
    other = copy.copy(model)
    # The modules are shared, but not the dictionary, so that the given network does not change.
    other.__dict__["_modules"] = {**model._modules, "transform": _AsGiven()}
    return other
