"""The native kernels: plans, scratch memory, and one call into the library per convolution.

The smallest convolutions take about ten microseconds, so each thread caches everything that does not change from call
to call: the plan and the structures of the C call, except for the addresses.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from functools import partial
from typing import Any

import torch
from torch import Tensor

from replk_probe.errors import BackendError

from . import _fallback, _shapes
from ._choice import COMPUTED_IN, Forced, forced, left_channels_last, make_plan, torch_fft, uncovered_tensors
from ._layout import in_channels_last, in_planes, is_channels_last, layout_of
from ._loader import (
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    HOST,
    METHODS,
    Buffers,
    Library,
    Plan,
    Problem,
    find_library,
)
from ._prepared_weights import PreparedWeights
from .methods.interface import ConvProblem, Direction
from .tuning import choices

_LOGGER = logging.getLogger(__name__)

# Plans cached per thread. A network has a few dozen; beyond this number the cache is cleared.
_MOST_CALLS = 512
# Instruction set and method as set in the environment or by the caller, and the version of the choices if they apply.
_Way = tuple[Forced, int | None]
_DIRECTIONS: dict[int, Direction] = {FORWARD: "forward", GRAD_INPUT: "grad_input", GRAD_WEIGHT: "grad_weight"}


class _Call:
    """A planned convolution of one thread."""

    __slots__ = (
        "alignment",
        "arguments",
        "buffers",
        "channels_last",
        "converts_output",
        "copies_grad",
        "copies_input",
        "elsewhere",
        "host",
        "key",
        "library",
        "output_format",
        "packed_bytes",
        "packed_key",
        "plan",
        "problem",
        "workspace_bytes",
    )

    host: bool  # whether the library is not used
    elsewhere: Any  # what computes the three operators instead: torch's own convolution, or a method that was chosen
    key: tuple[Any, ...]  # key in the cache
    alignment: int  # size of an element in bytes, which every address must be a multiple of
    library: Library
    problem: Problem
    plan: Plan
    buffers: Buffers  # the last argument, complete except for the addresses
    arguments: tuple[Any, Any, Any]  # arguments of replk_dwconv2d_run
    channels_last: bool  # whether the input, and therefore the result, is channels-last
    output_format: torch.memory_format  # of the memory that the library writes
    converts_output: bool  # whether that is not yet the result's memory format
    copies_input: bool  # whether the input must be copied: its pixels, or channels-last its channels, are not adjacent
    copies_grad: bool  # the same for the gradient that a weight gradient reads
    # Everything except the weight that a prepared weight depends on; None if none is prepared.
    packed_key: tuple[Any, ...] | None
    packed_bytes: int  # size of the prepared weight, in bytes
    workspace_bytes: int  # size of the scratch memory, in bytes


class _Thread(threading.local):
    """The cache of a thread."""

    def __init__(self) -> None:
        self.calls: dict[tuple[Any, ...], _Call] = {}
        self.workspace = torch.empty(0, dtype=torch.uint8)
        self.workspace_bytes = 0


_thread = _Thread()


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    native: bool,
    prepared: PreparedWeights | None = None,
    force: Forced | None = None,
) -> Tensor:
    """``act(conv(input, weight) + bias)``.

    Args:
        input: Input, ``[N, C, H, W]`` on a CPU, with any strides.
        weight: Weight, ``[C, 1, Kh, Kw]``.
        bias: Bias, ``[C]``, or None.
        relu: Whether a ReLU follows.
        native: Raise an error instead of using torch's own convolution.
        prepared: Cache of the prepared weight.
        force: Instruction set and method; by default those of the environment, or the method that was chosen.

    Returns:
        ``[N, C, H, W]``, in the memory format of ``input``.
    """
    kind = None if bias is None else (bias.shape, bias.dtype)
    threads, way = torch.get_num_threads(), _way(force)
    is_prepared = prepared is not None
    sizes = (input.shape, input.stride(), weight.shape)
    key = (*sizes, input.dtype, weight.dtype, kind, relu, native, is_prepared, threads, way)
    call = _thread.calls.pop(key, None)
    if call is None:
        _shapes.check_forward(input, weight, bias)
        wide = COMPUTED_IN.get(input.dtype)
        if wide is not None:
            bias = None if bias is None else bias.to(wide)
            return forward(input.to(wide), weight.to(wide), bias, relu, native, prepared, force).to(input.dtype)
        call = _plan_call(
            key, FORWARD, input, weight.shape[2:], None, threads, way, relu=relu, native=native, prepared=is_prepared
        )
    if call.host:
        _put_back(call)
        return call.elsewhere.forward(input, weight, bias, relu)  # type: ignore[no-any-return]
    if (input.data_ptr() | weight.data_ptr()) % call.alignment:
        return forward(_aligned(input), _aligned(weight), bias, relu, native, prepared, force)
    bias_address = None
    if bias is not None:
        bias = bias if bias.is_contiguous() else bias.contiguous()
        bias = _aligned(bias)
        bias_address = bias.data_ptr()
    call.buffers.bias = bias_address
    return _convolve(call, input, weight, prepared)


def grad_input(
    grad: Tensor,
    weight: Tensor,
    native: bool,
    prepared: PreparedWeights | None = None,
    force: Forced | None = None,
) -> Tensor:
    """Gradient of the input, ``[N, C, H, W]``, in the memory format of ``grad``; see :func:`forward`."""
    threads, way = torch.get_num_threads(), _way(force)
    is_prepared = prepared is not None
    key = (grad.shape, grad.stride(), weight.shape, grad.dtype, weight.dtype, native, is_prepared, threads, way)
    call = _thread.calls.pop(key, None)
    if call is None:
        _shapes.check_grad_input(grad, weight)
        wide = COMPUTED_IN.get(grad.dtype)
        if wide is not None:
            return grad_input(grad.to(wide), weight.to(wide), native, prepared, force).to(grad.dtype)
        call = _plan_call(
            key, GRAD_INPUT, grad, weight.shape[2:], None, threads, way, native=native, prepared=is_prepared
        )
    if call.host:
        _put_back(call)
        return call.elsewhere.grad_input(grad, weight)  # type: ignore[no-any-return]
    if (grad.data_ptr() | weight.data_ptr()) % call.alignment:
        return grad_input(_aligned(grad), _aligned(weight), native, prepared, force)
    return _convolve(call, grad, weight, prepared)


def grad_weight(input: Tensor, grad: Tensor, kh: int, kw: int, native: bool, force: Forced | None = None) -> Tensor:
    """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous, from input and output gradient; see :func:`forward`."""
    threads, way = torch.get_num_threads(), _way(force)
    key = (input.shape, input.stride(), input.dtype, grad.shape, grad.stride(), grad.dtype, kh, kw, native, threads)
    call = _thread.calls.pop((key, way), None)
    if call is None:
        _shapes.check_grad_weight(input, grad, kh, kw)
        wide = COMPUTED_IN.get(input.dtype)
        if wide is not None:
            return grad_weight(input.to(wide), grad.to(wide), kh, kw, native, force).to(input.dtype)
        call = _plan_call((key, way), GRAD_WEIGHT, input, (kh, kw), grad, threads, way, native=native)
    if call.host:
        _put_back(call)
        return call.elsewhere.grad_weight(input, grad, kh, kw)  # type: ignore[no-any-return]
    if (input.data_ptr() | grad.data_ptr()) % call.alignment:
        return grad_weight(_aligned(input), _aligned(grad), kh, kw, native, force)
    if call.copies_input:
        input = in_planes(input)
    if call.copies_grad:
        grad = in_planes(grad)
    output = torch.empty((input.shape[1], 1, kh, kw), dtype=input.dtype, device=input.device)
    buffers = call.buffers
    buffers.input, buffers.grad, buffers.output = input.data_ptr(), grad.data_ptr(), output.data_ptr()
    _run(call)
    _put_back(call)
    return output


def _way(force: Forced | None) -> _Way:
    """What determines the method, except the sizes: the environment and the current choices, or ``force`` alone."""
    return (forced(), choices.state.version) if force is None else (force, None)


def _convolve(call: _Call, input: Tensor, weight: Tensor, prepared: PreparedWeights | None) -> Tensor:
    """Run a forward pass or an input gradient."""
    if call.copies_input:
        input = (
            in_planes(input)
            if call.output_format == torch.contiguous_format
            else input.contiguous(memory_format=torch.channels_last)
        )
    if not weight.is_contiguous():
        weight = weight.contiguous()
    output = torch.empty_like(input, memory_format=call.output_format)
    buffers = call.buffers
    address = weight.data_ptr()
    buffers.input, buffers.weight, buffers.output = input.data_ptr(), address, output.data_ptr()
    key = call.packed_key
    if prepared is None or key is None:
        buffers.packed = None
        _run(call)
        return _finished(call, output)
    packed = prepared.get(key) or prepared.make(key, call.packed_bytes, lambda memory: _pack(call, address, memory))
    buffers.packed = None if packed is None else packed.address
    _run(call)
    # The result is correct nevertheless; the next call prepares the weight again.
    if packed is not None and buffers.packed_was_stale:
        prepared.drop(packed)
    return _finished(call, output)


def _finished(call: _Call, output: Tensor) -> Tensor:
    _put_back(call)
    return in_channels_last(output) if call.converts_output else output


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is not aligned to its elements, as a view of bytes may be."""
    if not tensor.data_ptr() % tensor.element_size():
        return tensor
    return tensor.clone(memory_format=layout_of(tensor))


