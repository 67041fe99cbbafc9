"""Measurements on an NVIDIA GPU give the results of a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from replk_probe import measure_erf, measure_shape_bias
from replk_probe.models import create_model
from replk_probe.models.inference.environment import environment_of
from replk_probe.runtime.provenance import RunInfo

pytestmark = pytest.mark.cuda

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
