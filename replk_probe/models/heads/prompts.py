"""Class names and templates of a zero-shot classifier, and their embeddings by the text tower of an open_clip model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.runtime.paths import text_of, usable_path
from replk_probe.runtime.progress import progress

from ..model_id import ModelId
from ..weights.hub import fetch_from_hub
from .head_file import Head, check_texts, text_head
from .open_clip_models import open_clip

IMAGENET = "imagenet-1k"
ENSEMBLE = "imagenet-80"
DEFAULT_TEMPLATES = ("a photo of a {}.",)
_TEXTS_AT_ONCE = 64
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Prompts:
    """Class names and the templates in which they are embedded."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """The texts of all templates of the first class, of the second class, ..."""
        return [template.replace("{}", name) for name in self.class_names for template in self.templates]


def choose_prompts(
    class_names: str | os.PathLike[str] | Sequence[str] | None,
    templates: str | os.PathLike[str] | Sequence[str] | None,
) -> Prompts:
    """The class names and templates as a user gives them.

    Args:
        class_names: ``"imagenet-1k"`` for the 1000 names in open_clip, a file with one name per line, or the names.
            Defaults to those of ImageNet.
        templates: ``"imagenet-80"`` for the 80 templates that CLIP's authors used for ImageNet, a file with one
            template per line, or the templates. Defaults to ``"a photo of a {}."``.

    Raises:
        InvalidInputError: A file cannot be read, or a name or a template cannot be used.
    """
    library = open_clip()
    if class_names in (None, IMAGENET):
        names = tuple(library.IMAGENET_CLASSNAMES)
    else:
        names = _texts("class name", class_names)
    if templates is None:
        chosen: tuple[str, ...] = DEFAULT_TEMPLATES
    elif templates == ENSEMBLE:
        chosen = tuple(template("{}") for template in library.OPENAI_IMAGENET_TEMPLATES)
    else:
        chosen = _texts("template", templates)
    for template in chosen:
        if template.count("{}") != 1:
            raise InvalidInputError(
                f"The template {template!r} cannot be used. It must contain {{}} once, which stands for the class "
                f"name. Write it like {DEFAULT_TEMPLATES[0]!r}."
            )
    return Prompts(names, chosen)


def find_tokenizer(model: ModelId) -> Any:
    """The tokenizer of an open_clip model, which some models have on the Hugging Face hub.

    Raises:
        WeightsError: The hub cannot be reached, or the tokenizer needs a package that is not installed.
    """
    library = open_clip()
    hosted = library.get_model_config(model.architecture)["text_cfg"].get("hf_tokenizer_name")
    if hosted is not None and not Path(hosted).is_dir():
        fetch_from_hub(hosted, ("tokenizer_config.json", "tokenizer.json"), _CONNECT_SECONDS)
    try:
        return library.get_tokenizer(model.architecture)
    except Exception as error:  # errors of transformers, huggingface_hub and others
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise WeightsError(
            f"Cannot load the tokenizer of {model}. {reason}. Install transformers, or give head, a file with text "
            "embeddings."
        ) from error


def embed_prompts(clip: nn.Module, tokenizer: Any, prompts: Prompts, device: torch.device) -> Head:
    """The head of the text embeddings that the text tower of an open_clip model computes, in its own precision.

    Args:
        clip: The model of open_clip, which is moved to ``device``.
        tokenizer: Its tokenizer.
        prompts: Class names and templates.
        device: Device of the computation.
    """
    model: Any = clip.eval().to(device)
    texts = prompts.texts
    batches = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
    with torch.no_grad():
        parts = [
            model.encode_text(tokenizer(batch).to(device)).float().cpu()
            for batch in progress(batches, desc="Text embeddings", unit="step")
        ]
    embeddings = torch.cat(parts).reshape(len(prompts.class_names), len(prompts.templates), -1)
    numbers = (getattr(model, name, None) for name in ("logit_scale", "logit_bias"))
    scale, bias = (0.0 if number is None else float(number.detach()) for number in numbers)
    return text_head(
        embeddings,
        prompts.class_names,
        prompts.templates,
        logit_scale=scale,
        logit_bias=bias,
        source="text tower",
    )


def _texts(what: str, given: Any) -> tuple[str, ...]:
    """Texts of a file with one per line, or of a sequence; none may be given twice."""
    where = "those given"
    if isinstance(given, (str, os.PathLike)):
        path = usable_path(given, f"The file of {what}s")
        where = str(path)
        try:
            given = [line.strip() for line in text_of(path).splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "It is not text in UTF-8"
            raise InvalidInputError(
                f"Cannot read the {what}s from {path}. {reason}. Give a text file with one {what} per line."
            ) from error
    if not isinstance(given, Sequence):
        raise InvalidInputError(f"{given!r} are no {what}s. They are a sequence of texts. Give a list of them.")
    try:
        twice = next((text for text in given if given.count(text) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is given twice")
        return check_texts(what, given)
    except ValueError as error:
        raise InvalidInputError(f"Cannot use the {what}s of {where}. {error}. Correct them.") from error
