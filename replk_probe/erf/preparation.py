"""A copy of a network made fast for input gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import data_config
from replk_probe.models._copy import copy_of
from replk_probe.models._fold import fold_neighbours
from replk_probe.models._frozen import freeze_layers, methods_used, planned_backend, reduce_precision
from replk_probe.models._names import check_network
from replk_probe.models._reparam import Mergeable

from .looking import UnsuitableSizeError, find, named
from .reaching import Feature, place_of, reach, value_of
from .shadow import evaluating

PRECISIONS = ("fp32", "fast", "bf16")

# Side of the random image on which the copy is compared with the original: small, and enough for a stride of 32.
_CHECKED_AT = 96
# What folding may change by rounding, relative L2. What it must not change (a norm that another branch reads, a value
# written over) showed as 0.07 and more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_TOLERANCE_HALF = 5e-2


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
    for fold, freeze in ((True, True), (False, True), (False, False)):
        if fold and expected is None:
            continue  # nothing to compare with
        prepared = _prepared(model, feature, fold=fold, freeze=freeze)
        if expected is None or _same(prepared, feature, image, expected):
            break
    weight = next((p for p in prepared.parameters() if p.is_floating_point()), torch.empty(0))
    reduced = precision != "fp32" and freeze and weight.dtype == torch.float32 and _has_bfloat16_units(weight.device)
    if reduced:
        reduce_precision(prepared, forward=precision == "bf16", backward=True)
    prepared.precision_used = _describe(precision, reduced, weight)  # type: ignore[assignment]
    left_out = "" if fold else ", batch norms not folded" if freeze else ", layers as they are"
    prepared.left_out = left_out  # type: ignore[assignment]
    methods_used(prepared)  # those of the small image do not count
    prepared.backend = planned_backend(prepared) + left_out  # type: ignore[assignment]
    return prepared


def backend_of(prepared: nn.Module, methods: Iterable[str]) -> str:
    """What computed the convolutions of a prepared network, for records.

    Args:
        prepared: What :func:`prepare` returned.
        methods: What :func:`~replk_probe.models._frozen.methods_used` said.

    Returns:
        For example ``"native avx512: direct, fft"``: how the depthwise convolutions of stride 1 were computed; all else
        is torch's. What :func:`prepare` left out follows.
    """
    by_backend: dict[str, list[str]] = {}
    for method in sorted(methods, key=lambda method: (method.startswith("aten"), method)):
        backend, _, how = method.partition(": ")
        by_backend.setdefault(backend, []).append(how)
    if not by_backend:
        return str(getattr(prepared, "backend", "torch"))
    found = "; ".join(f"{backend}: {', '.join(ways)}" for backend, ways in by_backend.items())
    return found + str(getattr(prepared, "left_out", ""))


def check_precision(precision: str) -> None:
    """InvalidInputError if it is none of :data:`PRECISIONS`."""
    if precision not in PRECISIONS:
        raise InvalidInputError(
            f"Unknown precision {precision!r}. Gradients can be computed in {len(PRECISIONS)} ways only. "
            f"Use one of {', '.join(PRECISIONS)}."
        )


def _prepared(model: nn.Module, feature: Feature | None, *, fold: bool, freeze: bool) -> nn.Module:
    try:
        prepared = copy_of(model)
    except Exception as error:
        raise InvalidInputError(
            f"{type(model).__name__} cannot be copied ({error}); give a module that copy.deepcopy accepts."
        ) from error
    prepared.requires_grad_(False)
    for module in prepared.modules():
        module.training = False
    keep = (feature.path if feature else None) or ""
    if freeze:
        for name, module in list(prepared.named_modules()):
            if isinstance(module, Mergeable) and not keep.startswith(f"{name}."):
                module.reparameterize()
        if fold:
            fold_neighbours(prepared, keep)
        freeze_layers(prepared)
        prepared.to(memory_format=torch.channels_last)
    return prepared


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


def _same(prepared: nn.Module, feature: Feature | None, image: Tensor, expected: Tensor) -> bool:
    """Whether the copy gives the same features, but for rounding."""
    assert feature is not None  # known wherever there is something to compare with
    try:
        found = _run(prepared, feature, image)
    except Exception:  # whatever goes wrong in the copy, the original did not
        return False
    if found.shape != expected.shape:
        return False
    difference = (found.double() - expected.double()).norm()
    return bool(difference <= _TOLERANCE.get(expected.dtype, _TOLERANCE_HALF) * expected.double().norm())


def _describe(precision: str, reduced: bool, weight: Tensor) -> str:
    own = str(weight.dtype).removeprefix("torch.")
    if precision == "fp32":
        return f"{own} throughout"
    if not reduced:
        return f"{own} throughout (asked for {precision}; no bfloat16 matrix instructions for it here)"
    both = f"bfloat16 products with {own} sums in both passes"
    return both if precision == "bf16" else f"{own} forward, bfloat16 products with {own} sums backward"


def _has_bfloat16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        features = torch.cpu.get_capabilities()
        return bool(features.get("amx_bf16") or features.get("avx512_bf16"))
    # Older versions of torch tell the same by functions without a public name.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
