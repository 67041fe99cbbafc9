"""Outputs and inputs of classifiers: containers of logits, probabilities, channels, statistics and depths."""

from __future__ import annotations

import types
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import replk_probe
from replk_probe.errors import InvalidInputError
from replk_probe.shape_bias import ShapeBiasResult
from replk_probe.shape_bias.classifier import compute_logits, find_outputs

CATEGORIES = ("circle", "square", "star")


class Classifier(nn.Module):
    """Logits of three classes, passed through a function."""

    def __init__(self, wrap: Any = lambda logits: logits, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.head, self.wrap = nn.Conv2d(channels, 16, 5, 2), nn.Linear(16, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(8 * self.head(self.conv(x).relu().amax((2, 3))))


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """Entries are attributes too, as in transformers."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


Pair = namedtuple("Pair", ["logits", "aux"])
CONTAINERS = {
    "dictionary": lambda y: {"loss": None, "logits": y, "features": y[:, :2]},
    "only tensor": lambda y: {"out": y, "maps": y[:, :, None, None]},
    "dataclass": lambda y: Output(y),
    "namespace": lambda y: types.SimpleNamespace(logits=y),
    "model output": lambda y: ModelOutput(hidden_states=(y,), logits=y),
    "named tuple": lambda y: Pair(y, y[:, :2]),
    "tuple": lambda y: (y, y[:, :2]),
    "list": lambda y: [y],
    "tuple after the loss": lambda y: (y.sum(), y),
}


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stimuli")
    rng = np.random.default_rng(0)
    for shape in CATEGORIES:
        (folder / shape).mkdir()
        for texture in CATEGORIES:
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / shape / f"{shape}1-{texture}2.png")
    return folder


def measure(model: nn.Module, stimuli: Path, **options: Any) -> ShapeBiasResult:
    mapping = {category: [index] for index, category in enumerate(CATEGORIES)}
    return replk_probe.measure_shape_bias(model, stimuli, size=32, workers=0, mapping=mapping, **options)


def build(wrap: Any = lambda logits: logits, channels: int = 3) -> Classifier:
    torch.manual_seed(0)
    return Classifier(wrap, channels).eval()


@pytest.mark.parametrize("name", CONTAINERS)
def test_logits_are_found_in_every_container(name: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(compute_logits(build(CONTAINERS[name]), images), build()(images))
    assert find_outputs(build(CONTAINERS[name]), (32, 32)).classes == 3


@pytest.mark.parametrize(
    "wrap", [lambda y: {"a": y, "b": y}, lambda y: {}, lambda y: (), lambda y: None, lambda y: {"logits": y[:, None]}]
)
def test_other_outputs_are_refused(wrap: Any) -> None:
    with pytest.raises(InvalidInputError, match="A decision requires one number per class"):
        find_outputs(build(wrap), (32, 32))


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda y: y, False),
        (lambda y: y.softmax(1), True),
        (lambda y: {"logits": y.softmax(1)}, True),
        (lambda y: y.softmax(1).bfloat16(), True),
        (lambda y: y.softmax(1).double(), True),
        (lambda y: y.log_softmax(1), False),
        (lambda y: y.sigmoid(), False),
        (lambda y: y.relu(), False),
        (lambda y: torch.full_like(y, 1 / 3), False),
        (lambda y: y - y.mean(1, keepdim=True) + 1 / 3, False),  # rows of sum 1 with negative numbers
        (lambda y: y * torch.nan, False),
    ],
)
def test_probabilities_are_detected(wrap: Any, expected: bool) -> None:
    assert find_outputs(build(wrap), (32, 32)).are_probabilities is expected


def test_a_softmax_is_not_applied_twice(stimuli: Path) -> None:
    plain = measure(build(), stimuli)
    assert plain.probabilities is not None
    assert "outputs" not in plain.run.config
    for wrap in (lambda y: y.softmax(1), lambda y: y.log_softmax(1)):
        result = measure(build(wrap), stimuli)
        np.testing.assert_allclose(result.probabilities, plain.probabilities, rtol=1e-5, atol=1e-7)
        assert result.decisions == plain.decisions
    softmax = measure(build(lambda y: y.softmax(1)), stimuli)
    assert "The model's outputs are probabilities: they are used without another softmax." in softmax.notes
    assert softmax.run.config["outputs"] == "probabilities"
    sharp = measure(build(lambda y: (1000 * y).softmax(1)), stimuli)  # zeros among the probabilities
    assert sharp.decisions == plain.decisions


@pytest.mark.parametrize(
    ("options", "channels", "order", "mean", "std"),
    [
        ({"mean": 0.5, "std": 0.25}, 3, [0, 1, 2], (0.5,) * 3, (0.25,) * 3),
        ({"mean": (0.1, 0.2, 0.3), "std": 1, "bgr": True}, 3, [2, 1, 0], (0.3, 0.2, 0.1), (1,) * 3),
        ({"mean": 0, "std": 1}, 4, [0, 1, 2, 0], (0,) * 4, (1,) * 4),
        ({"mean": 0, "std": 1, "channels": 1}, 1, None, (0,), (1,)),
    ],
)
def test_channels_and_statistics(stimuli: Path, options: Any, channels: int, order: Any, mean: Any, std: Any) -> None:
    model = build(channels=channels)
    result = measure(model, stimuli, **options)
    assert (result.run.mean, result.run.std) == (tuple(mean), tuple(std))
    name = result.decisions.names[4]
    with Image.open(next(stimuli.rglob(name))) as image:
        pixels = np.array(image.convert("L"))[:, :, None] if order is None else np.array(image)[:, :, order]
    inputs = (pixels.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    expected = model(torch.from_numpy(inputs.transpose(2, 0, 1)[None].copy())).softmax(1).detach().numpy()[0]
    np.testing.assert_allclose(result.probabilities[4], expected, rtol=1e-5, atol=1e-7)
    assert ("The network takes" in " ".join(result.notes)) is (channels != 3)
    assert result.run.config.get("channels", 3) == channels


def test_failures_are_reported_by_their_cause(stimuli: Path) -> None:
    for model, options, says in (
        (build(channels=1), {"channels": 3}, "takes 1 channel, not 3"),
        (nn.Bilinear(3, 3, 3), {}, "missing 1 required positional argument"),
        (build(lambda y: y.missing), {}, "raised AttributeError"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            measure(model, stimuli, **options)


def test_deep_stimuli_are_noted(tmp_path: Path) -> None:
    for shape in CATEGORIES:
        for texture in CATEGORIES:
            values = np.random.default_rng(0).integers(0, 4096, (32, 32)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / f"{shape}1-{texture}2.png")
    result = measure(build(), tmp_path)
    assert any("9 images have more than 8 bits" in note and "12 bits: 9" in note for note in result.notes)
