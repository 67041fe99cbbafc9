"""A copy of a network made fast for input gradients."""

from __future__ import annotations

from functools import partial

from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import data_config
from replk_probe.models.inference.check import Check, check_on, input_channels, random_image
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.models.inference.prepare import PreparedModel, check_precision, prepared_copy
from replk_probe.models.model_id import check_network

from .probe_layer import UnsuitableSizeError, find_layer
from .target_layer import Layer, LayerPoint, TargetLayer, point_of, run_to

# Side of the random image on which the copy is compared with the original: small, and enough for a stride of 32.
_CHECKED_AT = 96


def prepare(model: nn.Module, precision: str = "fp32", layer: Layer = None) -> PreparedModel:
    """A copy of ``model`` in inference mode that gives the same maps, faster and in less memory.

    Parameters are frozen, parallel branches merged, batch norms and ReLUs folded, and weights stored channels-last.
    Depthwise convolutions are computed by :mod:`replk_probe.ops`, which caches the spectra of their kernels, and layers
    keep only what the gradient of the input needs; layers with fewer than 2**20 input elements are left to autograd,
    which is faster there. Module names are unchanged, except for merged branches.
    The copy is compared with the original on one small random image; any optimization that changes the features of an
    unusual network is left out.

    Args:
        model: The network, in any floating-point type and on any device. It is not changed.
        precision: ``"fp32"``: every product in the model's own type. ``"fast"``: bfloat16 matrix products with float32
            sums in the backward pass, whose rounding changes no ReLU's sign. ``"bf16"``: in both passes. The last two
            apply to float32 weights, in layers so large that the conversions take less time than they save (of
            depthwise convolutions on a GPU only), on hardware with matrix instructions for bfloat16; elsewhere they
            equal ``"fp32"``.
        layer: The layer that will be measured, as in :func:`~replk_probe.erf.contribution_scores`: nothing is merged
            or folded across it.

    Returns:
        The copy, to be used in place of the model in :func:`~replk_probe.erf.contribution_scores` and
        :func:`~replk_probe.measure_erf`, with the precision actually used, the backend and the optimizations that
        were left out. Its ``module`` is the ``nn.Module``.

    Raises:
        InvalidInputError: ``precision`` is unknown, there is no such layer, or ``model`` is not an ``nn.Module`` or
            cannot be copied.

    Examples:
        >>> import torch
        >>> from replk_probe.erf import contribution_scores, prepare
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        >>> prepared = prepare(network, layer="2")
        >>> images = torch.rand(1, 3, 16, 16)
        >>> difference = contribution_scores(prepared, images, "2") - contribution_scores(network, images, "2")
        >>> bool(difference.abs().max() < 1e-5)
        True
    """
    check_network(model)
    check_precision(precision)
    point, check = _check_of(model, layer)
    return prepared_copy(model, precision, check, keep=point.kept if point else "", backward=True)


def _check_of(model: nn.Module, layer: Layer) -> tuple[LayerPoint | None, Check | None]:
    """The layer, and its output for a small random image; None for whatever cannot be found."""
    error: InvalidInputError | None = None
    known = point_of(model, layer)  # checked first: a layer that does not exist is an error at every size
    if isinstance(known, TargetLayer) and len(known.input_size) != 2:
        return known, None  # nothing is folded in networks of sequences and volumes
    for size in ((_CHECKED_AT, _CHECKED_AT), data_config(model).input_size):
        image = random_image(size, input_channels(model)).to(**device_and_dtype(model))
        try:
            point = find_layer(model, image.shape, known)
            return point, check_on(image, model, partial(run_to, point=point), gradient=True)
        except UnsuitableSizeError:  # not an error of the layer
            continue
        except InvalidInputError as found:
            error = error or found
        except Exception:  # raised by the model's own code: it does not accept this size
            continue
    if known is not None and not isinstance(known, TargetLayer) and error is not None:
        raise error
    return known, None