def _run(call: _Call) -> None:
    if call.workspace_bytes:
        thread = _thread
        if thread.workspace_bytes < call.workspace_bytes:
            # Freed before the larger one is allocated, which may fail.
            thread.workspace_bytes = 0
            thread.workspace = torch.empty(0, dtype=torch.uint8)
            thread.workspace = torch.empty(call.workspace_bytes, dtype=torch.uint8, device="cpu")
            thread.workspace_bytes = call.workspace_bytes
        memory = thread.workspace  # keeps a reference: an interrupting call may replace it by a larger one
        call.buffers.workspace, call.buffers.workspace_bytes = memory.data_ptr(), memory.numel()
    status = call.library.run(*call.arguments)
    if status:
        raise BackendError(failure(call.library, status))


def _pack(call: _Call, weight: int, memory: int) -> None:
    status = call.library.pack(call.problem, call.plan, weight, memory)
    if status:
        raise BackendError(failure(call.library, status))


def failure(library: Library, status: int) -> str:
    """Message about a call that the library refused although it had been checked."""
    reason = library.status_text(status).decode()
    return (
        f"The native library failed: {reason} (status {status}). This is a bug in replk-probe. "
        "Report it with the output of 'replk-probe info', and set REPLK_PROBE_METHOD=aten until it is fixed."
    )


