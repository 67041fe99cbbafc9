"""From a name to what builds the network: timm's registry, torchvision, code of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
from torch import nn

from replk_probe.errors import InvalidInputError, ReplkProbeError, UnknownModelError, close_hint

from .model_id import TORCHVISION, is_own_model

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
        hint = close_hint(name, known) or f" (there are {len(known)}, such as {', '.join(known[:3])})"
        raise UnknownModelError(
            f"Unknown model '{TORCHVISION}{name}'. torchvision has no classifier of that name{hint}."
        )
    defaults = {"transform_input": True} if name in _RENORMALISING else {}
    build = partial(models.get_model, name, weights=None, **defaults)
    return partial(_built, f"{TORCHVISION}{name}", build)


def torchvision_models() -> Any:
    """The module ``torchvision.models``, imported on first use."""
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
    if name.endswith(".py"):
        return UnknownModelError(
            f"Unknown model {name!r}. A file needs the name of a function in it: '{name}:FUNCTION'."
        )
    arch = name.partition(".")[0]
    if arch != name and timm.is_model(arch):
        tags = [tagged for tagged in timm.list_models(f"{arch}.*", include_tags=True) if "." in tagged]
        hint = f"It comes as {', '.join(tags[:6])}" if tags else f"Ask for {arch!r} and choose its weights apart"
        return UnknownModelError(f"Unknown model {name!r}. {arch} has no weights with that tag. {hint}.")
    hint = close_hint(name, timm.list_models())
    return UnknownModelError(
        f"Unknown model {name!r}. No builder has that name{hint}. List them with 'replk-probe models'."
    )


def build_from_factory(name: str, overrides: dict[str, Any]) -> nn.Module:
    """Import the code, call the factory, and see that a network comes out.

    Args:
        name: ``"package.module:factory"`` or ``"path/to/file.py:factory"``. Modules are looked for in the current
            folder as well, and a file may import its neighbours. The factory may be an attribute of an attribute.
        overrides: Keyword arguments of the factory.

    Raises:
        UnknownModelError: No such file, module or attribute, or the code cannot be imported.
        InvalidInputError: The factory raises, or returns something else.
    """
    source, _, attribute = name.rpartition(":")
    path = Path(source).expanduser()
    is_file = source.endswith(".py")
    if not source or not attribute:
        raise UnknownModelError(
            f"Unknown model {name!r}. One side of the colon is empty. Write package.module:factory or "
            "path/to/file.py:factory."
        )
    if is_file and not path.is_file():
        raise UnknownModelError(f"Unknown model {name!r}. There is no file {source}. Check the path.")
    with _importable(path.resolve().parent if is_file else Path.cwd()):
        try:
            module = _import_file(path) if is_file else importlib.import_module(source)
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise UnknownModelError(f"Unknown model {name!r}. Importing {source} fails: {_reason(error)}") from error
        factory = _attribute(module, attribute, name)
        if isinstance(factory, nn.Module) and not overrides:
            return factory
        if not callable(factory):
            raise InvalidInputError(
                f"{name} is {_kind(factory)}, which cannot be called. Name a function that returns an nn.Module."
            )
        try:
            model = factory(**overrides)
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise InvalidInputError(f"{name} fails to build the model: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{name} returns {_kind(model)}. It has to return an nn.Module.")
    return model


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let ``import`` look into a folder, after everything that is installed."""
    before = list(sys.path)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _import_file(path: Path) -> ModuleType:
    # A name of its own: the file must not stand in for an installed package of the same name.
    spec = importlib.util.spec_from_file_location(f"_replk_probe_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [key for key in dir(found) if not key.startswith("_")]
            hint = close_hint(part, names)
            kind = _kind(found)
            raise UnknownModelError(
                f"Unknown model {name!r}. {kind[0].upper()}{kind[1:]} has no attribute {part!r}{hint}."
            )
        found = getattr(found, part)
    return found


def _kind(value: object) -> str:
    if isinstance(value, ModuleType):
        return f"the module {value.__name__.removeprefix('_replk_probe_file_')}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {text}." if text else f"{type(error).__name__}."
