"""From a name to a network in eval mode that knows its weights and its preprocessing."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from replk_probe.errors import InvalidInputError, UnknownModelError, WeightsError
from replk_probe.runtime.provenance import WeightsInfo

from .architectures.registration import set_weights_loader
from .builders import builder_of, torchvision_models
from .checkpoints.load import CheckpointReport
from .checkpoints.load import load_checkpoint as load_file
from .model_id import TORCHVISION, is_factory
from .weights.catalog import CATALOG
from .weights.resolve import ResolvedWeights, resolve_weights

_INFO = "_replk_weights_info"
_DATA = "_replk_data_config"
_SEEDS = 2**63


@dataclass(frozen=True)
class DataConfig:
    """How images are prepared for a network.

    Attributes:
        mean: Per channel, of an input in [0, 1].
        std: Per channel, of an input in [0, 1].
        input_size: ``(H, W)`` in pixels that the weights were made for.
    """

    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    input_size: tuple[int, int] = (224, 224)


def create_model(
    name: str, weights: str | os.PathLike[str] | None = None, *, seed: int = 0, ema: bool = False, **overrides: Any
) -> nn.Module:
    """Build a network, in eval mode, with the weights asked for.

    Args:
        name: A name of the registry (``"replknet31b"``, any of timm's); ``"torchvision:resnet101"``;
            ``"package.module:factory"`` or ``"path/to/file.py:factory"``, a callable that returns an ``nn.Module``.
        weights: None or ``"random"``; ``"pretrained"``; ``"auto"`` (pretrained, else random with a note); a name of the
            catalog, a tag of timm's or torchvision's; a path. A factory of yours keeps what it made with None or auto.
        seed: Of the random initialisation, in [0, 2**63); the global random state is left as it was.
        ema: Take the averaged entry of a checkpoint.
        **overrides: Passed to the builder, for instance ``num_classes=10`` or ``img_size=1024``.

    Returns:
        The network; :func:`weights_info` and :func:`data_config` tell the rest.

    Raises:
        UnknownModelError: The name leads to no model.
        InvalidInputError: The builder fails on the options given, or the seed cannot be used.
        WeightsError: The weights cannot be found, fetched, read or matched.
    """
    name, weights, seed = _checked(name, weights, seed)
    build = _builder_of(name)
    # First, as large networks take a while to build, only to be told then that there are no such weights.
    resolved = resolve_weights(name, weights)
    with _seeded(seed):
        model = build(overrides)
    _apply(model, name, resolved, seed=seed, ema=ema)
    return model.eval()


def create_partly(
    name: str,
    weights: str | os.PathLike[str] | None,
    needed: Callable[[nn.Module], Sequence[str]],
    *,
    seed: int = 0,
    ema: bool = False,
) -> nn.Module:
    """Build a network of which only some modules are to be looked at; it cannot compute anything.

    Weights that come from a file are read as far as they are needed; the rest of the network stays on the meta device.
    Random weights, and a factory's own, are made as a whole.

    Args:
        name: As :func:`create_model`.
        weights: As there.
        needed: From the network, without numbers yet, to the module paths that are needed.
        seed: As there.
        ema: As there.

    Returns:
        The network, in eval mode.

    Raises:
        UnknownModelError: As :func:`create_model`, and so are the others.
        InvalidInputError: Also what ``needed`` raises.
        WeightsError: As there.
    """
    name, weights, seed = _checked(name, weights, seed)
    build = _builder_of(name)
    resolved = resolve_weights(name, weights)
    model = None if resolved.path is None or is_factory(name) else _skeleton(build)
    if model is None:
        with _seeded(seed):
            model = build({})
    _apply(model, name, resolved, seed=seed, ema=ema, only=needed(model))
    return model.eval()


def _builder_of(name: str) -> Callable[[dict[str, Any]], nn.Module]:
    """As :func:`builder_of`; the name of a set of weights is recognized as such."""
    if name in CATALOG:
        raise UnknownModelError(
            f"Unknown model {name!r}. That is a set of weights: ask for the model {CATALOG[name].model!r} with the "
            f"weights {name!r}."
        )
    return builder_of(name)


def _skeleton(build: Callable[[dict[str, Any]], nn.Module]) -> nn.Module | None:
    """The network without numbers, or None where its builder cannot do without."""
    try:
        with torch.device("meta"):
            return build({})
    except InvalidInputError:
        return None


def _checked(name: Any, weights: Any, seed: Any) -> tuple[str, str | None, int]:
    """The arguments as they are looked up."""
    if not isinstance(name, str):
        hint = "It is a network already" if isinstance(name, nn.Module) else "Give one that 'replk-probe models' lists"
        raise UnknownModelError(
            f"The model's name is an object of type {type(name).__name__}. Models are built by their names. {hint}."
        )
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(
            f"The weights are given as {weights!r}. They are chosen by a name or a path. "
            "Use 'pretrained', 'random', 'auto', a name of the catalog or a path."
        )
    name = name.strip().removeprefix("timm:").replace("torchvision.models:", TORCHVISION)
    return name, None if weights is None else os.fspath(weights), check_seed(seed)


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Load named weights into a model that was built already, as timm's ``pretrained=True`` asks for."""
    _apply(model, name, resolve_weights(name, weights), seed=None, ema=False)


# The architectures are registered before this module can be imported; see `registration`.
set_weights_loader(load_weights)


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, ema: bool = False) -> CheckpointReport:
    """Load a weights file into ``model`` in place, and note it there for the records of later measurements.

    Files of RepLKNet (train, merged, deep-fused), SLaK, mmpretrain, timm and torchvision are understood, flat or
    wrapped, ``.pth`` in both serialisations or safetensors; the model is merged or fused as the file is, and its
    classifier follows the file's number of classes. On any error the model is as it was.

    Args:
        model: The network.
        path: The file.
        ema: Take the file's averaged entry (``model_ema`` and the like) instead of the default one.

    Returns:
        What was found and done.

    Raises:
        WeightsError: The file cannot be read, is refused, or does not fit the model.
        InvalidInputError: ``model`` is no network.
    """
    report = load_file(model, path, ema=ema)
    attach_weights_info(model, _info(f"file:{report.path.name}", report))
    return report


