"""Finds and loads the native library, and declares its C interface (csrc/include/replk/dwconv2d.h) for ctypes."""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_LOGGER = logging.getLogger(__name__)

# Version of the interface that the structures below describe.
ABI_VERSION = 6
FILE_NAME = "libreplk_dwconv2d" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
# Path of another file to load, for example one built with a sanitizer.
LIBRARY_VARIABLE = "REPLK_PROBE_LIBRARY"
_INSTALL = (
    "Until it is installed, torch's own convolution and Fourier transforms are used, which are many times slower for "
    "large kernels. Install a C++17 compiler (g++ or clang++; CXX names another one) and install the package again "
    "from the same source: pip install --force-reinstall --no-deps --no-cache-dir SOURCE."
)
_NAME_ANOTHER = f"Set {LIBRARY_VARIABLE} to a library that this package's setup.py built, or unset it to use its own."
# Written by setup.py if the library could not be built.
_BUILD_ERROR = "_build_error.txt"
_IMPORTED_IN = os.getpid()

FORWARD, GRAD_INPUT, GRAD_WEIGHT = 0, 1, 2
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
METHODS = {"auto": 0, "direct": 1, "fft": 2, "blocked": 3, "blocked-pfa": 4, "reference": 5, "aten": 6}
# Activations of a pointwise layer.
ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2, "relu6": 3}
METHOD_NAMES = {number: name for name, number in METHODS.items()}
HOST = METHODS["aten"]
INSTRUCTION_SETS = ("portable", "avx2", "avx512", "neon")
"""Names of the instruction sets that the native library may have kernels for: ``"portable"`` on every CPU, ``"avx2"``
and ``"avx512"`` on x86-64, and ``"neon"`` on 64-bit Arm. Those of one architecture are in the order of their speed."""
ISAS = {name: number for number, name in enumerate(("auto", *INSTRUCTION_SETS))}
ISA_NAMES = {number: name for name, number in ISAS.items()}

_Strides = ctypes.c_int64 * 3


