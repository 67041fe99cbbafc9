"""Finding the builder of a model: timm's registry, torchvision, open_clip, or the user's own code."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from replk_probe.errors import InvalidInputError, ReplkProbeError, UnknownModelError, close_hint
from replk_probe.runtime.paths import usable_path

from . import timm_registry
from .heads.open_clip_models import build_open_clip, check_open_clip
from .model_id import ModelId, check_network
from .weights.catalog import CATALOG

# torchvision makes these two renormalize their input when it loads their weights.
_RENORMALIZING = ("googlenet", "inception_v3")

_IMPORTS = (ast.Import, ast.ImportFrom)
# Functions with which code creates names that cannot be found in its text.
_CREATE_NAMES = frozenset({"globals", "setattr", "exec", "vars"})


def builder_of(model: ModelId) -> Callable[[dict[str, Any]], nn.Module]:
    """The callable that builds a model from its options; user code is only imported when it is called.

    Raises:
        UnknownModelError: The registry, torchvision or open_clip has no such model, there is no such file, or it is a
            model of a hub.
    """
    if model.kind == "torchvision":
        return _torchvision_builder(model)
    if model.kind == "open_clip":
        check_open_clip(model)
        return partial(_built, model, partial(build_open_clip, model))
    if model.kind == "hub":
        raise _on_a_hub(model)
    if model.kind == "factory":
        if model.source.endswith(".py") and not usable_path(model.source, "The model file").is_file():
            raise UnknownModelError(f"Unknown model {model.name!r}. There is no such file. Check the path.")
        return partial(build_from_factory, model)
    in_catalog = model.name in CATALOG  # a tag of this package, which timm does not know
    if not (in_catalog or model.is_registered):
        raise _unknown(model)
    # timm drops options that are None, and small_kernel=None is a valid option.
    plain = in_catalog or (model.is_own and model.tag is None)
    build = timm_registry.entrypoint(model.architecture) if plain else partial(timm_registry.create, model.name)
    return partial(_built, model, build)


def _built(name: ModelId, build: Any, overrides: dict[str, Any]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = build(**overrides)
    except ReplkProbeError:
        raise
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in overrides.items()) or "its defaults"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(f"Cannot build {name} with {given}. The builder raised: {reason[:300]}") from error
    return model


def _torchvision_builder(model: ModelId) -> Callable[[dict[str, Any]], nn.Module]:
    from torchvision import models

    registry: Any = models
    modules = (models, models.segmentation, models.detection, models.video)
    name, known = model.architecture, [one for module in modules for one in registry.list_models(module=module)]
    if name not in known:
        hint = close_hint(name, known) or f" (there are {len(known)}, such as {', '.join(known[:3])})"
        raise UnknownModelError(
            f"Unknown model '{model}'. torchvision has no model of that name for classification, segmentation, "
            f"detection or video{hint}."
        )
    defaults: dict[str, Any] = {"transform_input": True} if name in _RENORMALIZING else {}
    if "weights_backbone" in inspect.signature(registry.get_model_builder(name)).parameters:
        defaults["weights_backbone"] = None  # otherwise those of ImageNet are downloaded
    return partial(_built, model, partial(registry.get_model, name, weights=None, **defaults))


def _on_a_hub(model: ModelId) -> UnknownModelError:
    known = ".".join(filter(None, (model.architecture, model.tag)))
    hint = f"it is {known!r}" if ModelId.parse(known).is_registered else "'replk-probe models' lists them"
    return UnknownModelError(
        f"Unknown model '{model}'. The hub prefix '{model.source}:' is not supported. "
        f"Give the model's name in timm's registry ({hint}) and pass its file as the weights."
    )


def _unknown(model: ModelId) -> UnknownModelError:
    name, arch = model.name, model.architecture
    if arch != name and timm_registry.is_model(arch):
        known = [*timm_registry.list_tagged(f"{arch}.*"), *CATALOG]
        tags = [tagged for tagged in known if tagged.startswith(f"{arch}.")]
        hint = (
            f"Choose from {', '.join(tags[:6])}" if tags else f"Use the model {arch!r} and choose its weights by name"
        )
        return UnknownModelError(f"Unknown model {name!r}. {arch} has no weights with that tag. {hint}.")
    hint = close_hint(name, timm_registry.list_models())
    return UnknownModelError(
        f"Unknown model {name!r}. There is no model of that name{hint}. List the models with 'replk-probe models'."
    )


def build_from_factory(model_id: ModelId, overrides: dict[str, Any]) -> nn.Module:
    """Import the code, call the factory and check that it returns a network.

    Args:
        model_id: Name of a factory. Modules are also searched for in the current folder, and a file may import modules
            from its own folder. The factory may be an attribute of an attribute.
        overrides: Keyword arguments of the factory.

    Raises:
        UnknownModelError: There is no such module or attribute, or the code cannot be imported.
        InvalidInputError: The factory raises, or does not return an ``nn.Module``.
    """
    name, source = model_id.name, model_id.source
    path = usable_path(source, "The model file")
    is_file = source.endswith(".py")
    with _importable(path.resolve().parent if is_file else Path.cwd()):
        try:
            module = _import_file(path) if is_file else importlib.import_module(source)
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise UnknownModelError(
                f"Unknown model {name!r}. Importing {source} raised {_reason(error)} Correct the name or the code."
            ) from error
        factory = _attribute(module, model_id.architecture, name)
        if isinstance(factory, nn.Module) and not overrides:
            check_network(factory)
            return factory
        if not callable(factory):
            raise InvalidInputError(
                f"{name} is {_kind(factory)}, which cannot be called. Name a function that returns an nn.Module."
            )
        try:
            model = factory(**overrides)
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise InvalidInputError(
                f"{name} failed to build the model. It raised {_reason(error)} Correct its options or its code."
            ) from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{name} returns {_kind(model)}. It must return an nn.Module.")
    check_network(model)
    return model


def check_factory(model: ModelId) -> None:
    """Check that a file defines the factory of a model, without running its code; nothing is checked in packages.

    Raises:
        UnknownModelError: The file is not Python code, or no statement in it gives anything the factory's name.
    """
    if not model.source.endswith(".py"):
        return
    path = usable_path(model.source, "The model file")
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes(), str(path))))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnknownModelError(f"Unknown model {model.name!r}. {_reason(error)} Correct the file.") from error
    names = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imported = [(one.asname or one.name).partition(".")[0] for node in nodes if isinstance(node, _IMPORTS)
                for one in node.names]  # fmt: skip
    first = model.architecture.partition(".")[0]
    # Names may also be created when the code runs.
    if "*" not in imported and "__getattr__" not in names and first not in {*names, *imported}:
        if any(isinstance(node, ast.Name) and node.id in _CREATE_NAMES for node in nodes):
            return
        raise UnknownModelError(
            f"Unknown model {model.name!r}. {path.name} defines no {first!r}{close_hint(first, sorted(names))}. "
            "Correct the name."
        )


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Append a folder to the import path."""
    before = list(sys.path)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Always compiles the file.

    Compiled code in ``__pycache__`` counts as current if the file has the same length and the same second of its last
    change, so that an edit could be missed; none is written into the user's folder either.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _import_file(path: Path) -> ModuleType:
    # The prefix keeps the file from shadowing an installed package of the same name.
    name = f"_replk_probe_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look up their module
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
                f"Unknown model {name!r}. {kind[0].upper()}{kind[1:]} has no attribute {part!r}{hint}. "
                "Correct the name."
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
