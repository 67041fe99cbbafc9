"""Choice of the backend: defaults, overrides and reports."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from replk_probe import ops
from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.models.inference.input_gradient import MethodLog, freeze_layers
from replk_probe.ops import _cpu, _fallback, _loader
from replk_probe.ops.methods.torch_fft import TorchFFT

Close = Callable[..., None]


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Run as if the library had not been built; returns the path where it would be."""
    place = tmp_path / _loader.FILE_NAME
    monkeypatch.delenv("REPLK_PROBE_LIBRARY", raising=False)
    monkeypatch.setattr(_loader, "__file__", str(tmp_path / "_loader.py"))
    _loader.find_library.cache_clear()
    yield place
    _loader.find_library.cache_clear()
    _cpu._thread.calls.clear()


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler here")
def test_the_library_is_built_where_there_is_a_compiler() -> None:
    info = ops.native_info()
    assert info.loaded, info.load_error
    assert info.path is not None and Path(info.path).is_file() and info.load_error is None
    assert info.abi_version == 6 and info.compiler and info.isa == info.best_isa
    assert {"direct", "fft", "blocked", "blocked-pfa", "reference"} <= set(info.methods)


def test_the_kernels_are_those_that_python_has_names_for(native: ops.NativeInfo) -> None:
    kernels = ops.native_kernels()
    assert {kernel.method for kernel in kernels} == set(_loader.METHODS) - {"auto", "aten"}
    assert {kernel.isa for kernel in kernels} <= set(_loader.ISAS) and kernels[-1].isa == native.best_isa
    assert {kernel.direction for kernel in kernels} == {"forward", "grad_input", "grad_weight"}
    assert {kernel.dtype for kernel in kernels} == {str(dtype).removeprefix("torch.") for dtype in _loader.DTYPES}
    assert len(set(kernels)) == len(kernels)


def test_a_plan_that_does_not_fit_its_problem_is_an_error(native: ops.NativeInfo) -> None:
    x, w = torch.randn(1, 16, 14, 14), torch.randn(16, 1, 7, 7)
    ops.depthwise_conv2d(x, w)
    (call,) = _cpu._thread.calls.values()
    call.problem.h = 10_000
    with pytest.raises(BackendError, match=r"the plan was made for another problem \(status 5\)"):
        ops.depthwise_conv2d(x, w)


def test_torchs_own_threads_are_used(native: ops.NativeInfo) -> None:
    if not torch.backends.openmp.is_available() or native.openmp is None:
        pytest.skip("this torch has no OpenMP runtime that can be shared")
    assert "omp" in Path(native.openmp).name
    maps = Path("/proc/self/maps")
    if maps.exists():  # no second runtime was loaded in addition to torch's
        lines = [line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line and ".so" in line]
        assert str(Path(native.openmp).resolve()) in {str(Path(line).resolve()) for line in lines}


@pytest.mark.parametrize(
    ("shapes", "more", "words"),
    [
        (((2, 3, 9, 8), (3, 1, 5, 7)), {}, None),
        (((2, 3, 9, 8), (3, 1, 5, 7)), {"padding": (2, 3), "stride": (1, 1), "groups": 3}, None),
        (((2, 3, 9, 8), (3, 1, 5, 5)), {"padding": 2}, None),
        (((2, 3, 9, 8), (3, 1, 5, 5)), {"padding": "same"}, None),
        (((2, 3, 9, 8), (3, 1, 5, 5)), {"padding": "valid"}, "padding is 'valid' and only half the kernel"),
        (((2, 3, 9, 8), (3, 1, 5, 5)), {"padding": 0}, "padding is 0 and only half the kernel"),
        (((2, 3, 9, 8), (3, 1, 5, 5)), {"stride": 2}, r"stride is \(2, 2\) and only stride 1 is compiled"),
        (((2, 3, 9, 8), (3, 1, 5, 5)), {"dilation": (1, 2)}, r"dilation is \(1, 2\) and only dilation 1"),
        (((2, 3, 9, 8), (3, 1, 4, 5)), {}, r"weight is \[3, 1, 4, 5\] and only odd kernels are compiled"),
        (((2, 3, 9, 8), (6, 1, 5, 5)), {}, r"weight is \[6, 1, 5, 5\] for 3 channels"),
        (((2, 3, 9, 8), (3, 1, 5, 5)), {"groups": 1}, "only one kernel per channel"),
        (((3, 9, 8), (3, 1, 5, 5)), {}, "3 and 4 axes"),
    ],
)
def test_reasons_of_geometry(
    native: object, shapes: tuple[tuple[int, ...], tuple[int, ...]], more: dict[str, Any], words: str | None
) -> None:
    reason = ops.unsupported_reason(torch.zeros(shapes[0]), torch.zeros(shapes[1]), **more)
    assert reason is None if words is None else re.search(words, str(reason))


