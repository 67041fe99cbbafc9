"""Devices, strict float32 arithmetic and out-of-memory errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from replk_probe.errors import BackendError, InvalidInputError

from .float32_settings import Float32Settings, make_strict
from .formatting import dimensions
from .malloc import kept_blocks

# Assumed where the operating system does not say how much there is.
_USUAL_MEMORY = 8 << 30
# What the devices other than a CPU are; each has a module of this name in torch.
_GPUS = {"cuda": "NVIDIA GPU", "mps": "GPU of Apple", "xpu": "GPU of Intel"}
_EXPERIMENTAL = ("mps", "xpu")
# Parts of the messages of failed allocations that torch raises as a RuntimeError: those of a CPU, of CUDA, of Apple's
# GPUs, and of the libraries that allocate memory of their own.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUFFT_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def resolve_device(device: str | torch.device) -> torch.device:
    """Parse a device; raises InvalidInputError if torch has no such device, BackendError if it is not available.

    ``"auto"`` is an NVIDIA GPU if there is one, otherwise the CPU.
    """
    if str(device) == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        named = isinstance(device, str)
        reason = "Torch has no device of this name" if named else "A device is a name or a torch.device"
        raise InvalidInputError(
            f"Unknown device {device!r}. {reason}. Use auto, cpu, cuda, cuda:1, mps or xpu."
        ) from error
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type not in _GPUS:
        raise BackendError(
            f"Device {str(device)!r} is not supported. Networks are measured on a CPU, or on a GPU of NVIDIA, Apple or "
            "Intel. Use cpu, cuda, mps or xpu."
        )
    module: Any = getattr(torch, found.type)
    if not module.is_available():
        raise BackendError(f"Device {str(device)!r} is not available. Torch finds no {_GPUS[found.type]}. Use cpu.")
    index = found.index
    if index is None:
        index = 0 if found.type == "mps" else module.current_device()
    if index >= module.device_count():
        count = module.device_count()
        raise BackendError(
            f"Device {str(device)!r} is not available. This machine has {count} GPU{'s' * (count != 1)}, numbered "
            "from 0. Use another number."
        )
    return torch.device(found.type, index)


def experimental_note(device: torch.device) -> str | None:
    """A note for results of a device whose support is experimental; None for a CPU or an NVIDIA GPU."""
    if device.type not in _EXPERIMENTAL:
        return None
    return (
        f"Measured on device {device}, whose support is experimental: results of this kind of device were not compared "
        "with those of a CPU."
    )


def may_tune(tune: str, device: torch.device) -> bool:
    """Whether a run may choose other methods of convolution than the default: on a CPU only by ``"force"``."""
    return tune != "off" and (device.type == "cuda" or (device.type == "cpu" and tune == "force"))


def visible_gpus() -> list[str]:
    """The GPUs as values of ``CUDA_VISIBLE_DEVICES`` that select one of them; does not initialize CUDA."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(index) for index in range(torch.cuda.device_count())]
    return [name for name in given.split(",") if name]


def memory_of(device: torch.device) -> int:
    """Total memory of a device in bytes; of a CPU that of the machine, or the limit of the container if it is lower."""
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    if device.type in _GPUS:
        return int(getattr(torch, device.type).get_device_properties(device).total_memory)
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        total = _USUAL_MEMORY
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            total = min(total, int(Path(path).read_text(encoding="ascii")))
    return total


def device_name(device: torch.device) -> str:
    """Name of a GPU, such as ``"NVIDIA H200"``."""
    if device.type == "mps":
        return str(torch.backends.mps.get_name())
    return str(getattr(torch, device.type).get_device_name(device))


def device_label(device: torch.device) -> str:
    """Label of a device, ``"cpu"`` or ``"cuda:0 (NAME)"``."""
    return f"{device} ({device_name(device)})" if device.type in _GPUS else str(device)


@contextmanager
def preserved_generators(*devices: torch.device) -> Iterator[None]:
    """Restore the random number generators of the CPU and of these devices on leaving."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        for device in dict.fromkeys(devices):
            if device.type in _GPUS:
                stack.enter_context(torch.random.fork_rng([device], device_type=device.type))
        yield


def as_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, on the CPU if its device is a GPU of Apple, which has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed, on any device or in a library such as cuDNN."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


@contextmanager
def out_of_memory_explained(size: Sequence[int]) -> Iterator[None]:
    """Turn an out-of-memory error for images of ``size`` into a :class:`BackendError` with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BackendError(
            f"Not enough memory for images of {dimensions(size)}. An allocation failed. "
            "Use a smaller size, or a device with more memory."
        ) from error


class _Strictness(AbstractContextManager[None]):
    """Global settings, which the first of several overlapping measurements saves and the last one restores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: tuple[bool, bool, Float32Settings] | None = None

    def __enter__(self) -> None:
        """Save the settings and make them strict."""
        cudnn = torch.backends.cudnn
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._before = cudnn.deterministic, cudnn.benchmark, make_strict()
            cudnn.deterministic, cudnn.benchmark = True, False

    def __exit__(self, *error: object) -> None:
        """Restore them."""
        cudnn = torch.backends.cudnn
        with self._lock:
            self._users -= 1
            if self._users or self._before is None:
                return
            cudnn.deterministic, cudnn.benchmark, rounding = self._before
            rounding.restore()


_strictness = _Strictness()


def strict_arithmetic() -> AbstractContextManager[None]:
    """Compute in full float32 and with a fixed order of sums, so that a resumed run gives the same bytes.

    Reduced precision is selected layer by layer in :func:`~replk_probe.erf.prepare`. Threads may overlap. A network
    may read torch's settings or change them in a context manager of its own, for instance
    ``torch.backends.cudnn.flags()``, in which its own values are used.

    cuDNN is restricted to deterministic algorithms and does not time several of them (``benchmark``): which one is
    fastest differs between runs, and so would the last digits. Torch's own input gradients of depthwise convolutions
    have no atomic additions and would not need the restriction, but it cannot be set for them alone. What it costs was
    not measured.
    """
    return _strictness


def is_autocast(device: torch.device) -> bool:
    """Whether operations on ``device`` are computed under ``torch.autocast`` now."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disable the caller's ``torch.autocast``, so that a model computes in its own data types."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


@contextmanager
def measuring(device: torch.device, size: Sequence[int], threads: int | None = None) -> Iterator[None]:
    """Context of a measurement: fast, in exact arithmetic, with advice if memory is exhausted.

    ``threads`` is the number of threads of torch meanwhile, or None to leave it unchanged.
    """
    before = torch.get_num_threads()
    with kept_blocks(), out_of_memory_explained(size), strict_arithmetic(), without_autocast(device):
        try:
            if threads not in (None, before):
                torch.set_num_threads(threads)
            yield
        finally:
            if threads not in (None, before):
                torch.set_num_threads(before)
