"""`replk-probe info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from replk_probe import ops
from replk_probe.ops import _loader

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPLK_PROBE_ISA", "REPLK_PROBE_METHOD", "REPLK_PROBE_SPECTRA_MB"):
        monkeypatch.delenv(name, raising=False)


def test_all_properties_are_reported(replk_probe: Run) -> None:
    info = ops.native_info()
    if not info.loaded:
        pytest.skip(f"the native library is not available: {info.load_error}")
    text = replk_probe("info").stdout
    joined = " ".join(text.split())
    assert torch.__version__ in text and str(info.path) in text and f"built by {info.compiler}" in joined
    assert f"instruction set {info.isa}" in joined and "methods direct, fft" in joined
    assert f"backend float32 native {info.isa}" in joined and "float64 aten (dtype is torch.float64" in joined
    assert "prepared kernels at most 1024 MB" in joined
    assert all(len(line) <= 100 or "/" in line for line in text.splitlines())
    assert "\nerror" not in text and "REPLK_PROBE_ISA" not in text


def test_json_has_it_all(replk_probe: Run) -> None:
    found = json.loads(replk_probe("info", "--json").stdout)
    info = ops.native_info()
    assert found["native"]["loaded"] == info.loaded and found["native"]["isa"] == info.isa
    assert found["native"]["methods"] == list(info.methods)
    assert found["torch"] == torch.__version__ and found["spectra_limit_bytes"] == 1 << 30


def test_a_method_forced_by_the_environment_is_reported(replk_probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLK_PROBE_ISA", "portable")
    monkeypatch.setenv("REPLK_PROBE_METHOD", "direct")
    text = " ".join(replk_probe("info").stdout.split())
    assert "environment REPLK_PROBE_ISA=portable REPLK_PROBE_METHOD=direct" in text
    if ops.native_info().loaded:
        assert "native portable, method direct forced" in text


def test_a_wrong_environment_is_an_error_and_no_crash(replk_probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLK_PROBE_SPECTRA_MB", "much")
    done = replk_probe("info")
    assert done.exit_code == 1 and "error REPLK_PROBE_SPECTRA_MB is 'much'." in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", ["REPLK_PROBE_ISA", "REPLK_PROBE_METHOD"])
def test_an_unknown_value_is_not_shown_as_in_use(replk_probe: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    info = ops.native_info()
    if not info.loaded:
        pytest.skip(f"the native library is not available: {info.load_error}")
    monkeypatch.setenv(name, "nonsense")
    done = replk_probe("info")
    text = " ".join(done.stdout.split())
    assert done.exit_code == 1 and f"error {name} is 'nonsense'." in text and "Choose from" in text
    assert f"instruction set none, see the error below (best: {info.best_isa})" in text and "backend" not in text
    done = replk_probe("info", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["native"]["isa"] is None


def test_without_a_library_the_reason_and_advice_are_printed(
    replk_probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_build_error.txt").write_text("The compiler failed with status 1: g++\nkernel.cpp:1: error: no\n")
    monkeypatch.delenv("REPLK_PROBE_LIBRARY", raising=False)
    monkeypatch.setattr(_loader, "__file__", str(tmp_path / "_loader.py"))
    _loader.find_library.cache_clear()
    try:
        text = " ".join(replk_probe("info").stdout.split())
    finally:
        monkeypatch.undo()
        _loader.find_library.cache_clear()
    assert "native library not loaded. The native library is expected at" in text
    assert "It could not be built when the package was installed. The compiler failed" in text
    assert "kernel.cpp:1: error: no" in text
    assert "Until it is installed, torch's own convolution" in text and "--no-cache-dir" in text
    assert "backend float32 aten or torch-fft (the native library is not available)" in text
