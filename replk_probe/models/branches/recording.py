"""Recording of a forward pass on the meta device: convolutions, sums, and what scales and shifts channels.

The calls of torch's functions are recorded, not those of modules, so that any code of a user's ``forward`` is followed.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from replk_probe.ops import DepthwiseConv2d
from replk_probe.runtime.nested import instances_in

from ..inference.check import evaluating
from ..inference.copying import meta_copy_of, on_device_of

Values = Mapping[str, Tensor]

# Sizes of the image, in this order: networks with windows or position tables accept only some.
SIDES = (224, 256, 384, 64)
_SIDE_OF_MODULES = 32
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_NORM = {
    functional.batch_norm: ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps"),
    torch.batch_norm: ("input", "weight", "bias", "mean", "var", "training", "momentum", "eps"),
}
_SAME_VALUE = frozenset({"clone", "contiguous", "to", "detach"})
# Functions whose results may be consecutive channels of their input.
_PARTS = frozenset({"split", "split_with_sizes", "chunk", "tensor_split", "narrow", "getitem"})
_JOINED = frozenset({"cat", "concat", "concatenate"})
# Names of torch's functions and of the operators of tensors, without underscores.
_ARITHMETIC = {f"{i}{name}": name for name in ("add", "sub", "mul", "div") for i in ("", "i")} | {
    "radd": "add", "rmul": "mul", "rsub": "rsub", "truediv": "div", "itruediv": "div",
}  # fmt: skip


class Zero(nn.Module):
    """Takes the place of a branch that was merged into another one: returns the number zero as a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """A zero that can be added to the outputs of the other branches."""
        return torch.zeros((), dtype=x.dtype, device=x.device)


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the input.

    Attributes:
        shape: Its shape.
        evaluate: Function from the stored tensors of a network to its value; floating-point values are float64.
        names: Names of the stored tensors that it is computed from.
    """

    shape: torch.Size
    evaluate: Callable[[Values], Tensor]
    names: frozenset[str] = frozenset()


@dataclass(eq=False)
class Node:
    """A tensor that depends on the input, computed by an operation that is not described further.

    Attributes:
        inputs: Tensors that it is computed from and that depend on the input.
        module: Path of the innermost module that computes it.
        shape: Its shape.
        users: Tensors that are computed from it.
        operation: Name of the function that computes it; empty for the input and for the subclasses.
    """

    inputs: tuple[Node, ...] = field(repr=False)
    module: str
    shape: torch.Size
    users: list[Node] = field(default_factory=list, repr=False)
    operation: str = ""


@dataclass(eq=False)
class Convolution(Node):
    """The output of a two-dimensional convolution with a constant weight and symmetric zero padding."""

    weight: Constant = field(kw_only=True)
    bias: Constant | None = field(kw_only=True)
    stride: tuple[int, int] = field(kw_only=True)
    padding: tuple[int, int] = field(kw_only=True)
    dilation: tuple[int, int] = field(kw_only=True)
    groups: int = field(kw_only=True)


@dataclass(eq=False)
class Scaling(Node):
    """Its input times a number for each channel plus another: a batch norm in eval mode, a scale by a parameter.

    Attributes:
        coefficients: Function from the stored tensors to scale and shift, each float64 ``[C]`` or ``[1]``.
        names: Names of the stored tensors that these are computed from.
        shifts: Whether there is a shift.
    """

    coefficients: Callable[[Values], tuple[Tensor, Tensor]] = field(kw_only=True)
    names: frozenset[str] = field(kw_only=True)
    shifts: bool = field(kw_only=True)


@dataclass(eq=False)
class Sum(Node):
    """The sum of its two inputs, which have the same shape.

    Attributes:
        in_place: Whether it overwrites the first of them.
    """

    in_place: bool = field(kw_only=True)


@dataclass(eq=False)
class Channels(Node):
    """Consecutive channels of its input.

    Attributes:
        start: The first of them.
    """

    start: int = field(kw_only=True)


@dataclass(eq=False)
class Concatenation(Node):
    """The channels of all of its inputs, one after the other."""


@dataclass(eq=False)
class Padded(Node):
    """Its input with a border, whatever the values there.

    Attributes:
        before: Rows and columns that are added before the first ones; negative if they are removed.
    """

    before: tuple[int, int] = field(kw_only=True)


@dataclass(eq=False)
class Absent(Node):
    """The zero in the place of a branch of its one input that was merged into another one."""


@dataclass
class Recording:
    """The nodes of one forward pass, in order.

    Attributes:
        nodes: All tensors that depend on the input, except the input.
        calls: Number of calls of each module, by path.
        tensors: Paths of the modules that return one tensor when they are called.
    """

    nodes: list[Node] = field(default_factory=list, repr=False)
    calls: Counter[str] = field(default_factory=Counter, repr=False)
    tensors: set[str] = field(default_factory=set)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names."""
    return dict(chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)))