def _plan_call(
    key: tuple[Any, ...],
    direction: int,
    input: Tensor,
    kernel: Any,
    grad: Tensor | None,
    threads: int,
    way: _Way,
    *,
    relu: bool = False,
    native: bool,
    prepared: bool = False,
) -> _Call:
    """Plan a convolution that is not in the cache of this thread."""
    call = _Call()
    call.key, call.host, call.elsewhere = key, True, _fallback
    (isa, method), version = way
    if version is not None and method in (None, "", "auto") and not native and choices.state.active:
        entry = choices.entry_of(_DIRECTIONS[direction], input, kernel)
        if entry is not None and METHODS.get(entry.method.name, HOST) == HOST:
            call.elsewhere = _Chosen(entry)
            return call
        method = method if entry is None else entry.method.name
    reason = uncovered_tensors(input)
    if reason is not None and native:
        raise BackendError(refusal(reason))
    if reason is not None:
        log_fallback(reason)
    library = find_library()
    call.channels_last = is_channels_last(input) and (grad is None or is_channels_last(grad))
    if reason is None and call.channels_last and not native:
        reason = left_channels_last(direction, input.dtype, kernel[0] * kernel[1], method)
    if reason is None and not isinstance(library, str) and input.numel():
        call.problem, call.plan = make_plan(
            direction,
            input.shape,
            kernel,
            input.dtype,
            threads=threads,
            relu=relu,
            prepared=prepared,
            channels_last=call.channels_last,
            native=native,
            force=(isa, method),
        )
        call.host = call.plan.method == HOST
        if not call.host:
            call.library = library
            _fill(call, direction, input, grad)
    if call.host:
        dtype = str(input.dtype).removeprefix("torch.")
        problem = ConvProblem(_DIRECTIONS[direction], dtype, call.channels_last, *input.shape, *kernel)
        call.elsewhere = torch_fft(problem) or _fallback
    return call


