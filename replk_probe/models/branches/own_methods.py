"""Merging by methods of the modules of other packages, on a copy that is compared with the original."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from replk_probe.runtime.devices import preserved_generators
from replk_probe.runtime.nested import instances_in

from ..equivalence import Difference, largest_difference, run_with_layers
from ..inference.check import input_channels, random_image, tolerance
from ..inference.copying import copy_of
from ..layers.reparam import MERGE_METHODS, Mergeable, Reparameterizable
from ..records import data_config, weights_info
from .recording import SIDES, stored_tensors

# Largest relative difference for weights that were merged in float32, evaluated in float64. Measured: 1e-7 to 1e-6.
_MERGED_IN_FLOAT32 = 1e-5
_SEEDS = (0, 1)  # of the images on which the copy is compared
_SIDE = 96  # of these images: small, and enough for a stride of 32


@dataclass(frozen=True, eq=False)
class OwnMerging:
    """The result of merging a copy of a network by the methods of its own modules.

    Attributes:
        network: The merged copy, in float64; None if nothing was merged or the outputs changed.
        blocks: Paths of the outermost modules that were merged.
        layers: Those of them whose outputs were compared.
        convolutions: Number of convolutions in all of them before merging.
        difference: Largest difference from the outputs of the original on two random images in float64; None if
            nothing was compared.
        dtype: Floating-point type in which the methods computed the merged weights.
        reason: Reason why the network was left as it is, as a clause; "" if it was merged, or if it has no such method.
    """

    network: nn.Module | None = None
    blocks: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    convolutions: int = 0
    difference: Difference | None = None
    dtype: torch.dtype = torch.float64
    reason: str = ""

    @property
    def limit(self) -> float:
        """Largest relative difference that is accepted as rounding."""
        return tolerance(torch.float64) if self.dtype == torch.float64 else _MERGED_IN_FLOAT32

    @property
    def note(self) -> str:
        """One sentence if the network was left as it is, or if it was merged in float32; otherwise ""."""
        if self.reason:
            return f"The network's own methods were not used to merge branches: {self.reason}."
        if self.network is None or self.difference is None or self.dtype == torch.float64:
            return ""
        return (
            "The network's own methods merge branches in float32: the outputs differ by "
            f"{self.difference.relative:.1e} of the largest."
        )


class _MergeError(Exception):
    """A method of the network raised; the message is a clause that says which one, and what it raised."""


class _FactoryDtype(TorchFunctionMode):
    """Gives new float32 tensors another type while it is active, in this thread only.

    Merging code creates convolutions and kernels of ones without a type, and multiplies them by the weights.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_given = kwargs.get("dtype") is not None or any(True for _ in instances_in(Tensor, [args, kwargs]))
        is_new = isinstance(result, Tensor) and result.dtype == torch.float32 and not is_given
        return result.to(self._dtype) if is_new else result


def merge_method(module: nn.Module) -> str | None:
    """Name of the method without arguments by which a module of another package merges its branches, or None.

    Source:
        ``timm.utils.reparameterize_model``, which calls the first three of these methods, in this order.
    """
    if isinstance(module, (Mergeable, Reparameterizable)):
        return None
    for name in MERGE_METHODS:
        if callable(getattr(type(module), name, None)):
            try:
                parameters = inspect.signature(getattr(module, name)).parameters.values()
            except (TypeError, ValueError):
                continue
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            if all(one.default is not one.empty or one.kind in kinds for one in parameters):
                return name
    return None


def has_merge_methods(model: nn.Module) -> bool:
    """Whether a network of another package, or any of its modules, has such a method and was not merged by its file."""
    if isinstance(model, Reparameterizable) or weights_info(model).form == "merged":
        return False
    return any(merge_method(module) for module in model.modules())


