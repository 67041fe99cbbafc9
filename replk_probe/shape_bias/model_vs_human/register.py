"""Registration of this package's models in model-vs-human, which is imported only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, UnknownModelError
from replk_probe.models import DataConfig, create_model, data_config
from replk_probe.models.summary import own_models

_TOOLBOX = "modelvshuman"
# The class that wraps a network: its name since January 2022, and before.
_WRAPPERS = ("PytorchModel", "PyTorchModel")
_PREFIX = "replk_probe_"
# Images of model-vs-human: normalized by ImageNet's statistics, at the size of its stimuli.
_GIVEN = DataConfig()


def register(names: Sequence[str] | None = None, *, weights: str = "pretrained") -> tuple[str, ...]:
    """Register models in model-vs-human, so that its ``Evaluate`` and ``load_model`` accept their names.

    A model is built, and its weights are downloaded, when model-vs-human requests it. Names that already denote a
    model there, such as ``"resnet50"`` (a model of torchvision), are registered with the prefix ``replk_probe_``.

    Args:
        names: Model names; defaults to all models of this package. A name must be a Python identifier, since
            model-vs-human looks it up as a function.
        weights: Weights of each model, as in :func:`replk_probe.create_model`.

    Returns:
        The registered names, to be passed to model-vs-human, in the order of ``names``.

    Raises:
        InvalidInputError: model-vs-human is not installed, fails to import, or has no wrapper for PyTorch models.
        UnknownModelError: A name cannot be registered.

    Examples:
        >>> from replk_probe.shape_bias import register
        >>> register(["replknet31b", "resnet50"])
        ('replknet31b', 'replk_probe_resnet50')
    """
    chosen = tuple(own_models() if names is None else names)
    for name in chosen:
        if not name.isidentifier():
            raise UnknownModelError(
                f"Cannot register {name!r}. model-vs-human looks a model up as a function of that name. Give names "
                f"such as {own_models()[0]}."
            )
    registry, zoo, wrappers = (
        _toolbox(module) for module in ("models.registry", "models.pytorch.model_zoo", "models.wrappers.pytorch")
    )
    wrapper = next((found for name in _WRAPPERS if (found := getattr(wrappers, name, None)) is not None), None)
    if wrapper is None:
        raise InvalidInputError(
            f"Cannot register models with model-vs-human. Its module {wrappers.__name__} has none of the classes "
            f"{', '.join(_WRAPPERS)}. Install a version from https://github.com/bethgelab/model-vs-human, or exchange "
            "decisions.csv files."
        )
    registered = []
    for name in chosen:
        # model-vs-human looks a name up in torchvision first, then in its own collection.
        taken = (
            hasattr(torchvision.models, name) or getattr(getattr(zoo, name, None), "__module__", __name__) != __name__
        )
        target = f"{_PREFIX}{name}" if taken else name
        if target not in registry.list_models("pytorch"):
            setattr(zoo, target, registry.register_model("pytorch")(_entry(target, name, weights, wrapper)))
        registered.append(target)
    return tuple(registered)


class AsGiven(nn.Module):
    """Wrapper of a network that takes images as model-vs-human prepares them.

    Args:
        model: Network that takes images with its own normalization and size.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module) -> None:  # noqa: D107
        super().__init__()
        self.model = model
        own = data_config(model)
        self.size = own.input_size
        # (x s + m - m') / s', with m and s of model-vs-human.
        mean, std, given_mean, given_std = map(torch.tensor, (own.mean, own.std, _GIVEN.mean, _GIVEN.std))
        self.register_buffer("scale", (given_std / std)[:, None, None])
        self.register_buffer("shift", ((given_mean - mean) / std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, 3, H, W]`` prepared by model-vs-human."""
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        with torch.no_grad():  # model-vs-human converts the outputs to numpy directly
            logits: Tensor = self.model(images * self.scale + self.shift)
        return logits


def _entry(target: str, name: str, weights: str, wrapper: Any) -> Any:
    """The function that model-vs-human calls for a model, which it identifies by ``__name__``."""

    def build(model_name: str, *args: Any) -> Any:
        return wrapper(AsGiven(create_model(name, weights)).eval(), model_name, *args)

    build.__name__ = target
    return build


def _toolbox(module: str) -> Any:
    try:
        return importlib.import_module(f"{_TOOLBOX}.{module}")
    except ModuleNotFoundError as error:
        missing = error.name or _TOOLBOX
        found = "is not installed" if missing.partition(".")[0] == _TOOLBOX else f"lacks the package {missing}"
        raise InvalidInputError(
            f"Cannot register models with model-vs-human. The package {found}. Install it from "
            "https://github.com/bethgelab/model-vs-human, or exchange decisions.csv files."
        ) from error
