"""Weights with which a network gives no meaningful output: NaN, infinite values and negative variances."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.devices import without_autocast
from replk_probe.runtime.nested import instances_in

from .inference.check import evaluating
from .inference.copying import device_and_dtype

_SHOWN = 3
# Unusable tensors of networks, by the id of the network, which may have no hash; checked again when a tensor changes.
_KNOWN: dict[int, tuple[Hashable, dict[str, str]]] = {}


def is_finite(value: Tensor) -> bool:
    """Whether no value of a real tensor is NaN or infinite."""
    return all(map(math.isfinite, _extremes(value)))


def is_negative_variance(name: str, value: Tensor) -> bool:
    """Whether a tensor has the name of a running variance and a value below zero."""
    return name.rpartition(".")[2] == "running_var" and any(extreme < 0 for extreme in _extremes(value))


def _extremes(value: Tensor) -> tuple[float, ...]:
    """Smallest and largest value, NaN if any value is NaN; empty for integers and for tensors without values."""
    if not value.is_floating_point() or not value.numel():
        return ()
    if 0 in value.stride():  # An expanded axis repeats the same elements.
        for axis, stride in enumerate(value.stride()):
            value = value.narrow(axis, 0, 1) if stride == 0 else value
    wide = value.float() if value.element_size() == 1 else value  # aminmax does not support float8.
    with torch.no_grad():
        smallest, largest = torch.aminmax(wide)  # in one pass without a mask: it propagates NaN
    return smallest.item(), largest.item()


def check_run_values(model: nn.Module, shape: Sequence[int], run: Callable[[nn.Module, Tensor], object]) -> None:
    """Raise InvalidInputError if weights that a forward pass reads are NaN, infinite or negative variances.

    Weights that it does not read may have any values. Weights are read again after a change that torch counts as a
    new version.

    Args:
        model: The network.
        shape: Shape of the images, ``[N, C, H, W]``.
        run: The forward pass, a function of a network and images. It is only called if there are such weights.
    """
    unusable = _unusable(model)
    if not unusable:
        return
    image = torch.zeros(1, *shape[1:], **device_and_dtype(model))
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code cannot be followed
        for context in (evaluating(model), torch.no_grad(), without_autocast(image.device)):
            stack.enter_context(context)
        readings = stack.enter_context(_Readings())
        run(model, image)
    named = dict(_named_tensors(model))
    _refuse(model, {name: what for name, what in unusable.items() if id(named[name]) in readings.tensors})


def check_stored_values(model: nn.Module, names: Iterable[str]) -> None:
    """Raise InvalidInputError if one of these tensors, or one in these modules, is unusable as above."""
    starts = tuple(f"{name}." for name in names)
    _refuse(model, {name: what for name, what in _unusable(model).items() if f"{name}.".startswith(starts)})


def _refuse(model: nn.Module, unusable: dict[str, str]) -> None:
    if unusable:
        defect = next(iter(unusable.values()))
        names = [name for name, other in unusable.items() if other == defect]
        shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
        raise InvalidInputError(
            f"The weights of {type(model).__name__} cannot be used. {shown} {'has' if len(names) == 1 else 'have'} "
            f"{defect}. Load other weights, such as an earlier checkpoint of the training."
        )


def _unusable(model: nn.Module) -> dict[str, str]:
    """What is wrong with tensors whose values cannot be used, by their names."""
    tensors = [(name, value) for name, value in _named_tensors(model) if _has_values(value)]
    try:
        state: Hashable = tuple((id(value), value.data_ptr(), value._version) for _, value in tensors)
    except RuntimeError:  # tensors of inference mode have no version
        state = None
    known, found = _KNOWN.get(id(model), (None, {}))
    # Changes through `.data` are not counted in versions: weights that were corrected must not be refused.
    if found or state is None or state != known:
        found = {name: what for name, value in tensors if (what := _defect(name, value))}
        if id(model) not in _KNOWN:
            weakref.finalize(model, _KNOWN.pop, id(model), None).atexit = False
        _KNOWN[id(model)] = state, found
    return found


def _named_tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and running statistics; other buffers, such as masks, may have infinite values."""
    yield from model.named_parameters(remove_duplicate=False)
    for name, value in model.named_buffers(remove_duplicate=False):
        if name.rpartition(".")[2] in ("running_mean", "running_var"):
            yield name, value


def _has_values(value: Tensor) -> bool:
    return not (is_lazy(value) or value.is_meta) and value.layout == torch.strided and value.is_floating_point()


def _defect(name: str, value: Tensor) -> str | None:
    if not is_finite(value):
        return "values that are not finite"
    return "negative variances" if is_negative_variance(name, value) else None


class _Readings(TorchFunctionMode):
    """Collects the ids of the tensors that are given to functions of torch in this context."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.tensors.update(map(id, instances_in(Tensor, [args, kwargs])))
        return func(*args, **(kwargs or {}))
