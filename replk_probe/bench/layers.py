"""Convolutions to time: those of known models, a sweep, or those of a given model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model, reparameterize
from replk_probe.ops import is_same_depthwise

from .result import Layer

MODEL_LAYERS = (
    Layer(1, 128, 256, 256, 31, 31),
    Layer(1, 256, 128, 128, 29, 29),
    Layer(1, 512, 64, 64, 27, 27),
    Layer(1, 1024, 32, 32, 13, 13),
    Layer(4, 384, 32, 32, 31, 31),
    Layer(1, 96, 56, 56, 7, 7),
    Layer(1, 80, 56, 56, 51, 51),
    Layer(1, 124, 56, 56, 51, 5),
    Layer(1, 124, 56, 56, 5, 51),
    Layer(1, 1536, 7, 7, 13, 13),
    Layer(1, 384, 14, 14, 13, 13),
)
"""Stages of RepLKNet-31B (at 1024 px, and a batch of four at 512), of SLaK with its 51x51 and decomposed kernels at
224 px, of ConvNeXt with a 7x7, and the last stages of large-kernel networks at 224 px."""
GPU_LAYERS = (
    *(Layer(64, 384, plane, plane, kernel, kernel) for plane in (16, 32, 64) for kernel in (7, 13, 21, 31)),
    *MODEL_LAYERS[:3],
)
"""Layers for a GPU: batches of 64 images, and the first stages of RepLKNet-31B at 1024 px."""
SWEEP_KERNELS = (3, 5, 7, 9, 11, 13, 15, 17, 21, 25, 27, 29, 31, 35, 41, 47, 51, 55, 61)
SWEEP_PLANES = (7, 14, 28, 32, 56, 64, 112, 128, 256)
# Number of input elements in a sweep: 4 MB in float32, as in a stage of a typical network.
_SWEEP_ELEMENTS = 1 << 20


def sweep_layers(planes: Sequence[int] = SWEEP_PLANES, kernels: Sequence[int] = SWEEP_KERNELS) -> list[Layer]:
    """Layers with square kernels on square planes, for one image and 16 to 1024 channels (about 2^20 elements).

    Args:
        planes: Sides of the planes in pixels.
        kernels: Odd sides of the kernels in pixels.

    Returns:
        One layer for each plane and kernel.

    Examples:
        >>> from replk_probe.bench import sweep_layers
        >>> [layer.label for layer in sweep_layers(planes=[32, 64], kernels=[13])]
        ['1,1024,32,13', '1,256,64,13']
    """
    layers = []
    for plane in planes:
        channels = min(max(_SWEEP_ELEMENTS // max(plane, 1) ** 2 // 16 * 16, 16), 1024)
        layers += [Layer(1, channels, plane, plane, kernel, kernel) for kernel in kernels]
    return layers


def layers_of_model(name: str, size: int, batch: int = 1) -> list[Layer]:
    """The depthwise convolutions of a merged model that the operator supports: stride 1, odd kernels above 1x1.

    Layers are in the order of the network, each with its number of occurrences for inputs of ``size`` pixels.
    """
    model = create_model(name, "random", seed=0).eval()
    reparameterize(model)
    found: Counter[Layer] = Counter()

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        found[Layer(*inputs[0].shape, *module.kernel_size)] += 1

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if _is_covered(module)]
    try:
        # Only shapes are needed, so nothing is computed.
        with torch.inference_mode():
            model.to("meta")(torch.empty(batch, 3, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InvalidInputError(
            f"{name} does not accept an input of {size} px. {str(error).splitlines()[0]}. Choose another size."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InvalidInputError(
            f"{name} has no depthwise convolution of stride 1. There is nothing to time. Choose another model."
        )
    return [replace(layer, count=count) for layer, count in found.items()]


def _is_covered(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.groups > 1
        and module.kernel_size != (1, 1)
        and is_same_depthwise(module)
    )
