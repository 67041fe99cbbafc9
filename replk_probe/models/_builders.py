"""From a name to what builds the network: timm's registry, torchvision, code of the user's."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from torch import nn

from replk_probe.errors import InvalidInputError, ReplkProbeError, UnknownModelError

from ._factory import build_from_factory
from ._names import TORCHVISION, is_own_model

# These two renormalise their input whenever torchvision itself loads their weights.
_RENORMALISING = ("googlenet", "inception_v3")
# Prefixes of timm's for models outside its registry. hf_hub could be a module of the user's, but for the slash.
_HUB = re.compile("hf-hub:|local-dir:|hf_hub:.*/")


def builder_of(name: str) -> Callable[[dict[str, Any]], nn.Module]:
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
    models = torchvision_models()
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


def torchvision_models() -> Any:
    import torchvision

    return torchvision.models


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