def record(model: nn.Module) -> list[Recording]:
    """Record a forward pass of a network in eval mode.

    The pass runs in a copy on the meta device, so nothing is computed and the network is not changed. If it fails (for
    several inputs, or decisions that depend on values), each of the network's modules is run alone on a feature map,
    and so on with the modules inside of those for which that fails.

    Args:
        model: Any network.

    Returns:
        One recording per pass that succeeded.
    """
    try:
        copied = meta_copy_of(model)
    except Exception:  # copying runs the model's own code, which may raise anything
        return []
    for module in copied.modules():
        if isinstance(module, DepthwiseConv2d) and module.activation is None:
            vars(module)["forward"] = partial(_plain_convolution, module)
    return list(_record(copied, "", copied, SIDES))


def _record(root: nn.Module, path: str, module: nn.Module, sides: tuple[int, ...]) -> Iterator[Recording]:
    weights = [p for p in module.parameters() if p.dim() == 4]
    # A layer alone shows nothing, unless it is all there is.
    if not weights or (module is not root and not module._modules):
        return
    conv = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = weights[0].shape[1] if conv is None else conv.in_channels
    for side in sides:
        with suppress(Exception):  # the network's own code may raise anything
            yield _pass(root, module, torch.empty(1, channels, side, side, device="meta", dtype=weights[0].dtype))
            return
    for name, child in module.named_children():
        yield from _record(root, f"{path}.{name}".removeprefix("."), child, (_SIDE_OF_MODULES,))


def _pass(root: nn.Module, module: nn.Module, image: Tensor) -> Recording:
    recorder = _Recorder(root, image)
    handles = []
    try:
        for path, inner in root.named_modules():
            handles.append(inner.register_forward_pre_hook(partial(recorder.enter, path)))
            handles.append(inner.register_forward_hook(partial(recorder.leave, path)))
        with evaluating(root), on_device_of(root), recorder:
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.recording


