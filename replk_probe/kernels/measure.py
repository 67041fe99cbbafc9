"""The kernel measurement: from a model to a :class:`~replk_probe.kernels.KernelResult`. No images are needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import load_checkpoint, weights_info
from replk_probe.models.branches.compose import Composition
from replk_probe.models.branches.find import ParallelBranches
from replk_probe.models.branches.own_methods import merge_by_own_methods
from replk_probe.models.branches.recording import stored_tensors
from replk_probe.models.factory import create_model, create_partly
from replk_probe.models.inference.copying import copy_of
from replk_probe.models.inference.norms import norms_behind
from replk_probe.models.model_id import check_network, name_of
from replk_probe.models.weight_values import check_stored_values
from replk_probe.runtime.checks import choose_config, config_or_options
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import WeightsInfo

from .channel_statistics import compare_kernels, measure_channels
from .composed import ComposedLayers, compose_layers, composed_variant
from .config import KernelsConfig
from .kernel import Kernel
from .layers import KernelLayer, LayerSpec, find_layers, merger_of, need_own_methods, operation_of, path_of
from .result import KernelResult, KernelRun
from .variants import Variant, variants_of

# The kernels of another checkpoint, by path and name of the variant.
Others: TypeAlias = Mapping[tuple[str, str], Variant]


@config_or_options(KernelsConfig)
def measure_kernels(
    model: nn.Module | str,
    layer: LayerSpec | Sequence[LayerSpec] = KernelsConfig.layer,
    variant: str = KernelsConfig.variant,
    *,
    aggregate: str = KernelsConfig.aggregate,
    strongest: int = KernelsConfig.strongest,
    compose: bool = KernelsConfig.compose,
    against: str | os.PathLike[str] | None = KernelsConfig.against,
    weights: str | os.PathLike[str] | None = KernelsConfig.weights,
    ema: bool = KernelsConfig.ema,
    entry: str | None = KernelsConfig.entry,
    prefix: str | None = KernelsConfig.prefix,
    seed: int = KernelsConfig.seed,
    name: str | None = KernelsConfig.name,
    config: KernelsConfig | None = None,
    progress: bool = False,
) -> KernelResult:
    """Measure the magnitude of the kernels of a model.

    The batch norm of each branch is folded into it, the branches are padded to one size and added, and absolute values
    are aggregated over channels, all in float64. Each kernel also has statistics of its single channels (spatial
    frequencies, orientation, distance, rank); see
    :class:`~replk_probe.kernels.ChannelStatistics`.

    Args:
        model: Model, which is never changed, or model name as in :func:`replk_probe.create_model`.
        layer: Layer name such as ``"stage4.0"`` (stages from 1, large-kernel blocks from 0) or ``"stage4"``, module
            path, pattern such as ``"stages.3.*"``, ``"all"``, ``"paper"``, ``nn.Module`` of the model such as
            ``model.layer4[0].conv1``, or a sequence of these; see :func:`~replk_probe.kernels.find_layers`.
        variant: ``"merged"`` for the sum of the large and the small branch, ``"large"`` or ``"small"`` for one of them,
            ``"all"`` for every variant that a layer has.
        aggregate: ``"sum"`` or ``"mean"`` over channels. Shares and figures do not depend on it.
        strongest: Number of single channels of each kernel to keep: those with the largest sums of absolute weights.
        compose: Whether to add the kernels that depthwise convolutions in series, dilated, or on parts of the channels
            amount to, as variant ``"composed"``, wherever nothing but batch norms, scales for each channel and sums
            lies between them; see :func:`~replk_probe.models.branches.compose.find_compositions`.
        against: Weights file with another checkpoint of the same network, with which the kernels are compared; it is
            read with the same ``ema``, ``entry`` and ``prefix``. For a model given by name, also the other values of
            ``weights``, such as ``"random"`` for the initialization with the same seed.
        weights: Weights of a model given by name: ``"auto"``, ``"pretrained"``, ``"random"``, a catalog name or a file,
            from which only the required tensors are read.
        ema: Whether to load the averaged entry of a weights file.
        entry: Entry of a weights file to load, as in :func:`replk_probe.create_model`.
        prefix: Prefix of the names in a weights file, as in :func:`replk_probe.create_model`.
        seed: Random seed for weight initialization.
        name: Name of the model in the record; defaults to its model name or class name.
        config: The options from ``layer`` to ``name`` as one object, instead of separate arguments: none of these may
            be given together with it, not even with the value of its default. Use :func:`dataclasses.replace` to
            change an option of a configuration.
        progress: Whether to draw a progress bar on stderr if that is a terminal.

    Returns:
        One kernel per layer and variant, in the order of the layers, and after them the composed kernels.

    Raises:
        InvalidInputError: An argument cannot be used, ``config`` is given together with other options, a layer does
            not exist or has no such variant, or weights are NaN.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found or do not match.

    Source:
        Ding et al., CVPR 2022, arXiv:2203.06717, appendix "Visualizing the kernel weights".

    Examples:
        >>> from replk_probe import measure_kernels
        >>> from replk_probe.models import RepLKNet
        >>> network = RepLKNet(kernel_sizes=(13, 13), layers=(1, 1), channels=(8, 16), small_kernel=5)
        >>> result = measure_kernels(network, "stage1.0", variant="all")
        >>> [(kernel.variant, kernel.kernel_size) for kernel in result.kernels]
        [('large', (13, 13)), ('small', (5, 5)), ('merged', (13, 13))]
        >>> result.kernels[0].channels
        8
    """
    config = choose_config(KernelsConfig, config, locals())
    return plan_kernels(model, config).run(progress=progress)


@dataclass(frozen=True, eq=False)
class KernelPlan:
    """A measurement that is ready to run."""

    name: str  # name of the model in the record
    weights: WeightsInfo  # source of the weights
    specs: tuple[str, ...]  # names or paths of the requested layers
    config: KernelsConfig
    variants: tuple[tuple[KernelLayer, Variant], ...]  # the kernels to measure, with their layers
    seconds: float  # time that the preparation took
    others: Others | None  # those of the other checkpoint, if there is one
    against: WeightsInfo | None  # source of the weights of the other checkpoint

    def run(self, *, progress: bool = False) -> KernelResult:
        """Aggregate the weights of every layer and variant, with a progress bar if ``progress`` is true."""
        start = time.perf_counter()
        aggregate, strongest = self.config.aggregate, self.config.strongest
        bar = progress_bar(self.variants, desc=self.name, unit="kernel", disable=not progress)
        kernels = tuple(_kernel(layer, variant, aggregate, strongest, self.others) for layer, variant in bar)
        run = KernelRun(
            self.name,
            self.weights,
            self.specs,
            self.config.variant,
            aggregate,
            self.seconds + time.perf_counter() - start,
            compose=self.config.compose,
            against=self.against,
        )
        return KernelResult(kernels, run)


def plan_kernels(model: nn.Module | str, config: KernelsConfig | None = None) -> KernelPlan:
    """Find the layers and read the weights; arguments and errors are those of :func:`measure_kernels`."""
    start = time.perf_counter()
    config = config or KernelsConfig()
    if isinstance(model, str):
        name, network = config.name or model, _created(model, config.weights, config)
    else:
        check_network(model, or_name=True)
        name, network = config.name or name_of(model), model
    variants = _variants_in(network, config, config.layers, partial(_whole, model, config.weights, config))
    against, others = None, None
    if config.against is not None:
        other = _other_checkpoint(model, config.against, config)
        against = weights_info(other)
        # A module that was given is one of the network, not of its copy.
        same = [
            spec if isinstance(spec, str) else other.get_submodule(path_of(network, spec)) for spec in config.layers
        ]
        whole = partial(_whole, model if isinstance(model, str) else other, config.against, config)
        others = {(layer.path, variant.name): variant for layer, variant in _variants_in(other, config, same, whole)}
    specs = tuple(spec if isinstance(spec, str) else path_of(network, spec) for spec in config.layers)
    return KernelPlan(
        name, weights_info(network), specs, config, variants, time.perf_counter() - start, others, against
    )


def _lacks_values(network: nn.Module, needed: Sequence[str]) -> bool:
    """Whether some of the modules and tensors are on the meta device."""
    starts = tuple(f"{name}." for name in needed)
    return any(value.is_meta for name, value in stored_tensors(network).items() if f"{name}.".startswith(starts))


def _created(name: str, weights: str | None, config: KernelsConfig) -> nn.Module:
    """The network of this name, with the values that the measurement needs."""
    return create_partly(
        name, weights, lambda skeleton: _needed(skeleton, _layers_in(skeleton, config)), **_selection(config)
    )


def _whole(model: nn.Module | str, weights: str | None, config: KernelsConfig) -> nn.Module:
    """The network with all values."""
    return create_model(model, weights, **_selection(config)) if isinstance(model, str) else model


def _selection(config: KernelsConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("seed", "ema", "entry", "prefix")}


def _other_checkpoint(model: nn.Module | str, against: str, config: KernelsConfig) -> nn.Module:
    """The network with the weights of another checkpoint."""
    if isinstance(model, str):
        return _created(model, against, config)
    other = copy_of(model)
    load_checkpoint(other, against, ema=config.ema, entry=config.entry, prefix=config.prefix)
    return other


def _layers_in(network: nn.Module, config: KernelsConfig) -> tuple[KernelLayer, ...]:
    """The layers to measure, with those whose kernels are composed."""
    layers = find_layers(network, config.layers)
    return layers + (compose_layers(network, layers).layers if config.compose else ())


def _variants_in(
    network: nn.Module, config: KernelsConfig, specs: Sequence[LayerSpec], whole: Callable[[], nn.Module]
) -> tuple[tuple[KernelLayer, Variant], ...]:
    """The kernels to measure, with their layers; ``whole`` returns the network with all values."""
    stored = find_layers(network, specs)
    if _lacks_values(network, _needed(network, stored)):  # a file in merged form, whose modules have other names
        network = whole()
        stored = find_layers(network, specs)
    composed = compose_layers(network, stored) if config.compose else ComposedLayers((), {})
    check_stored_values(network, _needed(network, stored + composed.layers))
    if need_own_methods(network, stored):
        if any(tensor.is_meta for tensor in stored_tensors(network).values()):
            network = whole()  # the merged copy is compared with the entire network
        stored = find_layers(network, specs, merge_by_own_methods(network))
    norms, values = _norms_of(network, stored), stored_tensors(network)
    found: list[tuple[KernelLayer, Variant]] = []
    for layer in stored:
        merger = merger_of(network, layer.path)
        for variant in variants_of(layer, config.variant, values, norms.get(layer.path), merger):
            notes = variant.notes + composed.notes.get(layer.path, ())
            found.append((layer, replace(variant, notes=notes)))
    for layer in composed.layers:
        assert isinstance(layer.module, Composition)
        found.append((layer, composed_variant(layer.module, values)))
    return tuple(found)


def _needed(network: nn.Module, layers: Sequence[KernelLayer]) -> list[str]:
    """Paths of the modules, and names of the tensors, whose values are needed for the layers."""
    needed = [path for norms in _norms_of(network, layers).values() for path in norms]
    for layer in layers:
        block = layer.module
        if isinstance(block, ParallelBranches):
            needed += [name for branch in block.branches for name in branch.tensors]
        elif isinstance(block, Composition):
            needed += block.tensors
        else:
            needed.append(layer.path)
    return needed


def _norms_of(network: nn.Module, layers: Sequence[KernelLayer]) -> dict[str, dict[str, nn.Module]]:
    """Path and batch norm after each single convolution or block of branches, by its path; no entry if unknown."""
    alone = [layer.path for layer in layers if isinstance(layer.module, nn.Module)]
    found = norms_behind(network, alone)
    return {conv: {norm: network.get_submodule(norm)} if norm else {} for conv, norm in found.items()}


def _kernel(layer: KernelLayer, variant: Variant, aggregate: str, strongest: int, others: Others | None) -> Kernel:
    operation = operation_of(layer.module)
    stored = variant.stored()
    if any(weight.is_meta for weight in stored):
        raise InvalidInputError(
            f"{layer.name} has no weights. It is on the meta device, which stores only shapes. Load weights."
        )
    if any(weight.is_complex() for weight in stored):
        raise InvalidInputError(
            f"The weights of {layer.name} are complex. The magnitude is defined for real kernels. Choose another layer."
        )
    weight = variant.weight().cpu()
    absolute = weight.abs()
    if not bool(torch.isfinite(absolute).all()):
        raise InvalidInputError(
            f"The weights of {layer.name}, with batch norms folded in, are not all finite. NaN, infinite weights and "
            "negative variances have no magnitude. Choose an earlier checkpoint of the training."
        )
    magnitude = absolute.sum((0, 1)) if aggregate == "sum" else absolute.mean((0, 1))
    single, places = _strongest(weight, operation, variant.groups, strongest)
    if variant.channels is not None:
        places = tuple((variant.channels[output],) for (output,) in places)
    notes = variant.notes
    if layer.own_note is not None:
        notes += (layer.own_note,)
    if layer.note is not None:
        notes += (layer.note,)
    elif operation != "depthwise":
        notes += (f"{layer.name} is a {operation} convolution: aggregated over output and input channels.",)
    if any(side % 2 == 0 for side in magnitude.shape):
        notes += (
            f"{layer.name} has an even side, whose center lies between two entries: along it the central 3 x 3 covers "
            "two entries, and the central row and column (kernel skeleton) consists of two lines.",
        )
    if not bool(absolute.any()):
        notes += (f"{layer.name} has no mass: every weight is zero after folding batch norms.",)
    change = None
    if others is not None:
        other = _same_kernel(others, layer.path, variant.name)
        compared = None if other is None else other.weight().cpu()
        if compared is not None and compared.shape == weight.shape and bool(torch.isfinite(compared).all()):
            change = compare_kernels(weight.numpy(), compared.numpy())
        else:
            notes += (
                "Kernels without a change are not compared: the other checkpoint has no finite kernel of this variant "
                "and size.",
            )
    composition = layer.module if isinstance(layer.module, Composition) else None
    return Kernel(
        layer=layer.name,
        path=layer.path,
        variant=variant.name,
        magnitude=magnitude.numpy(),
        channels=len(weight),
        operation=operation,
        branches=variant.names,
        zero_fraction=variant.zero_fraction(),
        small_branch_share=variant.small_branch_share(),
        batch_norm=variant.batch_norm,
        strongest=single,
        strongest_channels=places,
        notes=notes,
        composed_of=() if composition is None else composition.modules,
        channel_statistics=measure_channels(weight.flatten(0, 1).numpy()),
        change=change,
        dilation=variant.dilation,
    )


def _same_kernel(others: Others, path: str, name: str) -> Variant | None:
    """The kernel of the other checkpoint; in a merged network it is the only one inside its block, or the reverse."""
    if (path, name) in others:
        return others[path, name]
    inside = [
        variant
        for (other, variant_name), variant in others.items()
        if variant_name == name and (other.startswith(f"{path}.") or path.startswith(f"{other}."))
    ]
    return inside[0] if len(inside) == 1 else None


def _strongest(
    weight: Tensor, operation: str, groups: int, count: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], tuple[tuple[int, ...], ...]]:
    """Single-channel kernels with the largest sums of absolute weights, and their channels; ties keep their order."""
    outputs, inputs = len(weight) // groups, weight.shape[1]  # of a group
    order = torch.sort(weight.abs().sum((2, 3)).flatten(), descending=True, stable=True).indices[:count]
    places: list[tuple[int, ...]] = []
    for index in order.tolist():
        output, place = divmod(index, inputs)
        places.append((output,) if operation == "depthwise" else (output, output // outputs * inputs + place))
    return weight.flatten(0, 1)[order].numpy(), tuple(places)