def merge_by_own_methods(model: nn.Module, keep: str = "") -> OwnMerging:
    """Merge a copy of a network by the methods of its own modules, and compare it with the original.

    The methods are those in :data:`~..layers.reparam.MERGE_METHODS`, without arguments; modules of timm are merged by
    ``timm.utils.reparameterize_model``. A method may change its module or return another one. The method of the network
    itself is called only if no module in it has one. Networks of this package are left as they are.

    The weights are merged in float64, and in float32 if that fails. The outputs of the network and of every merged
    module are compared in float64 on two random images.

    Args:
        model: Any network, whose methods are not called. What the methods change in its classes is undone.
        keep: Path of a module across which nothing is merged.

    Returns:
        The merged copy, or the reason why it cannot be used. Errors of the network's own code are not raised.
    """
    if not has_merge_methods(model) or any(tensor.is_meta for tensor in stored_tensors(model).values()):
        return OwnMerging()
    try:
        original = copy_of(model).double()
        if any(tensor.device.type == "mps" for tensor in stored_tensors(original).values()):
            original = original.cpu()
    except Exception:  # the model's own code; on Apple's GPU there is no float64
        return OwnMerging(reason="it cannot be copied in float64")
    reason = ""
    for dtype in (torch.float64, torch.float32):
        merged = copy_of(original).to(dtype)
        try:
            with unchanged(model):
                blocks = call_merge_methods(merged, keep)
        except _MergeError as error:
            reason = reason or str(error)
            continue
        if not blocks:
            return OwnMerging()
        return _compared(original, merged.double(), blocks, dtype)
    return OwnMerging(reason=reason)


def call_merge_methods(model: nn.Module, keep: str = "") -> tuple[str, ...]:
    """Call these methods on a copy that was made for it, and return the paths of the outermost modules that changed.

    Args:
        model: The copy, which is changed; on the CPU or a GPU.
        keep: Path of a module across which nothing is merged.

    Raises:
        Exception: A method raises; the copy cannot be used then.
    """
    weights = [tensor for tensor in stored_tensors(model).values() if tensor.is_floating_point()]
    blocks: list[str] = []
    replaced: dict[int, tuple[nn.Module, nn.Module]] = {}

    def merge(module: nn.Module, method: str, path: str) -> nn.Module:
        before = _structure(module)
        try:
            merged = _merged(module, method)
        except (Exception, SystemExit) as error:  # the model's own code, which may raise anything
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise _MergeError(f"{method} of {path or type(model).__name__} raised {what[:200]}") from error
        if merged is not module:
            for inner in merged.modules():
                inner.training = module.training
        if _structure(merged) != before:
            blocks.append(path)
        return merged

    def visit(module: nn.Module, path: str) -> None:
        for name, child in list(module._modules.items()):
            inner = f"{path}.{name}".removeprefix(".")
            if child is None or isinstance(child, (Mergeable, Reparameterizable)):
                continue
            if id(child) not in replaced:
                method = merge_method(child) if not keep.startswith(f"{inner}.") else None
                replaced[id(child)] = (child, merge(child, method, inner) if method else child)
                visit(replaced[id(child)][1], inner)
            if replaced[id(child)][1] is not child:
                setattr(module, name, replaced[id(child)][1])

    devices = (tensor.device for tensor in weights)
    with torch.no_grad(), preserved_generators(*devices):  # new layers draw random numbers
        with _FactoryDtype(weights[0].dtype if weights else torch.float32):
            if any(merge_method(module) for module in list(model.modules())[1:]):
                visit(model, "")
            elif (method := merge_method(model)) and not keep and not type(model).__module__.startswith("timm."):
                returned = merge(model, method, "")
                if returned is not model:
                    become(model, returned)
    return tuple(
        path for path in blocks if not any(f"{path}.".startswith(f"{outer}.") for outer in blocks if outer != path)
    )


def become(model: nn.Module, merged: nn.Module) -> None:
    """Give a network the type, the modules and the attributes of another one, in place."""
    state = vars(merged)
    vars(model).clear()
    vars(model).update(state)
    model.__class__ = type(merged)


def like(merged: nn.Module, model: nn.Module) -> nn.Module:
    """``merged`` with the floating-point types and the device of ``model``, in place."""
    own = stored_tensors(model)
    first = next((tensor for tensor in own.values() if tensor.is_floating_point()), torch.empty(0))
    merged = merged.to(first.device)
    for name, tensor in stored_tensors(merged).items():
        wanted = own.get(name, first)
        if tensor.is_floating_point() and wanted.is_floating_point():
            tensor.data = tensor.data.to(wanted.dtype)
    return merged


