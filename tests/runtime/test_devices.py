"""Tests of devices, strict float32 and out-of-memory errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.runtime.devices import device_label, out_of_memory_explained, resolve_device, strict_arithmetic
from replk_probe.runtime.float32_settings import make_strict


def test_devices_are_checked_to_be_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu") == resolve_device(torch.device("cpu", 0))
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_label(torch.device("cpu")) == "cpu"
    with pytest.raises(InvalidInputError, match="'abacus'"):
        resolve_device("abacus")
    with pytest.raises(BackendError, match="'meta' is not supported"):
        resolve_device("meta")


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