def _plain_convolution(conv: DepthwiseConv2d, x: Tensor) -> Tensor:
    """``conv(x)`` by torch's function, which the recorder knows."""
    return functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class _Recorder(TorchFunctionMode):
    """Records the calls of torch's functions while it is active."""

    def __init__(self, root: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.recording = Recording()
        self._modules: list[str] = [""]
        self._alive: list[Tensor] = [image]  # so that no two tensors have the same id
        self._values: dict[int, Node | Constant] = {id(image): Node((), "", image.shape)}
        for name, tensor in stored_tensors(root).items():
            self._values[id(tensor)] = Constant(tensor.shape, partial(_stored, name), frozenset({name}))

    def enter(self, path: str, module: nn.Module, args: object) -> None:
        """Remember the module that is running."""
        self._modules.append(path)
        self.recording.calls[path] += 1

    def leave(self, path: str, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Return to the module that called it."""
        if isinstance(output, Tensor):
            self.recording.tensors.add(path)
            source = self._value(args[0]) if isinstance(module, Zero) else None
            if isinstance(source, Node):
                self._values[id(output)] = self._added(Absent((source,), path, output.shape))
        self._modules.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and record what it returns and changes."""
        kwargs = kwargs or {}
        given = list(instances_in(Tensor, [args, kwargs]))
        versions = [tensor._version for tensor in given]
        returned = func(*args, **kwargs)
        changed = [t for t, version in zip(given, versions, strict=True) if t._version != version]
        results = list(instances_in(Tensor, returned))
        self._alive += results
        inputs = tuple(value for value in map(self._value, given) if isinstance(value, Node))
        for index, result in enumerate(results):
            if any(result is tensor for tensor in given) and not any(result is tensor for tensor in changed):
                continue  # returned unchanged, as by a dropout in eval mode
            if inputs:
                self._values[id(result)] = self._node(func, args, kwargs, inputs, result, isinstance(returned, Tensor))
            elif id(result) not in self._values or changed:
                self._values[id(result)] = self._constant(func, args, kwargs, index, result)
        for tensor in changed if inputs else ():
            if not any(tensor is result for result in results):
                self._values[id(tensor)] = self._opaque(func, inputs, tensor)
            # Parts of one tensor share its memory.
            memory = _memory_of(tensor)
            for other in self._alive:
                if _memory_of(other) is memory and other is not tensor and id(other) in self._values:
                    self._values[id(other)] = self._opaque(func, inputs, other)
        return returned

    def _value(self, argument: Any) -> Node | Constant | float | None:
        """What an argument stands for; None for anything but tensors and real numbers."""
        if isinstance(argument, Tensor):
            if id(argument) not in self._values:  # an attribute of a module that is no parameter and no buffer
                self._alive.append(argument)
                self._values[id(argument)] = Constant(argument.shape, lambda _, tensor=argument: _wide(tensor))  # type: ignore[misc]
            return self._values[id(argument)]
        return float(argument) if isinstance(argument, (int, float)) else None

    def _added(self, node: Node) -> Node:
        self.recording.nodes.append(node)
        for source in node.inputs:
            source.users.append(node)
        return node

    def _opaque(self, func: Callable[..., Any], inputs: tuple[Node, ...], result: Tensor) -> Node:
        """A tensor of which only the function that computes it is known."""
        return self._added(Node(inputs, self._modules[-1], result.shape, operation=_name_of(func)))

    def _constant(self, func: Callable[..., Any], args: Any, kwargs: Any, index: int, result: Tensor) -> Constant:
        """The result of a function of constants, computed again from their values when it is needed."""
        known = {id(tensor): self._value(tensor) for tensor in instances_in(Tensor, [args, kwargs])}

        def evaluate(values: Values) -> Tensor:
            def replaced(argument: Any) -> Any:
                if isinstance(argument, Tensor):
                    constant = known[id(argument)]
                    assert isinstance(constant, Constant)
                    return constant.evaluate(values).clone()
                if isinstance(argument, torch.device):
                    return torch.device("cpu")
                if isinstance(argument, (list, tuple)) and not isinstance(argument, torch.Size):
                    return type(argument)(map(replaced, argument))
                return argument

            outcome = func(*map(replaced, args), **{name: replaced(value) for name, value in kwargs.items()})
            return _wide(list(instances_in(Tensor, outcome))[index])

        names = [value.names for value in known.values() if isinstance(value, Constant)]
        return Constant(result.shape, evaluate, frozenset().union(*names))

    def _node(
        self, func: Callable[..., Any], args: Any, kwargs: Any, inputs: tuple[Node, ...], result: Tensor, alone: bool
    ) -> Node:
        name = _name_of(func)
        found = None
        if all(isinstance(one, Absent) for one in inputs):
            found = self._added(Absent(inputs[0].inputs, self._modules[-1], result.shape))
        elif name in _PARTS and len(inputs) == 1 and result.dim() == 4:
            found = self._channels(next(instances_in(Tensor, args)), inputs[0], result)
        elif alone and result.dim() == 4:
            if name == "conv2d":
                found = self._convolution(dict(zip(_CONV, args, strict=False)) | kwargs, result)
            elif func in _NORM:
                found = self._norm(dict(zip(_NORM[func], args, strict=False)) | _renamed(kwargs))
            elif name in _JOINED:
                found = self._concatenation(inputs, result)
            elif name == "pad" and len(inputs) == 1:
                found = self._padded(dict(zip(("input", "pad"), args, strict=False)) | kwargs, inputs[0], result)
            elif name in _SAME_VALUE and len(inputs) == 1 and inputs[0].shape == result.shape:
                found = inputs[0]
            else:
                found = self._arithmetic(name, args, kwargs, result)
        return found or self._opaque(func, inputs, result)

    def _channels(self, whole: Tensor, source: Node, result: Tensor) -> Node | None:
        """A view of consecutive channels."""
        sides = [tuple(one.shape[:1] + one.shape[2:]) for one in (whole, result)]
        if whole.dim() != 4 or sides[0] != sides[1] or whole.stride() != result.stride():
            return None
        if _memory_of(whole) is not _memory_of(result) or not whole.stride(1):
            return None
        start = int(result.storage_offset() - whole.storage_offset()) // whole.stride(1)
        return self._added(Channels((source,), self._modules[-1], result.shape, start=start))

    def _concatenation(self, inputs: tuple[Node, ...], result: Tensor) -> Node | None:
        sides = {one.shape[:1] + one.shape[2:] for one in inputs if len(one.shape) == 4}
        if sides != {result.shape[:1] + result.shape[2:]} or sum(one.shape[1] for one in inputs) != result.shape[1]:
            return None
        return self._added(Concatenation(inputs, self._modules[-1], result.shape))

    def _padded(self, given: dict[str, Any], source: Node, result: Tensor) -> Node | None:
        pad = [operator.index(number) for number in given.get("pad", ())]
        if len(pad) not in (2, 4) or source.shape[:2] != result.shape[:2]:
            return None
        before = (pad[2] if len(pad) == 4 else 0, pad[0])
        return self._added(Padded((source,), self._modules[-1], result.shape, before=before))

    def _convolution(self, given: dict[str, Any], result: Tensor) -> Node | None:
        source, weight, bias = (self._value(given.get(name)) for name in ("input", "weight", "bias"))
        stride, dilation = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))
        if not isinstance(source, Node) or not isinstance(weight, Constant) or isinstance(bias, Node):
            return None
        padding = given.get("padding", 0)
        if isinstance(padding, str):
            total = [r * (k - 1) if padding == "same" else 0 for r, k in zip(dilation, weight.shape[2:], strict=True)]
            if any(both % 2 for both in total):
                return None
            padding = [both // 2 for both in total]
        return self._added(
            Convolution(
                (source,),
                self._modules[-1],
                result.shape,
                weight=weight,
                bias=bias if isinstance(bias, Constant) else None,
                stride=stride,
                padding=_pair(padding),
                dilation=dilation,
                groups=int(given.get("groups", 1)),
            )
        )

    def _norm(self, given: dict[str, Any]) -> Node | None:
        source = self._value(given["input"])
        parts = {name: self._value(given.get(name)) for name in ("mean", "var", "weight", "bias")}
        if given.get("training") or not isinstance(source, Node):
            return None
        mean, var, weight, bias = (part if isinstance(part, Constant) else None for part in parts.values())
        if mean is None or var is None or any(isinstance(part, Node) for part in parts.values()):
            return None
        eps = float(given.get("eps", 1e-5))

        def coefficients(values: Values) -> tuple[Tensor, Tensor]:
            scale = (var.evaluate(values) + eps).rsqrt()
            scale = scale if weight is None else scale * weight.evaluate(values)
            shift = -mean.evaluate(values) * scale
            return scale, shift if bias is None else shift + bias.evaluate(values)

        names = frozenset().union(*(part.names for part in (mean, var, weight, bias) if part is not None))
        return self._scaling(source, coefficients, names, shifts=True)

    def _arithmetic(self, name: str, args: Any, kwargs: Any, result: Tensor) -> Node | None:
        """Sums, differences, products and quotients, in place or not."""
        operation = _ARITHMETIC.get(name)
        if operation is None or len(args) != 2 or kwargs:
            return None
        first, second = map(self._value, args[::-1] if operation == "rsub" else args)
        operation = operation.removeprefix("r")
        if isinstance(first, Node) and isinstance(second, Node):
            shapes = [one.shape for one in (first, second) if not isinstance(one, Absent)]
            if operation not in ("add", "sub") or any(shape != result.shape for shape in shapes):
                return None
            if operation == "sub":
                second = self._scaled(second, "mul", -1.0, 1.0)
            return self._added(Sum((first, second), self._modules[-1], result.shape, in_place=result is args[0]))
        node, other = (first, second) if isinstance(first, Node) else (second, first)
        if not isinstance(node, Node) or isinstance(other, Node) or other is None or node.shape != result.shape:
            return None
        if isinstance(other, Constant) and not _is_per_channel(other.shape, node.shape):
            return None
        if operation == "div":
            return None if node is second else self._scaled(node, "div", other, 1.0)
        if operation == "sub" and node is second:
            node, operation = self._scaled(node, "mul", -1.0, 1.0), "add"
        if other == (1.0 if operation == "mul" else 0.0):
            return node
        return self._scaled(node, operation.replace("sub", "add"), other, -1.0 if operation == "sub" else 1.0)

    def _scaled(self, node: Node, operation: str, other: Constant | float, sign: float) -> Node:
        """``node`` times, over or plus ``sign * other``."""

        def coefficients(values: Values) -> tuple[Tensor, Tensor]:
            value = other if isinstance(other, float) else other.evaluate(values).reshape(-1)
            value = sign * torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            if operation == "add":
                return torch.ones_like(value), value
            return (value if operation == "mul" else 1 / value), torch.zeros_like(value)

        names: frozenset[str] = frozenset() if isinstance(other, float) else other.names
        return self._scaling(node, coefficients, names, shifts=operation == "add")

    def _scaling(
        self,
        source: Node,
        coefficients: Callable[[Values], tuple[Tensor, Tensor]],
        names: frozenset[str],
        *,
        shifts: bool,
    ) -> Node:
        module, shape = self._modules[-1], source.shape
        return self._added(Scaling((source,), module, shape, coefficients=coefficients, names=names, shifts=shifts))


def _name_of(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", "").strip("_")


def _memory_of(tensor: Tensor) -> Tensor:
    """The tensor that owns the memory of a view; the tensor itself if it is none."""
    return tensor if tensor._base is None else tensor._base


def _stored(name: str, values: Values) -> Tensor:
    return _wide(values[name])


def _wide(tensor: Tensor) -> Tensor:
    """Detached, on the CPU unless it has no values, and in float64 if it is a floating-point tensor."""
    tensor = tensor.detach() if tensor.is_meta else tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _renamed(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("running_"): value for name, value in kwargs.items()}


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    items = [operator.index(item) for item in value]
    return items[0], items[-1]


def _is_per_channel(shape: torch.Size, of: torch.Size) -> bool:
    """Whether a tensor of this shape has one number for each channel of ``[N, C, H, W]``, or one in all."""
    full = (1,) * (4 - len(shape)) + tuple(shape)
    return len(full) == 4 and full[0] == full[2] == full[3] == 1 and full[1] in (1, of[1])
