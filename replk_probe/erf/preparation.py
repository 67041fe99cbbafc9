"""A copy of a network made fast for input gradients."""

from __future__ import annotations

import copy

import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.models._fold import fold_batch_norms
from replk_probe.models._frozen import freeze_layers
from replk_probe.models._reparam import Mergeable

PRECISIONS = ("fp32", "fast", "bf16")


def prepare(model: nn.Module, precision: str = "fp32", layer: str | None = None) -> nn.Module:
    """A copy of ``model`` in inference mode that gives the same maps, faster and in less memory.

    Its parameters are frozen, parallel branches merged, batch norms folded, weights laid out channels-last, and its
    layers keep nothing that the gradient of the input does not need. Names of modules stay, but for merged branches.

    Args:
        model: Any network, in any floating-point type and on any device; left as it is.
        precision: ``"fp32"``: every product in the model's own type. ``"fast"``: bfloat16 matrix products with float32
            sums in the backward pass, whose rounding moves no ReLU's sign. ``"bf16"``: in both passes. The last two act
            on float32 weights, on hardware with matrix instructions for bfloat16; elsewhere they equal ``"fp32"``.
        layer: Path of the module that will be asked for: nothing is merged or folded across its borders.

    Returns:
        The copy, for :func:`replk_probe.erf.contribution_scores`. Its attribute ``precision_used`` says what the
        hardware made of ``precision``, ``backend`` what computes its convolutions.

    Raises:
        InvalidInputError: ``precision`` is none of the three, or the model cannot be copied.
    """
    if precision not in PRECISIONS:
        raise InvalidInputError(f"Unknown precision {precision!r}; use one of {', '.join(PRECISIONS)}.")
    try:
        prepared = copy.deepcopy(model)
    except Exception as error:
        raise InvalidInputError(
            f"{type(model).__name__} cannot be copied ({error}); give a module that copy.deepcopy accepts."
        ) from error
    prepared.eval()
    keep = layer or ""
    for name, module in list(prepared.named_modules()):
        if isinstance(module, Mergeable) and not keep.startswith(f"{name}."):
            module.reparameterize()
    fold_batch_norms(prepared, keep)
    weight = next((p for p in prepared.parameters() if p.is_floating_point()), torch.empty(0))
    reduced = precision != "fp32" and weight.dtype == torch.float32 and _has_bfloat16_units(weight.device)
    freeze_layers(
        prepared, reduced_forward=reduced and precision == "bf16", reduced_backward=reduced and precision != "fp32"
    )
    prepared.to(memory_format=torch.channels_last)
    prepared.precision_used = _describe(precision, reduced, weight)  # type: ignore[assignment]
    prepared.backend = "torch"  # type: ignore[assignment]
    return prepared


def _describe(precision: str, reduced: bool, weight: torch.Tensor) -> str:
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
