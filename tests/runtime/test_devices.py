"""Tests of devices, strict float32 and out-of-memory errors."""

from __future__ import annotations

import pytest
import torch

from replk_probe.errors import BackendError, InvalidInputError
from replk_probe.runtime.devices import device_label, out_of_memory_explained, resolve_device, strict_arithmetic


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


def test_running_out_of_memory_says_what_to_do() -> None:
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