def test_reasons_of_tensors(native: object, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.zeros(2, 3, 9, 8), torch.zeros(3, 1, 5, 5)
    assert ops.unsupported_reason(x.bfloat16(), w.bfloat16()) is None
    assert "float64" in str(ops.unsupported_reason(x.double(), w.double()))
    assert "dtypes differ: torch.float32, torch.bfloat16" in str(ops.unsupported_reason(x, w.bfloat16()))
    assert "the device is meta" in str(ops.unsupported_reason(x.to("meta"), w.to("meta")))
    assert "layout is torch.sparse_coo" in str(ops.unsupported_reason(x.to_sparse(), w))
    monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
    assert ops.unsupported_reason(x, w) == "REPLK_PROBE_METHOD=aten forces torch's convolution"


def test_without_a_library_torch_computes(
    without_library: Path, caplog: pytest.LogCaptureFixture, close: Close
) -> None:
    x, w, b = torch.randn(2, 3, 9, 8, requires_grad=True), torch.randn(3, 1, 5, 7), torch.randn(3)
    with caplog.at_level(logging.WARNING, logger="replk_probe"):
        for _ in range(2):
            close(ops.depthwise_conv2d(x, w, b, activation="relu"), x, w, b, relu=True)
        ops.depthwise_conv2d(x, w).sum().backward()
        conv = ops.DepthwiseConv2d(3, 3, 5, padding=2, groups=3).eval()
        close(conv(x), x, conv.weight, conv.bias)
    assert (
        len(caplog.records) == 1
        and "The file does not exist. Until it is installed, torch's own convolution" in caplog.text
    )
    info = ops.native_info()
    assert not info.loaded and info.path is None and info.methods == () and str(without_library) in str(info.load_error)
    assert ops.describe_backend() == "aten or torch-fft (the native library is not available)"
    assert ops.planned_method((1, 3, 9, 8), 5).method == "aten"
    with pytest.raises(BackendError, match="Native kernel refused: the native library is not available"):
        ops.depthwise_conv2d(x, w, backend="native")


SIZES = [((1, 2, 28, 28), 17), ((1, 2, 28, 28), 13), ((1, 2, 8, 8), 61), ((1, 1, 128, 128), 61), ((1, 1, 64, 64), 31)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_without_a_library_large_kernels_are_computed_by_fourier_transforms(
    without_library: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is planned is what computes; torch's convolution may be in a format in which it is fast."""
    used: list[str] = []
    for method, label in ((_fallback, "aten"), (TorchFFT, "torch-fft")):
        for direction in ("forward", "grad_input", "grad_weight"):
            real = getattr(method, direction)
            watched = lambda *args, real=real, label=label: (used.append(label), real(*args))[1]  # noqa: E731
            monkeypatch.setattr(method, direction, watched)
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if dtype == torch.bfloat16:
        has_onednn = has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    by_fft = {direction: [True, False, False, True, True] for direction in ("forward", "grad_input", "grad_weight")}
    if dtype != torch.float64 and has_onednn:
        by_fft["forward"] = by_fft["grad_input"] = [False, False, False, True, False]
    for index, (shape, kernel) in enumerate(SIZES):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
            w = torch.randn(shape[1], 1, kernel, kernel).to(dtype)
            calls: dict[Any, Callable[[], torch.Tensor]] = {
                "forward": lambda x=x, w=w: ops.depthwise_conv2d(x, w),
                "grad_input": lambda x=x, w=w: ops.conv_input_gradient(x, w),
                "grad_weight": lambda x=x, w=w: torch.ops.replk_probe.dwconv2d_grad_weight(x, x, *w.shape[2:]),
            }
            for direction, call in calls.items():
                is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
                planned = ops.planned_method(shape, kernel, dtype, direction, channels_last=is_last)
                assert planned.method == ("torch-fft" if by_fft[direction][index] else "aten")
                assert planned.isa is None
                assert ("dtype is torch.float64" if dtype == torch.float64 else "not available") in str(planned.reason)
                used.clear()
                call()
                assert used[0] == planned.method  # torch's input gradient is a forward pass
                monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
                if shape[2] < 128:  # which takes long
                    used.clear()
                    call()
                    assert used[0] == "aten"
                assert "aten" == ops.planned_method(shape, kernel, dtype, direction).method
                assert ops.describe_backend(dtype=dtype).startswith("aten (")
                monkeypatch.delenv("REPLK_PROBE_METHOD")
    assert ops.describe_backend(dtype=dtype).startswith("aten or torch-fft (")


def test_with_a_library_torchs_part_stays_torchs_convolution(native: ops.NativeInfo) -> None:
    for direction in ("forward", "grad_input", "grad_weight"):
        assert ops.planned_method((1, 1, 128, 128), 61, torch.float64, direction).method == "aten"  # type: ignore[arg-type]
    assert ops.planned_method((1, 1, 128, 128), 255, direction="grad_weight").method == "aten"


def test_the_method_of_a_frozen_layer_is_recorded(without_library: Path) -> None:
    conv, log = ops.DepthwiseConv2d(1, 1, 61, padding=30, groups=1), MethodLog()
    freeze_layers(conv, log)
    conv(torch.randn(1, 1, 128, 128))
    assert [method.partition(". ")[0] for method in log.take()] == ["torch-fft: the native library is not available"]


def test_why_nothing_was_built_is_passed_on(without_library: Path) -> None:
    without_library.with_name("_build_error.txt").write_text("No C++ compiler was found: none of g++ is on the PATH.\n")
    error = ops.native_info().load_error
    assert error is not None and "It could not be built when the package was installed. No C++ compiler was" in error
    assert error.endswith("--no-cache-dir SOURCE.")


def test_a_file_that_is_no_library_is_an_explained_fallback(without_library: Path) -> None:
    without_library.write_bytes(b"not a library")
    error = str(ops.native_info().load_error)
    assert error.startswith(
        f"The native library is expected at {without_library}. It cannot be loaded on this machine: file"
    )
    assert error.endswith("--no-cache-dir SOURCE.")


def test_a_library_of_another_version_is_not_used(
    native: ops.NativeInfo, without_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loader.find_library.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(_loader, "ABI_VERSION", 999)
    assert "its interface has version 6, and this package needs 999" in str(ops.native_info().load_error)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("nowhere", None, "The file does not exist."),
        (".", None, "It is not a file."),
        ("no.so", b"no library", "It cannot be loaded on this machine: file too short."),
        ("other.so", "another library", "It is a different library: it has no function replk_abi_version."),
    ],
)
def test_a_named_library_that_cannot_be_used_is_explained(
    without_library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes | str | None,
    why: str,
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        import _ctypes

        shutil.copy(_ctypes.__file__, path)
    monkeypatch.setenv("REPLK_PROBE_LIBRARY", str(path))
    assert ops.native_info().load_error == (
        f"REPLK_PROBE_LIBRARY names {path}. {why} Set REPLK_PROBE_LIBRARY to a library that this package's setup.py "
        "built, or unset it to use its own."
    )
    with pytest.raises(BackendError, match=r"refused: the native library is not available\. REPLK_PROBE_LIBRARY"):
        ops.depthwise_conv2d(torch.zeros(1, 3, 9, 8), torch.zeros(3, 1, 5, 5), backend="native")


def test_a_named_library_is_not_searched_for_elsewhere(
    native: ops.NativeInfo, without_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.path is not None
    monkeypatch.chdir(without_library.parent)
    shutil.copy(native.path, "here.so")
    monkeypatch.setenv("REPLK_PROBE_LIBRARY", "here.so")
    assert ops.native_info().loaded


def test_each_method_and_instruction_set_can_be_forced(
    native: ops.NativeInfo, monkeypatch: pytest.MonkeyPatch, close: Close
) -> None:
    x, w, b = torch.randn(2, 16, 14, 13), torch.randn(16, 1, 7, 7), torch.randn(16)
    for isa in dict.fromkeys(kernel.isa for kernel in ops.native_kernels()):
        monkeypatch.setenv("REPLK_PROBE_ISA", isa)
        info = ops.native_info()
        assert info.isa == isa and info.best_isa == native.best_isa
        assert ops.describe_backend() == f"native {isa}"
        for method in info.methods:
            monkeypatch.setenv("REPLK_PROBE_METHOD", method)
            planned = ops.planned_method(x.shape, 7)
            assert (planned.method, planned.isa, planned.reason) == (method, isa, None)
            assert ops.describe_backend() == f"native {isa}, method {method} forced"
            close(ops.depthwise_conv2d(x, w, b), x, w, b)
            close(ops.depthwise_conv2d(x, w, b, backend="native"), x, w, b)
        monkeypatch.delenv("REPLK_PROBE_METHOD")


def test_aten_can_be_forced(native: object, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(1, 3, 9, 8), torch.randn(3, 1, 5, 5)
    monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
    assert ops.planned_method((1, 3, 9, 8), 5).method == "aten"
    assert torch.equal(ops.depthwise_conv2d(x, w), torch.nn.functional.conv2d(x, w, padding=2, groups=3))
    with pytest.raises(BackendError, match="REPLK_PROBE_METHOD=aten forces torch's convolution"):
        ops.depthwise_conv2d(x, w, backend="native")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "REPLK_PROBE_ISA",
            "sse9",
            "REPLK_PROBE_ISA is 'sse9'. No instruction set has this name. Choose from portable",
        ),
        ("REPLK_PROBE_METHOD", "winograd", "REPLK_PROBE_METHOD is 'winograd'. No method has this name. Choose from"),
    ],
)
def test_a_wrong_environment_variable_is_an_error(
    native: object, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    x, w = torch.randn(1, 3, 9, 8), torch.randn(3, 1, 5, 5)
    ops.depthwise_conv2d(x, w)
    monkeypatch.setenv(name, value)
    with pytest.raises(BackendError, match=words):
        ops.depthwise_conv2d(x, w)
    with pytest.raises(BackendError, match=words):
        ops.planned_method((1, 3, 9, 8), 5)
    with pytest.raises(BackendError, match=words):
        ops.describe_backend()
    found = ops.describe_machine()
    assert words.partition(".")[0] in found["error"] and found["backends"] == {}
    assert found["native"]["isa"] is None and found["native"]["methods"] == ()
    monkeypatch.setenv(name, "auto")
    assert ops.native_info().isa == ops.native_info().best_isa and "forced" not in ops.describe_backend()
    monkeypatch.setenv(name, "")
    ops.depthwise_conv2d(x, w)


def test_an_instruction_set_of_another_processor_is_an_error(
    native: ops.NativeInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "avx2" if native.best_isa == "neon" else "neon"
    monkeypatch.setenv("REPLK_PROBE_ISA", other)
    words = f"REPLK_PROBE_ISA is '{other}'. This CPU, or the library as built, supports portable"
    with pytest.raises(BackendError, match=words):
        ops.planned_method((1, 3, 9, 8), 5)


def test_what_no_method_takes_torch_computes_unless_native_is_demanded(
    native: object, monkeypatch: pytest.MonkeyPatch, close: Close
) -> None:
    from replk_probe.ops import _choice, _fallback

    real = _choice._plan

    def plan(library: Any, problem: Any, native: bool) -> Any:
        found = real(library, problem, native)
        if problem.method == 0:
            found.method = _loader.HOST
        return found

    monkeypatch.setattr(_choice, "_plan", plan)
    calls: list[str] = []
    for name in ("forward", "grad_input", "grad_weight"):
        function = getattr(_fallback, name)
        monkeypatch.setattr(_fallback, name, lambda *a, f=function, n=name: (calls.append(n), f(*a))[1])
    x, w = torch.randn(2, 3, 9, 8, requires_grad=True), torch.randn(3, 1, 5, 7, requires_grad=True)
    planned = ops.planned_method((2, 3, 9, 8), (5, 7))
    assert planned.method == "aten" and "no native method takes" in str(planned.reason)
    y = ops.depthwise_conv2d(x, w, backend="native")
    y.sum().backward()
    close(y, x, w)
    assert calls == []
    y = ops.depthwise_conv2d(x, w)
    y.sum().backward()
    close(y, x, w)
    assert [name for name in calls if name != "forward"] == ["grad_input", "grad_weight"]


def test_a_fallback_is_logged_once(native: object, caplog: pytest.LogCaptureFixture) -> None:
    _cpu._logged.clear()
    x, w = torch.randn(1, 3, 9, 8).double(), torch.randn(3, 1, 5, 5).double()
    with caplog.at_level(logging.INFO, logger="replk_probe"):
        for size in (8, 7, 6):
            ops.depthwise_conv2d(x[..., :size], w)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "by torch: dtype is torch.float64 and only float32, bfloat16 and float16 are" in caplog.text


def test_planned_methods(native: object) -> None:
    planned = ops.planned_method((1, 64, 56, 56), 51)
    assert planned.method in ("fft", "direct", "blocked", "blocked-pfa") and planned.isa == ops.native_info().isa
    assert planned.workspace_bytes <= 64 << 20
    assert ops.planned_method((1, 64, 56, 56), (51, 5), torch.bfloat16, "grad_input").method != "aten"
    assert ops.planned_method((1, 64, 56, 56), 30).reason == "the kernel is (30, 30) and only odd kernels are compiled"
    assert "float64" in str(ops.planned_method((1, 64, 56, 56), 31, torch.float64).reason)
    with pytest.raises(InvalidInputError, match="Unknown direction 'backward'"):
        ops.planned_method((1, 64, 56, 56), 31, direction="backward")  # type: ignore[arg-type]
    assert ops.planned_method((1, 64, 0, 56), 31).reason == "the output is empty"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (64, 56, 56)}, r"input_shape is \(64, 56, 56\). Four non-negative sizes"),
        ({"input_shape": (1, 64, -56, 56)}, "Four non-negative sizes are required"),
        ({"input_shape": (1, 64, 5.5, 56)}, "Four non-negative sizes"),
        ({"input_shape": ("1", 64, 56, 56)}, "Four non-negative sizes"),
        ({"input_shape": 64}, "input_shape is 64"),
        ({"kernel_size": 0}, "kernel_size is 0. Kernel sizes must be positive"),
        ({"kernel_size": (-3, 3)}, r"kernel_size is \(-3, 3\). Kernel sizes must be positive"),
        ({"kernel_size": 3.0}, "kernel_size is 3.0. One or two integers"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size is \(3, 3, 3\). One or two integers"),
        ({"kernel_size": "31"}, "kernel_size is '31'"),
        ({"dtype": "float32"}, "dtype is 'float32'. A torch.dtype is required"),
        ({"direction": ["forward"]}, r"Unknown direction \['forward'\]"),
        ({"threads": 0}, "threads is 0. The number of threads must be positive"),
        ({"threads": "2"}, "threads is '2'"),
    ],
)
def test_wrong_arguments_of_a_plan(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        ops.planned_method(**{"input_shape": (1, 64, 56, 56), "kernel_size": 31, **arguments})


def test_sizes_may_be_of_any_integer_type(native: object) -> None:
    import numpy as np

    assert ops.planned_method(np.array((1, 64, 56, 56)), np.int64(31)) == ops.planned_method((1, 64, 56, 56), (31, 31))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input": [1.0]}, "input is of type list. A torch.Tensor is required"),
        ({"weight": None}, "weight is of type NoneType"),
        ({"stride": "2"}, "stride is '2'"),
        ({"stride": (1, 1, 1)}, r"stride is \(1, 1, 1\)"),
        ({"padding": 2.0}, "padding is 2.0"),
    ],
)
def test_wrong_arguments_of_a_reason(arguments: dict[str, Any], words: str) -> None:
    problem = {"input": torch.zeros(1, 3, 9, 8), "weight": torch.zeros(3, 1, 5, 5)}
    assert ops.unsupported_reason(**problem, stride=(1,)) == ops.unsupported_reason(**problem)
    with pytest.raises(InvalidInputError, match=words):
        ops.unsupported_reason(**{**problem, **arguments})