def weights_info(model: nn.Module) -> WeightsInfo:
    """Where the weights of ``model`` came from; a module that nobody told about is its caller's own."""
    info = getattr(model, _INFO, None)
    return info if isinstance(info, WeightsInfo) else WeightsInfo(source="user-module")


def attach_weights_info(model: nn.Module, info: WeightsInfo) -> None:
    """Note on ``model`` where its weights came from; copies of the model carry the note along."""
    setattr(model, _INFO, info)


def data_config(model: nn.Module) -> DataConfig:
    """Mean, standard deviation and input size that ``model`` was made for; those of ImageNet where nothing is known."""
    config = getattr(model, _DATA, None)
    if isinstance(config, DataConfig):
        return config
    known = getattr(model, "pretrained_cfg", None)
    if known is not None and not isinstance(known, dict):
        known = known.to_dict() if callable(getattr(known, "to_dict", None)) else None
    if not known or not known.get("mean") or not known.get("std"):
        return DataConfig()
    _, height, width = known.get("input_size") or (3, 224, 224)
    return DataConfig(tuple(known["mean"]), tuple(known["std"]), (height, width))


def statistics_note(model: nn.Module) -> str | None:
    """What to tell the reader where nobody said how images are to be normalised for a network."""
    if hasattr(model, _DATA) or getattr(model, "pretrained_cfg", None):
        return None
    return (
        f"Nothing says how {type(model).__name__} wants its images normalised: they have ImageNet's mean and standard "
        "deviation."
    )


def _apply(
    model: nn.Module,
    name: str,
    resolved: ResolvedWeights,
    *,
    seed: int | None,
    ema: bool,
    only: Sequence[str] | None = None,
) -> None:
    """Load what was resolved, and note on the model what it is and how its images are prepared."""
    if resolved.path is None:
        seed = seed if resolved.kind == "random" else None
        attach_weights_info(model, WeightsInfo(resolved.source, seed=seed, note=resolved.note))
    else:
        info = _info(resolved.source, load_file(model, resolved.path, ema=ema, only=only))
        notes = [note for note in (resolved.note, info.note) if note]
        attach_weights_info(model, replace(info, note=" ".join(notes) or None))
    entry = resolved.entry
    if entry is not None:
        setattr(model, _DATA, DataConfig(entry.mean, entry.std, (entry.input_size, entry.input_size)))
    elif name.startswith(TORCHVISION):
        tag = resolved.source.removeprefix(TORCHVISION) if resolved.kind == "torchvision" else None
        setattr(model, _DATA, _torchvision_data(name.removeprefix(TORCHVISION), tag))
    elif resolved.kind == "timm":
        cfg = timm.get_pretrained_cfg(resolved.source.removeprefix("timm:"))
        if cfg is not None:
            _, height, width = cfg.input_size
            setattr(model, _DATA, DataConfig(tuple(cfg.mean), tuple(cfg.std), (height, width)))


def _info(source: str, report: CheckpointReport) -> WeightsInfo:
    return WeightsInfo(
        source,
        sha256=report.sha256,
        form=report.form,
        wrapper=report.wrapper,
        dropped=tuple(report.dropped),
        note=report.note,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a generator of its own; the CPU's alone, since networks are built there."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs as well.
        torch.default_generator.manual_seed(seed)
        yield


def _torchvision_data(name: str, tag: str | None) -> DataConfig:
    models = torchvision_models()
    weight = models.get_weight(tag) if tag else next(iter(models.get_model_weights(name)))
    preset = weight.transforms()
    side = int(preset.crop_size[0])
    return DataConfig(tuple(preset.mean), tuple(preset.std), (side, side))


def check_seed(seed: Any) -> int:
    """``seed`` as an int in [0, 2**63): what every generator used here takes.

    Raises:
        InvalidInputError: It is something else.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= int(seed) < _SEEDS:
        raise InvalidInputError(
            f"The seed {seed!r} cannot be used. Random numbers start from a whole number of 63 bits. "
            "Give one of 0 to 2**63 - 1, such as 0."
        )
    return int(seed)