class Problem(ctypes.Structure):
    """``replk_problem``: the convolution to compute."""

    _fields_ = (
        ("direction", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("method", ctypes.c_int32),
        ("isa", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("n", ctypes.c_int64),
        ("c", ctypes.c_int64),
        ("h", ctypes.c_int64),
        ("w", ctypes.c_int64),
        ("kh", ctypes.c_int64),
        ("kw", ctypes.c_int64),
        ("prepared", ctypes.c_int32),
        ("channels_last", ctypes.c_int32),
    )


class Plan(ctypes.Structure):
    """``replk_plan``: method, instruction set and memory of the computation."""

    _fields_ = (
        ("method", ctypes.c_int32),
        ("isa", ctypes.c_int32),
        ("channels_last", ctypes.c_int32),
        ("tile_h", ctypes.c_int64),
        ("tile_w", ctypes.c_int64),
        ("packed_bytes", ctypes.c_int64),
        ("workspace_bytes", ctypes.c_int64),
        ("checksum", ctypes.c_uint64),
    )


class Buffers(ctypes.Structure):
    """``replk_buffers``: the memory of one call."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("input_stride", _Strides),
        ("grad", ctypes.c_void_p),
        ("grad_stride", _Strides),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("output_stride", _Strides),
        ("packed", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("packed_was_stale", ctypes.c_int32),
    )


class Pointwise(ctypes.Structure):
    """``replk_pointwise``: the matrices of one call of a pointwise layer."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("activation", ctypes.c_int32),
        ("bias_of_columns", ctypes.c_int32),
        ("input_dtype", ctypes.c_int32),
        ("output_dtype", ctypes.c_int32),
        ("input", ctypes.c_void_p),
        ("input_stride", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("residual_stride", ctypes.c_int64),
        ("output", ctypes.c_void_p),
        ("output_stride", ctypes.c_int64),
        ("derivative", ctypes.c_void_p),
        ("derivative_stride", ctypes.c_int64),
    )


class _Kernel(ctypes.Structure):
    """``replk_kernel``: one compiled kernel."""

    _fields_ = (
        ("name", ctypes.c_char * 48),
        ("method", ctypes.c_int32),
        ("isa", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("direction", ctypes.c_int32),
        ("uses_fft", ctypes.c_int32),
    )


@dataclass(frozen=True)
class NativeKernel:
    """One compiled kernel of the native library.

    Attributes:
        method: ``"direct"``, ``"fft"``, ``"blocked"``, ``"blocked-pfa"`` or ``"reference"``.
        isa: Instruction set, one of :data:`replk_probe.ops.INSTRUCTION_SETS`.
        dtype: ``"float32"`` or ``"bfloat16"``.
        direction: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        uses_fft: Whether it computes through FFTs, whose rounding errors are relative to the whole plane.
    """

    method: str
    isa: str
    dtype: str
    direction: str
    uses_fft: bool


@dataclass(frozen=True)
class Library:
    """The loaded library."""

    path: Path  # file of the library
    compiler: str  # name of the compiler that built it
    best_isa: int  # number of the best instruction set that both this CPU and the library support
    # File of the OpenMP runtime whose threads it uses, which is torch's; None if it starts its own threads.
    openmp: str | None
    kernels: tuple[NativeKernel, ...]  # the kernels that this CPU can run
    isas: tuple[str, ...]  # the instruction sets of these kernels
    plan: Any  # replk_dwconv2d_plan(Problem*, Plan*) -> status
    pack: Any  # replk_dwconv2d_pack(Problem*, Plan*, weight, packed) -> status
    run: Any  # replk_dwconv2d_run(Problem*, Plan*, Buffers*) -> status
    status_text: Any  # replk_status_string(status)
    # Their first arguments are the instruction set, threads, rows and columns; they return a status.
    gelu_forward: Any  # replk_gelu_forward(..., input, output, squares)
    gelu_products: Any  # replk_gelu_products(..., input, grad, products)
    gelu_grad_input: Any  # replk_gelu_grad_input(..., input, grad, grad_scale, output_scale, output)
    pointwise_forward: Any  # replk_pointwise_forward(isa, threads, Pointwise*) -> status
    pointwise_backward: Any  # replk_pointwise_backward(isa, threads, Pointwise*) -> status
    measure_fma_peak: Any  # replk_measure_fma_peak(isa, threads, seconds) -> GFLOP/s


@functools.cache
def find_library() -> Library | str:
    """The library, loaded once, or an explanation why it is not available and what to do."""
    named = os.environ.get(LIBRARY_VARIABLE)
    path = Path(named) if named else Path(__file__).with_name(FILE_NAME)
    found = _open(path)
    if isinstance(found, str):
        if named:
            found = f"{LIBRARY_VARIABLE} names {path}. {found} {_NAME_ANOTHER}"
        else:
            found = f"The native library is expected at {path}. {found} {_INSTALL}"
        _LOGGER.warning("The native convolution is not used. %s", found)
    return found


def _why_missing(path: Path) -> str:
    if path.exists():
        return "It is not a file."
    try:
        reason = path.with_name(_BUILD_ERROR).read_text(encoding="utf-8").strip()
    except OSError:
        return "The file does not exist."
    return f"It could not be built when the package was installed. {reason}\n"


def _open(path: Path) -> Library | str:
    """Load the library, check its version, declare its functions and set torch's threads; or why that failed."""
    if not path.is_file():
        return _why_missing(path)
    try:
        # An absolute path, so that the system does not search elsewhere.
        library = ctypes.CDLL(str(path.absolute()))
    except OSError as error:
        reason = str(error).removeprefix(f"{path.absolute()}: ")
        return f"It cannot be loaded on this machine: {reason}."
    try:
        version = int(library.replk_abi_version())
    except AttributeError:
        return "It is a different library: it has no function replk_abi_version."
    if version != ABI_VERSION:
        return f"It is from another build: its interface has version {version}, and this package needs {ABI_VERSION}."
    problem, plan = ctypes.POINTER(Problem), ctypes.POINTER(Plan)
    gelu = (ctypes.c_int32, ctypes.c_int32, ctypes.c_int64, ctypes.c_int64)
    pointwise = (ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(Pointwise))
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "replk_best_isa": (ctypes.c_int32, ()),
        "replk_compiler": (ctypes.c_char_p, ()),
        "replk_status_string": (ctypes.c_char_p, (ctypes.c_int32,)),
        "replk_set_gomp_parallel": (None, (ctypes.c_void_p,)),
        "replk_dwconv2d_kernel": (ctypes.c_int32, (ctypes.c_int32, ctypes.POINTER(_Kernel))),
        "replk_dwconv2d_plan": (ctypes.c_int32, (problem, plan)),
        "replk_dwconv2d_pack": (ctypes.c_int32, (problem, plan, ctypes.c_void_p, ctypes.c_void_p)),
        "replk_dwconv2d_run": (ctypes.c_int32, (problem, plan, ctypes.POINTER(Buffers))),
        "replk_gelu_forward": (ctypes.c_int32, (*gelu, *[ctypes.c_void_p] * 3)),
        "replk_gelu_products": (ctypes.c_int32, (*gelu, *[ctypes.c_void_p] * 3)),
        "replk_gelu_grad_input": (ctypes.c_int32, (*gelu, *[ctypes.c_void_p] * 5)),
        "replk_pointwise_forward": (ctypes.c_int32, pointwise),
        "replk_pointwise_backward": (ctypes.c_int32, pointwise),
        "replk_measure_fma_peak": (ctypes.c_double, (ctypes.c_int32, ctypes.c_int32, ctypes.c_double)),
    }
    functions: dict[str, Any] = {}
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            return f"It is from another build: it has no function {name}."
        function.restype, function.argtypes = result, arguments
        functions[name.removeprefix("replk_").removeprefix("dwconv2d_")] = function
    # OpenMP's thread pool does not survive a fork: in a child process, waiting for it would never end.
    start, openmp = _torch_threads() if os.getpid() == _IMPORTED_IN else (None, None)
    functions["set_gomp_parallel"](start)
    kernels = tuple(_kernels(functions["kernel"]))
    return Library(
        path=path,
        compiler=functions["compiler"]().decode(),
        best_isa=functions["best_isa"](),
        openmp=openmp,
        kernels=kernels,
        isas=tuple(name for name in INSTRUCTION_SETS if any(kernel.isa == name for kernel in kernels)),
        plan=functions["plan"],
        pack=functions["pack"],
        run=functions["run"],
        status_text=functions["status_string"],
        gelu_forward=functions["gelu_forward"],
        gelu_products=functions["gelu_products"],
        gelu_grad_input=functions["gelu_grad_input"],
        pointwise_forward=functions["pointwise_forward"],
        pointwise_backward=functions["pointwise_backward"],
        measure_fma_peak=functions["measure_fma_peak"],
    )


def _kernels(describe: Any) -> Iterator[NativeKernel]:
    kernel = _Kernel()
    for index in itertools.count():
        if describe(index, kernel):
            return
        method, isa, dtype, direction = kernel.name.decode().split()
        yield NativeKernel(method, isa, dtype, direction, bool(kernel.uses_fft))


class _SymbolInfo(ctypes.Structure):
    """``Dl_info`` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _torch_threads() -> tuple[int | None, str | None]:
    """Address of ``GOMP_parallel`` in the OpenMP runtime that torch itself is linked with, and that runtime's file.

    The lookup starts at torch's own library and follows its dependencies, so that it finds torch's runtime even if
    other packages have loaded another one; nothing is loaded. ``(None, None)`` if torch has no such runtime.
    """
    if not hasattr(os, "RTLD_NOLOAD"):
        return None, None
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    own = Path(torch.__file__).parent / "lib" / f"libtorch_cpu{suffix}"
    try:
        # The process itself is searched second, in case torch is statically linked into a program.
        for name in (str(own), None):
            try:
                handle = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY if name else ctypes.DEFAULT_MODE)
                address = ctypes.cast(handle.GOMP_parallel, ctypes.c_void_p).value
                break
            except (OSError, AttributeError):
                continue
        else:
            return None, None
        info = _SymbolInfo()
        locate = ctypes.CDLL(None).dladdr
        locate.argtypes = (ctypes.c_void_p, ctypes.POINTER(_SymbolInfo))
        found = locate(address, ctypes.byref(info)) and info.file
        return address, os.fsdecode(found) if found else "unknown file"
    except (OSError, AttributeError):
        return None, None
