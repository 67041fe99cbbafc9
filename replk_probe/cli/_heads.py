"""Options that choose what turns the features of a network into decisions: a head file, or class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from ._options import PATH, CommandT

if TYPE_CHECKING:
    from torch import nn

ConfigT = TypeVar("ConfigT", bound=Any)

_CATEGORIES = "categories"


class HeadChoice(NamedTuple):
    """The options of :func:`head_options`."""

    head: Path | None
    classes: str | None
    templates: str | None


def head_options(command: CommandT) -> CommandT:
    """Add ``--head``, ``--classes`` and ``--templates``."""
    for option in (
        click.option(
            "--templates",
            metavar="imagenet-80|FILE.txt",
            help="Texts with {} for the class name, of which the embeddings are averaged: the 80 that CLIP's authors "
            "used for ImageNet, or one per line of a file. [default: a photo of a {}.]",
        ),
        click.option(
            "--classes",
            metavar="imagenet-1k|categories|FILE.txt",
            help="Class names of an open_clip model: those of ImageNet, the 16 categories of the cue-conflict stimuli, "
            "or one per line of a file. [default: imagenet-1k]",
        ),
        click.option(
            "--head",
            type=PATH,
            metavar="FILE.safetensors",
            help="Linear head (weight, bias) for the features of the network, or text embeddings of class names "
            "(embeddings, logit_scale, logit_bias) for its output.",
        ),
    ):
        command = option(command)
    return command


def with_head(name: str, config: ConfigT, choice: HeadChoice) -> tuple[nn.Module | str, ConfigT]:
    """The network with the chosen head, or its name if none of the options was given; and the configuration.

    ``config`` has the options of the weights; with a network instead of a name it has the name.
    """
    if choice == (None, None, None):
        return name, config
    from replk_probe.models import create_model
    from replk_probe.shape_bias.stimuli.names import CATEGORIES

    loading = {option: getattr(config, option) for option in ("weights", "seed", "ema", "entry", "prefix", "device")}
    model = create_model(
        name,
        **loading,
        head=choice.head,
        class_names=CATEGORIES if choice.classes == _CATEGORIES else choice.classes,
        templates=choice.templates,
    )
    return model, replace(config, name=name)
