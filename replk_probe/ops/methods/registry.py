"""The methods among which the tuner chooses on a device."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .. import _loader
from .interface import ConvMethod
from .layouts import AtenMethod
from .native import NativeMethod
from .torch_fft import TorchFFT

# What computes a convolution for which nothing was chosen: on a CPU the library decides.
DEFAULTS = {"cuda": "aten", "cpu": "auto"}

_LAYOUTS: Mapping[str, torch.memory_format] = {
    "aten-nchw": torch.contiguous_format,
    "aten-channels-last": torch.channels_last,
}
_OF_THE_LIBRARY = ("direct", "fft", "blocked", "blocked-pfa")


def methods_on(device: torch.device, *, prepared: bool = True) -> dict[str, ConvMethod | str]:
    """The methods by name, the default first; instead of one that cannot be used, the reason.

    Args:
        device: Device of the tensors.
        prepared: Whether the native library prepares weights once for many calls.
    """
    found: dict[str, ConvMethod | str]
    if device.type == "cpu":
        found = {"auto": NativeMethod("auto", prepared=prepared), "aten": AtenMethod("aten")}
        if not isinstance(_loader.find_library(), str):
            found |= {name: NativeMethod(name, prepared=prepared) for name in _OF_THE_LIBRARY}
        return found | {TorchFFT.name: TorchFFT()}
    found = {"aten": AtenMethod("aten")}
    found |= {name: AtenMethod(name, layout) for name, layout in _LAYOUTS.items()}
    return found | {TorchFFT.name: TorchFFT(), "triton-toeplitz": _triton_toeplitz()}


def _triton_toeplitz() -> ConvMethod | str:
    try:
        from .triton_toeplitz import TritonToeplitz

        method: ConvMethod = TritonToeplitz()
    except Exception as error:  # no Triton, no compiler, or a version with another interface
        return reason_of(error)
    return method


def reason_of(error: Exception) -> str:
    """An exception as a reason: its class and the beginning of its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"[:200]
