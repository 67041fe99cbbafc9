"""The tensors that a network computes from the image, how each was computed, and where in the code it can be taken."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from replk_probe.runtime.dispatch_mode import UncompiledDispatchMode
from replk_probe.runtime.nested import instances_in

from .module_calls import Call, ModuleCalls
from .receptive_field.tracer import Field, FieldTracer, Lost
from .target_layer import LayerPoint, named_tensors

# Larger integer tensors are no indices of positions.
_LARGEST_CONSTANT = 1 << 20


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor argument of an operation.

    Attributes:
        value: The value, or None if the tensor does not depend on the image.
        shape: Its shape.
        constant: Integers that are the same for every image, on the CPU, or None.
    """

    value: Value | None
    shape: tuple[int, ...]
    constant: Tensor | None = None


@dataclass(eq=False)
class Value:
    """A tensor that depends on the image.

    Attributes:
        index: Position in the order of computation; 0 is the image.
        name: Name of the operation, such as ``"add"``.
        args: Its arguments, with an :class:`Operand` in place of each tensor.
        kwargs: Its keyword arguments, likewise.
        output: Which of the outputs of the operation this is.
        shape: Shape of the tensor.
        is_floating: Whether it is a floating-point tensor.
        sources: The values among the arguments, in order.
        call: The innermost module call in which it was computed, or None.
        pointwise: Whether the operation treats every element alike.
        points: Where it can be taken, in the order in which the code reached these points.
        field: Receptive fields, or why they are not known; None if they were not traced.
    """

    index: int
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: int
    shape: tuple[int, ...]
    is_floating: bool
    sources: tuple[Value, ...]
    call: Call | None = None
    pointwise: bool = False
    points: list[LayerPoint] = field(default_factory=list)
    field: Field | Lost | None = None
    # In the tree of dominators: the last value through which all that this one knows of the image has passed.
    dominator: Value | None = None
    depth: int = 0

    def __post_init__(self) -> None:
        """Find the dominator, which is that of all sources together."""
        for source in self.sources:
            self.dominator = source if self.dominator is None else _common(self.dominator, source)
        self.depth = 0 if self.dominator is None else self.dominator.depth + 1

    @property
    def operands(self) -> list[Operand]:
        """The tensors among the arguments."""
        return list(instances_in(Operand, (self.args, self.kwargs)))

    def dominators(self) -> Iterator[Value]:
        """This value and its dominators, back to the image."""
        value: Value | None = self
        while value is not None:
            yield value
            value = value.dominator


def _common(first: Value, second: Value) -> Value:
    while first is not second:
        if first.depth < second.depth:
            first, second = second, first
        assert first.dominator is not None  # every chain ends at the image
        first = first.dominator
    return first


