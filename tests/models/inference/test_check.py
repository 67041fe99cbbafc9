"""The image on which copies of networks are compared with the original."""

from __future__ import annotations

import torch
from torch import nn

from replk_probe.models.inference.check import check_on, input_channels, random_image


def test_the_random_image_suits_the_network() -> None:
    model = nn.Sequential(nn.Conv2d(5, 8, 3), nn.Conv2d(8, 2, 3))
    image = random_image((224, 224), input_channels(model), torch.float64)
    assert (image.shape, image.dtype) == ((1, 5, 224, 224), torch.float64)
    assert torch.equal(image, random_image((224, 224), 5, torch.float64))


def test_a_copy_passes_only_with_the_same_outputs_of_the_same_shape() -> None:
    model = nn.Conv2d(3, 4, 3).train()
    check = check_on(random_image((8, 8)), model, lambda network, image: network(image))
    assert check.passes(model) and model.training
    for other in (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(1, 4, 3)):
        assert not check.passes(other)
