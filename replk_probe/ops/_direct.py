"""When a tensor may go straight to the kernel: nothing of torch would do anything with the call.

Torch's dispatcher takes about as long as the smallest convolutions. It is needed for gradients, autocast, transforms,
tracing, modes that watch calls, and every tensor that is more than memory on a CPU; otherwise it is stepped around.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_TYPES = (Tensor, nn.Parameter)


def _bits(*names: str) -> int:
    """Dispatch keys as a bit set."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return int(keys.raw_repr())


try:
    # Of a dense tensor in main memory; the second is one that was made in inference mode.
    _PLAIN_KEYS = (
        _bits("CPU", "ADInplaceOrView", "AutogradCPU", "AutocastCPU"),
        _bits("CPU", "AutocastCPU"),
    )
    # Of a thread on which nothing wants to see calls: no tracer, no mode, no transform.
    _QUIET_KEYS = (_bits("BackendSelect", "ADInplaceOrView"), _bits("BackendSelect"))
    _keys_of: Any = torch._C._dispatch_keys
    _thread_keys: Any = torch._C._dispatch_tls_local_include_set
    _function_modes: Any = torch._C._len_torch_function_stack
    _is_profiling: Any = torch._C._autograd._profiler_enabled
    _is_known = _keys_of(torch.empty(0, device="cpu")).raw_repr() in _PLAIN_KEYS
except (AttributeError, RuntimeError):  # a torch whose internals have other names: always take the dispatcher
    _is_known = False


_has_transforms: Any = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def is_direct(first: Tensor, second: Tensor, third: Tensor | None = None) -> bool:
    """Whether a computation of these tensors that needs no gradient may bypass torch's dispatcher."""
    return (
        _is_known
        and type(first) in _TYPES
        and type(second) in _TYPES
        and (third is None or (type(third) in _TYPES and _keys_of(third).raw_repr() in _PLAIN_KEYS))
        and _keys_of(first).raw_repr() in _PLAIN_KEYS
        and _keys_of(second).raw_repr() in _PLAIN_KEYS
        and _thread_keys().raw_repr() in _QUIET_KEYS
        and not _function_modes()
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and not _is_profiling()
    )


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is active.

    Custom operators have no rules for those, torch's own have.
    """
    return bool(_has_transforms()) or forward_ad._current_level >= 0


def needs_grad(first: Tensor, second: Tensor, third: Tensor | None = None) -> bool:
    """Whether autograd would record a computation of these tensors."""
    return torch.is_grad_enabled() and (
        first.requires_grad or second.requires_grad or (third is not None and third.requires_grad)
    )
