"""Small networks in the manner of users' code, from a folder next to the test data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import replk_probe
from replk_probe.erf.target_layer import LayerPoint, run_to
from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model, data_config

RIGHT = [
    ("in_forward.py", "conv1x1", 3),
    ("in_forward.py", "depthwise", 3),
    ("in_forward.py", "linear", 3),
    ("in_forward.py", "reentrant", 3),
    ("restoration.py", "grey", 1),
    ("restoration.py", "colour", 3),
    ("restoration.py", "grey_x2", 1),
    ("restoration.py", "colour_x2", 3),
    ("restoration.py", "rgbd", 4),
]


@pytest.fixture
def cases(data_dir: Path) -> Path:
    folder = data_dir.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("file", "factory", "channels"), RIGHT)
def test_maps_are_those_of_autograd(cases: Path, file: str, factory: str, channels: int) -> None:
    torch.manual_seed(0)
    model: nn.Module = create_model(f"{cases / file}:{factory}").eval()
    images = torch.randn(4, channels, 64, 64)
    result = replk_probe.measure_erf(model, images)
    # The whole network, or the part of it whose output is measured.
    point = LayerPoint("" if "output of the model" in result.layer else result.layer)
    leaf = images.clone().requires_grad_(True)
    output = _output(model, leaf, point)
    output[:, :, output.shape[2] // 2, output.shape[3] // 2].relu().sum().backward()
    assert leaf.grad is not None
    right = leaf.grad.clamp_min(0).sum(1).double().mean(0)
    found = torch.from_numpy(result.contribution.copy())
    assert float((found - right).norm() / right.norm()) < 1e-6


def _output(model: nn.Module, images: Tensor, point: LayerPoint) -> Tensor:
    if not any(isinstance(value, nn.Sequential) and name == "block" for name, value in model.named_children()):
        return run_to(model, images, point)
    stem: Any = model.stem  # the block is checkpointed
    block: Any = model.block
    return block(stem(images))


@pytest.mark.parametrize(("factory", "channels"), [("grey", 1), ("grey_x2", 1), ("rgbd", 4), ("colour_x2", 3)])
def test_channels_are_read_from_the_network(cases: Path, factory: str, channels: int) -> None:
    torch.manual_seed(1)
    result = replk_probe.measure_erf(f"{cases / 'restoration.py'}:{factory}", images=2, size=(48, 64), layer="body")
    assert len(result.run.mean) == channels and result.input_size == (48, 64)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_refused(cases: Path) -> None:
    with pytest.raises(InvalidInputError, match="is a TorchScript module"):
        replk_probe.measure_erf(f"{cases / 'in_forward.py'}:scripted", images=1, size=64)


def test_statistics_of_a_default_configuration(cases: Path) -> None:
    assert data_config(create_model(f"{cases / 'pooled.py'}:van")).mean == (0.5,) * 3
