"""The convention ``openerf`` gives the map of the package of that name, for the same weights and images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from replk_probe.erf import contribution_scores, measure_erf
from replk_probe.images import normalize

NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    # Four positions without patches: the lower-right one.
    "cnn": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}, 64),
    "transformer": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3}, 64),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2}, 64),
    # Four positions, channels-last, of patches: the upper-left one.
    "channels-last": (
        "swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24}, 64,
    ),
}  # fmt: skip


def built(name: str, options: dict[str, Any], size: int) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **options)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            # The mean of the channels after a norm with equal weights is constant.
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    # OpenERF resizes images to the side divided by the cropped share, and then crops them.
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "input_size": (3, size, size),
        "crop_pct": 1.0,
        "fixed_input_size": 0,
    }
    return model.eval()


def photographs(folder: Path, size: int) -> list[Tensor]:
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(3)]
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")
    return pixels


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours / ours.sum() - theirs) / np.linalg.norm(theirs))


def map_in(dtype: torch.dtype, model: nn.Module, folder: Path) -> np.ndarray:
    """OpenERF's map of a network that computes in ``dtype``; its images are float32."""
    import openerf

    computing = copy.deepcopy(model).to(dtype)
    original = computing.forward_features
    computing.forward_features = lambda images: original(images.to(dtype))
    found: np.ndarray = openerf.compute_erf(computing, image_dir=folder, device="cpu", show_progress=False).erf_map
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_is_that_of_openerf(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openerf")
    model = built(*NETWORKS[name])
    size = NETWORKS[name][2]
    pixels = photographs(tmp_path, size)
    theirs = map_in(torch.float32, model, tmp_path)
    assert theirs.sum() == pytest.approx(1) and np.count_nonzero(theirs) > 0.02 * theirs.size

    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    images = torch.stack([torch.from_numpy(normalize(image, mean, std)) for image in pixels])
    scores = contribution_scores(model, images, convention="openerf").double().mean(0).numpy()
    assert difference(scores, theirs) < 1e-6
    # From the files, with this package's own preprocessing.
    for dtype in (torch.float32, torch.float64):
        result = measure_erf(
            copy.deepcopy(model).to(dtype), tmp_path, images=3, sampling="first", size=size, convention="openerf",
            mean=mean, std=std,
        )  # fmt: skip
        assert result.layer == "forward_features"
        assert difference(result.contribution, map_in(dtype, model, tmp_path)) < 1e-6
    # The map differs from that of every other choice, so that the agreement is not one of similar maps.
    for other in ("replknet", "mambair", "luo2016"):
        found = contribution_scores(model, images, convention=other).double().mean(0).numpy()
        assert difference(found, theirs) > 1e-2


def test_its_preprocessing_crops_and_ours_does_not() -> None:
    openerf_data = pytest.importorskip("openerf.data")
    with torch.device("meta"):
        model = timm.create_model("resnet18")
    transform, config = openerf_data.build_timm_eval_transform(model)
    assert config["crop_pct"] < 1
    image = Image.fromarray(np.zeros((100, 200, 3), dtype=np.uint8))
    assert transform(image).shape == (3, 224, 224)
    assert [type(step).__name__ for step in transform.transforms[:2]] == ["Resize", "CenterCrop"]
