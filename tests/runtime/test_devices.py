"""Tests of devices, strict float32 and out-of-memory errors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.models.inference.environment import environment_of
from replk_probe.runtime.devices import (
    device_label,
    experimental_note,
    is_out_of_memory,
    memory_of,
    out_of_memory_explained,
    preserved_generators,
    resolve_device,
    strict_arithmetic,
)
from replk_probe.runtime.float32_settings import make_strict


def test_devices_are_checked_to_be_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu") == resolve_device(torch.device("cpu", 0))
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_label(torch.device("cpu")) == "cpu"
    with pytest.raises(InvalidInputError, match="'abacus'"):
        resolve_device("abacus")
    with pytest.raises(BackendError, match="'meta' is not supported"):
        resolve_device("meta")


@pytest.mark.skipif(torch.mps.is_available() or torch.xpu.is_available(), reason="this machine has such a GPU")
@pytest.mark.parametrize(("name", "maker"), [("mps", "Apple"), ("xpu", "Intel")])
def test_a_gpu_that_is_missing_is_an_error(name: str, maker: str) -> None:
    message = f"Device '{name}' is not available. Torch finds no GPU of {maker}. Use cpu."
    with pytest.raises(BackendError, match=re.escape(message)):
        resolve_device(name)


def test_gpus_of_apple_and_intel_are_experimental(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.mps, torch.xpu):
        monkeypatch.setattr(module, "is_available", lambda: True)
        monkeypatch.setattr(module, "device_count", lambda: 1)
    monkeypatch.setattr(torch.xpu, "current_device", lambda: 0)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: "Intel Arc B580")
    properties = SimpleNamespace(total_memory=12 << 30, driver_version="1.6.33578")
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 20 << 30)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M4 Pro")
    apple, intel = resolve_device("mps"), resolve_device("xpu")
    assert (apple, intel) == (torch.device("mps", 0), torch.device("xpu", 0))  # as the device of a tensor there
    assert resolve_device("xpu:0") == intel and resolve_device("auto").type not in ("mps", "xpu")
    with pytest.raises(BackendError, match="This machine has 1 GPU, numbered from 0"):
        resolve_device("xpu:1")
    assert (device_label(apple), device_label(intel)) == ("mps:0 (Apple M4 Pro)", "xpu:0 (Intel Arc B580)")
    assert (memory_of(apple), memory_of(intel)) == (20 << 30, 12 << 30)
    assert all("support is experimental" in str(experimental_note(device)) for device in (apple, intel))
    assert experimental_note(torch.device("cpu")) is experimental_note(torch.device("cuda", 0)) is None
    assert environment_of(intel)["GPU"] == "Intel Arc B580" and environment_of(apple)["GPU"] == "Apple M4 Pro"
    assert environment_of(intel)["driver version"] == "1.6.33578" and "macOS version" in environment_of(apple)
    assert environment_of(intel)["convolutions"] == "aten (the device is xpu)"


def test_the_generators_of_a_gpu_are_preserved(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"xpu:0": torch.tensor([1]), "mps:0": torch.tensor([2])}
    for module in (torch.mps, torch.xpu):
        monkeypatch.setattr(module, "get_rng_state", lambda device: states[str(device)])
        monkeypatch.setattr(module, "set_rng_state", lambda state, device: states.update({str(device): state}))
    before, random = dict(states), torch.get_rng_state()
    with preserved_generators(torch.device("xpu", 0), torch.device("mps", 0), torch.device("cpu")):
        torch.rand(1)
        states.clear()
    assert states == before and torch.equal(torch.get_rng_state(), random)


def test_float32_is_strict_inside_and_as_before_outside() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        settings = torch.backends.mkldnn.matmul.fp32_precision
        with pytest.raises(ZeroDivisionError), strict_arithmetic():
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert torch.backends.cudnn.deterministic
            raise ZeroDivisionError
        assert torch.backends.mkldnn.matmul.fp32_precision == settings
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_running_out_of_memory_is_an_error_with_advice() -> None:
    with pytest.raises(BackendError, match=r"1024x512.*smaller size, or"), out_of_memory_explained((1024, 512)):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="another"), out_of_memory_explained((8, 8)):
        raise RuntimeError("another error")


@pytest.mark.parametrize(
    "message",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "MPS backend out of memory (MPS allocated: 8.00 GB)",
    ],
)
def test_failed_allocations_of_libraries_are_explained(message: str) -> None:
    with pytest.raises(BackendError, match=r"Not enough memory for images of 8x8\. An allocation failed"):
        with out_of_memory_explained((8, 8)):
            raise RuntimeError(message)
    assert not is_out_of_memory(ValueError(message))


def test_overlapping_measurements_leave_the_settings_as_they_were() -> None:
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    first, second = strict_arithmetic(), strict_arithmetic()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert settings.fp32_precision == before


class Cautious(torch.nn.Module):
    """Reads and changes torch's settings in its forward pass, as networks of users do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.seen: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]
        torch.get_float32_matmul_precision()
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):  # type: ignore[no-untyped-call]
            found: torch.Tensor = self.conv(images)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # type: ignore[no-untyped-call]
            found = found.relu()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch built without support of Intel GPUs warns of its own default
            with torch.backends.mkldnn.flags(enabled=True):  # type: ignore[no-untyped-call]
                return found.relu()


def settings() -> dict[str, object]:
    """Everything that torch says about the precision of float32 products."""
    backends: Any = torch.backends
    found: dict[str, object] = {
        f"{backend}.{operation}": torch._C._get_fp32_precision_getter(backend, operation)
        for backend in ("cuda", "mkldnn")
        for operation in ("all", "matmul", "conv", "rnn")
    }
    found["generic"] = backends.fp32_precision
    for name, read in (
        ("cudnn", lambda: backends.cudnn.allow_tf32),
        ("cublas", lambda: backends.cuda.matmul.allow_tf32),
        ("matmul", torch.get_float32_matmul_precision),
    ):
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "a contradiction"
    return found | {"deterministic": backends.cudnn.deterministic, "benchmark": backends.cudnn.benchmark}


@pytest.fixture
def restored() -> Iterator[None]:
    """Restores torch's settings after a test that changes them."""
    cudnn = torch.backends.cudnn
    before, flags = make_strict(), (cudnn.deterministic, cudnn.benchmark)
    before.restore()
    yield
    before.restore()
    cudnn.deterministic, cudnn.benchmark = flags


def set_legacy() -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def set_medium() -> None:
    torch.set_float32_matmul_precision("medium")


def set_each() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]


def set_inherited() -> None:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]
    torch.backends.cudnn.fp32_precision = "tf32"  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "none"  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [lambda: None, set_legacy, set_medium, set_each, set_inherited])
def test_a_network_may_use_the_settings_of_torch(restored: None, change: Callable[[], None]) -> None:
    change()
    before, model = settings(), Cautious()
    with strict_arithmetic():
        inside = settings()
        assert {value for name, value in inside.items() if "." in name} == {"ieee"}
        assert (inside["cudnn"], inside["cublas"], inside["matmul"]) == (False, False, "highest")
        model(torch.zeros(1, 3, 4, 4))
        assert settings() == inside
    assert model.seen == [False, False]
    assert settings() == before


def test_settings_that_were_inherited_still_are(restored: None) -> None:
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]
    with strict_arithmetic():
        pass
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    assert torch.backends.cuda.matmul.fp32_precision == "none"
