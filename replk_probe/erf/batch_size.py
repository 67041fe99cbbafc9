"""The number of images that a measurement processes at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.models.inference.check import evaluating, is_near, random_image
from replk_probe.models.inference.copying import device_and_dtype, on_device, on_device_of, tracing_copy_of
from replk_probe.runtime.devices import memory_of, strict_arithmetic
from replk_probe.runtime.dispatch_mode import UncompiledDispatchMode
from replk_probe.runtime.memory import fitting_batch_size, is_measurable

from .contribution import InputGradient
from .target_layer import TargetLayer, run_to

# Pixels at once. Measured on a CPU with ResNet-50, ViT-S and ConvNeXt-T: beyond four images of 224 x 224 pixels, the
# time of an image does not decrease any more. On a GPU, larger batches are needed to use all of its processors, and its
# free memory is measured; these pixels take 200 MB of the host, as float32 images of three channels.
_MOST_PIXELS = {"cuda": 16 * 1024**2}
_MOST_IMAGES = {"cuda": 16}
_PIXELS_ELSEWHERE, _IMAGES_ELSEWHERE = 4 * 224**2, 4
# Share of the memory of the device that the values computed by the network may take.
_SHARE = 0.5


def automatic_batch_size(
    model: nn.Module, target: TargetLayer, channels: int, device: torch.device, *, own_code: bool
) -> int:
    """Number of images at once, at which a measurement is fast and its values fit into half of the device's memory.

    It depends on the image size, the network and the total memory of the device, and not on what is free at the moment,
    so that a measurement that is repeated gives the same bytes. Of a device whose free memory is measured it is the
    largest number, which :func:`measured_batch_size` reduces.

    Args:
        model: The network.
        target: The layer that is measured.
        channels: Number of channels of the images.
        device: Device of the measurement.
        own_code: Whether the network is not one of a library. Its features are then computed for that number of images
            together and apart; if they differ, the batch size is 1.
    """
    pixels = math.prod(target.input_size)
    most = min(
        _MOST_IMAGES.get(device.type, _IMAGES_ELSEWHERE), _MOST_PIXELS.get(device.type, _PIXELS_ELSEWHERE) // pixels
    )
    if most < 2:
        return 1
    needed = _bytes_for_an_image(model, target, channels)
    if needed and is_measurable(device):
        return most
    most = min(most, int(_SHARE * memory_of(device)) // needed) if needed else 1
    if most < 2 or (own_code and not _are_independent(on_device(model, device), target, channels, most)):
        return 1
    return most


def measured_batch_size(
    gradient: InputGradient,
    model: nn.Module,
    target: TargetLayer,
    channels: int,
    device: torch.device,
    most: int,
    *,
    own_code: bool,
) -> int:
    """Number of images at once for which the free memory of the device suffices; a random image is measured for it.

    Args:
        gradient: What computes the scores of images.
        model: The network on its device, as it is measured.
        target: The layer that is measured.
        channels: Number of channels of the images.
        device: Device of the measurement.
        most: Largest number of images.
        own_code: Whether the network is not one of a library. The features of two images are then computed together
            and apart; if they differ, the batch size is 1.
    """
    image = random_image(target.input_size, channels)
    size = fitting_batch_size(device, lambda: gradient.scores(image), most)
    return 1 if size > 1 and own_code and not _are_independent(model, target, channels, 2) else size


class _Bytes(UncompiledDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are computed in its context, views included: an upper bound."""

    total: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count its first output."""
        found = func(*args, **(kwargs or {}))
        first = found[0] if isinstance(found, (tuple, list)) and found else found
        if isinstance(first, Tensor):
            self.total += first.numel() * first.element_size()
        return found


def _bytes_for_an_image(model: nn.Module, target: TargetLayer, channels: int) -> int | None:
    """Bytes of all values of the forward pass of one image; None if they are not known or a batch is not accepted."""
    try:
        shape = 2, channels, *target.input_size
        copied = tracing_copy_of(model, shape)
        with evaluating(copied), on_device_of(copied):
            images = torch.zeros(shape, dtype=device_and_dtype(model).get("dtype"))
            with _Bytes() as counted:  # type: ignore[no-untyped-call]
                run_to(copied, images, target)
    except Exception:  # for instance a network whose shapes depend on values
        return None
    return max(int(counted.total) // 2, 1)


def _are_independent(model: nn.Module, target: TargetLayer, channels: int, count: int) -> bool:
    """Whether the features of several images together equal those of each alone."""
    images = torch.cat([random_image(target.input_size, channels, seed=seed) for seed in range(count)])
    images = images.to(**device_and_dtype(model))
    try:
        with strict_arithmetic(), evaluating(model), torch.no_grad():
            together = run_to(model, images.clone(), target).detach().clone()
            alone = [run_to(model, image.clone(), target).detach().clone() for image in torch.split(images, 1)]
    except Exception:
        return False
    return is_near(together, torch.cat(alone))
