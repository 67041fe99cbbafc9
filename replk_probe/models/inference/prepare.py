"""A copy of a network in inference mode that gives the same outputs, faster: merged, folded, frozen, channels-last."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_choice

from ..branches.find import find_parallel_branches
from ..branches.merge import merge_parallel_branches
from ..branches.own_methods import like, merge_by_own_methods
from ..layers.reparam import Foldable, Mergeable, Reparameterizable
from ..model_id import check_network
from .check import Check, tolerance
from .copying import copy_of, device_and_dtype
from .fold_bn import fold_neighbors
from .fuse_pointwise import fuse_pointwise, prefers_planes, stores_derivatives
from .input_gradient import (
    FrozenDepthwiseConv2d,
    MethodLog,
    freeze_layers,
    planned_backend,
    reduce_precision,
    use_autograd,
)
from .layer_check import differing_layers

PRECISIONS = ("fp32", "fast", "bf16")

_NOTHING_FOLDED = "batch norms not folded"
_NOTHING_MERGED = "branches not merged"
_NOTHING_FROZEN = "layers as they are"
_MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A fast copy of a network for inference or input gradients.

    Attributes:
        module: The copy.
        precision: ``"fp32"``, ``"fast"`` or ``"bf16"``, as requested.
        dtype: Floating-point type of the weights.
        reduced: Whether matrix products are computed in bfloat16.
        arithmetic: The precision actually used, such as ``"float32 throughout"``.
        left_out: Optimizations that were left out because the outputs changed; "" if none.
        backend: Backend of the large depthwise convolutions: ``"native avx512"``, ``"aten (REASON)"``, or ``"torch"``
            if there are none.
        methods: Record of the methods used for these convolutions.

    Examples:
        >>> import torch
        >>> from replk_probe.erf import prepare
        >>> prepared = prepare(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)))
        >>> prepared.precision, prepared.dtype, prepared.backend
        ('fp32', torch.float32, 'torch')
    """

    module: nn.Module
    precision: str
    dtype: torch.dtype
    reduced: bool
    arithmetic: str
    left_out: str
    backend: str
    methods: MethodLog = field(repr=False)

    @property
    def note(self) -> str | None:
        """One sentence if the precision actually used is not the one requested, or None."""
        return None if self.precision == "fp32" or self.reduced else f"Precision: {self.arithmetic}."

    def backend_used(self, methods: Iterable[str]) -> str:
        """Description of the backend that computed the depthwise convolutions of stride 1.

        Args:
            methods: Methods from :meth:`MethodLog.take`, possibly also from earlier runs.

        Returns:
            For example ``"native avx512: direct, fft"``, followed by the optimizations that were left out.
        """
        by_backend: dict[str, list[str]] = {}
        for method in sorted(methods, key=lambda method: (method.startswith("aten"), method)):
            backend, _, how = method.partition(": ")
            by_backend.setdefault(backend, []).append(how)
        found = "; ".join(f"{backend}: {', '.join(ways)}" for backend, ways in by_backend.items()) or self.backend
        return f"{found}, {self.left_out}" if self.left_out else found


def module_of(model: Any, *, or_name: bool = False) -> nn.Module:
    """The ``nn.Module`` of a network or of a prepared one, or else InvalidInputError as in :func:`check_network`."""
    if isinstance(model, PreparedModel):
        return model.module
    check_network(model, or_name=or_name)
    network: nn.Module = model
    return network


def prepared_copy(
    model: nn.Module, precision: str, check: Check | None, *, keep: str = "", backward: bool = False
) -> PreparedModel:
    """A fast copy of ``model`` in inference mode.

    Parameters are frozen, parallel branches merged (by the methods of the network's own modules if these give the same
    outputs), batch norms and ReLUs folded, weights stored channels-last, and depthwise convolutions computed by
    :mod:`replk_probe.ops`. Optimizations with which ``check`` fails are left out.

    Args:
        model: The network, in any floating-point type and on any device. It is not changed.
        precision: One of :data:`PRECISIONS`.
        check: Comparison with the original; if None, nothing is folded, and only branches of this package are merged.
        keep: Path of a module across which nothing is merged or folded.
        backward: Whether gradients of the input will be computed, so that ``"fast"`` has an effect.

    Raises:
        InvalidInputError: ``precision`` is unknown, or the model cannot be copied.
    """
    check_precision(precision)
    log = MethodLog()
    prepared, left_out = _verified_copy(model, keep, log, check)
    use_autograd(prepared)  # afterwards, because the check is for the frozen layers
    weight = _first_weight(prepared)
    wanted = (precision == "bf16" or (precision == "fast" and backward)) and left_out != _NOTHING_FROZEN
    reduced = wanted and weight.dtype == torch.float32 and _has_bfloat16_units(weight.device)
    if reduced:
        reduce_precision(prepared, forward=precision == "bf16", backward=backward)
    log.take()  # the methods of the check do not count
    return PreparedModel(
        module=prepared,
        precision=precision,
        dtype=weight.dtype,
        reduced=reduced,
        arithmetic=_describe(precision, reduced, weight, backward, depthwise=_reduces_depthwise(prepared))
        + ", derivatives of GELU in 16 bits" * (backward and stores_derivatives(prepared)),
        left_out=left_out,
        backend=planned_backend(prepared),
        methods=log,
    )


