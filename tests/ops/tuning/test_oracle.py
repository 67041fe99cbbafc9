"""The answer in float64, and the check of a method against it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from replk_probe.ops import _fallback
from replk_probe.ops._layout import layout_of
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.methods.layouts import AtenMethod
from replk_probe.ops.methods.registry import methods_on
from replk_probe.ops.tuning import oracle
from replk_probe.ops.tuning.device import TorchDevice, allows_tf32, cudnn_version

SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 5, 7, 3, 3),
    (2, 2, 6, 9, 13, 7),
    (1, 4, 3, 4, 31, 31),
    (2, 3, 8, 5, 1, 9),
    (3, 2, 17, 6, 5, 1),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_answer_is_that_of_torch_in_float64(shape: tuple[int, ...]) -> None:
    n, c, h, w, kh, kw = shape
    x, weight, grad = (torch.randn(*size, dtype=torch.double) for size in ((n, c, h, w), (c, 1, kh, kw), (n, c, h, w)))
    x.requires_grad_()
    weight.requires_grad_()
    y = F.conv2d(x, weight, padding=(kh // 2, kw // 2), groups=c)
    torch.testing.assert_close(oracle.convolve(x.detach(), weight.detach()), y, rtol=1e-12, atol=1e-12)
    dx, dw = torch.autograd.grad(y, (x, weight), grad)
    torch.testing.assert_close(oracle.convolve(grad, weight.detach().flip(2, 3)), dx, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.grad_weight(x.detach(), grad, kh, kw), dw, rtol=1e-12, atol=1e-12)


def problem(direction: Any, dtype: str = "float32", *, last: bool = False, n: int = 3, c: int = 6) -> ConvProblem:
    return ConvProblem(direction, dtype, last, n, c, 11, 9, 7, 5)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
def test_every_method_of_this_machine_is_right(direction: str, dtype: str, last: bool) -> None:
    device = TorchDevice(torch.device("cpu"))
    posed = problem(direction, dtype, last=last)
    reasons = device.methods(posed)
    assert next(iter(reasons)) == device.default and reasons[device.default] is None
    for name, reason in reasons.items():
        # On some processors torch adds the products of a gradient in float16. The tuner then refuses its method.
        if reason is None and not (name == "aten" and dtype == "float16" and direction == "grad_weight"):
            assert device.check(name, posed) <= 1, name


class Wrong(AtenMethod):
    """Torch's convolution with a mistake in the result of one direction."""

    def __init__(self, change: Callable[[Tensor], Tensor], *, from_call: int = 0) -> None:
        super().__init__("wrong")
        self.change, self.left = change, from_call

    def _changed(self, found: Tensor) -> Tensor:
        self.left -= 1
        return found if self.left >= 0 else self.change(found)

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        return self._changed(super().forward(input, weight, bias, relu))

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        return self._changed(super().grad_input(grad, weight))

    def grad_weight(self, input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
        return self._changed(super().grad_weight(input, grad, kh, kw))


def unwritten(found: Tensor) -> Tensor:
    found[-1, -1, -1, -1] = math.nan
    return found


MISTAKES: dict[str, Callable[[Tensor], Tensor]] = {
    "not written": unwritten,
    "shifted": lambda found: found.roll(1, 3),
    "rounded to bfloat16": lambda found: found.bfloat16().to(found.dtype),
    "images or channels swapped": lambda found: found.flip(0) if len(found) > 1 else found,
    "rows swapped": lambda found: found.flip(2),
}


@pytest.mark.parametrize("from_call", [0, 1, 2])
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
def test_mistakes_are_found_whenever_they_begin(direction: str, mistake: str, from_call: int) -> None:
    """Some methods are wrong from the second problem on, or when a problem returns."""
    device = TorchDevice(torch.device("cpu"))
    device._methods = {"wrong": Wrong(MISTAKES[mistake], from_call=from_call)}
    assert not device.check("wrong", problem(direction)) <= 1


def test_a_wrong_tap_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Truncated(AtenMethod):
        def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
            weight = weight.clone()
            weight[:, :, 0, 0] = 0
            return _fallback.forward(input, weight, bias, relu)

    device = TorchDevice(torch.device("cpu"))
    device._methods = {"truncated": Truncated("truncated")}
    assert device.check("truncated", problem("forward", "bfloat16")) > 1


def test_tf32_is_an_error_unless_it_is_allowed() -> None:
    posed = problem("forward")
    x, weight = torch.randn(1, 4, 12, 12), torch.randn(4, 1, 7, 7)

    def rounded(tensor: Tensor) -> Tensor:
        return (tensor.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)

    found = _fallback.forward(rounded(x), rounded(weight), None, False)
    want, products = (oracle.convolve(a.double(), b.double()) for a, b in ((x, weight), (x.abs(), weight.abs())))
    given: dict[str, Any] = {"norms": products, "transform": False, "roundings": want.abs()}
    for allowed, is_right in ((False, False), (True, True)):
        unit = oracle.unit_of(posed.torch_dtype, tf32=allowed)
        assert (oracle.share_of_bound(found, want, products, unit=unit, **given) <= 1) is is_right
    assert oracle.unit_of(torch.float64, tf32=True) < 2e-16 < oracle.unit_of(torch.bfloat16, tf32=True) < 1e-7


def test_results_of_no_terms_have_to_be_exact() -> None:
    zero = torch.zeros(1, 1, 2, 2)
    given: dict[str, Any] = {"unit": 2.0**-24, "transform": False, "roundings": zero.double()}
    assert oracle.share_of_bound(zero, zero.double(), zero.double(), zero.double(), **given) == 0
    assert oracle.share_of_bound(zero + 1e-30, zero.double(), zero.double(), zero.double(), **given) == math.inf


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["aten-nchw", "aten-channels-last"])
def test_layouts_are_converted_and_converted_back(name: str, last: bool) -> None:
    method: Any = methods_on(torch.device("cuda"))[name]
    wanted = torch.contiguous_format if last else torch.channels_last
    x = torch.randn(2, 3, 6, 5).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    # A kernel of one channel in either format.
    weight = torch.randn(3, 1, 3, 3).to(memory_format=torch.channels_last)
    posed = ConvProblem("forward", "float32", last, 2, 3, 6, 5, 3, 3)
    is_other = (name == "aten-nchw") == last
    assert (method.refusal(posed, torch.device("cuda")) is None) is is_other
    for found, want in (
        (method.forward(x, weight, None, True), _fallback.forward(x, weight, None, True)),
        (method.grad_input(x, weight), _fallback.grad_input(x, weight)),
        (method.grad_weight(x, x, 3, 3), _fallback.grad_weight(x, x, 3, 3)),
    ):
        torch.testing.assert_close(found, want)
        assert found.is_contiguous(memory_format=layout_of(want))
    if is_other:
        assert (
            method._converted(x).is_contiguous(memory_format=wanted) and method.workspace_bytes(posed) == 8 * x.numel()
        )
        assert method._weight(weight).stride() == ((9, 9, 3, 1) if name == "aten-nchw" else (9, 1, 3, 1))


def test_modules_that_are_missing_are_refused_with_the_reason() -> None:
    for place in ("cpu", "cuda"):
        found = methods_on(torch.device(place))
        assert {"aten", "torch-fft"} <= {*found}
        for method in found.values():
            assert method if isinstance(method, str) else method.name in found


def test_the_environment_of_a_cpu_and_of_torch() -> None:
    environment = TorchDevice(torch.device("cpu")).environment
    assert {"device", "threads", "torch", "replk-probe", "native library"} <= {*environment}
    assert TorchDevice(torch.device("cpu"), prepared=False).environment != environment
    assert cudnn_version() == "none" or cudnn_version().count(".") == 2
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    try:
        for precision, allowed in (("tf32", True), ("ieee", False)):
            conv.fp32_precision = precision
            assert allows_tf32() is allowed
    finally:
        conv.fp32_precision = before


def test_the_method_that_the_environment_forces_has_no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    device = TorchDevice(torch.device("cpu"))
    monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")
    found = device.methods(problem("forward"))
    assert found["torch-fft"] and found["aten"] is None
