"""A few stimuli and a small classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

SHAPES = ("bear", "cat", "dog", "oven")


@pytest.fixture(scope="session")
def small_stimuli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 stimuli of 32x32 px: four shapes by four textures, two of each pair, of random pixels."""
    root = tmp_path_factory.mktemp("stimuli")
    random = np.random.default_rng(0)
    for shape in SHAPES:
        (root / shape).mkdir()
        for texture in SHAPES:
            for number in (1, 2):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
                Image.fromarray(pixels).save(root / shape / f"{shape}{number}-{texture}1.png")
    return root


class SmallNet(nn.Module):
    """Convolutions, a norm and a linear layer."""

    def __init__(self, n_outputs: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(images)).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(features, 2).flatten(1))


@pytest.fixture
def small_net() -> SmallNet:
    """With outputs that differ from image to image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet()
        nn.init.normal_(net.head.weight, std=3)
    return net
