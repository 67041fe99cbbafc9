"""A description of the native library and of the machine."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from replk_probe.errors import BackendError

from . import _loader
from ._choice import COMPUTED_IN, FORCED_TORCH, ISA_VARIABLE, METHOD_VARIABLE, forced, forced_numbers, uncovered
from ._prepared_weights import SPECTRA_VARIABLE, limit_bytes, used_bytes

# The reported CPU features that the kernels use or may use in the future.
_FEATURES = ("avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16")
_FEATURES_ELSEWHERE = ("neon", "asimd", "sve", "sve2", "bf16", "vsx", "v")
_VARIABLES = (ISA_VARIABLE, METHOD_VARIABLE, SPECTRA_VARIABLE, _loader.LIBRARY_VARIABLE)


@dataclass(frozen=True)
class NativeInfo:
    """The native library on this machine.

    Attributes:
        loaded: Whether the library was found and loaded.
        path: File of the library, or None.
        abi_version: Version of the C interface that this package needs.
        compiler: Compiler that built the library, or None.
        isa: Instruction set in use, one of :data:`INSTRUCTION_SETS`; None without a library, or if the environment
            names an unknown instruction set or method, in which case no convolution runs.
        best_isa: Best instruction set that this CPU and the library support.
        methods: Methods that the library has for ``isa``; empty if ``isa`` is None.
        openmp: File of torch's OpenMP runtime whose threads the library uses; None if it starts its own threads.
        load_error: Why the library is not available, and what to do; or None.
    """

    loaded: bool
    path: str | None
    abi_version: int
    compiler: str | None
    isa: str | None
    best_isa: str | None
    methods: tuple[str, ...]
    openmp: str | None
    load_error: str | None


def native_info() -> NativeInfo:
    """Describe the native library, or why it is not available.

    Returns:
        Path, compiler and instruction sets of the library; ``load_error`` says why it is not available.

    Examples:
        >>> from replk_probe.ops import native_info
        >>> info = native_info()
        >>> info.loaded == (info.load_error is None)
        True
    """
    library = _loader.find_library()
    if isinstance(library, str):
        return NativeInfo(False, None, _loader.ABI_VERSION, None, None, None, (), None, library)
    try:
        isa = forced_numbers(library)[0] or library.best_isa
    except BackendError:
        isa = -1
    return NativeInfo(
        loaded=True,
        path=str(library.path),
        abi_version=_loader.ABI_VERSION,
        compiler=library.compiler,
        isa=_loader.ISA_NAMES.get(isa),
        best_isa=_loader.ISA_NAMES[library.best_isa],
        methods=tuple(dict.fromkeys(k.method for k in library.kernels if k.isa == _loader.ISA_NAMES.get(isa))),
        openmp=library.openmp,
        load_error=None,
    )


def native_kernels() -> tuple[_loader.NativeKernel, ...]:
    """The kernels of the native library that this CPU can run; empty if there is no library.

    Returns:
        One entry for each method, instruction set, dtype and direction.

    Examples:
        >>> from replk_probe.ops import INSTRUCTION_SETS, native_kernels
        >>> all(kernel.isa in INSTRUCTION_SETS for kernel in native_kernels())
        True
    """
    library = _loader.find_library()
    return () if isinstance(library, str) else library.kernels


def measure_fma_peak(threads: int, isa: str | None = None, seconds: float = 0.2) -> float | None:
    """Multiply-add peak from registers, in 10^9 floating-point operations per second: the roofline of direct methods.

    Args:
        threads: Number of threads that run at once.
        isa: Instruction set; default: the one that the environment forces, else the best of this machine.
        seconds: Duration of the measurement; the fastest burst of each thread counts.

    Returns:
        The peak in 10^9 floating-point operations per second (GFLOP/s), or None without the native library.

    Raises:
        BackendError: The environment forces an instruction set that is not available.

    Examples:
        >>> from replk_probe.ops import measure_fma_peak
        >>> peak = measure_fma_peak(threads=1, seconds=0.01)
        >>> peak is None or peak > 0
        True
    """
    library = _loader.find_library()
    if isinstance(library, str):
        return None
    number = forced_numbers(library)[0] if isa is None else _loader.ISAS[isa]
    peak: float = library.measure_fma_peak(number, threads, seconds)
    return peak or None


def describe_backend(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """The backend of a supported convolution, as stored in results: ``"native avx512"``, or ``"aten (REASON)"``.

    A method forced by ``REPLK_PROBE_METHOD`` is included. ``"aten or torch-fft"`` if that depends on the sizes, see
    :func:`replk_probe.ops.planned_method`.

    Args:
        device: Device of the tensors.
        dtype: Dtype of the tensors.

    Returns:
        ``"native ISA"`` or ``"aten (REASON)"``.

    Raises:
        InvalidInputError: ``dtype`` is not a torch.dtype.
        BackendError: The environment forces a method or instruction set that does not exist on this machine.

    Examples:
        >>> import torch
        >>> from replk_probe.ops import describe_backend
        >>> describe_backend(dtype=torch.float64)  # "native avx512" for float32 on many machines
        'aten ...(dtype is torch.float64 and only float32, bfloat16 and float16 are computed natively)'
    """
    device = torch.device(device)
    if device.type != "cpu":
        return f"aten (the device is {device.type})"
    reason = uncovered(dtype)
    if reason is not None:
        is_chosen = forced()[1] not in FORCED_TORCH and isinstance(_loader.find_library(), str)
        found = "aten or torch-fft" if is_chosen else "torch-fft" if forced()[1] == "torch-fft" else "aten"
        # The first sentence only: the full reason may be long.
        return f"{found} ({reason.partition('. ')[0]})"
    library = _loader.find_library()
    assert not isinstance(library, str)  # this would have been a reason
    isa, method = forced_numbers(library)
    found = f"native {_loader.ISA_NAMES[isa or library.best_isa]}"
    found += f", method {_loader.METHOD_NAMES[method]} forced" if method else ""
    return found + (", computed in float32" if dtype in COMPUTED_IN else "")


def describe_machine() -> dict[str, Any]:
    """Everything that a report about speed or a wrong result needs, as JSON-compatible values.

    Returns:
        ``cpu``, ``cpu_features``, ``cores``, ``torch``, ``torch_threads``, ``native`` (:class:`NativeInfo`),
        ``backends`` by dtype, ``spectra_bytes``, ``spectra_limit_bytes``, ``environment``, ``error`` (an error in the
        environment, or None).

    Examples:
        >>> import torch
        >>> from replk_probe.ops import describe_machine
        >>> describe_machine()["torch_threads"] == torch.get_num_threads()
        True
    """
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cpu_features": _cpu_features(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "native": asdict(native_info()),
        "spectra_bytes": used_bytes(),
        "environment": {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
        "error": None,
    }
    found["spectra_limit_bytes"], found["backends"] = None, {}
    try:
        found["spectra_limit_bytes"] = limit_bytes()
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            found["backends"][str(dtype).removeprefix("torch.")] = describe_backend("cpu", dtype)
    except BackendError as error:
        found["error"] = str(error)
    return found


def _cpuinfo() -> dict[str, str]:
    """The first CPU's entry in /proc/cpuinfo; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in lines}


def _cpu_name() -> str:
    info = _cpuinfo()
    # On Arm, numbers: without them, the choices of the tuner would be taken for those of every other model.
    part = info.get("cpu part")
    arm = part and f"Arm, implementer {info.get('cpu implementer')}, part {part}"
    name = info.get("model name")
    if name and not any(map(str.isdigit, name)) and "cpu family" in info:
        # A virtual machine may hide which of all EPYC processors it runs on.
        name = f"{name}, family {info['cpu family']}, model {info.get('model')}"
    return name or info.get("cpu") or arm or platform.processor() or platform.machine()


def is_amd() -> bool:
    """Whether the CPU is one by AMD."""
    # On Windows, the name contains the vendor.
    return "AuthenticAMD" in (_cpuinfo().get("vendor_id") or platform.processor())


def _cpu_features() -> list[str]:
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("features") or info.get("isa") or "").split()
    known = _FEATURES if "flags" in info else _FEATURES_ELSEWHERE
    # Without /proc/cpuinfo, the capability that torch reports.
    return [name for name in known if name in flags] or [torch.backends.cpu.get_cpu_capability().lower()]