class Recorder(UncompiledDispatchMode):  # type: ignore[no-untyped-call]
    """Records every value that a network computes from an image in its context."""

    def __init__(
        self, model: nn.Module, image: Tensor, constants: dict[int, Tensor], tracer: FieldTracer | None = None
    ) -> None:
        """Start with the image.

        Args:
            model: The network, on the device of the image.
            image: The image, ``[1, C, H, W]``.
            constants: Integer buffers of the network, by the ``id`` of the tensor in place of each on the meta device.
            tracer: Tracer of receptive fields that is active as well, or None.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = ModuleCalls(model, entered=self._entered, left=self._left, operated=self._operated)
        self.values: list[Value] = []
        self.points: dict[LayerPoint, Value] = {}
        self._tracer = tracer
        self._known: MutableMapping[Tensor, Value] = WeakTensorKeyDictionary()
        self._constants: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        for tensor in model.buffers():
            if id(tensor) in constants:
                self._constants[tensor] = constants[id(tensor)]
        # The last write into each storage, by its address.
        self._writes: dict[int, tuple[Any, Value]] = {}
        self._add(image, "image", ())

    def __enter__(self) -> Recorder:
        """Start to record operations and module calls."""
        self.calls.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.calls.__exit__(*error)

    def value_of(self, tensor: Tensor) -> Value | None:
        """The value that a tensor holds now; None if it does not depend on the image."""
        own = self._known.get(tensor)
        if _storage(tensor) not in self._writes:
            return own
        storage, write = self._writes[_storage(tensor)]
        if storage.expired() or (own is not None and write.index <= own.index):
            return own
        return self._add(tensor, "write", (write,) if own is None else (own, write))

    def values_in(self, given: Any) -> list[Value]:
        """The values of all tensors in nested tuples, lists, dictionaries and dataclasses."""
        found = (self.value_of(tensor) for _, tensor in named_tensors(given))
        return [value for value in found if value is not None]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and record its outputs if one of its inputs depends on the image."""
        kwargs = kwargs or {}
        tensors = list(instances_in(Tensor, (args, kwargs)))
        sources = tuple(value for tensor in tensors if (value := self.value_of(tensor)) is not None)
        given = self._replaced((args, kwargs)) if sources else ((), {})
        output = func(*args, **kwargs)
        if not sources:
            self._keep_constant(func, args, kwargs, output)
            return output
        for number, tensor in enumerate(instances_in(Tensor, output)):
            value = self._add(tensor, func.overloadpacket.__name__, sources, given, number)
            value.pointwise = torch.Tag.pointwise in func.tags
            if any(tensor is argument for argument in tensors):
                reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
                self._writes[_storage(tensor)] = reference, value
        return output

    def _add(
        self, tensor: Tensor, name: str, sources: tuple[Value, ...], given: Any = ((), {}), output: int = 0
    ) -> Value:
        value = Value(
            index=len(self.values),
            name=name,
            args=given[0],
            kwargs=given[1],
            output=output,
            shape=tuple(tensor.shape),
            is_floating=tensor.is_floating_point(),
            sources=sources,
            call=self.calls.current,
            field=None if self._tracer is None else self._tracer.field_of(tensor),
        )
        self.values.append(value)
        self._known[tensor] = value
        return value

    def _replaced(self, given: Any) -> Any:
        if isinstance(given, Tensor):
            value = self.value_of(given)
            return Operand(value, tuple(given.shape), None if value is not None else self._constant(given))
        if isinstance(given, (tuple, list)):
            return tuple(self._replaced(item) for item in given)
        if isinstance(given, dict):
            return {key: self._replaced(item) for key, item in given.items()}
        return given

    def _constant(self, tensor: Tensor) -> Tensor | None:
        if tensor.is_floating_point() or tensor.is_complex() or tensor.numel() > _LARGEST_CONSTANT:
            return None
        if tensor.device.type == "meta":
            return self._constants.get(tensor)
        return tensor.cpu()

    def _keep_constant(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Compute integers for real, since an index decides where the positions of an image go."""
        if not isinstance(output, Tensor) or output.device.type != "meta" or output.is_floating_point():
            return
        if output.numel() > _LARGEST_CONSTANT or output.is_complex():
            return
        missing = False

        def real(given: Any) -> Any:
            nonlocal missing
            if isinstance(given, Tensor):
                constant = self._constant(given)
                missing = missing or constant is None
                return constant
            if isinstance(given, (tuple, list)):
                return type(given)(real(item) for item in given)
            return given

        args, kwargs = real(args), {key: real(item) for key, item in kwargs.items()}
        if missing:
            return
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        try:
            self._constants[output] = func(*args, **kwargs)
        except Exception:
            return  # the integers depend on something that has no values here

    def _entered(self, call: Call, given: Any) -> None:
        tensor = next((tensor for _, tensor in named_tensors(given)), None)
        call.input = None if tensor is None else self.value_of(tensor)
        if call.input is not None:
            self._reached(call.input, LayerPoint(call.path, "input", call=call.number))

    def _left(self, call: Call, given: Any) -> None:
        found = [(item, value) for item, tensor in named_tensors(given) if (value := self.value_of(tensor)) is not None]
        for item, value in found:
            self._reached(value, LayerPoint(call.path, "output", item, call=call.number))

    def _operated(self, call: Call, func: Any, result: Tensor) -> None:
        value = self.value_of(result)
        if value is not None:
            name = getattr(func, "__name__", "operation").strip("_")
            self._reached(value, LayerPoint(call.path, "operation", (), call.number, call.operations, name))

    def reached_features(self, given: Any) -> None:
        """Note that ``forward_features`` returned these tensors."""
        for item, tensor in named_tensors(given):
            if (value := self.value_of(tensor)) is not None:
                self._reached(value, LayerPoint(None, "output", item))

    def _reached(self, value: Value, point: LayerPoint) -> None:
        value.points.append(point)
        self.points[point] = value


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
