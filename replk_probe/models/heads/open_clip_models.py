"""Models of open_clip: CLIP, SigLIP and others with an image and a text tower."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from replk_probe.errors import UnknownModelError, WeightsError, close_hint

from ..model_id import ModelId
from ..weights.entry import DataConfig


def open_clip() -> Any:
    """The package open_clip.

    Raises:
        UnknownModelError: It is not installed.
    """
    try:
        import open_clip as library
    except ImportError as error:
        raise UnknownModelError(
            "Models of open_clip are not available. The package open_clip is not installed. "
            "Run: pip install 'replk-probe[clip]'"
        ) from error
    return library


def check_open_clip(model: ModelId) -> None:
    """Raise UnknownModelError if open_clip has no model of this name."""
    known = open_clip().list_models()
    if model.architecture not in known:
        hint = close_hint(model.architecture, known) or f" (there are {len(known)}, such as ViT-B-32)"
        raise UnknownModelError(f"Unknown model '{model}'. open_clip has no model of that name{hint}.")


def build_open_clip(model: ModelId, **overrides: Any) -> nn.Module:
    """A model of open_clip with random weights; nothing is downloaded."""
    with _quiet():
        built: nn.Module = open_clip().create_model(
            model.architecture, pretrained=None, pretrained_image=False, pretrained_text=False, **overrides
        )
    return built


def open_clip_tags(model: ModelId) -> list[str]:
    """Names of the published weights of a model, those trained with its activation first."""
    tags = open_clip().list_pretrained_tags_by_model(model.architecture)
    return sorted(tags, key=lambda tag: _activations(model, tag)[0] != _activations(model, tag)[1])


def open_clip_file(model: ModelId, tag: str) -> tuple[str, str, DataConfig]:
    """Repository on the Hugging Face hub and URL of the weights of a tag, one of which may be empty; preprocessing.

    Raises:
        WeightsError: The weights need another activation than the model has.
    """
    published = open_clip().get_pretrained_cfg(model.architecture, tag)
    quick, own = _activations(model, tag)
    if quick != own:
        name = f"{model}-quickgelu" if quick else f"{model}".removesuffix("-quickgelu")
        raise WeightsError(
            f"The weights {tag} do not match {model}. They were trained with {'QuickGELU' if quick else 'GELU'}, which "
            f"this model does not have. Use the model {name}."
        )
    repository, _, _ = str(published.get("hf_hub", "")).rpartition("/")
    return repository, str(published.get("url", "")), open_clip_data(model, published)


def open_clip_data(model: ModelId, published: Any = None) -> DataConfig:
    """Normalization and input size of a model, with those of the published weights if they are given."""
    library = open_clip()
    size = library.get_model_config(model.architecture)["vision_cfg"].get("image_size", 224)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    statistics = [(published or {}).get(name) for name in ("mean", "std")]
    mean, std = statistics[0] or library.OPENAI_DATASET_MEAN, statistics[1] or library.OPENAI_DATASET_STD
    return DataConfig(tuple(mean), tuple(std), (int(sides[0]), int(sides[1])))


def _activations(model: ModelId, tag: str) -> tuple[bool, bool]:
    """Whether the weights of a tag were trained with QuickGELU, and whether the model has it."""
    library = open_clip()
    configs = library.get_pretrained_cfg(model.architecture, tag), library.get_model_config(model.architecture)
    trained, own = (bool(config.get("quick_gelu", False)) for config in configs)
    return trained, own


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning that the weights are random, which it sends to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
