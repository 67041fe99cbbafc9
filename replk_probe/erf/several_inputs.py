"""Networks that are called with several inputs, ``model(a, b)``: the layer to measure as seen from each of them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.formatting import counted

from .choose_target import target_for
from .convention import Convention
from .probe_layer import UnsuitableSizeError, field_of_other_input
from .receptive_field.tracer import Lost
from .target_layer import Layer, TargetLayer, point_of

_LONGEST = 300


def check_inputs(inputs: Any) -> None:
    """Raise InvalidInputError unless ``inputs`` is a tuple or list of tensors with the same length of the first axis.

    The tensors themselves are not checked any further.
    """
    if not isinstance(inputs, (tuple, list)) or not inputs or not all(isinstance(one, Tensor) for one in inputs):
        kinds = ", ".join(type(one).__name__ for one in inputs) if isinstance(inputs, (tuple, list)) else ""
        given = f"a {type(inputs).__name__} of ({kinds})" if kinds else f"an object of type {type(inputs).__name__}"
        raise InvalidInputError(
            f"Expected several inputs as a tuple of tensors, but got {given}. The network is called with one tensor "
            "for each of its arguments. Give inputs=(a, b)."
        )
    counts = [len(one) if one.dim() else 0 for one in inputs]
    if len({*counts}) > 1:
        raise InvalidInputError(
            f"The inputs have {', '.join(map(str, counts))} images. The network is called with the i-th image of every "
            "input. Give the same number for all of them."
        )


def with_inputs(model: nn.Module, index: int, others: Sequence[Tensor | tuple[int, ...]]) -> nn.Module:
    """The network as a function of its input with this index alone, counted from 0; its modules are shared.

    The other inputs are tensors, or shapes without the first axis, which stand for zeros. They are inserted by a hook,
    so that the code of the network, its class, and the paths of its modules stay the same.
    """
    bound = copy.copy(model)
    # The given network must not get the hook.
    for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        bound.__dict__[name] = OrderedDict(getattr(model, name))
    bound.register_forward_pre_hook(partial(_insert, index, tuple(others)), prepend=True)
    return bound


def _insert(
    index: int, others: tuple[Tensor | tuple[int, ...], ...], _module: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    (given,) = args
    zeros = partial(torch.zeros, dtype=given.dtype, device=given.device)
    inputs = [other if isinstance(other, Tensor) else zeros((len(given), *other)) for other in others]
    return (*inputs[:index], given, *inputs[index:])


def find_targets(
    model: nn.Module, shapes: Sequence[tuple[int, ...]], layer: Layer, convention: Convention, target: str | None
) -> tuple[TargetLayer, ...]:
    """The layer as seen from each input, whose shapes ``(C, *spatial)`` are given.

    The layer, by default the last map before pooling that depends on the first input, and the order of its positions
    are those for the first input. For another input, only the centers of the receptive fields are its own: traced
    through the layers, estimated from the stride if it has the size of the first input or the positions can be followed
    to it, or else the middle of the input.
    """
    # forward_features takes a single input.
    before = replace(convention, final_norm="before")
    bound = with_inputs(model, 0, shapes[1:])
    try:
        first = target_for(bound, (1, *shapes[0]), point_of(model, layer), before, target)
    except UnsuitableSizeError as error:
        reason = next(iter(str(error.__cause__).strip().splitlines()), "")[:_LONGEST].rstrip(".")
        raise InvalidInputError(
            f"{type(model).__name__} cannot be run on {counted(len(shapes), 'input')} of shape "
            f"{', '.join(str(list(shape)) for shape in shapes)}. The forward pass raised "
            f"{type(error.__cause__).__name__}: {reason}. Give one input for each argument of its "
            "forward, with sizes that belong together."
        ) from error
    if first.path is None:
        raise InvalidInputError(
            "The output of forward_features cannot be measured with several inputs. It is computed from one of them. "
            "Name a module of the network as the layer, or 'forward' for its output."
        )
    others: list[TargetLayer] = []
    for index, (channels, *size) in enumerate(shapes[1:], 1):
        bound = with_inputs(model, index, [*shapes[:index], *shapes[index + 1 :]])
        field = field_of_other_input(bound, (1, channels, *size), first)
        if field is None:
            others.append(OfWholeInput.like(first, tuple(size), index + 1))
        else:
            others.append(replace(first, input_size=tuple(size), field=field))
    return (first, *others)


@dataclass(frozen=True, kw_only=True)
class OfWholeInput(TargetLayer):
    """A layer as seen from an input whose positions are not those of the layer."""

    number: int  # number of the input, from 1

    @classmethod
    def like(cls, first: TargetLayer, input_size: tuple[int, ...], number: int) -> OfWholeInput:
        """The layer ``first`` for another input."""
        values = {entry.name: getattr(first, entry.name) for entry in fields(first)}
        values |= {"input_size": input_size, "field": Lost("its other inputs"), "number": number}
        return cls(**values)

    def center(self) -> tuple[tuple[float, ...], bool, str | None]:
        """The middle of the input, whatever the position, and a note on it."""
        note = (
            f"The positions of layer {self.label!r} are not known to be positions of input {self.number}: the center "
            "of the windows is the middle of this input."
        )
        return self.center_of(()), False, note

    def _unlimited(self, place: Sequence[float]) -> tuple[float, ...]:
        return tuple((length - 1) / 2 for length in self.input_size)
