"""Models registered with the toolbox; a package of its outline stands in for it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import replk_probe
from replk_probe.errors import InvalidInputError, UnknownModelError
from replk_probe.models import DataConfig
from replk_probe.shape_bias.model_vs_human.register import AsGiven, register


class Wrapper:
    """What the toolbox makes of a module."""

    def __init__(self, model: nn.Module, model_name: str, *args: Any) -> None:
        self.model, self.model_name = model, model_name


@pytest.fixture
def toolbox(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The parts of the toolbox that are called; gives its zoo, where it looks models up."""
    names = ("", ".models", ".models.registry", ".models.pytorch", ".models.pytorch.model_zoo", ".models.wrappers")
    for name in (*names, ".models.wrappers.pytorch"):
        monkeypatch.setitem(sys.modules, f"modelvshuman{name}", ModuleType(f"modelvshuman{name}"))
    registered: dict[str, list[str]] = defaultdict(list)

    def register_model(framework: str) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            registered[framework].append(function.__name__)
            return function

        return decorate

    registry = sys.modules["modelvshuman.models.registry"]
    monkeypatch.setattr(registry, "register_model", register_model, raising=False)
    monkeypatch.setattr(registry, "list_models", lambda framework: list(registered[framework]), raising=False)
    monkeypatch.setattr(sys.modules["modelvshuman.models.wrappers.pytorch"], "PyTorchModel", Wrapper, raising=False)
    return sys.modules["modelvshuman.models.pytorch.model_zoo"]


def test_every_model_of_ours_is_registered_once(toolbox: ModuleType) -> None:
    names = register()
    assert {"replknet31b", "slak_tiny"} <= set(names)
    assert register() == names
    listed = sys.modules["modelvshuman.models.registry"].list_models("pytorch")
    assert listed == list(names)
    assert all(getattr(toolbox, name).__name__ == name for name in names)


def test_a_registered_model_is_built_when_asked_for(toolbox: ModuleType) -> None:
    register(["replknet3"], weights="random")
    wrapped = toolbox.replknet3("replknet3")
    assert wrapped.model_name == "replknet3" and not wrapped.model.training
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wrapped.model.size = (64, 64)
    expected = replk_probe.create_model("replknet3", "random")(images)
    found = wrapped.model(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


class Own(nn.Module):
    """Gives its input back; made for other statistics and another size."""

    pretrained_cfg: ClassVar = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 0.5), "input_size": (3, 32, 32)}

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_images_are_normalised_anew_for_models_of_other_statistics() -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    given = DataConfig()
    mean, std = (torch.tensor(values)[:, None, None] for values in (given.mean, given.std))
    expected = (pixels - 0.5) / torch.tensor([0.5, 0.25, 0.5])[:, None, None]
    torch.testing.assert_close(AsGiven(Own())((pixels - mean) / std), expected)
    assert AsGiven(Own())(torch.rand(1, 3, 224, 224)).shape == (1, 3, 32, 32)


def test_names_that_are_no_identifiers_are_refused(toolbox: ModuleType) -> None:
    with pytest.raises(UnknownModelError, match=r"Cannot register 'resnet50\.a1_in1k'"):
        register(["replknet31b", "resnet50.a1_in1k"])
    assert not hasattr(toolbox, "replknet31b")


def test_without_the_toolbox_the_error_says_so() -> None:
    assert "modelvshuman" not in sys.modules
    with pytest.raises(InvalidInputError, match="not installed"):
        register()


def test_a_toolbox_that_lacks_a_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr("replk_probe.shape_bias.model_vs_human.register.importlib.import_module", broken)
    with pytest.raises(InvalidInputError, match="lacks the package tensorflow"):
        register()