def unprepared(model: nn.Module) -> PreparedModel:
    """The network itself, not a copy, for what needs its own modules."""
    weight = _first_weight(model)
    return PreparedModel(
        module=model,
        precision="fp32",
        dtype=weight.dtype,
        reduced=False,
        arithmetic=_describe("fp32", False, weight, True),
        left_out=_NOTHING_FROZEN,
        backend=planned_backend(model),
        methods=MethodLog(),
    )


def _first_weight(model: nn.Module) -> Tensor:
    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


def check_precision(precision: str) -> None:
    """Raise InvalidInputError unless ``precision`` is in :data:`PRECISIONS`."""
    check_choice("precision", precision, PRECISIONS)


def _verified_copy(model: nn.Module, keep: str, log: MethodLog, check: Check | None) -> tuple[nn.Module, str]:
    """A copy that passes ``check``, with as many optimizations as possible, and a description of those left out."""
    if check is None:
        return _copy(model, keep, log, fold=False, freeze=True), _NOTHING_FOLDED
    merged, unmerged = _merged(model, keep)
    ways = [(merged, unmerged, True), (model, _NOTHING_MERGED, True), (model, _NOTHING_MERGED, False)]
    if merged is model:
        ways = [(model, unmerged, True), (model, unmerged, False)]
    for network, left_out, fold in ways:
        prepared = _copy(network, keep, log, fold=fold, freeze=True)
        if check.passes(prepared):
            return prepared, _joined(left_out, "" if fold else _NOTHING_FOLDED)
    original = _copy(model, keep, log, fold=False, freeze=False)
    unfrozen = differing_layers(original, check)
    for fold in (True, False) if unfrozen else ():
        prepared = _copy(model, keep, log, fold=fold, freeze=True, unfrozen=unfrozen)
        if check.passes(prepared):
            more = ", ..." if len(unfrozen) > _MOST_NAMED else ""
            named = f"layers as they are: {', '.join(unfrozen[:_MOST_NAMED])}{more}"
            return prepared, _joined(ways[-1][1], "" if fold else _NOTHING_FOLDED, named)
    return original, _NOTHING_FROZEN


def _merged(model: nn.Module, keep: str) -> tuple[nn.Module, str]:
    """A copy of a network of another package with merged branches, or the network itself, and what was left out."""
    if isinstance(model, Reparameterizable):
        return model, ""
    own = merge_by_own_methods(model, keep)
    dtype = device_and_dtype(model).get("dtype", torch.float32)
    reason = own.reason
    if own.difference is not None and not reason and own.difference.relative > tolerance(dtype):
        reason = f"they merge in {str(own.dtype).removeprefix('torch.')}"
    left_out = f"branches not merged by the network's own methods ({reason})" if reason else ""
    merged = None if reason or own.network is None else like(own.network, model)
    if merged is None and find_parallel_branches(model):
        merged = copy_of(model)
    if merged is not None:
        merge_parallel_branches(merged, keep)
    return model if merged is None else merged, left_out


def _joined(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _copy(
    model: nn.Module, keep: str, log: MethodLog, *, fold: bool, freeze: bool, unfrozen: Collection[str] = ()
) -> nn.Module:
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
            for name, module in list(prepared.named_modules()):
                if isinstance(module, Foldable) and not keep.startswith(f"{name}."):
                    module.fold_norms()
            graph = fold_neighbors(prepared, keep)
            if graph is not None and not unfrozen:  # the paths of layers change
                fuse_pointwise(prepared, graph, keep)
        planes = prefers_planes(prepared)
        freeze_layers(prepared, log, unfrozen)
        layout = torch.contiguous_format if planes else torch.channels_last
        # Module.to converts tensors of five axes as well, which torch refuses.
        for tensor in itertools.chain(prepared.parameters(), prepared.buffers()):
            if tensor.dim() == 4:
                # Strides matter even where they have no effect: convolutions return the layout of their weight.
                tensor.data = torch.empty_like(tensor, memory_format=layout).copy_(tensor.data)
    return prepared


def _reduces_depthwise(model: nn.Module) -> bool:
    return any(isinstance(module, FrozenDepthwiseConv2d) and module.is_reducible for module in model.modules())


def _describe(precision: str, reduced: bool, weight: Tensor, backward: bool, *, depthwise: bool = False) -> str:
    own = str(weight.dtype).removeprefix("torch.")
    if precision == "fp32":
        return f"{own} throughout"
    if precision == "fast" and not backward:
        return f"{own} throughout (fast was requested, but only affects gradients, and none are computed)"
    if not reduced:
        return f"{own} throughout ({precision} was requested, but needs bfloat16 matrix instructions)"
    products = f"bfloat16 products with {own} sums in large layers{' and depthwise convolutions' * depthwise}"
    if not backward:
        return products
    return f"{products}, in both passes" if precision == "bf16" else f"{own} forward, {products} backward"


def _has_bfloat16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return bool(torch.xpu.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        features = torch.cpu.get_capabilities()
        return bool(features.get("amx_bf16") or features.get("avx512_bf16"))
    # Older versions of torch have only private functions for this.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
