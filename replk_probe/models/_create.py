"""From a name to a network in eval mode that knows its weights and its preprocessing."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from replk_probe.errors import InvalidInputError, ReplkProbeError, UnknownModelError, WeightsError
from replk_probe.runtime.provenance import WeightsInfo

from ._checkpoints import CheckpointReport
from ._checkpoints import load_checkpoint as load_file
from ._factory import build_from_factory
from ._names import TORCHVISION, is_own_model
from ._seeds import check_seed
from ._weights import ResolvedWeights, resolve_weights

_INFO = "_replk_weights_info"
_DATA = "_replk_data_config"
# These two renormalise their input whenever torchvision itself loads their weights.
_RENORMALISING = ("googlenet", "inception_v3")
# Prefixes of timm's for models outside its registry. hf_hub could be a module of the user's, but for the slash.
_HUB = re.compile("hf-hub:|local-dir:|hf_hub:.*/")


@dataclass(frozen=True)
class DataConfig:
    """How images are prepared for a network.

    Attributes:
        mean: Per channel, of an input in [0, 1].
        std: Per channel, of an input in [0, 1].
        input_size: ``(H, W)`` in pixels that the weights were made for.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
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
    seed = check_seed(seed)
    name = name.strip().removeprefix("timm:").replace("torchvision.models:", TORCHVISION)
    build = _builder(name)
    # First, as large networks take a while to build, only to be told then that there are no such weights.
    resolved = resolve_weights(name, None if weights is None else os.fspath(weights))
    with _seeded(seed):
        model = build(overrides)
    _apply(model, name, resolved, seed=seed, ema=ema)
    return model.eval()


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Load named weights into a model that was built already, as timm's ``pretrained=True`` asks for."""
    _apply(model, name, resolve_weights(name, weights), seed=None, ema=False)


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


def _apply(model: nn.Module, name: str, resolved: ResolvedWeights, *, seed: int | None, ema: bool) -> None:
    """Load what was resolved, and note on the model what it is and how its images are prepared."""
    if resolved.path is None:
        seed = seed if resolved.kind == "random" else None
        attach_weights_info(model, WeightsInfo(resolved.source, seed=seed, note=resolved.note))
    else:
        info = _info(resolved.source, load_file(model, resolved.path, ema=ema))
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


def _builder(name: str) -> Callable[[dict[str, Any]], nn.Module]:
    """What builds the network of that name, given options; user code is not imported before that."""
    if name.startswith(TORCHVISION):
        return _torchvision_builder(name.removeprefix(TORCHVISION))
    if _HUB.match(name):
        raise _on_a_hub(name)
    if ":" in name:
        return partial(build_from_factory, name)
    if not _is_registered(name):
        raise _unknown(name)
    # timm leaves out options that are None, but small_kernel=None is one.
    plain = is_own_model(name) and "." not in name
    return partial(_built, name, timm.models.model_entrypoint(name) if plain else partial(timm.create_model, name))


def _is_registered(name: str) -> bool:
    """Whether timm knows the name, its tag included if there is one."""
    if not timm.is_model(name):
        return False
    return "." not in name or name in timm.list_models(f"{name.partition('.')[0]}.*", include_tags=True)


def _built(name: str, build: Any, overrides: dict[str, Any]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = build(**overrides)
    except ReplkProbeError:
        raise
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in overrides.items()) or "its defaults"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(f"Cannot build {name} with {given}. Its builder says: {reason[:300]}") from error
    return model


def _torchvision_builder(name: str) -> Callable[[dict[str, Any]], nn.Module]:
    models = _torchvision_models()
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3)
        hint = f"close: {', '.join(close)}" if close else f"there are {len(known)}, such as {', '.join(known[:3])}"
        raise UnknownModelError(
            f"Unknown model '{TORCHVISION}{name}'. torchvision has no classifier of that name ({hint})."
        )
    defaults = {"transform_input": True} if name in _RENORMALISING else {}
    build = partial(models.get_model, name, weights=None, **defaults)
    return partial(_built, f"{TORCHVISION}{name}", build)


def _torchvision_models() -> Any:
    import torchvision

    return torchvision.models


def _torchvision_data(name: str, tag: str | None) -> DataConfig:
    models = _torchvision_models()
    weight = models.get_weight(tag) if tag else next(iter(models.get_model_weights(name)))
    preset = weight.transforms()
    side = int(preset.crop_size[0])
    return DataConfig(tuple(preset.mean), tuple(preset.std), (side, side))


def _on_a_hub(name: str) -> UnknownModelError:
    prefix, _, place = name.partition(":")
    known = place.rpartition("/")[2]
    hint = f"it is {known!r}" if known and _is_registered(known) else "'replk-probe models' lists them"
    return UnknownModelError(
        f"Unknown model {name!r}. Models of a hub are not supported by the prefix '{prefix}:'. "
        f"Give the name that timm has for the model ({hint}), and its file as the weights."
    )


def _unknown(name: str) -> UnknownModelError:
    from ._catalog import CATALOG

    if name in CATALOG:
        return UnknownModelError(
            f"Unknown model {name!r}. That is a set of weights: ask for the model {CATALOG[name].model!r} with the "
            f"weights {name!r}."
        )
    if name.endswith(".py"):
        return UnknownModelError(
            f"Unknown model {name!r}. A file needs the name of a function in it: '{name}:FUNCTION'."
        )
    arch = name.partition(".")[0]
    if arch != name and timm.is_model(arch):
        tags = [tagged for tagged in timm.list_models(f"{arch}.*", include_tags=True) if "." in tagged]
        hint = f"It comes as {', '.join(tags[:6])}" if tags else f"Ask for {arch!r} and choose its weights apart"
        return UnknownModelError(f"Unknown model {name!r}. {arch} has no weights with that tag. {hint}.")
    # Papers write RepLKNet-31B, SLaK-T: compare without case and punctuation.
    plain = {_plain(known): known for known in timm.list_models()}
    close = [plain[match] for match in difflib.get_close_matches(_plain(name), plain, n=3)]
    hint = f" (close: {', '.join(close)})" if close else ""
    return UnknownModelError(
        f"Unknown model {name!r}. No builder has that name{hint}. List them with 'replk-probe models'."
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
