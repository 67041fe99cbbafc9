"""Networks with other inputs than three channels, options of the input, and failing forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import replk_probe
from replk_probe.erf import ErfConfig, ErfResult
from replk_probe.errors import InvalidInputError
from replk_probe.images import normalize


class Restoration(nn.Module):
    """The output has the size of the input, and there is no classifier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(x + self.body(x))


class Patches(nn.Module):
    """Patches are cut by reshaping: the first layer with weights is linear."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16 * channels) if norm else nn.Identity()
        self.embed, self.block = nn.Linear(16 * channels, 8), nn.Sequential(nn.Linear(8, 8), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, h // 4, w // 4, 16 * c)
        return self.block(self.embed(self.norm(x))).permute(0, 3, 1, 2)


def autograd(model: nn.Module, images: Tensor) -> np.ndarray:
    total = 0.0
    for image in images:
        leaf = image[None].clone().requires_grad_(True)
        output = model(leaf)
        output[:, :, output.shape[2] // 2, output.shape[3] // 2].relu().sum().backward()
        assert leaf.grad is not None
        total = total + leaf.grad[0].clamp_min(0).sum(0).double()
    return (total / len(images)).numpy()


def files(folder: Path, count: int = 3) -> list[np.ndarray]:
    found = []
    for index in range(count):
        found.append(np.random.default_rng(index).integers(0, 256, (32, 48, 3), dtype=np.uint8))
        Image.fromarray(found[-1]).save(folder / f"{index}.png")
    return found


def error(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def gray(rgb: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(rgb).convert("L"))[:, :, None]


AVERAGE = (sum((0.485, 0.456, 0.406)) / 3,), (sum((0.229, 0.224, 0.225)) / 3,)
FOUR = [0, 1, 2, 0]
RGB = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("options", "channels", "pixels", "mean", "std", "note"),
    [
        ({}, 3, lambda rgb: rgb, *RGB, None),
        ({}, 1, gray, *AVERAGE, "takes 1 channel: images are converted to their luminance"),
        ({"channels": 1, "mean": 0.3, "std": [0.2]}, 1, gray, (0.3,), (0.2,), "luminance"),
        ({}, 4, lambda rgb: rgb[:, :, FOUR], RGB[0][FOUR], RGB[1][FOUR], "in the order R, G, B, R."),
        ({"mean": (0.1, 0.2, 0.3, 0.4), "std": 1}, 4, lambda rgb: rgb[:, :, FOUR], (0.1, 0.2, 0.3, 0.4), (1,) * 4, "4"),
        ({"channels": 2}, 2, lambda rgb: rgb[:, :, :2], RGB[0][:2], RGB[1][:2], "in the order R, G."),
        ({"bgr": True}, 3, lambda rgb: rgb[:, :, ::-1], RGB[0][::-1], RGB[1][::-1], "in the order B, G, R"),
        ({"bgr": True, "mean": (1, 2, 3)}, 3, lambda rgb: rgb[:, :, ::-1], (3, 2, 1), RGB[1][::-1], "B, G, R"),
    ],
)  # fmt: skip
def test_channels_and_statistics(
    tmp_path: Path, options: Any, channels: int, pixels: Any, mean: Any, std: Any, note: str | None
) -> None:
    torch.manual_seed(0)
    model = Restoration(channels)
    inputs = [normalize(pixels(rgb), tuple(mean), tuple(std)) for rgb in files(tmp_path)]
    result = replk_probe.measure_erf(model, tmp_path, size=(32, 48), **options)
    assert error(result.contribution, autograd(model, torch.from_numpy(np.stack(inputs)))) < 1e-6
    assert result.run.mean == pytest.approx(mean) and result.run.std == pytest.approx(std)
    text = " ".join(result.notes)
    assert note in text if note else "The network takes" not in text
    assert (
        {"channels": channels}
        if channels != 3
        else {} == {k: v for k, v in result.run.config.items() if k == "channels"}
    )
    assert result.run.config.get("bgr", False) is options.get("bgr", False)
    result.save(tmp_path / "result")
    assert ErfResult.load(tmp_path / "result") == result


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_of_a_network_without_convolutions(channels: int, norm: bool) -> None:
    torch.manual_seed(0)
    result = replk_probe.measure_erf(Patches(channels, norm), images=1, size=32, layer="embed")
    assert len(result.run.mean) == channels


def test_deep_images_are_noted(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 32 * 32).reshape(32, 32).astype(np.uint16)
    for name, high in (("a.png", 1), ("b.png", 16)):
        Image.fromarray(values * np.uint16(high)).save(tmp_path / name)
    Image.fromarray((values // 16).astype(np.uint8)).save(tmp_path / "c.png")
    result = replk_probe.measure_erf(Restoration(1), tmp_path, size=32)
    assert any("2 images have more than 8 bits" in note and "12 bits: 1, 16 bits: 1" in note for note in result.notes)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").unlink()
    assert "bits" not in " ".join(replk_probe.measure_erf(Restoration(1), tmp_path, size=32).notes)


class Needs(nn.Module):
    """A forward pass that fails for one of several causes."""

    def __init__(self, cause: str) -> None:
        super().__init__()
        self.conv, self.cause = nn.Conv2d(3, 4, 3), cause

    def forward(self, x: Tensor) -> Tensor:
        if self.cause == "code":
            return self.missing_layer(x)
        if self.cause == "key":
            return {"a": x}["b"]
        assert x.shape[-1] == 224, f"Input width ({x.shape[-1]}) doesn't match"
        return self.conv(x)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(x) + time


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (Restoration(1), {"channels": 3}, r"Its first layer takes 1 channel, not 3\. Give images with 1"),
        (Restoration(4), {"channels": 1}, "takes 4 channels, not 1"),
        (Conditional(), {}, r"cannot be run on images alone.*missing 1 required positional argument: 'time'.*Wrap it"),
        (Needs("code"), {}, "raised AttributeError: .*missing_layer.*Correct the model"),
        (Needs("key"), {}, "raised KeyError: 'b'"),
        (Needs("size"), {}, r"does not accept images of shape \[3, 32, 32\].*doesn't match.*Choose another size"),
        (Restoration(3), {"mean": (1, 2)}, "2 means or standard deviations do not fit 3 channels"),
        (Restoration(1), {"bgr": True}, "BGR needs three channels. The network takes 1"),
    ],
)  # fmt: skip
def test_failures_are_reported_by_their_cause(model: nn.Module, options: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        replk_probe.measure_erf(model, images=1, size=32, layer="conv" if hasattr(model, "conv") else None, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": 0}, "number of channels cannot be 0"),
        ({"mean": "0.5,x"}, "mean cannot be '0.5,x'"),
        ({"mean": ()}, "mean cannot be"),
        ({"mean": (0.5, float("nan"))}, "one finite number, or one for each channel"),
        ({"std": 0}, "one finite positive number"),
        ({"bgr": 1}, "bgr cannot be 1"),
    ],
)
def test_unusable_options(options: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        ErfConfig(**options)


def test_gradients_that_are_all_negative_are_the_cause_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    nn.init.constant_(model[0].weight, -1.0)
    nn.init.constant_(model[0].bias, 100.0)
    with pytest.raises(InvalidInputError, match=r"All gradients of layer .* are negative"):
        replk_probe.measure_erf(model, images=2, size=16)
    nn.init.constant_(model[0].bias, -100.0)
    with pytest.raises(InvalidInputError, match="ReLU"):
        replk_probe.measure_erf(model, images=2, size=16)
