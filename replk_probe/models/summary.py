"""Size and cost of registered models, counted on the meta device without weights or arithmetic."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from timm.layers import activations, norm
from torch import nn
from torch.overrides import TorchFunctionMode

from replk_probe.errors import UnknownModelError

from . import timm_registry
from .layers.large_kernel import LargeKernelConv
from .layers.reparam import merge_as_published
from .model_id import ModelId
from .records import data_config
from .stages import large_kernel_layers, probe_spec
from .weights.catalog import catalog_entries

# Elementwise modules, whose output has the shape of the input. Exact types, as a subclass may do more.
_UNCOUNTED = frozenset(
    {
        *(nn.BatchNorm2d, nn.LayerNorm, norm.LayerNorm, norm.LayerNorm2d),
        *(nn.ReLU, nn.ReLU6, nn.GELU, activations.GELU, nn.SiLU, nn.Sigmoid, nn.Dropout, nn.Softmax),
    }
)
# Methods with which networks initialize their weights.
_INITIALIZERS = frozenset(
    getattr(torch.Tensor, f"{name}_")
    for name in ("fill", "zero", "normal", "uniform", "erfinv", "mul", "add", "clamp", "copy")
)


class _Uninitialized(TorchFunctionMode):
    """Skips the initialization of tensors on the meta device: it has no effect, but is slow Python code in torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The tensor itself for an initialization, otherwise the result of the function."""
        if func in _INITIALIZERS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def own_models() -> list[str]:
    """Names of the models that this package adds to timm's registry."""
    return [name for name in timm_registry.imported_models() if ModelId.parse(name).is_own]


def matching_models(pattern: str | None, baselines: Sequence[str] = ()) -> list[str]:
    """Names in the registry that match a pattern.

    Args:
        pattern: Pattern with ``*`` and ``?``, or a part of a name; None lists the models of this package, then
            ``baselines``.
        baselines: Names listed after the models of this package if there is no pattern.

    Raises:
        UnknownModelError: Nothing matches.
    """
    own = own_models()
    if pattern is None:
        return [*own, *(name for name in baselines if timm_registry.is_model(name))]
    wild = any(letter in pattern for letter in "*?[")
    found = timm_registry.list_models(pattern)
    if not found and not wild:
        found = timm_registry.list_models(f"*{pattern}*")
    if not found:
        raise UnknownModelError(
            f"No model matches {pattern!r}. Use wildcards such as '*{pattern.strip('*')[:6]}*', or leave the pattern "
            "out to see the models of this package."
        )
    return sorted(found, key=lambda name: name not in own)


def count_parameters(model: nn.Module) -> int:
    """Number of elements of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention for one image; ``model`` is on meta."""
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    channels = getattr(model, "pretrained_cfg", {}).get("input_size", (3,))[0]
    with _passed_through(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, channels, *input_size, device="meta"))
    return int(counter.get_total_flops()) // 2


@contextmanager
def _passed_through(model: nn.Module) -> Iterator[None]:
    """Make norms and activations return their input: they are not counted but would take most of the time."""
    skipped = [module for module in model.modules() if type(module) in _UNCOUNTED and "forward" not in vars(module)]
    for module in skipped:
        vars(module)["forward"] = lambda x: x
    try:
        yield
    finally:
        for module in skipped:
            del vars(module)["forward"]


def describe(name: str, count: bool = True) -> dict[str, Any]:
    """One row of ``replk-probe models``.

    Args:
        name: Registry name.
        count: Whether to build the model and count; if False, the counts are None.

    Returns:
        ``name``, ``family``, ``kernel_sizes`` (largest of each stage), ``parameters`` (with branches),
        ``parameters_merged``, ``macs`` (merged, except for SLaK, whose decomposed kernels are cheaper),
        ``macs_unmerged``, ``input_size`` (H, W), ``weights`` (names in the catalog) and ``pretrained_by_timm``.
    """
    cfg = timm_registry.pretrained_cfg(name)
    row: dict[str, Any] = {
        "name": name,
        "family": str(timm_registry.entrypoint(name).__module__).rpartition(".")[2],
        "kernel_sizes": [],
        "parameters": None,
        "parameters_merged": None,
        "macs": None,
        "macs_unmerged": None,
        "input_size": list(cfg.input_size[1:]) if cfg else [224, 224],
        "weights": [entry.name for entry in catalog_entries(name)],
        "pretrained_by_timm": not ModelId.parse(name).is_own and bool(cfg and (cfg.hf_hub_id or cfg.url)),
    }
    if not count:
        return row
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.device("meta"), _Uninitialized():
                model = timm_registry.create(name)
            return row | _counts(model)
    except Exception:
        # Some of timm's models compute tables while they are built, which needs real tensors.
        return row


def _counts(model: nn.Module) -> dict[str, Any]:
    """The counted part of a row; ``model`` is on meta and is merged in place."""
    saved = 0

    def see(module: LargeKernelConv, _args: object, output: torch.Tensor) -> None:
        nonlocal saved
        branches = sum(prod(branch.conv.kernel_size) for branch in module.branches().values())
        saved += output[0].numel() * (branches - prod(module.kernel_size))

    for module in model.modules():
        if isinstance(module, LargeKernelConv):
            module.register_forward_hook(see)
    parameters = count_parameters(model)
    unmerged = count_macs(model, data_config(model).input_size)
    return {
        "family": probe_spec(model).family,
        "kernel_sizes": _kernel_sizes(model),
        "parameters": parameters,
        "parameters_merged": count_parameters(merge_as_published(model)),
        "macs": unmerged - max(saved, 0),
        "macs_unmerged": unmerged,
    }


def _kernel_sizes(model: nn.Module) -> list[int]:
    largest: dict[str, int] = {}
    for layer, path in large_kernel_layers(model).items():
        module = model.get_submodule(path)
        if isinstance(module, LargeKernelConv | nn.Conv2d):
            stage = layer.partition(".")[0]
            largest[stage] = max(largest.get(stage, 0), *module.kernel_size)
    return list(largest.values())
