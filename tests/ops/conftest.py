"""What the tests of the operators share: the library, a clean environment, and the answer in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe import ops
from replk_probe.ops import _cpu
from replk_probe.ops._layout import layout_of


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No overrides from the environment, no state of other tests, and a fixed random seed."""
    for name in ("REPLK_PROBE_ISA", "REPLK_PROBE_METHOD", "REPLK_PROBE_SPECTRA_MB"):
        monkeypatch.delenv(name, raising=False)
    _cpu._thread.calls.clear()
    torch.manual_seed(0)


@pytest.fixture
def native() -> ops.NativeInfo:
    """The library; without it, the test is skipped with the reason."""
    info = ops.native_info()
    if not info.loaded:
        pytest.skip(f"the native library is not available: {info.load_error}")
    return info


@pytest.fixture
def fft(native: ops.NativeInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forces the method that prepares weights."""
    monkeypatch.setenv("REPLK_PROBE_METHOD", "fft")


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """Compares with the convolution in float64: ``close(found, input, weight, bias, relu)``.

    The error of a channel is measured against what its terms could add up to at most.
    """

    def check(found: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> None:
        assert found.shape == input.shape and found.is_contiguous(memory_format=layout_of(input))
        size = tuple(k // 2 for k in weight.shape[2:])
        x, w = input.detach().double(), weight.detach().double()
        b = None if bias is None else bias.detach().double()
        want = F.conv2d(x, w, b, padding=size, groups=x.shape[1])
        want = want.relu() if relu else want
        most = F.conv2d(x.abs(), w.abs(), None if b is None else b.abs(), padding=size, groups=x.shape[1])
        eps = torch.finfo(found.dtype).eps
        bound = most.amax((2, 3), keepdim=True) * (eps + 1e-6) + want.abs() * eps
        assert bool(((found.double() - want).abs() <= bound).all())

    return check
