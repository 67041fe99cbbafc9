"""Deferring the code of large packages of which a program needs a few modules only.

``import timm`` defines all of its networks, ``import torchvision`` loads the compiler of torch, and ``import seaborn``
loads statistics of scipy: together they take longer than most measurements of a small network. In a process that called
:func:`defer_imports`, importing a module of these packages does not run the code of the packages themselves. It runs
when one of their attributes is needed, so that ``timm.create_model`` works as always. The color maps and styles of
seaborn need no pandas, which is imported when a function of seaborn uses it.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

# Deferred packages, and attributes of them that are found in one of their modules, or are that module, without running
# the package.
_PACKAGES: dict[str, dict[str, str]] = {
    "seaborn": {
        "axes_style": "rcmod",
        "color_palette": "palettes",
        "despine": "utils",
        "palettes": "palettes",
        "plotting_context": "rcmod",
    },
    "timm": {"__version__": "version"},
    "timm.data": {name: "constants" for name in ("IMAGENET_DEFAULT_MEAN", "IMAGENET_DEFAULT_STD")}
    | {name: "constants" for name in ("IMAGENET_INCEPTION_MEAN", "IMAGENET_INCEPTION_STD")}
    | {name: "constants" for name in ("OPENAI_CLIP_MEAN", "OPENAI_CLIP_STD")},
    "timm.models": {
        "build_model_with_cfg": "_builder",
        "generate_default_cfgs": "_registry",
        "register_model": "_registry",
        "register_notrace_module": "_features_fx",
    },
    "torchvision": {},
    "torchvision.models": {},
    "torchvision.ops": {},
}
# Modules that do not need what their package's own code does, and packages of which this is true of all modules.
_INDEPENDENT = (
    *("seaborn", "timm.version", "timm.layers", "timm.models", "timm.utils"),
    *("timm.data.constants", "timm.data.dataset_info", "timm.data.imagenet_info"),
    *("torchvision.models.feature_extraction", "torchvision.ops.misc", "torchvision.utils", "torchvision.version"),
)
# Modules that need pandas in functions and annotations only.
_PANDAS = "pandas"
_PANDAS_LATER = ("seaborn._compat", "seaborn._core.typing", "seaborn.utils")
_LOCK = threading.RLock()
_RUNNING = "_replk_probe_running"
# What is called when a module is imported.
_calls: dict[str, Callable[[], None]] = {}


class _DeferredPackage(ModuleType):
    """A package whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        """An attribute that does not exist yet, for which the code of the package runs."""
        home = _PACKAGES[self.__name__].get(name)
        if home is not None:
            module = importlib.import_module(f"{self.__name__}.{home}")
            return module if name == home else getattr(module, name)
        if not _run(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)


def _run(package: ModuleType) -> bool:
    """Run the code of a package unless it has run; False if it is running now."""
    with _LOCK:
        outer = sys.modules.get(package.__name__.rpartition(".")[0])
        if isinstance(outer, _DeferredPackage):
            _run(outer)  # which usually runs this one as well
        if vars(package).get(_RUNNING, False):
            return False
        if isinstance(package, _DeferredPackage):
            assert package.__spec__ is not None and package.__spec__.loader is not None
            vars(package)[_RUNNING] = True
            try:
                package.__spec__.loader.exec_module(package)
            finally:
                del vars(package)[_RUNNING]
            package.__class__ = ModuleType  # type: ignore[assignment]
        return True


class _Deferring(Loader):
    """Creates a package without running its code."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> None:
        """The module that importlib creates by default."""

    def exec_module(self, module: ModuleType) -> None:
        """Leave the code of the package for later."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        module.__class__ = _DeferredPackage


class _Wrapping(Loader):
    """Imports a module as usual; subclasses do something else as well."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module that the usual loader creates."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of the module."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)


class _Calling(_Wrapping):
    """Imports a module as usual, and then calls a function."""

    def __init__(self, loader: Loader, function: Callable[[], None]) -> None:
        super().__init__(loader)
        self._function = function

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of the module, then the function."""
        super().exec_module(module)
        self._function()


class _StandIn(ModuleType):
    """pandas for modules that import it and use it later."""

    is_used_later = True

    def __getattr__(self, name: str) -> Any:
        """Any while the modules that hold the stand-in are imported, then the attribute of pandas itself."""
        if self.is_used_later and not name.startswith("__"):
            return Any
        return getattr(importlib.import_module(self.__name__), name)


class _WithoutPandas(_Wrapping):
    """Imports a module as usual, but gives a stand-in for pandas to its statements unless pandas is imported already.

    Other modules do not see it, so that matplotlib, which looks for pandas in ``sys.modules`` to recognize data frames,
    does not import it.
    """

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of the module."""
        stand_in = _StandIn(_PANDAS)

        def import_later(name: str, *args: Any, **kwargs: Any) -> ModuleType:
            if name == _PANDAS and stand_in.is_used_later and _PANDAS not in sys.modules:
                return stand_in
            return builtins.__import__(name, *args, **kwargs)

        vars(module)["__builtins__"] = vars(builtins) | {"__import__": import_later}
        try:
            super().exec_module(module)
        except Exception:
            # Another version of the module may need pandas at once.
            stand_in.is_used_later = False
            super().exec_module(module)
        stand_in.is_used_later = False


class _Finder(MetaPathFinder):
    """Finds the deferred packages, and runs their code before a module that needs it is imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A deferred package; None for any other module, which is then found as usual."""
        if name in _PACKAGES or name in _calls or name in _PANDAS_LATER:
            spec = PathFinder.find_spec(name, path)
            if spec is None or spec.loader is None:
                return spec
            if name in _PACKAGES:
                spec.loader = _Deferring(spec.loader) if isinstance(spec.loader, SourceFileLoader) else spec.loader
            elif name in _calls:
                spec.loader = _Calling(spec.loader, _calls.pop(name))
            else:
                spec.loader = _WithoutPandas(spec.loader)
            return spec
        outer = name.rpartition(".")[0]
        if outer in _PACKAGES and name not in _INDEPENDENT and outer not in _INDEPENDENT:
            _run(sys.modules[outer])
        return None


def defer_imports() -> None:
    """Defer the code of seaborn, timm and torchvision in this process, unless they are imported already.

    For processes that belong to this package, such as those of the command line: it changes what ``import timm`` does
    in the whole process.
    """
    if not _is_deferring():
        sys.meta_path.insert(0, _Finder())


def when_imported(name: str, function: Callable[[], None]) -> None:
    """Import a module and call a function; in a process that called :func:`defer_imports`, when it is first needed."""
    if name not in sys.modules and _is_deferring():
        _calls[name] = function
        return
    importlib.import_module(name)
    function()


def _is_deferring() -> bool:
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)
