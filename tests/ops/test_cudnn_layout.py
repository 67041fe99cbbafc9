"""Depthwise convolutions that cuDNN cannot compute in channels-last: a stand-in for it on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from replk_probe import measure_erf, measure_shape_bias
from replk_probe.erf import ErfAccumulator, contribution_scores, prepare
from replk_probe.models.inference.cudnn_passes import contiguous_note
from replk_probe.ops import DepthwiseConv2d, _fallback, cudnn_layout
from replk_probe.ops._layout import has_channels_last_strides
from replk_probe.shape_bias.stimulus_source import open_stimuli

NO_ENGINE = "GET was unable to find an engine to execute this computation"


class FakeCudnn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails for channels-last depthwise convolutions, or adds an error to their results."""

    def __init__(self, message: str | None = NO_ENGINE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.message, self.failures = message, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.conv2d.default:  # in inference mode
            with self:
                return func.decompose(*args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        count = {torch.ops.aten.convolution.default: 2, torch.ops.aten.convolution_backward.default: 3}.get(func)
        if count is None or args[8 if count == 2 else 9] == 1 or args[0].is_meta:
            return found
        if not any(map(has_channels_last_strides, args[:count])):
            return found
        self.failures += 1
        if self.message is not None:
            raise RuntimeError(self.message)
        wrong = [part if part is None else part + 1 for part in (found if count == 3 else [found])]
        return wrong[0] if count == 2 else tuple(wrong)


class Net(nn.Module):
    """Depthwise convolutions of several sizes, one of them with a stride, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.large = nn.Conv2d(8, 8, 13, padding=6, groups=8)
        self.strided = nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8)
        self.small = nn.Conv2d(8, 16, 3, padding=1)

    def forward_features(self, images: Tensor) -> Tensor:
        found: Tensor = self.small(self.strided(self.large(self.stem(images).relu()).relu()).relu())
        return found

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images).mean((2, 3))


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is the device of cuDNN 9.24.0, which has not failed yet; native kernels are not used."""
    monkeypatch.setattr(cudnn_layout, "_DEVICES", ("cpu",))
    monkeypatch.setattr(cudnn_layout, "_without_engine", set())
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    monkeypatch.setenv("REPLK_PROBE_METHOD", "aten")


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_the_operators_are_repeated_on_contiguous_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    input, grad = (torch.randn(2, 4, 9, 8, generator=generator) for _ in range(2))
    weight = torch.randn(4, 1, 5, 7, generator=generator)
    operators: list[tuple[Callable[..., Tensor], tuple[Any, ...]]] = [
        (_fallback.forward, (input, weight, None, True)),
        (_fallback.grad_input, (grad, weight)),
        (_fallback.grad_weight, (input, grad, 5, 7)),
    ]
    for compute, args in operators:
        expected = compute(*args)
        cudnn_layout._without_engine.clear()
        last = [arg.contiguous(memory_format=torch.channels_last) if isinstance(arg, Tensor) else arg for arg in args]
        with FakeCudnn() as cudnn:
            found, again = compute(*last), compute(*last)
        assert cudnn.failures == 1  # the second call does not try it
        assert torch.equal(found, expected) and torch.equal(again, expected)
        if compute is not _fallback.grad_weight:
            assert found.is_contiguous(memory_format=torch.channels_last)
        assert "no engine" in str(cudnn_layout.contiguous_reason(torch.device("cpu")))


def test_other_errors_are_raised() -> None:
    input = torch.randn(1, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="another"), FakeCudnn("another error") as cudnn:
        _fallback.forward(input, torch.randn(4, 1, 5, 5), None, False)
    assert cudnn.failures == 1 and cudnn_layout.contiguous_reason(torch.device("cpu")) is None


def test_a_layer_of_a_user_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    conv2d, calls = nn.functional.conv2d, []

    def cudnn(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(has_channels_last_strides(input) or has_channels_last_strides(weight))
        if calls[-1]:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
        return conv2d(input, weight, *args, **kwargs)

    layer = DepthwiseConv2d(4, 4, 15, padding=7, groups=4)
    input = torch.randn(1, 4, 20, 20).contiguous(memory_format=torch.channels_last)
    expected = layer(input)
    monkeypatch.setattr(nn.functional, "conv2d", cudnn)
    torch.testing.assert_close(layer(input), expected)
    assert calls == [True, False]


@pytest.mark.parametrize("convention", ["replknet", "openerf"])  # of a prepared copy, and of the network itself
def test_a_missing_engine_is_noted(images: Tensor, convention: str) -> None:
    model = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options: Any = {"layer": "small", "convention": convention, "batch_size": 1}
    expected = measure_erf(model, images, **options)
    assert not any("contiguous tensors" in note for note in expected.notes)
    with FakeCudnn() as cudnn:
        found = measure_erf(model, images, **options)
    assert cudnn.failures == 1
    np.testing.assert_allclose(found.contribution, expected.contribution, rtol=1e-5, atol=1e-9)
    (note,) = {*found.notes} - {*expected.notes}
    assert note == (
        "Depthwise convolutions of torch were computed on contiguous tensors, because cuDNN has no engine for a "
        "channels-last one on this GPU."
    )


def test_an_old_cudnn_is_not_used_for_channels_last(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options: Any = {"layer": "small", "batch_size": 1}
    expected = measure_erf(model, images, **options)
    scores = contribution_scores(model, images, layer="small")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    with FakeCudnn(None) as cudnn:
        found = measure_erf(model, images, **options)
        accumulator = ErfAccumulator(model, "small")
        accumulator.update(images)
        prepared = prepare(model, layer="small")
        torch.testing.assert_close(contribution_scores(prepared, images, layer="small"), scores, rtol=1e-4, atol=1e-6)
    assert cudnn.failures == 0
    assert found.run.backend == expected.run.backend  # nothing was left out of the prepared copy
    np.testing.assert_allclose(found.contribution, expected.contribution, rtol=1e-5, atol=1e-9)
    reason = "because cuDNN 9.10.2 is older than 9.24 and can give wrong results"
    assert any(reason in note for note in found.notes) and any(reason in note for note in accumulator.compute().notes)
    assert contiguous_note(nn.Conv2d(4, 4, 3), torch.device("cpu")) is None


@pytest.mark.parametrize("version", [91002, 92400])
def test_decisions_without_channels_last_engines(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    random = np.random.default_rng(0)
    for shape, texture in (("bear", "cat"), ("cat", "bear"), ("bear", "bear")):
        (tmp_path / shape).mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / shape / f"{shape}1-{texture}1.png")
    stimuli = open_stimuli(tmp_path)
    expected = measure_shape_bias(model, stimuli, size=32, batch_size=2)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    with FakeCudnn() as cudnn:
        found = measure_shape_bias(model, stimuli, size=32, batch_size=2)
    assert cudnn.failures == (version == 92400)
    assert found.decisions == expected.decisions
    assert sum("contiguous tensors" in note for note in found.notes) == 1


@pytest.mark.parametrize("device", ["xpu", "mps", "meta"])
def test_other_devices_have_no_cudnn(device: str) -> None:
    assert cudnn_layout.contiguous_reason(torch.device(device)) is None
