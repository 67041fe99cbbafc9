"""What the native library is here, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import _loader
from ._choice import forced, make_plan, uncovered


@dataclass(frozen=True)
class NativeInfo:
    """The native library on this machine.

    Attributes:
        loaded: Whether it is there and could be opened.
        path: Its file, or None.
        abi_version: Version of its C interface that this package needs.
        compiler: What built it, or None.
        isa: The instruction set used: ``portable``, ``avx2`` or ``avx512``; None where there is no library.
        best_isa: The best that this CPU and the library have.
        methods: Those that the library has for ``isa``.
        openmp: File of the OpenMP runtime, torch's own, whose threads it works on; None: threads of its own.
        load_error: Why it is not there, or None.
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
    """The native library: found, opened, or why not.

    Raises:
        BackendError: The environment forces what there is not.
    """
    library = _loader.find_library()
    if isinstance(library, str):
        return NativeInfo(False, None, _loader.ABI_VERSION, None, None, None, (), None, library)
    isa = forced()[0] or _loader.ISA_NAMES[library.best_isa]
    return NativeInfo(
        loaded=True,
        path=str(library.path),
        abi_version=_loader.ABI_VERSION,
        compiler=library.compiler,
        isa=isa,
        best_isa=_loader.ISA_NAMES[library.best_isa],
        methods=_methods(library),
        openmp=library.openmp,
        load_error=None,
    )


def describe_backend(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """What computes a covered convolution, in a few words for records: ``"native avx512"``, or ``"aten (REASON)"``.

    ``REPLK_PROBE_ISA`` and ``REPLK_PROBE_METHOD`` are named where they are set.
    """
    device = torch.device(device)
    if device.type != "cpu":
        return f"aten (the device is {device.type})"
    reason = uncovered(dtype)
    if reason is not None:
        # The library's own reason may fill a page; a record has room for its kind.
        return f"aten ({reason.partition('. ')[0]})"
    method = forced()[1]
    return f"native {native_info().isa}" + (f", method {method} forced" if method not in (None, "", "auto") else "")


def _methods(library: _loader.Library) -> tuple[str, ...]:
    """Methods that can compute something: asked with a small problem that each is made for."""
    found = []
    for name, number in _loader.METHODS.items():
        if name in ("auto", "aten"):
            continue
        problem = _loader.Problem(_loader.FORWARD, 0, 0, number, _isa_number(), 1, 1, 64, 14, 14, 7, 7)
        if library.plan(problem, _loader.Plan()) == 0:
            found.append(name)
    return tuple(found)


def _isa_number() -> int:
    # Checked there: an unknown or missing instruction set is an error.
    problem, _ = make_plan(_loader.FORWARD, (1, 64, 14, 14), (7, 7), torch.float32, threads=1)
    return int(problem.isa)