class _Chosen:
    """A method outside the library that was chosen; if it fails, what is used without choices computes the call."""

    def __init__(self, entry: choices.Entry) -> None:
        self._entry = entry

    def forward(self, *args: Any) -> Tensor:
        return choices.compute_by(self._entry, "forward", partial(forward, native=False, force=forced()), args)

    def grad_input(self, *args: Any) -> Tensor:
        return choices.compute_by(self._entry, "grad_input", partial(grad_input, native=False, force=forced()), args)

    def grad_weight(self, *args: Any) -> Tensor:
        return choices.compute_by(self._entry, "grad_weight", partial(grad_weight, native=False, force=forced()), args)


def _put_back(call: _Call) -> None:
    """Put a call into the cache.

    It is not in the cache while it is in use: a signal handler or a finalizer may run a convolution of the same sizes
    meanwhile and would overwrite its addresses.
    """
    if len(_thread.calls) >= _MOST_CALLS:
        _thread.calls.clear()
    _thread.calls[call.key] = call


def _fill(call: _Call, direction: int, input: Tensor, grad: Tensor | None) -> None:
    """Fill the structures of the call, except for the addresses."""
    _, channels, height, width = input.shape
    is_last = bool(call.plan.channels_last)
    # Strides of the images, of the channels (channels-last: of the columns), and of the rows.
    second = channels if is_last else height * width
    dense = (channels * height * width, second, second * width if is_last else width)

    def strides(tensor: Tensor) -> tuple[bool, tuple[int, ...]]:
        """Whether the tensor must be copied, and the strides to use."""
        n, c, h, w = tensor.stride()
        if is_last:
            return (True, dense) if c != 1 else (False, (n, w, h))
        return (True, dense) if width > 1 and w != 1 else (False, (n, c, h))

    buffers = Buffers()
    call.alignment = input.element_size()
    call.copies_input, buffers.input_stride[:] = strides(input)
    call.copies_grad = False
    if grad is not None:
        call.copies_grad, buffers.grad_stride[:] = strides(grad)
    buffers.output_stride[:] = dense
    call.output_format = torch.channels_last if is_last else torch.contiguous_format
    call.converts_output = call.channels_last and not is_last
    call.buffers = buffers
    call.arguments = (ctypes.byref(call.problem), ctypes.byref(call.plan), ctypes.byref(buffers))
    problem, plan = call.problem, call.plan
    call.workspace_bytes, call.packed_bytes = plan.workspace_bytes, plan.packed_bytes
    call.packed_key = None
    if plan.packed_bytes > 0 and direction != GRAD_WEIGHT:
        sizes = (problem.dtype, channels, height, width, problem.kh, problem.kw)
        call.packed_key = (*sizes, plan.method, plan.isa, plan.tile_h, plan.tile_w, plan.packed_bytes)


_logged: set[str] = set()


def log_fallback(reason: str) -> None:
    """Log once for each reason that torch's convolution is used."""
    if reason not in _logged:
        _logged.add(reason)
        _LOGGER.info("Depthwise convolution by torch: %s.", reason.rstrip("."))


def refusal(reason: str) -> str:
    """The error message if a native kernel was requested but cannot be used."""
    return f"Native kernel refused: {reason.rstrip('.')}. Use backend='aten', or 'auto' to choose automatically."
