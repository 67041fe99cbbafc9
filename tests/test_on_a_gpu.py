"""Measurements on an NVIDIA GPU give the results of a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from replk_probe import measure_erf, measure_shape_bias, ops
from replk_probe.bench import GPU_LAYERS, Layer, measure_speed
from replk_probe.models import create_model
from replk_probe.models.inference.environment import environment_of
from replk_probe.ops.methods.interface import ConvProblem
from replk_probe.ops.tuning.device import TorchDevice, cudnn_version, triton_version
from replk_probe.runtime.devices import strict_arithmetic
from replk_probe.runtime.provenance import RunInfo

pytestmark = pytest.mark.cuda

DTYPES = ("float32", "tf32", "bfloat16", "float16")
MODELS = ("replknet_micro_k31", "mobilenetv2_micro_k13", "resnet18")


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", MODELS)
def test_the_erf_is_that_of_a_cpu(images: Tensor, name: str, layout: torch.memory_format) -> None:
    model = create_model(name, weights="random", seed=0).to(memory_format=layout)  # type: ignore[call-overload]
    found, expected = (measure_erf(model, images, device=device) for device in ("cuda", "cpu"))
    difference = np.linalg.norm(found.contribution - expected.contribution)
    assert difference <= 1e-3 * np.linalg.norm(expected.contribution)
    for threshold in found.thresholds:
        ratios = [result.row("linear", threshold).ratio for result in (found, expected)]
        assert ratios[0] == pytest.approx(ratios[1], abs=2 / 96)  # one more pixel on either side
    assert torch.cuda.get_device_name() in found.run.device
    assert {"CUDA version", "cuDNN version", "driver version"} <= {*found.run.versions}


@pytest.mark.parametrize(("precision", "bound"), [("fast", 3e-2), ("bf16", 1e-1)])
def test_reduced_precision_is_near(images: Tensor, precision: str, bound: float) -> None:
    model = create_model("replknet_micro_k31", weights="random", seed=0)
    exact = measure_erf(model, images, device="cuda")
    found = measure_erf(model, images, device="cuda", precision=precision)
    difference = np.linalg.norm(found.contribution - exact.contribution)
    assert difference <= bound * np.linalg.norm(exact.contribution)


def test_an_erf_is_the_same_in_every_run(images: Tensor) -> None:
    model = create_model("replknet_micro_k31", weights="random", seed=0)
    first, second = (measure_erf(model, images, device="cuda").contribution for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", MODELS)
def test_decisions_are_those_of_a_cpu(tmp_path: Path, name: str) -> None:
    random, shapes = np.random.default_rng(0), ("bear", "cat", "dog", "oven")
    for shape in shapes:
        (tmp_path / shape).mkdir()
        for texture in shapes:
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(tmp_path / shape / f"{shape}1-{texture}1.png")
    options: dict[str, Any] = {"num_classes": 16} if name == "resnet18" else {}
    network = create_model(name, weights="random", seed=0, **options)
    model = nn.Sequential(network, nn.LazyLinear(16)) if not options else network
    model(torch.zeros(1, 3, 64, 64))
    found, expected = (measure_shape_bias(model, tmp_path, size=64, device=device) for device in ("cuda", "cpu"))
    assert found.decisions == expected.decisions
    assert found.probabilities is not None and expected.probabilities is not None
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-3, atol=1e-6)
    assert isinstance(found.run, RunInfo) and torch.cuda.get_device_name() in found.run.device


def test_the_environment_names_the_card() -> None:
    found = environment_of(torch.device("cuda", torch.cuda.current_device()))
    assert found["GPU"] == torch.cuda.get_device_name() and found["cuDNN version"] == torch.backends.cudnn.version()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels-last"])
@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("layer", GPU_LAYERS, ids=lambda layer: layer.label)
def test_every_method_is_right(layer: Layer, direction: Any, channels_last: bool, dtype: str) -> None:
    """Random values, NaN in the memory of the result, and another size in between; see TorchDevice.check."""
    card = torch.device("cuda", torch.cuda.current_device())
    name = "float32" if dtype == "tf32" else dtype
    problem = ConvProblem(direction, name, channels_last, *layer.shape, *layer.kernel)
    with strict_arithmetic(), torch.backends.cudnn.flags(enabled=True, allow_tf32=dtype == "tf32"):  # type: ignore[no-untyped-call]
        device = TorchDevice(card)
        reasons = device.methods(problem)
        if torch.cuda.get_device_capability(card) >= (8, 0) and triton_version() is not None:
            assert reasons["triton-toeplitz"] is None
        assert reasons["aten"] is None and reasons["torch-fft"] is None
        shares = {method: device.check(method, problem) for method, reason in reasons.items() if reason is None}
    torch.cuda.empty_cache()
    wrong = {method for method, share in shares.items() if not share <= 1}
    assert not {method for method in wrong if not method.startswith("aten")}, shares
    if wrong:
        pytest.xfail(f"torch's convolution is wrong with cuDNN {cudnn_version()}: {shares}")


@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients_in_float64(activation: Any) -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, device="cuda", requires_grad=True)

    inputs = draw(2, 2, 5, 4), draw(2, 1, 5, 7), draw(2)
    assert torch.autograd.gradcheck(lambda *one: ops.depthwise_conv2d(*one, activation=activation), inputs)
    assert torch.autograd.gradgradcheck(lambda *one: ops.depthwise_conv2d(*one, activation=activation), inputs)


def test_a_tuned_layer_is_compiled_and_trained() -> None:
    layer = ops.DepthwiseConv2d(256, 256, 31, padding=15, groups=256).cuda()
    x = torch.randn(8, 256, 32, 32, device="cuda")
    with strict_arithmetic():
        expected = torch.autograd.grad(layer(x).square().sum(), [*layer.parameters()])
        assert ops.tune(layer, x).convolutions
        compiled = torch.compile(layer, backend="aot_eager")
        found = torch.autograd.grad(compiled(x).square().sum(), [*layer.parameters()])
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_benchmark_times_every_method(dtype: str) -> None:
    result = measure_speed([Layer(8, 128, 32, 32, 31, 31)], ("forward", "grad_weight"), device="cuda", dtype=dtype)
    assert result.machine.gpu is not None and result.machine.gpu.name == torch.cuda.get_device_name()
    for case in result.cases:
        assert case.choice is not None and case.ours.minimum is not None
        timed = {one.variant: one for one in case.timings if one.minimum is not None}
        assert "torch-fft" in timed and all(one.share is not None and one.share <= 1 for one in timed.values())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fast", "bf16"])
def test_the_erf_of_replknet31b_is_the_same_with_chosen_methods(precision: str) -> None:
    model = create_model("replknet31b", weights="random", seed=0)
    images = torch.randn(2, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    expected = measure_erf(model, images, device="cuda", tune="off")
    found = measure_erf(model, images, device="cuda", tune="force", precision=precision)
    bound = {"fp32": 1e-3, "fast": 3e-2, "bf16": 1e-1}[precision]
    difference = np.linalg.norm(found.contribution - expected.contribution)
    assert difference <= bound * np.linalg.norm(expected.contribution)
    assert len(found.run.config["tuning"]) > 0


@pytest.mark.slow
def test_the_erf_of_replknetxl_needs_at_most_24_gigabytes() -> None:
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    limit = 24 * 10**9
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    torch.cuda.reset_peak_memory_stats()
    try:
        images = torch.randn(2, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
        model = create_model("replknetxl", weights="random", seed=0)
        result = measure_erf(model, images, device="cuda", tune="off")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.max_memory_reserved() <= limit and np.isfinite(result.contribution).all()
