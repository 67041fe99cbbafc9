"""Model names as users type them, parsed once, and the check that a model is an ``nn.Module``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from replk_probe.errors import InvalidInputError, UnknownModelError

from . import timm_registry

# Prefixes with which timm addresses models outside its registry. hf_hub without a slash may be a module of the user's.
_HUB = re.compile("hf-hub:|local-dir:|hf_hub:.*/")


@dataclass(frozen=True)
class ModelId:
    """The parsed name of a model; whether such a model exists is only known when it is built."""

    # "registry" (timm's registry, which includes the models of this package), "torchvision", "factory" (a callable in a
    # module or a file), "open_clip" or "hub".
    kind: Literal["registry", "torchvision", "factory", "open_clip", "hub"]
    name: str  # normalized name: "resnet18.a1_in1k", "torchvision:resnet101", "package.module:factory"
    source: str  # part before the colon, such as "torchvision" or "path/to/file.py"; empty for the registry
    architecture: str  # name without source and tag, such as "resnet18"; for a factory the attribute's name
    tag: str | None = None  # tag of timm's weights, such as "a1_in1k", or None

    @classmethod
    def parse(cls, text: Any) -> ModelId:
        """Parse a model name.

        Args:
            text: ``"replknet31b"``, ``"resnet18.a1_in1k"``, ``"timm:NAME"``, ``"torchvision:NAME"``,
                ``"torchvision.models:NAME"``, ``"open_clip:NAME"``, ``"package.module:factory"``,
                ``"path/to/file.py:factory"`` or a name with one of timm's hub prefixes.

        Raises:
            UnknownModelError: ``text`` is not a string, or one side of its colon is missing.
        """
        if not isinstance(text, str):
            kind = f"an object of type {type(text).__name__}"
            hint = "It is a network already" if isinstance(text, nn.Module) else "List names with 'replk-probe models'"
            raise UnknownModelError(f"Expected a model name, but got {kind}. {hint}.")
        name = text.strip().removeprefix("timm:")
        prefix, _, rest = name.partition(":")
        if ":" in name and prefix in ("torchvision", "torchvision.models"):
            return cls("torchvision", f"torchvision:{rest}", "torchvision", rest)
        if prefix == "open_clip" and rest:
            return cls("open_clip", name, prefix, rest)
        if _HUB.match(name):
            architecture, _, tag = rest.rpartition("/")[2].partition(".")
            return cls("hub", name, prefix, architecture, tag or None)
        if ":" in name:
            source, _, attribute = name.rpartition(":")
            if not source or not attribute:
                raise UnknownModelError(
                    f"Unknown model {name!r}. One side of the colon is empty. Write package.module:factory or "
                    "path/to/file.py:factory."
                )
            return cls("factory", name, source, attribute)
        if name.endswith(".py"):
            raise UnknownModelError(
                f"Unknown model {name!r}. A file needs the name of a function in it. Write '{name}:FUNCTION'."
            )
        architecture, _, tag = name.partition(".")
        return cls("registry", name, "", architecture, tag or None)

    def __str__(self) -> str:
        """The normalized name."""
        return self.name

    @property
    def is_registered(self) -> bool:
        """Whether timm's registry has the architecture and, where the name has one, the tag."""
        if self.kind != "registry" or not timm_registry.is_model(self.architecture):
            return False
        return "." not in self.name or self.name in timm_registry.list_tagged(f"{self.architecture}.*")

    @property
    def is_own(self) -> bool:
        """Whether the architecture is one of this package's, with any tag."""
        if self.kind != "registry" or not timm_registry.is_model(self.architecture):
            return False
        return str(timm_registry.entrypoint(self.architecture).__module__).startswith(f"{__package__}.")


def check_network(model: Any, *, or_name: bool = False) -> None:
    """Check that ``model`` is an ``nn.Module``, or with ``or_name`` that it is one or a name.

    Raises:
        InvalidInputError: It is something else, or a TorchScript module.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InvalidInputError(
            f"{model.original_name} is a TorchScript module. Its layers cannot be observed or replaced as those of an "
            "nn.Module. Give the nn.Module that it was made from."
        )
    if isinstance(model, nn.Module) or (or_name and isinstance(model, str)):
        return
    expected = f"Expected an nn.Module{' or a model name' if or_name else ''}"
    if isinstance(model, str):
        raise InvalidInputError(f"{expected}, but got the name {model!r}. Call replk_probe.create_model({model!r}).")
    if isinstance(model, type):
        raise InvalidInputError(f"{expected}, but got the class {model.__name__}. Create an instance of it.")
    if callable(model) and hasattr(model, "__name__"):
        raise InvalidInputError(f"{expected}, but got the function {model.__name__}. Call it to build the model.")
    raise InvalidInputError(f"{expected}, but got an object of type {type(model).__name__}.")


def name_of(model: nn.Module) -> str:
    """The registry name with which a model was created, or else the name of its class."""
    config = getattr(model, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, dict) else None
    return str(architecture or type(model).__name__)