@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("shape", [(1, 128, 256, 256), (8, 64, 512, 512), (1, 2048, 7, 7)])
@pytest.mark.parametrize("kernel", [7, 31, 61])
def test_scratch_memory_stays_within_64_mb(native: object, direction: Any, shape: tuple[int, ...], kernel: int) -> None:
    for threads in (1, 2, 16, 128):
        planned = ops.planned_method(shape, kernel, direction=direction, threads=threads)
        assert planned.workspace_bytes <= 64 << 20


def test_describe_backend() -> None:
    assert ops.describe_backend("cuda") == "aten (the device is cuda)"
    assert ops.describe_backend(dtype=torch.float64).startswith("aten (dtype is torch.float64")
    with pytest.raises(InvalidInputError, match="dtype is 'float32'"):
        ops.describe_backend(dtype="float32")  # type: ignore[arg-type]


def test_what_is_installed_can_be_described() -> None:
    found = ops.describe_machine()
    assert found["torch"] == torch.__version__ and found["cores"] and found["cpu"] and found["cpu_features"]
    assert set(found["backends"]) == {"float32", "bfloat16", "float16", "float64"} and found["error"] is None


def test_a_processor_without_a_name_is_named_by_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"processor": "0", "features": "fp asimd bf16", "cpu implementer": "0x41", "cpu part": "0xd40"}
    monkeypatch.setattr("replk_probe.ops._info._cpuinfo", lambda: entry)
    found = ops.describe_machine()
    assert (found["cpu"], found["cpu_features"]) == ("Arm, implementer 0x41, part 0xd40", ["asimd", "bf16"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("AMD EPYC", "AMD EPYC, family 26, model 2"), ("AMD EPYC 9654 96-Core", "AMD EPYC 9654 96-Core")],
)
def test_a_processor_without_a_number_in_its_name(name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"model name": name, "cpu family": "26", "model": "2", "flags": "avx2 fma"}
    monkeypatch.setattr("replk_probe.ops._info._cpuinfo", lambda: entry)
    assert ops.describe_machine()["cpu"] == expected


@pytest.mark.parametrize(("images", "method"), [(1, "blocked"), (8, "fft")])
def test_reading_a_prepared_weight_counts_once_for_all_images(
    native: ops.NativeInfo, monkeypatch: pytest.MonkeyPatch, images: int, method: str
) -> None:
    if native.best_isa != "avx512":
        pytest.skip("the rates of the other instruction sets differ")
    monkeypatch.delenv("REPLK_PROBE_ISA", raising=False)
    assert ops.planned_method((images, 96, 56, 56), 7).method == method
