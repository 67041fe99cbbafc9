"""A copy of a network made fast for input gradients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import data_config
from replk_probe.models.inference.prepare import Check, check_precision, evaluating, prepared_copy
from replk_probe.models.model_id import check_network

from .probe_layer import UnsuitableSizeError, find, named
from .target_layer import Feature, place_of, reach, value_of

# Side of the random image on which the copy is compared with the original: small, and enough for a stride of 32.
_CHECKED_AT = 96


def prepare(model: nn.Module, precision: str = "fp32", layer: str | None = None) -> nn.Module:
    """A copy of ``model`` in inference mode that gives the same maps, faster and in less memory.

    Its parameters are frozen, parallel branches merged, batch norms and ReLUs folded, weights laid out channels-last,
    depthwise convolutions handed to :mod:`replk_probe.ops`, which keeps the spectra of their kernels, and its layers
    keep nothing that the gradient of the input does not need. Names of modules stay, but for merged branches.
    The copy is compared with the original on one small random image; whatever part of this changes the features of a
    network that does something unforeseen is left out.

    Args:
        model: Any network, in any floating-point type and on any device; left as it is.
        precision: ``"fp32"``: every product in the model's own type. ``"fast"``: bfloat16 matrix products with float32
            sums in the backward pass, whose rounding moves no ReLU's sign. ``"bf16"``: in both passes. The last two act
            on float32 weights, on hardware with matrix instructions for bfloat16; elsewhere they equal ``"fp32"``.
        layer: The layer that will be asked for, as in :func:`~replk_probe.erf.contribution_scores`: nothing is merged
            or folded across its borders.

    Returns:
        The copy, for :func:`~replk_probe.erf.contribution_scores`. Its attribute ``precision_used`` says what the
        hardware made of ``precision``, ``backend`` what computes its large convolutions and what was left out.

    Raises:
        InvalidInputError: ``precision`` is none of the three, there is no such layer, or the model is no network
            or cannot be copied.
    """
    check_network(model)
    check_precision(precision)
    feature, image, expected = _features_of(model, layer)
    check = None
    if feature is not None and expected is not None:
        check = Check(partial(_run, feature=feature, image=image), expected)
    return prepared_copy(model, precision, check, keep=(feature.path if feature else None) or "", backward=True)


def _features_of(model: nn.Module, layer: str | None) -> tuple[Feature | None, Tensor, Tensor | None]:
    """The layer, a small random image that the model takes, and what the layer gives for it; None for what fails."""
    error: InvalidInputError | None = None
    known = None if layer is None else named(model, layer)  # at once: no size makes up for a layer that is not there
    for image in _small_images(model):
        try:
            feature = find(model, image.shape, layer)
            return feature, image, _run(model, feature, image)
        except UnsuitableSizeError:  # no fault of the layer
            continue
        except InvalidInputError as found:
            error = error or found
        except Exception:  # the model's own code: a size that it does not take
            continue
    if layer is not None and error is not None:
        raise error
    return known, torch.empty(0), None


def _small_images(model: nn.Module) -> Iterator[Tensor]:
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    generator = torch.Generator().manual_seed(0)
    for height, width in ((_CHECKED_AT, _CHECKED_AT), data_config(model).input_size):
        yield torch.randn(1, channels, height, width, generator=generator).to(**place_of(model))


def _run(model: nn.Module, feature: Feature, image: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return value_of(reach(model, image.clone(), feature), feature, 1).detach().clone()
