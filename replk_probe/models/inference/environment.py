"""The environment that affects the rounding of a result: the device, its software and the number of threads."""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import suppress
from typing import Any

import torch

from replk_probe.errors import BackendError
from replk_probe.ops import describe_backend, describe_machine, native_info, prefers_onednn
from replk_probe.ops.tuning.device import DRIVER, driver_version
from replk_probe.runtime.devices import device_name
from replk_probe.runtime.provenance import software_versions

_DRIVER = DRIVER


def environment_of(device: torch.device) -> dict[str, Any]:
    """The environment of a measurement on ``device`` as JSON values, which a resumed run has to have as well.

    Sums are split among threads, so that maps differ in their last digits between numbers of threads.
    """
    threads: dict[str, Any] = {"threads": torch.get_num_threads()}
    if device.type == "cpu":
        return threads | {
            "processor": describe_machine()["cpu"],
            "instruction set of torch": torch.backends.cpu.get_cpu_capability(),
            "large float32 products": "oneDNN" if prefers_onednn() else "torch's own choice",
            "convolutions": _convolutions(device),
        }
    return threads | {"GPU": device_name(device)} | _software_of(device) | {"convolutions": _convolutions(device)}


def versions_on(device: torch.device) -> dict[str, str]:
    """Versions of everything that affects the numbers of a measurement on ``device``, for its record."""
    return software_versions() | {name: str(version or "unknown") for name, version in _software_of(device).items()}


def _software_of(device: torch.device) -> dict[str, Any]:
    """Versions of the software of a GPU by name; empty for a CPU."""
    if device.type == "cuda":
        return {
            "driver version": _driver_version(),
            "CUDA version": torch.version.cuda,
            "cuDNN version": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            **_triton_version(),
        }
    if device.type == "xpu":
        return {"driver version": torch.xpu.get_device_properties(device).driver_version, **_triton_version()}
    return {"macOS version": platform.mac_ver()[0]} if device.type == "mps" else {}


def _triton_version() -> dict[str, str]:
    """The version of Triton, which compiles kernels for a GPU; empty where it is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return {"Triton version": importlib.metadata.version("triton")}
    return {}


def _convolutions(device: torch.device) -> str:
    """What computes large depthwise convolutions; the plan of each follows from it and the number of threads."""
    try:
        backend = describe_backend(device)
    except BackendError as error:  # the network may have none
        return str(error)
    compiler = native_info().compiler
    return f"{backend}, {compiler}" if backend.startswith("native") and compiler else backend


def _driver_version() -> str | None:
    """Version of the NVIDIA driver, or None if it is not known."""
    return driver_version(_DRIVER)
