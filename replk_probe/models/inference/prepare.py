"""A copy of a network in inference mode that gives the same outputs, faster: merged, folded, frozen, channels-last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from ..layers.reparam import Mergeable
from .copying import copy_of
from .fold_bn import fold_neighbours
from .input_gradient import freeze_layers, methods_used, planned_backend, reduce_precision

PRECISIONS = ("fp32", "fast", "bf16")

# What folding may change by rounding, relative L2. What it must not change (a norm that another branch reads, a value
# written over) showed as 0.07 and more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_TOLERANCE_HALF = 5e-2


@dataclass(frozen=True)
class Check:
    """How to find out whether a copy still gives the same.

    Attributes:
        run: Gives what is compared, for some fixed input.
        expected: What it gives for the original.
    """

    run: Callable[[nn.Module], Tensor]
    expected: Tensor


def prepared_copy(
    model: nn.Module, precision: str, check: Check | None, *, keep: str = "", backward: bool = False
) -> nn.Module:
    """A fast copy of ``model`` in inference mode.

    Its parameters are frozen, parallel branches merged, batch norms and ReLUs folded, weights laid out channels-last,
    depthwise convolutions handed to :mod:`replk_probe.ops`. Whatever part of this changes what ``check`` looks at is
    left out.

    Args:
        model: In any floating-point type and on any device; left as it is.
        precision: One of :data:`PRECISIONS`.
        check: None where there is nothing to compare: then nothing is folded.
        keep: Path of a module across whose borders nothing is merged or folded.
        backward: Whether gradients of the input will be asked for, so that ``"fast"`` has an effect.

    Returns:
        The copy. Its attribute ``precision_used`` says what the hardware made of ``precision``, ``backend`` what
        computes its large convolutions, ``left_out`` what was left out.

    Raises:
        InvalidInputError: ``precision`` is none of the three, or the model cannot be copied.
    """
    check_precision(precision)
    for fold, freeze in ((True, True), (False, True), (False, False)):
        if fold and check is None:
            continue
        prepared = _copy(model, keep, fold=fold, freeze=freeze)
        if check is None or _same(prepared, check):
            break
    weight = next((p for p in prepared.parameters() if p.is_floating_point()), torch.empty(0))
    wanted = precision == "bf16" or (precision == "fast" and backward)
    reduced = wanted and freeze and weight.dtype == torch.float32 and _has_bfloat16_units(weight.device)
    if reduced:
        reduce_precision(prepared, forward=precision == "bf16", backward=backward)
    prepared.precision_used = _describe(precision, reduced, weight, backward)  # type: ignore[assignment]
    left_out = "" if fold else ", batch norms not folded" if freeze else ", layers as they are"
    prepared.left_out = left_out  # type: ignore[assignment]
    methods_used(prepared)  # those of the check do not count
    prepared.backend = planned_backend(prepared) + left_out  # type: ignore[assignment]
    return prepared


def backend_of(prepared: nn.Module, methods: Iterable[str]) -> str:
    """What computed the convolutions of a prepared network, for records.

    Args:
        prepared: What :func:`prepared_copy` returned.
        methods: What :func:`~replk_probe.models.inference.input_gradient.methods_used` said.

    Returns:
        For example ``"native avx512: direct, fft"``: how the depthwise convolutions of stride 1 were computed; all else
        is torch's. What was left out follows.
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
            f"Unknown precision {precision!r}. Networks can be computed in {len(PRECISIONS)} ways only. "
            f"Use one of {', '.join(PRECISIONS)}."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Not model.eval(), which networks override (to freeze norms for good, to merge branches).
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _copy(model: nn.Module, keep: str, *, fold: bool, freeze: bool) -> nn.Module:
    try:
        prepared = copy_of(model)
    except Exception as error:
        raise InvalidInputError(
            f"{type(model).__name__} cannot be copied ({error}); give a module that copy.deepcopy accepts."
        ) from error
    prepared.requires_grad_(False)
    for module in prepared.modules():
        module.training = False
    if freeze:
        for name, module in list(prepared.named_modules()):
            if isinstance(module, Mergeable) and not keep.startswith(f"{name}."):
                module.reparameterize()
        if fold:
            fold_neighbours(prepared, keep)
        freeze_layers(prepared)
        prepared.to(memory_format=torch.channels_last)
    return prepared


def _same(prepared: nn.Module, check: Check) -> bool:
    """Whether the copy gives the same, but for rounding."""
    try:
        found = check.run(prepared)
    except Exception:  # whatever goes wrong in the copy, the original did not
        return False
    expected = check.expected
    if found.shape != expected.shape:
        return False
    difference = (found.double() - expected.double()).norm()
    return bool(difference <= _TOLERANCE.get(expected.dtype, _TOLERANCE_HALF) * expected.double().norm())


def _describe(precision: str, reduced: bool, weight: Tensor, backward: bool) -> str:
    own = str(weight.dtype).removeprefix("torch.")
    if precision == "fp32":
        return f"{own} throughout"
    if precision == "fast" and not backward:
        return f"{own} throughout (asked for fast, which reduces gradients alone; there are none here)"
    if not reduced:
        return f"{own} throughout (asked for {precision}; no bfloat16 matrix instructions for it here)"
    products = f"bfloat16 products with {own} sums"
    if not backward:
        return products
    return f"{products} in both passes" if precision == "bf16" else f"{own} forward, {products} backward"


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
