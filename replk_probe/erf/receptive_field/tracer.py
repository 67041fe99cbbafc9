"""Position and size of the theoretical receptive field of every position of a feature map.

The network is run on the meta device, where tensors have shapes but no values, under a dispatch mode that records
for every tensor which of its axes are image rows and columns and which interval of input pixels each position depends
on. Some operations cannot be followed (attention, windows, resampling); the caller then falls back on the stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from replk_probe.runtime.dispatch_mode import UncompiledDispatchMode
from replk_probe.runtime.nested import instances_in

from .rules import Call, follow, plain
from .span import AXES, CannotFollowError, Field, Lost, Span

__all__ = ["Field", "FieldTracer", "Lost", "Span", "stride_rule"]


def stride_rule(place: Sequence[float], feature_size: Sequence[int], input_size: Sequence[int]) -> tuple[float, ...]:
    """(y, x) of a position in input pixels, estimated as ``(i + 1/2) * stride - 1/2`` with stride = input / feature."""
    return tuple(
        (index + 0.5) * pixels / places - 0.5
        for index, places, pixels in zip(place, feature_size, input_size, strict=True)
    )


class FieldTracer(UncompiledDispatchMode):  # type: ignore[no-untyped-call]
    """Follows receptive fields from an input ``[1, C, *spatial]`` through every operation in its context."""

    def __init__(self, source: Tensor) -> None:  # noqa: D107
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[Tensor, Field | Lost]] = {}
        self._spoilt: set[int] = set()
        batch, channels, *size = source.shape
        axes = ((atom,) for atom in zip(AXES[-len(size) :], size, strict=True))
        self._put(source, Field((*plain((batch, channels)), *axes)))

    def field_of(self, tensor: Tensor) -> Field | Lost | None:
        """The receptive field of a tensor; None if it does not depend on the image."""
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        return Lost("a write into part of a tensor") if _storage(tensor) in self._spoilt else None

    def _put(self, tensor: Tensor, field: Field | Lost) -> None:
        # The reference keeps the id from being used again; tensors on the meta device cost nothing.
        self._known[id(tensor)] = (tensor, field)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, then give its outputs the field that follows from its inputs."""
        kwargs = kwargs or {}
        tensors = list(instances_in(Tensor, (args, kwargs)))
        before = [self.field_of(tensor) for tensor in tensors]
        output = func(*args, **kwargs)
        known = [field for field in before if field is not None]
        if not known:
            return output
        lost = next((field for field in known if isinstance(field, Lost)), None)
        try:
            fields = lost or follow(Call(func, args, kwargs, output, self.field_of))
        except CannotFollowError as error:
            fields = Lost(str(error))
        outputs = list(instances_in(Tensor, output))
        each = fields if isinstance(fields, list) else [fields] * len(outputs)
        for tensor, field in zip(outputs, each, strict=True):
            if any(tensor is argument for argument in tensors):
                self._written(tensor, field)
            self._put(tensor, field)
        return output

    def _written(self, tensor: Tensor, field: Field | Lost) -> None:
        """Record an in-place operation, which also changes other views of the same memory."""
        if self.field_of(tensor) == field:
            return
        storage = _storage(tensor)
        for other, _ in list(self._known.values()):
            if other is not tensor and _storage(other) == storage:
                self._put(other, field if other.shape == tensor.shape else Lost("a write into part of a tensor"))
        if tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
            self._spoilt.add(storage)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
