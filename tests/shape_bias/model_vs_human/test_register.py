"""Models registered with the toolbox; a package of its outline stands in for it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from torch import Tensor, nn

import replk_probe
from replk_probe.errors import InvalidInputError, UnknownModelError
from replk_probe.models import DataConfig
from replk_probe.shape_bias.model_vs_human.register import AsGiven, register

WRAPPER = "PytorchModel"  # of modelvshuman.models.wrappers.pytorch since January 2022


class Wrapper:
    """The class ``PytorchModel(model, model_name, *args)`` of model-vs-human, with the methods that it evaluates."""

    def __init__(self, model: nn.Module, model_name: str, *args: Any) -> None:
        self.model, self.model_name, self.args = model, model_name, args

    def forward_batch(self, images: Tensor) -> Any:
        self.model.eval()
        return self.model(images).numpy()  # without detach()


@pytest.fixture
def toolbox(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The modules, functions and signatures of model-vs-human that are used; gives its collection of models."""
    names = ("", ".models", ".models.registry", ".models.pytorch", ".models.pytorch.model_zoo", ".models.wrappers")
    for name in (*names, ".models.wrappers.pytorch"):
        monkeypatch.setitem(sys.modules, f"modelvshuman{name}", ModuleType(f"modelvshuman{name}"))
    registered: dict[str, list[str]] = defaultdict(list)

    def register_model(framework: str) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            registered[framework].append(function.__name__)
            return function

        return decorate

    def bagnet9(model_name: str, *args: Any) -> Wrapper:
        """A model of the toolbox's own."""
        return Wrapper(nn.Identity(), model_name, *args)

    registry = sys.modules["modelvshuman.models.registry"]
    zoo = sys.modules["modelvshuman.models.pytorch.model_zoo"]
    monkeypatch.setattr(registry, "register_model", register_model, raising=False)
    monkeypatch.setattr(registry, "list_models", lambda framework: list(registered[framework]), raising=False)
    monkeypatch.setattr(sys.modules["modelvshuman.models.wrappers.pytorch"], WRAPPER, Wrapper, raising=False)
    monkeypatch.setattr(zoo, "bagnet9", register_model("pytorch")(bagnet9), raising=False)
    return zoo


def load_model(name: str) -> Any:
    """The order in which model-vs-human looks a name up: torchvision, then its own collection."""
    assert not hasattr(torchvision.models, name)
    assert name in sys.modules["modelvshuman.models.registry"].list_models("pytorch")
    return getattr(sys.modules["modelvshuman.models.pytorch.model_zoo"], name)(name)


def test_every_model_of_ours_is_registered_once(toolbox: ModuleType) -> None:
    names = register()
    assert {"replknet31b", "slak_tiny"} <= set(names)
    assert register() == names
    listed = sys.modules["modelvshuman.models.registry"].list_models("pytorch")
    assert listed == ["bagnet9", *names]
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


def test_names_that_denote_another_model_get_a_prefix(toolbox: ModuleType) -> None:
    names = register(["resnet18", "replknet3", "bagnet9"], weights="random")
    assert names == ("replk_probe_resnet18", "replknet3", "replk_probe_bagnet9")
    assert register(["resnet18", "replknet3", "bagnet9"], weights="random") == names
    wrapped = load_model("replk_probe_resnet18")
    assert wrapped.model_name == "replk_probe_resnet18"
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = replk_probe.create_model("resnet18", "random")(images)  # timm's, not torchvision's
    torch.testing.assert_close(torch.from_numpy(wrapped.forward_batch(images)), expected.detach())
    assert load_model("bagnet9").model_name == "bagnet9"


def test_the_wrapper_of_versions_before_2022_is_found(toolbox: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    wrappers = sys.modules["modelvshuman.models.wrappers.pytorch"]
    monkeypatch.delattr(wrappers, WRAPPER)
    with pytest.raises(InvalidInputError, match="none of the classes PytorchModel, PyTorchModel"):
        register(["replknet3"], weights="random")
    monkeypatch.setattr(wrappers, "PyTorchModel", Wrapper, raising=False)
    register(["replknet3"], weights="random")
    assert isinstance(load_model("replknet3"), Wrapper)


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
