"""The kernel measurement: from a model to a :class:`~replk_probe.kernels.KernelResult`. No images are needed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import weights_info
from replk_probe.models.branches.find import ParallelBranches
from replk_probe.models.branches.recording import stored_tensors
from replk_probe.models.factory import create_partly
from replk_probe.models.inference.norms import norms_behind
from replk_probe.models.model_id import check_network, name_of
from replk_probe.models.weight_values import check_stored_values
from replk_probe.runtime.checks import choose_config, config_or_options
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import WeightsInfo

from .config import KernelsConfig
from .kernel import Kernel
from .layers import KernelLayer, LayerSpec, find_layers, merger_of, operation_of, path_of
from .result import KernelResult, KernelRun
from .variants import Variant, variants_of


@config_or_options(KernelsConfig)
def measure_kernels(
    model: nn.Module | str,
    layer: LayerSpec | Sequence[LayerSpec] = KernelsConfig.layer,
    variant: str = KernelsConfig.variant,
    *,
    aggregate: str = KernelsConfig.aggregate,
    strongest: int = KernelsConfig.strongest,
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
    are aggregated over channels, all in float64.

    Args:
        model: Model, which is never changed, or model name as in :func:`replk_probe.create_model`.
        layer: Layer name such as ``"stage4.0"`` (stages from 1, large-kernel blocks from 0) or ``"stage4"``, module
            path, pattern such as ``"stages.3.*"``, ``"all"``, ``"paper"``, ``nn.Module`` of the model such as
            ``model.layer4[0].conv1``, or a sequence of these; see :func:`~replk_probe.kernels.find_layers`.
        variant: ``"merged"`` for the sum of the large and the small branch, ``"large"`` or ``"small"`` for one of them,
            ``"all"`` for every variant that a layer has.
        aggregate: ``"sum"`` or ``"mean"`` over channels. Shares and figures do not depend on it.
        strongest: Number of single channels of each kernel to keep: those with the largest sums of absolute weights.
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
        One kernel per layer and variant, in the order of the layers.

    Raises:
        InvalidInputError: An argument cannot be used, ``config`` is given together with other options, a layer does
            not exist or has no such variant, or weights are NaN.
        UnknownModelError: No model has this name.
        WeightsError: The weights cannot be found or do not match.

    Source:
        Ding et al., CVPR 2022, arXiv:2203.06717, appendix "Visualizing the kernel weights".
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

    def run(self, *, progress: bool = False) -> KernelResult:
        """Aggregate the weights of every layer and variant, with a progress bar if ``progress`` is true."""
        start = time.perf_counter()
        aggregate, strongest = self.config.aggregate, self.config.strongest
        bar = progress_bar(self.variants, desc=self.name, unit="kernel", disable=not progress)
        kernels = tuple(_kernel(layer, variant, aggregate, strongest) for layer, variant in bar)
        seconds = self.seconds + time.perf_counter() - start
        run = KernelRun(self.name, self.weights, self.specs, self.config.variant, aggregate, seconds)
        return KernelResult(kernels, run)


def plan_kernels(model: nn.Module | str, config: KernelsConfig | None = None) -> KernelPlan:
    """Find the layers and read the weights; arguments and errors are those of :func:`measure_kernels`."""
    start = time.perf_counter()
    config = config or KernelsConfig()
    if isinstance(model, str):
        name = config.name or model
        options = {name: getattr(config, name) for name in ("weights", "seed", "ema", "entry", "prefix")}
        network = create_partly(
            model, needed=lambda skeleton: _needed(skeleton, find_layers(skeleton, config.layers)), **options
        )
    else:
        check_network(model, or_name=True)
        name, network = config.name or name_of(model), model
    layers = find_layers(network, config.layers)
    check_stored_values(network, _needed(network, layers))
    norms, values = _norms_of(network, layers), stored_tensors(network)
    variants = tuple(
        (found, one)
        for found in layers
        for one in variants_of(found, config.variant, values, norms.get(found.path), merger_of(network, found.path))
    )
    specs = tuple(spec if isinstance(spec, str) else path_of(network, spec) for spec in config.layers)
    return KernelPlan(name, weights_info(network), specs, config, variants, time.perf_counter() - start)


def _needed(network: nn.Module, layers: Sequence[KernelLayer]) -> list[str]:
    """Paths of the modules, and names of the tensors, whose values are needed for the layers."""
    needed = [path for norms in _norms_of(network, layers).values() for path in norms]
    for layer in layers:
        block = layer.module
        if isinstance(block, ParallelBranches):
            needed += [name for branch in block.branches for name in branch.tensors]
        else:
            needed.append(layer.path)
    return needed


def _norms_of(network: nn.Module, layers: Sequence[KernelLayer]) -> dict[str, dict[str, nn.Module]]:
    """Path and batch norm after each single convolution or block of branches, by its path; no entry if unknown."""
    alone = [layer.path for layer in layers if not isinstance(layer.module, ParallelBranches)]
    found = norms_behind(network, alone)
    return {conv: {norm: network.get_submodule(norm)} if norm else {} for conv, norm in found.items()}


def _kernel(layer: KernelLayer, variant: Variant, aggregate: str, strongest: int) -> Kernel:
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
    notes = variant.notes
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
    )


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