def _merged(module: nn.Module, method: str) -> nn.Module:
    """The module after its method: itself, or the one that the method returns."""
    if type(module).__module__.startswith("timm."):
        holder = nn.ModuleList([module])  # timm merges the modules in the one that it is given
        reparameterize_model(holder, inplace=True)
        return holder[0]
    returned = getattr(module, method)()
    return returned if isinstance(returned, nn.Module) else module


def _structure(module: nn.Module) -> tuple[object, ...]:
    kinds = [(name, type(inner)) for name, inner in module.named_modules()]
    return (*kinds, *((name, tensor.shape) for name, tensor in stored_tensors(module).items()))


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo what methods of a copy change in the original: attributes of classes, and modules in closures."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if kind is not object}
    classes = [(kind, dict(vars(kind))) for kind in kinds]
    attributes = [vars(module) for module in model.modules()]
    inner = [value for state in attributes for value in state.values() if isinstance(value, dict)]
    # The dictionaries themselves are kept: handles of hooks refer to them.
    states = [(state, dict(state)) for state in (*attributes, *inner)]
    try:
        yield
    finally:
        for kind, before in classes:
            now = dict(vars(kind))
            for name in now.keys() - before.keys():
                delattr(kind, name)
            for name in before:
                if now.get(name) is not before[name]:
                    setattr(kind, name, before[name])
        for state, before in states:
            if [*map(id, state.values())] != [*map(id, before.values())] or state.keys() != before.keys():
                state.clear()
                state.update(before)


def _compared(original: nn.Module, merged: nn.Module, blocks: tuple[str, ...], dtype: torch.dtype) -> OwnMerging:
    layers = tuple(path for path in blocks if path)
    convolutions = sum(
        isinstance(module, nn.Conv2d) for path in blocks for module in original.get_submodule(path).modules()
    )
    found: list[Difference] = []
    for seed in _SEEDS:
        try:
            image, before = _first_outputs(original, layers, seed)
        except Exception as error:  # the model's own code, which may raise anything
            what = " ".join(str(error).split())
            return OwnMerging(reason=f"the merged copy cannot be verified, because the network raises {what[:200]}")
        try:
            after = _outputs(merged, image, layers)
        except Exception as error:
            what = " ".join(str(error).split())
            return OwnMerging(reason=f"the merged copy raises {what[:200]}")
        if {name: tensor.shape for name, tensor in before.items()} != {name: t.shape for name, t in after.items()}:
            return OwnMerging(reason="the merged copy returns tensors of other shapes")
        found.append(largest_difference(before, after))
    worst = max(found, key=lambda one: one.relative if math.isfinite(one.relative) else math.inf)
    compared = tuple(path for path in layers if path in before)
    if tolerance(torch.float64) < worst.relative <= _MERGED_IN_FLOAT32:
        dtype = torch.float32  # the code converts to this type
    result = OwnMerging(merged, blocks, compared, convolutions, worst, dtype)
    if worst.relative <= result.limit:
        return result
    place = f"the outputs of {worst.layer}" if worst.layer in layers else "the outputs"
    return OwnMerging(
        difference=worst, dtype=dtype, reason=f"{place} would differ by {worst.relative:.1e} of the largest"
    )


def _first_outputs(model: nn.Module, layers: tuple[str, ...], seed: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A random image of the first size that the network accepts, and the outputs for it."""
    sizes = dict.fromkeys([(_SIDE, _SIDE), data_config(model).input_size, *((side, side) for side in SIDES)])
    device = next((tensor.device for tensor in stored_tensors(model).values()), torch.device("cpu"))
    error: Exception | None = None
    for size in sizes:
        image = random_image(size, input_channels(model), torch.float64, seed=seed).to(device)
        try:
            return image, _outputs(model, image, layers)
        except Exception as raised:  # the model's own code, which may not accept this size
            error = error or raised
    assert error is not None  # there is at least one size
    raise error


def _outputs(model: nn.Module, image: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """The floating-point tensors that the network and some of its modules return."""
    with _FactoryDtype(image.dtype):
        found, output = run_with_layers(model, image.clone(), layers)
    tensors = [tensor for tensor in instances_in(Tensor, output) if tensor.is_floating_point()]
    if not tensors:
        raise TypeError(f"it returns {type(output).__name__} without tensors")
    return found | {f"{index}" if index else "": tensor for index, tensor in enumerate(tensors)}
